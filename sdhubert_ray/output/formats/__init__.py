"""What other tools read: the original's text and npy files, Praat TextGrids, and unit sequences for language models."""

from sdhubert_ray.output.formats.files import all_formats, check_free, export, name_files, remove_files, to_textgrid
from sdhubert_ray.output.formats.sequences import (
    SequenceOptions,
    UnitSequence,
    merge_repeats,
    read_sequence,
    sequence_files,
    write_sequences,
)

__all__ = [
    "SequenceOptions",
    "UnitSequence",
    "all_formats",
    "check_free",
    "export",
    "merge_repeats",
    "name_files",
    "read_sequence",
    "remove_files",
    "sequence_files",
    "to_textgrid",
    "write_sequences",
]
