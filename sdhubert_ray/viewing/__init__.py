"""What people look at: a recording with its syllables.

Rooms: `view` (the arrays of a stretch of time), `images` (spectrogram, self-similarity), `plot` (a figure of them; it
imports matplotlib), `page` (figures with their sound in one HTML file).
"""
