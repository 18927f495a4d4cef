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
_DIGEST = "arXiv 2607.04064, LibriSpeech test, 50 ms"
_ZEROSYL = "Visser et al., arXiv 2602.15537, LibriSpeech test, within runs of speech"


def _digest(system: str, *figures: float) -> Published:
    names = ("hertz", "precision", "recall", "f1", "r_value", "syllable_purity", "cluster_purity", "snmi")
    return Published(system, dict(zip(names, figures, strict=True)), _DIGEST)


SYSTEMS = (
    _digest("SylReg-Distill, 8192 units", 5.82, 64.5, 88.7, 74.7, 63.1, 79.5, 34.9, 91.5),
    _digest("SylReg, 4096 units", 6.31, 60.3, 89.8, 72.2, 54.1, 70.5, 42.5, 86.0),
    _digest("Sylber, 4096 units", 3.76, 76.6, 68.3, 72.2, 75.9, 64.0, 43.9, 81.4),
    _digest("SylBoost 6.25 Hz, 8192 units", 5.86, 64.1, 88.7, 74.4, 62.4, 76.6, 33.9, 90.2),
    _digest("SD-HuBERT, 4096 units", 4.67, 64.3, 71.0, 67.5, 70.7, 54.1, 46.2, 73.4),
    Published("ZeroSyl", {"r_value": 75.0, "token_f1": 54.0}, _ZEROSYL),
    Published("Sylber", {"r_value": 71.0, "token_f1": 51.0}, _ZEROSYL),
    Published("SyllableLM", {"token_f1": 56.0}, _ZEROSYL),
)
"""Of many systems, to be seen beside others: of other recordings, other alignments, other protocols."""
PURITY = (Published("SD-HuBERT, 4096 units", {"syllable_purity": 54.1, "cluster_purity": 46.2}, _SDHUBERT),)


def is_librispeech_test(file_names: Iterable[str]) -> bool:
    """Tell whether recordings are a test set of LibriSpeech: all of its layout, and 2,000 or more of them."""
    count = 0
    for name in file_names:
        if not _LIBRISPEECH.fullmatch(name):
            return False
        count += 1
    return count >= _MIN_UTTERANCES
