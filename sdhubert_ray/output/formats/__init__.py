"""What other tools read: the original's text and npy files, TextGrids, CSV, and unit sequences for language models."""

from sdhubert_ray.output.formats.files import (
    ExportPart,
    ExportParts,
    check_free,
    export,
    export_here,
    export_part,
    formats_to_write,
    name_files,
    note_formats,
    remove_files,
    to_textgrid,
)
from sdhubert_ray.output.formats.sequences import (
    SequenceOptions,
    UnitSequence,
    merge_repeats,
    read_sequence,
    sequence_files,
    write_sequences,
)

__all__ = [
    "ExportPart",
    "ExportParts",
    "SequenceOptions",
    "UnitSequence",
    "check_free",
    "export",
    "export_here",
    "export_part",
    "formats_to_write",
    "merge_repeats",
    "name_files",
    "note_formats",
    "read_sequence",
    "remove_files",
    "sequence_files",
    "to_textgrid",
    "write_sequences",
]
