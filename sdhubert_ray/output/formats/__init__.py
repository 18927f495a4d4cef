"""What other tools read: the original's text and npy files, Praat TextGrids, and unit sequences for language models."""

from sdhubert_ray.output.formats.files import check_free, export, name_files, note_formats, remove_files, to_textgrid
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
    "check_free",
    "export",
    "merge_repeats",
    "name_files",
    "note_formats",
    "read_sequence",
    "remove_files",
    "sequence_files",
    "to_textgrid",
    "write_sequences",
]
