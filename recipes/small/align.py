"""Phones of recordings with transcripts, by forced alignment: pocketsphinx, whose wheel has an English model."""

import re

import numpy as np
import numpy.typing as npt

from recipes.small.voices import Flite, Manner
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.syllabify import Phone, is_silence
from sdhubert_ray.speech.audio import SAMPLE_RATE

_FRAMES_PER_SECOND = 100
_FRAME_SAMPLES = SAMPLE_RATE // _FRAMES_PER_SECOND
# Silence on both sides, which it wants to find.
_PAD_FRAMES = 50
_NOT_SPOKEN = re.compile(r"[^a-z' ]+")
_DIGIT = re.compile(r"\d")
_REDUCED = {"AX": "AH", "AXR": "ER", "IX": "IH"}


def spoken_words(transcript: str) -> list[str]:
    """The words of an English transcript, in small letters."""
    words = _NOT_SPOKEN.sub(" ", transcript.lower().replace("-", " ")).split()
    return [word for word in words if word.strip("'")]


class Aligner:
    """Aligns samples of 16 kHz with what was said; flite tells how words are pronounced that are in no dictionary."""

    def __init__(self, flite: Flite) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise UserError("alignment needs pocketsphinx; pip install 'sdhubert_ray[recipes]'") from error
        self._decoder = Decoder(lm=None, loglevel="FATAL")
        self._flite = flite

    def align(self, samples: npt.NDArray[np.float32], transcript: str) -> list[Phone] | None:
        """Phones with the numbers of their words.

        Args:
            samples: (n,) float32, 16 kHz.
            transcript: in English, numbers written out; punctuation is left out.

        Returns:
            None where no alignment is found, or a number is written in digits.
        """
        words = spoken_words(transcript)
        if not words or _DIGIT.search(transcript):
            return None
        for word in words:
            if self._decoder.lookup_word(word) is None:
                self._decoder.add_word(word, self._pronounce(word))
        pcm = (np.clip(np.pad(samples, _PAD_FRAMES * _FRAME_SAMPLES), -1, 1) * 32767).astype(np.int16).tobytes()
        self._decoder.set_align_text(" ".join(words))
        try:
            self._run(pcm)
            self._decoder.set_alignment()
            self._run(pcm)
        except RuntimeError:  # what it raises where the words do not lead to the end of the recording
            return None
        alignment = self._decoder.get_alignment()
        if alignment is None:
            return None
        phones, number = [], -1
        for word in alignment:
            silent = word.name.startswith("<") or word.name.startswith("[")
            number += not silent
            for phone in word:
                frames = np.array([phone.start, phone.start + phone.duration]) - _PAD_FRAMES
                begin, end = np.clip(frames / _FRAMES_PER_SECOND, 0, len(samples) / SAMPLE_RATE).tolist()
                phones.append(Phone(begin, end, "sil" if silent else phone.name, number))
        return phones

    def _pronounce(self, word: str) -> str:
        spoken = self._flite.say(word, Manner("kal16")).phones
        symbols = [phone.label.upper() for phone in spoken if not is_silence(phone.label)]
        return " ".join(_REDUCED.get(symbol, symbol) for symbol in symbols)

    def _run(self, pcm: bytes) -> None:
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
