"""What other tools read: the original's text and npy files, Praat TextGrids, and unit sequences for language models."""

from sdhubert_ray.output.formats.files import export, name_files, to_textgrid
from sdhubert_ray.output.formats.sequences import (
    SequenceOptions,
    UnitSequence,
    merge_repeats,
    read_sequence,
    write_sequences,
)

__all__ = [
    "SequenceOptions",
    "UnitSequence",
    "export",
    "merge_repeats",
    "name_files",
    "read_sequence",
    "to_textgrid",
    "write_sequences",
]
