"""Synthetic speech whose phones are known to the sample: flite, by its C library (Debian: apt-get install flite)."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.syllabify import Phone
from sdhubert_ray.speech import SAMPLE_RATE

VOICES = ("kal16", "awb", "rms", "slt")
"""Those of 16 kHz that are in the library: a diphone voice, and three clustergen ones."""
_VOICE_FUNCTIONS = {name: (f"libflite_cmu_us_{name}.so.1", f"register_cmu_us_{name}") for name in VOICES}
_PITCH = b"int_f0_target_mean"
_MISSING = "flite cannot be loaded ({}); on Debian and Ubuntu: apt-get install flite"


@dataclass(frozen=True)
class Manner:
    """How a sentence is said.

    Attributes:
        voice: one of `VOICES`.
        stretch: factor of all durations.
        pitch: mean of the fundamental frequency, Hz; none leaves it as the voice has it.
    """

    voice: str
    stretch: float = 1.0
    pitch: float | None = None


@dataclass(frozen=True)
class Spoken:
    """A synthesized sentence.

    Attributes:
        samples: (n,) float32 in [-1, 1), 16 kHz.
        phones: ARPAbet with `pau` for silence, each with the number of its word.
    """

    samples: npt.NDArray[np.float32]
    phones: list[Phone]


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class _Voice(ctypes.Structure):  # its beginning
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


class Flite:
    """The voices of flite."""

    def __init__(self) -> None:
        try:
            # Each library refers to symbols of those before it.
            loaded = {
                name: ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
                for name in (
                    "libflite.so.1", "libflite_usenglish.so.1", "libflite_cmulex.so.1",
                    *(library for library, _ in _VOICE_FUNCTIONS.values()),
                )
            }  # fmt: skip
        except OSError as error:
            raise UserError(_MISSING.format(error)) from error
        self._library = loaded["libflite.so.1"]
        self._declare()
        self._library.flite_init()
        self._voices, self._pitches = {}, {}
        for name, (library, function) in _VOICE_FUNCTIONS.items():
            register = getattr(loaded[library], function)
            register.restype, register.argtypes = ctypes.POINTER(_Voice), [ctypes.c_char_p]
            self._voices[name] = register(None)
            features = self._voices[name].contents.features
            known = self._library.feat_present(features, _PITCH)
            self._pitches[name] = self._library.feat_float(features, _PITCH) if known else None

    def say(self, text: str, manner: Manner) -> Spoken:
        """Say a text in a manner."""
        lib, voice = self._library, self._voices[manner.voice]
        features = voice.contents.features
        lib.feat_set_float(features, b"duration_stretch", manner.stretch)
        pitch = self._pitches[manner.voice] if manner.pitch is None else manner.pitch
        if pitch is None:
            lib.feat_remove(features, _PITCH)
        else:
            lib.feat_set_float(features, _PITCH, pitch)
        utterance = lib.flite_synth_text(text.encode("ascii", "ignore"), voice)
        if not utterance:
            raise RuntimeError(f"flite says nothing for {text!r}")
        try:
            wave = lib.utt_wave(utterance).contents
            if wave.sample_rate != SAMPLE_RATE:
                raise RuntimeError(f"voice {manner.voice} has {wave.sample_rate} Hz")
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / np.float32(32768)
            # The diphone voice is 3 % faster than it was told to be, throughout.
            phones = self._phones(utterance)
            scale = len(samples) / SAMPLE_RATE / phones[-1].end
            phones = [replace(phone, start=phone.start * scale, end=phone.end * scale) for phone in phones]
            return Spoken(samples, phones)
        finally:
            lib.delete_utterance(utterance)

    def _phones(self, utterance: int) -> list[Phone]:
        lib, starts = self._library, set()
        for word in self._items(utterance, b"Word"):
            starts.add(lib.flite_ffeature_float(word, b"R:SylStructure.daughter1.daughter1.R:Segment.end"))
        phones, begin, word_number = [], 0.0, -1
        for segment in self._items(utterance, b"Segment"):
            end = lib.flite_ffeature_float(segment, b"end")
            label = lib.flite_ffeature_string(segment, b"name").decode()
            word_number += end in starts
            phones.append(Phone(begin, end, label, word_number))
            begin = end
        return phones

    def _items(self, utterance: int, relation: bytes) -> Iterator[int]:
        item = self._library.relation_head(self._library.utt_relation(utterance, relation))
        while item:
            yield item
            item = self._library.item_next(item)

    def _declare(self) -> None:
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        for name, result, arguments in (
            ("flite_synth_text", pointer, [text, ctypes.POINTER(_Voice)]),
            ("utt_wave", ctypes.POINTER(_Wave), [pointer]),
            ("utt_relation", pointer, [pointer, text]),
            ("relation_head", pointer, [pointer]),
            ("item_next", pointer, [pointer]),
            ("flite_ffeature_float", ctypes.c_float, [pointer, text]),
            ("flite_ffeature_string", text, [pointer, text]),
            ("feat_set_float", None, [pointer, text, ctypes.c_float]),
            ("feat_remove", ctypes.c_int, [pointer, text]),
            ("feat_present", ctypes.c_int, [pointer, text]),
            ("feat_float", ctypes.c_float, [pointer, text]),
            ("delete_utterance", None, [pointer]),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
