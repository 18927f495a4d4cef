"""Syllables of audio that is still coming: samples in, syllables out as soon as nothing can change them."""
