"""Syllables and vowels of a Praat TextGrid: its tier of syllables, or its tier of phones, syllabified."""

import bisect
import codecs
import re
from collections.abc import Iterator, Sequence

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.syllabify import Phone, is_silence, syllabify, vowels
from sdhubert_ray.output.formats.textgrid import Labelled, Tier

_SYLLABLE_TIER = re.compile(r"(.*[ _-])?(syll?|sylls|syllables?|mas)", re.IGNORECASE)
_PHONE_TIER = re.compile(r"(.*[ _-])?(phon|phons|phones?|phonemes?|phn|mau)", re.IGNORECASE)
_WORD_TIER = re.compile(r"words?|wrd|ort|ort-mau", re.IGNORECASE)
_LAST_WORD = re.compile(r"[^ _-]*$")
# What counts in Praat's text files, in the long and the short form alike: text in quotes, numbers and flags that stand
# free; all else is there for people.
_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"'
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)"
    r"|(?<!\S)(?P<flag><\w+>)(?!\S)"
    r"|(?<!\S)!.*"
)


def read_textgrid(uri: str, tier: str | None) -> tuple[list[Labelled], list[tuple[float, float]] | None]:
    """Read the syllables and the vowels of a TextGrid, long or short form, UTF-8 or UTF-16.

    Args:
        uri: its name.
        tier: the name of a tier, in capitals or not; None takes the one that is called syllable(s) or syll (MAS), or
            else phone(s), phon or phoneme(s) (MAU), perhaps after a speaker as in `A - phones`. A tier whose
            name is one for phones is syllabified: within the words of the tier word(s) of the same speaker, where
            there is one, otherwise across words. Any other tier is taken as syllables. Silences are left out.

    Returns:
        start, end (seconds) and label of each syllable; start and end of the vowels and syllabic consonants of the
        tier of phones of the same speaker, or None where there is none, or not in ARPAbet.

    Raises:
        UserError: it cannot be read, has no such tier or several, or phones that are not ARPAbet.
    """
    tiers = read_tiers(uri)
    chosen = _choose_tier(tiers, tier, uri)
    where = f"references {uri}: tier {chosen.name!r}"
    if not chosen.of_intervals:
        raise UserError(f"{where} has points, and syllables need intervals; name another tier with --tier")
    if not _PHONE_TIER.fullmatch(chosen.name):
        phones = _find_beside(tiers, chosen, _PHONE_TIER)
        nuclei = None if phones is None else vowels([Phone(*interval) for interval in phones])
        return [interval for interval in chosen.intervals if not is_silence(interval[2])], nuclei
    words = _find_beside(tiers, chosen, _WORD_TIER)
    spoken = [Phone(*interval, _word_at(interval, words)) for interval in chosen.intervals]
    return syllabify(spoken, where), vowels(spoken)


def read_tiers(uri: str) -> list[Tier]:
    """Read all tiers of a TextGrid. Raises UserError where it cannot be read."""
    return parse_textgrid(_read_text(uri), f"references {uri}")


def parse_textgrid(text: str, where: str) -> list[Tier]:
    """Read the tiers of a TextGrid, as Praat does.

    Args:
        text: of the file.
        where: how messages call it.

    Raises:
        UserError: it is none, or ends before all is there that it announces.
    """
    tokens = _TOKEN.finditer(text)
    try:
        head = (_next(tokens, "text"), _next(tokens, "text"))
        if not head[0].startswith("ooTextFile") or head[1] != "TextGrid":
            raise ValueError(f"it is a {head[1]} of type {head[0]}")
        _next(tokens, "number"), _next(tokens, "number")
        if _next(tokens, "flag") != "<exists>":
            return []
        return [_parse_tier(tokens) for _ in range(int(_next(tokens, "number")))]
    except ValueError as error:
        raise UserError(f"{where} cannot be read as a TextGrid ({error}); save it anew in Praat, as text") from error


def _parse_tier(tokens: Iterator[re.Match[str]]) -> Tier:
    kind, name = _next(tokens, "text"), _next(tokens, "text")
    if kind not in ("IntervalTier", "TextTier"):
        raise ValueError(f"tier {name!r} is of class {kind!r}")
    _next(tokens, "number"), _next(tokens, "number")
    size = int(_next(tokens, "number"))
    found = []
    for _ in range(size):
        start = float(_next(tokens, "number"))
        end = float(_next(tokens, "number")) if kind == "IntervalTier" else start
        found.append((start, end, _next(tokens, "text").strip()))
    return Tier(name, kind == "IntervalTier", tuple(found))


def _next(tokens: Iterator[re.Match[str]], kind: str) -> str:
    """The next token, which has to be of this kind. Raises ValueError."""
    for token in tokens:
        if token.lastgroup is None:
            continue
        if token.lastgroup != kind:
            raise ValueError(f"{token.group()[:40]!r} stands where a {kind} should")
        value: str = token.group(kind)
        return value.replace('""', '"') if kind == "text" else value
    raise ValueError(f"it ends where a {kind} should follow")


def _read_text(uri: str) -> str:
    try:
        data = storage.read_bytes(uri)
    except storage.TransientError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"references {uri} is not there; name a JSON file or a folder of TextGrids") from error
    except OSError as error:
        raise UserError(f"references {uri} cannot be read ({error.strerror or error})") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"references {uri} is neither UTF-8 nor UTF-16 text; save it anew in Praat, as text") from error


def _choose_tier(tiers: Sequence[Tier], wanted: str | None, uri: str) -> Tier:
    if wanted is not None:
        by_name = ([tier for tier in tiers if tier.name == wanted], _like(tiers, re.escape(wanted)))
    else:
        by_name = (_like(tiers, _SYLLABLE_TIER.pattern), _like(tiers, _PHONE_TIER.pattern))
    chosen = by_name[0] or by_name[1]
    if len(chosen) == 1:
        return chosen[0]
    what = f"tier {wanted!r}" if wanted is not None else "tier of syllables or phones"
    amount = "more than one" if chosen else "no"
    names = ", ".join(repr(tier.name) for tier in tiers) or "none"
    raise UserError(f"references {uri} has {amount} {what}; its tiers are {names}: name one with --tier")


def _like(tiers: Sequence[Tier], pattern: str) -> list[Tier]:
    return [tier for tier in tiers if re.fullmatch(pattern, tier.name, re.IGNORECASE)]


def _find_beside(tiers: Sequence[Tier], chosen: Tier, called: re.Pattern[str]) -> list[Labelled] | None:
    """The intervals, less silences, of the tier of this name that is of the same speaker; None where there is none."""
    speaker = _LAST_WORD.sub("", chosen.name)
    for tier in tiers:
        if tier.of_intervals and tier.name.startswith(speaker) and called.fullmatch(tier.name[len(speaker) :]):
            return [interval for interval in tier.intervals if not is_silence(interval[2])]
    return None


def _word_at(phone: Labelled, words: Sequence[Labelled] | None) -> int | None:
    """The number of the word that the middle of a phone is in, a number below 0 for each gap between words."""
    if words is None:
        return None
    middle = (phone[0] + phone[1]) / 2
    word = bisect.bisect_right(words, middle, key=lambda word: word[0]) - 1
    return word if word >= 0 and middle < words[word][1] else -2 - word
