"""Figures that others have published, for LibriSpeech's test sets only."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LIBRISPEECH = re.compile(r"(?:.*/)?test-(?:clean|other)/(\d+)/(\d+)/\1-\2-\d{4}(?:\.flac)?")
_MIN_UTTERANCES = 2000


@dataclass(frozen=True)
class Published:
    """What a paper says of a system, in percent.

    Attributes:
        system: its name.
        figures: by name.
        source: the paper.
    """

    system: str
    figures: dict[str, float]
    source: str


_SDHUBERT = "Cho et al., ICASSP 2024, arXiv 2310.10803"
BOUNDARY = (
    Published("SD-HuBERT", {"precision": 64.3, "recall": 71.0, "f1": 67.5, "r_value": 70.7}, _SDHUBERT),
    Published(
        "Sylber",
        {"precision": 76.6, "recall": 68.3, "f1": 72.2, "r_value": 75.9},
        "Cho et al., ICLR 2025, arXiv 2410.07168",
    ),
    Published(
        "SylBoost",
        {"precision": 64.1, "recall": 88.7, "f1": 74.4, "r_value": 62.4},
        "Baade et al. (SyllableLM), arXiv 2410.04029",
    ),
)
PURITY = (Published("SD-HuBERT, 4096 units", {"syllable_purity": 54.1, "cluster_purity": 46.2}, _SDHUBERT),)


def is_librispeech_test(file_names: Iterable[str]) -> bool:
    """Tell whether recordings are a test set of LibriSpeech: all of its layout, and 2,000 or more of them."""
    count = 0
    for name in file_names:
        if not _LIBRISPEECH.fullmatch(name):
            return False
        count += 1
    return count >= _MIN_UTTERANCES
