"""The stages of the pipeline: tables of rows in, tables of rows out. `__init__` loads, `__call__` maps a unit.

The same stages run in Ray's workers and in one process. Each leaves its seconds of work in a report column.
"""

from sdhubert_ray.stages.cutting import CutSyllables
from sdhubert_ray.stages.decoding import (
    AudioSource,
    DecodeAudio,
    Piece,
    ReadFeatures,
    ReadUnits,
    load_piece,
    prepare_piece,
)
from sdhubert_ray.stages.embedding import EmbedPacked
from sdhubert_ray.stages.encoding import EncodePacked, EncodeSpeech
from sdhubert_ray.stages.rows import pack_rows
from sdhubert_ray.stages.tokens import AssignUnits
from sdhubert_ray.stages.units import SegmentUnits, WriteSegments

__all__ = [
    "AssignUnits",
    "AudioSource",
    "CutSyllables",
    "DecodeAudio",
    "EmbedPacked",
    "EncodePacked",
    "EncodeSpeech",
    "Piece",
    "ReadFeatures",
    "ReadUnits",
    "SegmentUnits",
    "WriteSegments",
    "load_piece",
    "pack_rows",
    "prepare_piece",
]
