"""The systems that presets stand for: whose they are, what of them is not as published, which files are theirs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

SDHUBERT, VG_HUBERT, SYLBER, SYLBOOST, WAVLM, TRANSFORMERS = (
    "sdhubert",
    "vg-hubert",
    "sylber",
    "sylboost",
    "wavlm",
    "transformers",
)
"""Layouts of checkpoints: whose file one is (`encoder.layouts`)."""


@dataclass(frozen=True)
class System:
    """A published system, as its preset has it.

    Attributes:
        title: its name.
        citation: of its paper, in BibTeX.
        weights: where they are, and under which licence.
        layouts: of the checkpoints that the preset is for; none: of any.
        deviations: what is not as in its public code, a sentence each.
    """

    title: str
    citation: str
    weights: str
    layouts: tuple[str, ...]
    deviations: tuple[str, ...]


_BY_THE_MINUTE = (
    "Recordings of more than a minute are cut into pieces at a quiet moment (`audio.piece_seconds`), each of which is "
    "normalised and encoded by itself."
)
_ON_THE_GRID = "Times are frames of 20 ms; in the public code a frame is the duration divided by the number of frames."

_ORIGINAL = System(
    title="SD-HuBERT",
    citation="""\
@inproceedings{cho2024sdhubert,
  title     = {{SD-HuBERT}: Sentence-Level Self-Distillation Induces Syllabic Organization in {HuBERT}},
  author    = {Cho, Cheol Jun and Mohamed, Abdelrahman and Li, Shang-Wen and Black, Alan W
               and Anumanchipalli, Gopala K},
  booktitle = {ICASSP 2024},
  year      = {2024},
  note      = {arXiv:2310.10803}
}""",
    weights="`sdhubert_base`, from its authors' Google Drive; their repository names no licence.",
    layouts=(),
    deviations=("docs/design.md tells where the two presets are, and where the public code contradicts itself.",),
)
_SYLBER = System(
    title="Sylber",
    citation="""\
@inproceedings{cho2025sylber,
  title     = {Sylber: Syllabic Embedding Representation of Speech from Raw Audio},
  author    = {Cho, Cheol Jun and Lee, Nicholas and Gupta, Akshat and Agarwal, Dhruv and Chen, Ethan and Black, Alan W
               and Anumanchipalli, Gopala K},
  booktitle = {ICLR 2025},
  year      = {2025},
  note      = {arXiv:2410.07168}
}""",
    weights="`sylber.ckpt` of hf://cheoljun95/sylber; its package is under Apache-2.0.",
    layouts=(SYLBER, TRANSFORMERS),
    deviations=(
        _BY_THE_MINUTE,
        "A recording has the syllables that it has alone; in the public code padding to the longest of a batch enters "
        "the norms of the extractor, and padded frames may open syllables.",
        "Syllables that are left without frames are left out.",
    ),
)
_SYLBOOST = System(
    title="SylBoost",
    citation="""\
@inproceedings{baade2025syllablelm,
  title     = {{SyllableLM}: Learning Coarse Semantic Units for Speech Language Models},
  author    = {Baade, Alan and Peng, Puyuan and Harwath, David},
  booktitle = {ICLR 2025},
  year      = {2025},
  note      = {arXiv:2410.04029}
}""",
    weights="the three checkpoints that github.com/AlanBaade/SyllableLM links to; it names no licence.",
    layouts=(SYLBOOST,),
    deviations=(
        _BY_THE_MINUTE,
        "Everything is computed in float32 unless --dtype says otherwise; the public code computes in float16.",
        "Neither its units (k-means and agglomeration of standardised means) nor the merging of equal ones is in the "
        "preset: `sdhubert cluster` makes units.",
    ),
)

SYSTEMS: Mapping[str, System] = {
    "readme": _ORIGINAL,
    "paper": _ORIGINAL,
    "sd-hubert": replace(_ORIGINAL, layouts=(SDHUBERT,)),
    "hubert": System(
        title="HuBERT",
        citation="""\
@article{hsu2021hubert,
  title   = {{HuBERT}: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units},
  author  = {Hsu, Wei-Ning and Bolte, Benjamin and Tsai, Yao-Hung Hubert and Lakhotia, Kushal and Salakhutdinov, Ruslan
             and Mohamed, Abdelrahman},
  journal = {IEEE/ACM Transactions on Audio, Speech, and Language Processing},
  volume  = {29},
  year    = {2021},
  note    = {arXiv:2106.07447}
}""",
        weights="any HuBERT, wav2vec 2.0 or WavLM of the hub, as facebook/hubert-base-ls960; each has its licence.",
        layouts=(TRANSFORMERS,),
        deviations=(
            "It is a baseline: no paper segments plain HuBERT in this way. Options are those of SD-HuBERT; states are "
            "those at three quarters of the depth (`encoder.layer`).",
        ),
    ),
    "sylber": _SYLBER,
    "sylboost-8.33": _SYLBOOST,
    "sylboost-6.25": _SYLBOOST,
    "sylboost-5.0": _SYLBOOST,
    "vg-hubert": System(
        title="VG-HuBERT",
        citation="""\
@inproceedings{peng2023syllable,
  title     = {Syllable Discovery and Cross-Lingual Generalization in a Visually Grounded, Self-Supervised Speech
               Model},
  author    = {Peng, Puyuan and Li, Shang-Wen and R{\\"a}s{\\"a}nen, Okko and Mohamed, Abdelrahman and Harwath, David},
  booktitle = {Interspeech 2023},
  year      = {2023},
  note      = {arXiv:2305.11435}
}""",
        weights="`vg-hubert-syllable.pth` of hf://hjvm/VG-HuBERT; BSD-3-Clause.",
        layouts=(VG_HUBERT,),
        deviations=(
            _BY_THE_MINUTE,
            _ON_THE_GRID,
            "The number of segments is counted from frames; in the public code from the duration, of which the last "
            "20 ms may be without a frame.",
            "Similarities are dot products, as in the paper's code; the package vg-hubert divides frames by their norm "
            "first, and bounds segments to 3 to 50 frames.",
        ),
    ),
    "zerosyl": System(
        title="ZeroSyl",
        citation="""\
@misc{visser2026zerosyl,
  title  = {{ZeroSyl}: Simple Zero-Resource Syllable Tokenization for Spoken Language Modeling},
  author = {Visser, Nicol and Malan, Simon and Slabbert, Danel and Kamper, Herman},
  year   = {2026},
  note   = {arXiv:2602.15537}
}""",
        weights="`WavLM-Large.pt`, from storage.googleapis.com/zerospeech-checkpoints, or microsoft/wavlm-large.",
        layouts=(WAVLM, TRANSFORMERS),
        deviations=(
            _BY_THE_MINUTE,
            "Neither its 10,000 units nor the merging of silences is in the preset: `sdhubert cluster` makes units.",
        ),
    ),
}
"""By the name of the preset."""
