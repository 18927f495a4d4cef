"""The stages of the pipeline: tables of rows in, tables of rows out. `__init__` loads, `__call__` maps a unit.

The same stages run in Ray's workers and in one process. Each leaves its seconds of work in a report column.
"""

from sdhubert_ray.runs.stages.cutting import CutSyllables
from sdhubert_ray.runs.stages.decoding import (
    AudioSource,
    DecodeAudio,
    Piece,
    ReadFeatures,
    ReadUnits,
    load_piece,
    prepare_piece,
)
from sdhubert_ray.runs.stages.embedding import EmbedPacked
from sdhubert_ray.runs.stages.encoding import EncodePacked, EncodeSpeech
from sdhubert_ray.runs.stages.resampling import settle_pieces
from sdhubert_ray.runs.stages.rows import InTurn, pack_rows, unpack_rows
from sdhubert_ray.runs.stages.shared import SharedQuantizer
from sdhubert_ray.runs.stages.tokens import AssignUnits
from sdhubert_ray.runs.stages.units import SegmentUnits, WriteSegments

__all__ = [
    "AssignUnits",
    "AudioSource",
    "CutSyllables",
    "DecodeAudio",
    "EmbedPacked",
    "EncodePacked",
    "EncodeSpeech",
    "InTurn",
    "Piece",
    "ReadFeatures",
    "ReadUnits",
    "SegmentUnits",
    "SharedQuantizer",
    "WriteSegments",
    "load_piece",
    "pack_rows",
    "prepare_piece",
    "settle_pieces",
    "unpack_rows",
]
