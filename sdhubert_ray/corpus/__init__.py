"""Manifests: list audio, or read a list of it; select and validate; cut long recordings into pieces.

Rooms: `several` (inputs together), `listing` (what one holds), `files`, `packed` (tars, Parquet with bytes) and
`reading` (manifests as files) are the kinds of input; `columns` and `selection` what holds for all of them; `pieces`
and `writing` what is made of it.
"""

from sdhubert_ray.corpus.files import AUDIO_SUFFIXES, list_files
from sdhubert_ray.corpus.listing import list_input
from sdhubert_ray.corpus.pieces import Place, Probe, cut_pieces, probe_durations, split_units
from sdhubert_ray.corpus.reading import PIECE_SECONDS_KEY
from sdhubert_ray.corpus.selection import Listing, Selection
from sdhubert_ray.corpus.several import STANDARD_INPUT, list_inputs, name_inputs, read_list
from sdhubert_ray.corpus.writing import ManifestSummary, write_manifest

__all__ = [
    "AUDIO_SUFFIXES",
    "PIECE_SECONDS_KEY",
    "STANDARD_INPUT",
    "Listing",
    "ManifestSummary",
    "Place",
    "Probe",
    "Selection",
    "cut_pieces",
    "list_files",
    "list_input",
    "list_inputs",
    "name_inputs",
    "probe_durations",
    "read_list",
    "split_units",
    "write_manifest",
]
