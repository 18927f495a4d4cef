"""The figures of systems side by side: rows of text, for a terminal and for a page."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rich.table import Table

from sdhubert_ray.comparing.scoring import SystemFigures
from sdhubert_ray.evaluation.published import SYSTEMS as PUBLISHED
from sdhubert_ray.evaluation.scoring import Figure, Shift

MARK = "Published by their authors: other recordings, alignments and protocols. None of it was measured here."
_BOUNDARY = {"precision": "precision %", "recall": "recall %", "f1": "F1 %", "r_value": "R-value %"}
_PURITY = {
    ("sdhubert", "syllable_purity"): "syllable purity %",
    ("sdhubert", "cluster_purity"): "cluster purity %",
    ("strict", "syllable_purity"): "syllable purity %",
    ("strict", "cluster_purity"): "cluster purity %",
    ("zerosyl", "snmi"): "SNMI %",
}
_PUBLISHED = {
    **_BOUNDARY,
    "token_f1": "token F1 %",
    "syllable_purity": "syllable purity %",
    "cluster_purity": "cluster purity %",
    "snmi": "SNMI %",
    "hertz": "Hz",
}
_SHIFTS = {"sdhubert": "shift", "zerosyl": "zerosyl_shift"}
_NONE = "-"
_MIB = 1024**2


Tell = Callable[[SystemFigures], str]


def figure_rows(systems: Sequence[SystemFigures]) -> Iterator[list[str]]:
    """A row for each figure: its name, its protocol, and its text of each system, with 95 % intervals in brackets."""
    for name, protocol, tell in _figures(list(systems[0].boundary.protocols)):
        yield [name, protocol, *map(tell, systems)]


def _figures(protocols: Sequence[str]) -> Iterator[tuple[str, str, Tell]]:
    for protocol in protocols:
        if protocol in _SHIFTS:
            yield "shift", protocol, partial(_shift, protocol)
        yield from ((title, protocol, partial(_boundary, protocol, name)) for name, title in _BOUNDARY.items())
    yield "token F1 %", "zerosyl", lambda one: _percent(one.boundary.syllables["zerosyl_tokens"].f1)
    yield from ((title, protocol, partial(_purity, protocol, name)) for (protocol, name), title in _PURITY.items())
    yield "units", "", lambda one: _number(one.num_units, 0)
    yield "syllables, Hz", "", lambda one: _number(one.token_rate.hertz, 2, one.token_rate.hertz_interval)
    yield "bitrate, bit/s", "entropy-coded", _bitrate
    yield "SSABX %", "mean of frames", lambda one: _NONE if one.ssabx is None else _percent(one.ssabx.accuracy)
    yield "real-time factor", "", lambda one: _number(one.real_time_factor, 4)
    yield "memory, MiB", "", lambda one: _number(one.cost.peak_bytes / _MIB if one.cost.peak_bytes else None, 0)


def published_rows() -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each published system."""
    rows = [
        [one.system, *(_number(one.figures.get(name), 2 if name == "hertz" else 1) for name in _PUBLISHED), one.source]
        for one in PUBLISHED
    ]
    return ["system (published)", *_PUBLISHED.values(), "source"], rows


def comparison_table(systems: Sequence[SystemFigures]) -> Table:
    """All figures, a column for each system."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("protocol")
    for one in systems:
        table.add_column(one.system.title, justify="right")
    for row in figure_rows(systems):
        table.add_row(*row)
    return table


def published_table() -> Table:
    """What papers say, in a table of its own."""
    headings, rows = published_rows()
    table = Table(title=MARK, title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    return table


def _shift(protocol: str, one: SystemFigures) -> str:
    shift: Shift = getattr(one, _SHIFTS[protocol])
    return f"{round(1000 * shift.seconds):+d} ms ({'tuned' if shift.source == 'tuned' else 'NOT TUNED'})"


def _boundary(protocol: str, name: str, one: SystemFigures) -> str:
    return _percent(getattr(one.boundary.protocols[protocol], name))


def _purity(protocol: str, name: str, one: SystemFigures) -> str:
    return _NONE if one.purity is None else _percent(getattr(one.purity.protocols[protocol], name))


def _bitrate(one: SystemFigures) -> str:
    return _number(one.token_rate.entropy_bits_per_second, 1, one.token_rate.entropy_interval)


def _percent(figure: Figure) -> str:
    if figure.value is None:
        return _NONE
    ends = (None, None) if figure.low is None or figure.high is None else (100 * figure.low, 100 * figure.high)
    return _number(100 * figure.value, 1, ends)


def _number(value: float | None, digits: int, ends: tuple[float | None, float | None] = (None, None)) -> str:
    if value is None:
        return _NONE
    low, high = ends
    between = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{between}"
