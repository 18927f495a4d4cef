"""Praat TextGrids: the tiers of a recording, and tiers as text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sdhubert_ray.output.reading import FileResult

Labelled = tuple[float, float, str]
"""Start and end in seconds, and a label."""

# Praat knows no interval of no length. Times are written in microseconds: what is shorter than two might become none.
_SHORTEST = 2e-6


@dataclass(frozen=True)
class Tier:
    """A tier of a TextGrid.

    Attributes:
        name: of the tier.
        of_intervals: or of points.
        intervals: labelled stretches of time; of a tier of points, the end of each is its start.
    """

    name: str
    of_intervals: bool
    intervals: tuple[Labelled, ...]


Channels = Mapping[int, tuple[FileResult, Sequence[Tier]]]
"""What is known of the channels of a file: their syllables, and further tiers."""


def to_textgrid(result: FileResult, others: Sequence[Tier] = ()) -> str:
    """The TextGrid of a recording: its syllables, numbered from 1, its units where it has any, and what else is known.

    Args:
        result: the recording, its pieces joined. Times are seconds of the file.
        others: further tiers, such as those of a reference; one that is called as a tier of ours is renamed to
            `reference - NAME`.
    """
    return _write(_tiers(result, others), _end(result))


def channels_to_textgrid(channels: Channels) -> str:
    """The TextGrid of a file whose channels were segmented apart: tiers of each, `channel 0 - syllables` and so on."""
    tiers = [
        replace(tier, name=f"channel {channel} - {tier.name}")
        for channel, (result, others) in sorted(channels.items())
        for tier in _tiers(result, others)
    ]
    return _write(tiers, max(_end(result) for result, _ in channels.values()))


def _tiers(result: FileResult, others: Sequence[Tier]) -> list[Tier]:
    labels: dict[str, Iterable[object]] = {"syllables": range(1, len(result.segments) + 1)}
    if result.units is not None:
        labels["units"] = result.units.tolist()
    times = result.segments.tolist()
    ours = [
        Tier(name, True, tuple((start, end, str(label)) for (start, end), label in zip(times, labelled, strict=True)))
        for name, labelled in labels.items()
    ]
    return ours + [replace(tier, name=f"reference - {tier.name}") if tier.name in labels else tier for tier in others]


def _end(result: FileResult) -> float:
    return result.offset + result.duration


def _write(tiers: Sequence[Tier], end: float) -> str:
    """The text of a TextGrid, long form, from 0 to `end` seconds, or to where its last tier ends."""
    end = max([end, _SHORTEST, *(stop for tier in tiers for _, stop, _ in tier.intervals)])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {end:.6f}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, tier in enumerate(tiers, start=1):
        lines += [f"    item [{number}]:", *(f"        {line}" for line in _tier_lines(tier, end))]
    return "\n".join(lines) + "\n"


def _tier_lines(tier: Tier, end: float) -> Iterator[str]:
    kind, entries = ("IntervalTier", "intervals") if tier.of_intervals else ("TextTier", "points")
    found = _tiled(tier.intervals, end) if tier.of_intervals else sorted(tier.intervals)
    yield from (f'class = "{kind}"', f"name = {_quoted(tier.name)}", "xmin = 0", f"xmax = {end:.6f}")
    yield f"{entries}: size = {len(found)}"
    for number, (start, stop, text) in enumerate(found, start=1):
        yield f"{entries} [{number}]:"
        if tier.of_intervals:
            yield from (f"    xmin = {start:.6f}", f"    xmax = {stop:.6f}", f"    text = {_quoted(text)}")
        else:
            yield from (f"    number = {start:.6f}", f"    mark = {_quoted(text)}")


def _tiled(intervals: Iterable[Labelled], end: float) -> list[Labelled]:
    """Intervals from 0 to `end` without a gap or an overlap, as Praat wants them.

    Empty ones are put between; where two overlap, the later begins where the earlier ends.
    """
    tiled: list[Labelled] = []
    at = 0.0
    for start, stop, text in sorted(intervals):
        if start - at >= _SHORTEST:
            tiled.append((at, start, ""))
            at = start
        if stop - at >= _SHORTEST:
            tiled.append((at, stop, text))
            at = stop
    if end - at >= _SHORTEST or not tiled:
        tiled.append((at, end, ""))
    start, _, text = tiled[-1]
    return [*tiled[:-1], (start, end, text)]


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
