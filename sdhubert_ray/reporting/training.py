"""What a training run has logged, as a page: curves, collapses, where it stands."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdhubert_ray import storage
from sdhubert_ray.output.record import fingerprint
from sdhubert_ray.reporting.content import Curves, Page, Tile
from sdhubert_ray.training.metrics import read_metrics
from sdhubert_ray.training.standing import read_standing

_SHOWN = (
    ("Loss", ("loss", "val_loss")),
    ("Validation score, which picks the best", ("val_score",)),
    ("Information of the teacher's targets, nats", ("information",)),
    ("Entropy of targets, nats", ("teacher_entropy", "student_entropy")),
    ("Spread of states", ("student_cls_spread", "teacher_cls_spread", "token_spread")),
    ("Validation: mates nearer than others", ("val_auc", "val_margin")),
    ("Learning rate", ("lr",)),
    ("Gradient norm", ("grad_norm",)),
    ("Norm of the center", ("center_norm",)),
    ("Norms of speech and of other frames, and the threshold", ("speech_norm", "quiet_norm", "norm_threshold")),
    ("Segments per second", ("segment_rate", "val_segment_rate")),
    ("Variance of targets: its share of their squares, what is explained of it", ("target_variance", "explained")),
    ("Audio per second, s", ("audio_seconds_per_second",)),
    ("Share of time waiting for data", ("data_wait_share",)),
    ("Recordings replaced, steps skipped", ("skipped", "skipped_steps")),
)
_MOST_POINTS = 1000
_Points = list[tuple[int, float]]


def training_page(output: str, record: Mapping[str, Any]) -> Page:
    """The page of a training run.

    Args:
        output: its folder.
        record: its run.json.

    Raises:
        UserError: the record of the best checkpoint is damaged.
        TransientError: the store could not be reached.
    """
    standing = read_standing(output, record)
    points = _read_points(output)
    alarms = list(_find_alarms(points.get("collapsed", [])))
    notes = [
        f"COLLAPSE from step {first} to {last}: the teacher said the same of all it heard." for first, last in alarms
    ]
    if not points:
        notes.append("Nothing is logged yet.")
    last, best = standing.metrics, standing.best
    tiles = [Tile("steps", f"{standing.step:,}", f"of {standing.max_steps:,}")]
    if best is not None and best.score is not None:
        tiles.append(Tile("best val_score", f"{best.score:.3f}", f"at step {best.step:,}"))
    for name in ("loss", "grad_norm", "audio_seconds_per_second"):
        if name in last and math.isfinite(last[name]):
            tiles.append(Tile(name.replace("_", " "), f"{last[name]:,.4g}", "as last logged"))
    tiles.append(Tile("collapses", str(len(alarms)), "seen in the logs"))
    about = [("state", standing.state), *((name, str(count)) for name, count in record["found"].items())]
    if standing.last is not None:
        about.append(("last checkpoint", f"step {standing.last.step}, {standing.last.uri}"))
    if best is not None:
        about.append(("best checkpoint", f"step {best.step}, {best.uri}"))
    about += [(name, str(told)) for name, told in record["versions"].items()]
    return Page(
        kind="training",
        title=storage.absolute(output).rpartition("/")[2],
        place=storage.absolute(output),
        about=about,
        notes=notes,
        tiles=tiles,
        curves=[_curves(title, names, points) for title, names in _SHOWN if any(name in points for name in names)],
        alarms=alarms,
        best_step=None if best is None else best.step,
        settings=list(fingerprint(record["config"]).items()),
    )


def thin(points: Sequence[tuple[int, float]], most: int = _MOST_POINTS) -> _Points:
    """Points of a curve that look like all of it: the least and the greatest of each stretch, in order."""
    if len(points) <= most:
        return list(points)
    width = math.ceil(len(points) / (most // 2))
    kept: _Points = []
    for begin in range(0, len(points), width):
        stretch = points[begin : begin + width]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _read_points(output: str) -> dict[str, _Points]:
    """By metric, (step, value) of each row that has it; values that are not finite are left out."""
    points: dict[str, _Points] = {}
    for row in read_metrics(output):
        step = int(row.pop("step"))
        for name, text in row.items():
            if text and math.isfinite(float(text)):
                points.setdefault(name, []).append((step, float(text)))
    return points


def _find_alarms(collapsed: Sequence[tuple[int, float]]) -> Iterator[tuple[int, int]]:
    first = last = None
    for step, value in [*collapsed, (-1, 0.0)]:
        if value:
            first, last = step if first is None else first, step
        elif first is not None and last is not None:
            yield first, last
            first = None


def _curves(title: str, names: Sequence[str], points: Mapping[str, _Points]) -> Curves:
    found = [name for name in names if name in points]
    thinned = [thin(points[name]) for name in found]
    return Curves(title, found, [([step for step, _ in one], [value for _, value in one]) for one in thinned])
