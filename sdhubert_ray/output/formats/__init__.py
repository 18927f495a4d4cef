"""What other tools read: the original's text and npy files, TextGrids, CSV, and unit sequences for language models."""

from sdhubert_ray.output.formats.files import (
    ExportPart,
    ExportParts,
    FurtherTiers,
    check_free,
    export,
    export_here,
    export_part,
    formats_to_write,
    note_formats,
    remove_files,
)
from sdhubert_ray.output.formats.naming import NAMING_COLUMNS, name_files
from sdhubert_ray.output.formats.sequences import (
    SequenceOptions,
    UnitSequence,
    merge_repeats,
    read_sequence,
    sequence_files,
    write_sequences,
)
from sdhubert_ray.output.formats.textgrid import Tier, channels_to_textgrid, to_textgrid

__all__ = [
    "NAMING_COLUMNS",
    "ExportPart",
    "ExportParts",
    "FurtherTiers",
    "SequenceOptions",
    "Tier",
    "UnitSequence",
    "channels_to_textgrid",
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
