"""Syllables from phones: English phones in ARPAbet, as CMUdict, the Montreal Forced Aligner and TIMIT write them.

Consonants between two nuclei go to the second as far as they are a legal English onset (maximal onset), within a word
where words are known. Flaps are legal onsets; j after a dental or liquid (on-ion, vol-ume) is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sdhubert_ray.errors import UserError

_NUCLEI = frozenset(
    (
        "AA", "AE", "AH", "AO", "AW", "AX", "AX-H", "AXR", "AY", "EH", "ER", "EY",
        "IH", "IX", "IY", "OW", "OY", "UH", "UW", "UX",
        "EL", "EM", "EN", "ENG",  # TIMIT's syllabic consonants
    )
)  # fmt: skip
_CONSONANTS = frozenset(
    (
        "B", "CH", "D", "DH", "DX", "F", "G", "HH", "HV", "JH", "K", "L", "M", "N", "NG",
        "NX", "P", "Q", "R", "S", "SH", "T", "TH", "V", "W", "WH", "Y", "Z", "ZH",
    )
)  # fmt: skip
_CLOSURES = {"BCL": "B", "DCL": "D", "GCL": "G", "PCL": "P", "TCL": "T", "KCL": "K"}
_AFFRICATES = {"CH": "T", "JH": "D"}
_TRANSPARENT = frozenset(("EPI",))
"""TIMIT's silence inside a cluster of consonants: it has time, but is no phone."""
_SYMBOLS = _NUCLEI | _CONSONANTS | _CLOSURES.keys() | _TRANSPARENT
_SILENCES = frozenset(("", "SIL", "SP", "SPN", "NSN", "PAU", "H#", "#H", "BR", "LAU"))
_BRACKETS = ("<>", "[]", "{}", "()")
_CLUSTERS = frozenset(
    (
        "P L", "P R", "P Y", "B L", "B R", "B Y", "T R", "T W", "D R", "D W", "K L", "K R", "K W", "K Y",
        "G L", "G R", "G W", "G Y", "F L", "F R", "F Y", "V Y", "TH R", "TH W", "SH R", "HH W", "HH Y", "M Y",
        "S P", "S T", "S K", "S F", "S L", "S W", "S M", "S N",
        "S P L", "S P R", "S P Y", "S T R", "S K L", "S K R", "S K W", "S K Y",
    )
)  # fmt: skip
_JOINT_SECONDS = 1e-3
"""Phones further apart than this have a silence between them."""
_ALLOPHONES = {"HV": "HH", "NX": "N", "DX": "T"}


@dataclass(frozen=True)
class Phone:
    """An interval of a phone tier.

    Attributes:
        start: seconds.
        end: seconds.
        label: as it is written.
        word: which word of its tier it belongs to, or None where words are not known.
    """

    start: float
    end: float
    label: str
    word: int | None = None


def is_silence(label: str) -> bool:
    """Tell whether a label stands for no speech: empty, sil, sp, spn, pau, h# and the like, or anything in brackets."""
    text = label.strip().upper()
    return text in _SILENCES or any(text[0] + text[-1] == pair for pair in _BRACKETS)


def syllabify(phones: Sequence[Phone], where: str) -> list[tuple[float, float, str]]:
    """Group phones into syllables.

    A silence, a gap and, where words are known, the end of a word part syllables. A word without a nucleus joins the
    one before, or else the one after; consonants alone between silences are no syllable.

    Args:
        phones: in order of time.
        where: how messages call the tier.

    Returns:
        start and end in seconds and label, such as HH-EH, of each syllable.

    Raises:
        UserError: a phone is not of ARPAbet.
    """
    syllables: list[tuple[float, float, str]] = []
    for stretch in _stretches(phones, where):
        for part in _split_words(stretch):
            for group in _split_syllables(part):
                syllables.append((group[0].start, group[-1].end, "-".join(_spoken(group))))
    return syllables


def vowels(phones: Sequence[Phone]) -> list[tuple[float, float]] | None:
    """Vowels and syllabic consonants, start and end in seconds; None where a phone is not of ARPAbet."""
    if not all(is_silence(phone.label) or _symbol(phone) in _SYMBOLS for phone in phones):
        return None
    return [(phone.start, phone.end) for phone in phones if _symbol(phone) in _NUCLEI]


def _stretches(phones: Sequence[Phone], where: str) -> list[list[Phone]]:
    """Runs of phones without a silence."""
    runs: list[list[Phone]] = [[]]
    for phone in phones:
        if is_silence(phone.label):
            runs.append([])
            continue
        symbol = _symbol(phone)
        if symbol not in _SYMBOLS:
            raise UserError(
                f"{where} has phone {phone.label!r} at {phone.start:.3f} s, which is not ARPAbet; "
                "name a tier of syllables with --tier"
            )
        if runs[-1] and phone.start - runs[-1][-1].end > _JOINT_SECONDS:
            runs.append([])
        runs[-1].append(phone)
    return [run for run in runs if _sounds(run)]


def _split_words(stretch: Sequence[Phone]) -> list[list[Phone]]:
    """The words of a stretch; those without a nucleus are joined to a neighbour."""
    words: list[list[Phone]] = []
    for phone in stretch:
        if words and words[-1][-1].word == phone.word:
            words[-1].append(phone)
        else:
            words.append([phone])
    joined: list[list[Phone]] = []
    for word in words:
        if joined and not (_sounds(word) and _sounds(joined[-1])):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _split_syllables(word: Sequence[Phone]) -> list[Sequence[Phone]]:
    nuclei = [place for place, phone in enumerate(word) if _symbol(phone) in _NUCLEI]
    begins = [0]
    for before, nucleus in pairwise(nuclei):
        begin = nucleus
        while begin > before + 1 and _is_onset(_spoken(word[begin - 1 : nucleus])):
            begin -= 1
        begins.append(begin)
    return [word[begin:end] for begin, end in zip(begins, [*begins[1:], len(word)], strict=True)]


def _is_onset(symbols: Sequence[str]) -> bool:
    plain = [_ALLOPHONES.get(symbol, symbol) for symbol in symbols]
    return plain != ["NG"] if len(plain) < 2 else " ".join(plain) in _CLUSTERS


def _spoken(phones: Sequence[Phone]) -> list[str]:
    """Symbols of phones, a closure and its release as one."""
    symbols: list[str] = []
    closed = ""
    for symbol in map(_symbol, phones):
        if symbol in _TRANSPARENT:
            continue
        if closed and closed == _AFFRICATES.get(symbol, symbol):
            symbols[-1] = symbol
        else:
            symbols.append(_CLOSURES.get(symbol, symbol))
        closed = _CLOSURES.get(symbol, "")
    return symbols


def _sounds(phones: Sequence[Phone]) -> bool:
    """Whether there is a nucleus among them."""
    return any(_symbol(phone) in _NUCLEI for phone in phones)


def _symbol(phone: Phone) -> str:
    """A phone in capitals, without the digit of its stress."""
    return phone.label.strip().upper().rstrip("012")
