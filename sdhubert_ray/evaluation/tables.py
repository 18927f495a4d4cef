"""Reports as tables for people. Figures of different test sets never share one."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from sdhubert_ray.evaluation.joining import Joined
from sdhubert_ray.evaluation.published import Published
from sdhubert_ray.evaluation.purity import PurityReport, PurityResult
from sdhubert_ray.evaluation.scoring import (
    BoundaryReport,
    BoundaryResult,
    Ends,
    Figure,
    Shift,
    SyllableResult,
    TokenRate,
)

_BOUNDARY_ROWS = (("precision", "precision %"), ("recall", "recall %"), ("f1", "F1 %"), ("r_value", "R-value %"))
_SYLLABLE_ROWS = _BOUNDARY_ROWS[:3]
_PURITY_ROWS = (("cluster_purity", "cluster purity %"), ("syllable_purity", "syllable purity %"), ("snmi", "SNMI %"))
_SHOWN = 3


def describe_join(joined: Joined, missing: str) -> Iterator[str]:
    """Lines that tell what was evaluated, what is missing and what is there besides."""
    yield f"{len(joined.utterances)} utterances evaluated"
    if joined.missing:
        done = "left out" if missing == "skip" else "counted as without segments"
        failed = f", {len(joined.failed)} of them in the table but not readable" if joined.failed else ""
        yield f"{len(joined.missing)} referenced recordings missing{failed}, {done}: {_some(joined.missing)}"
    if joined.num_extra:
        yield f"{joined.num_extra} recordings of the table have no reference, such as {joined.extra[0]}"


def rate_table(rate: TokenRate) -> Table:
    """Token rate and bitrate."""
    table = Table(show_header=False, box=None)
    if rate.hertz is None:
        return table
    shown = f"{rate.hertz:.2f} Hz{_between(rate.hertz_interval, 2)}"
    table.add_row("token rate", f"{shown}, {rate.segments} segments in {rate.seconds:.1f} s of audio")
    if rate.units_in_use is not None:
        of = f"{rate.num_units} units" if rate.num_units else f"the {rate.units_in_use} units in use"
        table.add_row("bitrate", f"{rate.bits_per_second:.1f} bit/s, at log2 of {of} a segment")
        entropy = f"{rate.entropy_bits_per_second:.1f} bit/s{_between(rate.entropy_interval, 1)}"
        table.add_row("entropy-coded", f"{entropy}, {rate.units_in_use} units in use")
    return table


def boundary_table(report: BoundaryReport, shift: Shift, zerosyl_shift: Shift) -> Table:
    """All protocols side by side, with 95 % intervals."""
    table = _side_by_side("boundaries", [*report.protocols])
    shown = {"sdhubert": _told(shift), "onsets_offsets": "none", "zerosyl": _told(zerosyl_shift)}
    results = list(report.protocols.values())
    table.add_row("shift", *(shown[protocol] for protocol in report.protocols))
    for name in ("reference", "predicted", "matched"):
        table.add_row(name, *(str(getattr(result, name)) for result in results))
    for name, title in _BOUNDARY_ROWS:
        table.add_row(title, *(_percent(getattr(result, name)) for result in results))
    table.add_row("over-segm. %", *(_percent(result.over_segmentation) for result in results))
    return table


def syllable_table(report: BoundaryReport) -> Table:
    """Syllables found whole or by their nuclei, side by side, with 95 % intervals."""
    table = _side_by_side("syllables", [name.replace("_", " ") for name in report.syllables])
    results = list(report.syllables.values())
    for name in ("reference", "predicted", "matched"):
        table.add_row(name, *(str(getattr(result, name)) for result in results))
    for name, title in _SYLLABLE_ROWS:
        table.add_row(title, *(_percent(getattr(result, name)) for result in results))
    return table


def purity_table(report: PurityReport) -> Table:
    """All protocols side by side, with 95 % intervals."""
    table = _side_by_side("purity", [*report.protocols])
    results = list(report.protocols.values())
    for name in ("pairs", "unmatched_syllables", "unmatched_segments", "syllable_types", "unit_types"):
        table.add_row(name.replace("_", " "), *(str(getattr(result, name)) for result in results))
    for name, title in _PURITY_ROWS:
        table.add_row(title, *(_percent(getattr(result, name)) for result in results))
    return table


def boundary_groups(report: BoundaryReport) -> Iterator[Table]:
    """For each column and protocol, and each count of syllables, a table with a line for each value."""
    for column, groups in report.by.items():
        for protocol in report.protocols:
            results = {value: group[protocol] for value, group in groups.items()}
            sizes = {value: result.reference for value, result in results.items()}
            yield _groups(f"by {column}, {protocol}", results, sizes, "boundaries", _BOUNDARY_ROWS)
        for name in report.syllables:
            of_name = {value: group[name] for value, group in report.syllables_by[column].items() if name in group}
            sizes = {value: result.reference for value, result in of_name.items()}
            title = f"by {column}, {name.replace('_', ' ')}"
            yield _groups(title, of_name, sizes, "syllables", _SYLLABLE_ROWS)


def purity_groups(report: PurityReport) -> Iterator[Table]:
    """For each column and protocol a table with a line for each value."""
    for column, groups in report.by.items():
        for protocol in report.protocols:
            results = {value: group[protocol] for value, group in groups.items()}
            sizes = {value: result.pairs for value, result in results.items()}
            yield _groups(f"by {column}, {protocol}", results, sizes, "pairs", _PURITY_ROWS)


def published_table(published: Sequence[Published]) -> Table:
    """What papers say of LibriSpeech's test sets, in a table of its own."""
    table = Table(title="published for LibriSpeech test, by their authors", title_justify="left", box=None)
    table.add_column("system")
    names = list(published[0].figures)
    titles = dict(_BOUNDARY_ROWS) | dict(_PURITY_ROWS)
    for name in names:
        table.add_column(titles[name], justify="right")
    table.add_column("source")
    for one in published:
        table.add_row(one.system, *(f"{one.figures[name]:.1f}" for name in names), one.source)
    return table


def _side_by_side(what: str, protocols: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(what)
    for protocol in protocols:
        table.add_column(protocol, justify="right")
    return table


def _groups(
    title: str,
    results: Mapping[str, BoundaryResult] | Mapping[str, SyllableResult] | Mapping[str, PurityResult],
    sizes: Mapping[str, int],
    of: str,
    rows: Sequence[tuple[str, str]],
) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    for name in ("utterances", of, *(text for _, text in rows)):
        table.add_column(name, justify="right")
    for value, result in results.items():
        figures = [_plain(getattr(result, name)) for name, _ in rows]
        table.add_row(value, str(result.utterances), str(sizes[value]), *figures)
    return table


def _told(shift: Shift) -> str:
    """Milliseconds, and where they are from."""
    source = f"tuned on {shift.utterances}" if shift.source == "tuned" else shift.source.upper()
    return f"{1000 * shift.seconds:+.0f} ms ({source})"


def _between(ends: Ends, digits: int) -> str:
    low, high = ends
    return "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"


def _percent(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return _plain(figure)
    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def _plain(figure: Figure) -> str:
    return "-" if figure.value is None else f"{100 * figure.value:.1f}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
