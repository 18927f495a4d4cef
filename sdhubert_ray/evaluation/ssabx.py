"""Spoken-sentence ABX: of two clips, which one says what a third says, told by the cosine of their embeddings."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray.evaluation.scoring import Bootstrap, Figure
from sdhubert_ray.evaluation.triplets import ROLES, Clip, Triplets, read_triplets
from sdhubert_ray.metrics import bootstrap_share, ssabx_margins
from sdhubert_ray.output.tables import MANIFEST_FIELDS, read_vectors
from sdhubert_ray.runs.config import JobConfig
from sdhubert_ray.runs.stages.embedding import EMBEDDINGS, EmbedClips
from sdhubert_ray.speech.presets import EncoderOptions

if TYPE_CHECKING:
    from sdhubert_ray.encoder import Checkpoint

_UNIT_SECONDS = 120.0
"""Audio per unit of work, where the configuration gives none."""

__all__ = ["Bootstrap", "Result", "Score", "Scoring", "Triplets", "evaluate_ssabx", "read_triplets"]

Embeddings = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Scoring:
    """What is scored.

    Attributes:
        embeddings: of `EMBEDDINGS`.
        layers: of hidden states.
        bootstrap: over triplets.
    """

    embeddings: Sequence[str]
    layers: Sequence[int]
    bootstrap: Bootstrap = field(default_factory=Bootstrap)


@dataclass(frozen=True)
class Score:
    """How often P was found nearer to X than N.

    Attributes:
        embedding: one of `EMBEDDINGS`.
        layer: the hidden states that it was made of.
        correct: triplets with cos(X, P) > cos(X, N).
        ties: triplets with equal cosines, which are not correct.
        accuracy: share of correct triplets.
    """

    embedding: str
    layer: int
    correct: int
    ties: int
    accuracy: Figure


@dataclass(frozen=True)
class Result:
    """What came of an evaluation.

    Attributes:
        checkpoint: its name.
        checkpoint_sha256: its identity.
        preset: of z-score and padding.
        dtype: precision of the encoder.
        engine: `local` or `ray`.
        num_triplets: in all.
        num_clips: distinct clips.
        seconds: of distinct clips.
        bootstrap: over triplets.
        scores: of each embedding in each layer.
        left_out: triplets that could not be used, by id, and why.
    """

    checkpoint: str
    checkpoint_sha256: str
    preset: str
    dtype: str
    engine: str
    num_triplets: int
    num_clips: int
    seconds: float
    bootstrap: Bootstrap
    scores: Sequence[Score]
    left_out: Mapping[str, str]


def evaluate_ssabx(
    triplets: Triplets,
    checkpoint: "Checkpoint",
    config: JobConfig,
    scoring: Scoring,
    *,
    engine: str = "auto",
    address: str | None = None,
    progress: Callable[[int], None] = lambda clips: None,
) -> Result:
    """Embed the clips of triplets, each once, and score.

    Args:
        triplets: of `read_triplets`.
        checkpoint: the weights.
        config: its audio, `windows.pad_samples`, dtype, device and resources count.
        scoring: what is scored.
        engine: `auto`, `local` (this process) or `ray`.
        address: of a Ray cluster; implies `ray`.
        progress: told of each unit of work: clips in it.

    Raises:
        UserError: a layer that the checkpoint does not have; no such engine, device or cluster.
        IncompleteRunError: Ray gave up.
    """
    from sdhubert_ray.runs.precision import settle_precision

    engine = choose_engine(triplets, engine, address)
    config = settle_precision(config, address)
    embedded, errors = embed_clips(
        triplets.clips, checkpoint, config, scoring.layers, engine=engine, address=address, progress=progress
    )
    left_out = list_left_out(triplets, errors)
    return Result(
        checkpoint=checkpoint.name,
        checkpoint_sha256=checkpoint.sha256,
        preset=config.preset,
        dtype=config.dtype,
        engine=engine,
        num_triplets=len(triplets.ids),
        num_clips=len(triplets.clips),
        seconds=triplets.seconds,
        bootstrap=scoring.bootstrap,
        scores=score_triplets(triplets, embedded, left_out, scoring),
        left_out=left_out,
    )


def choose_engine(triplets: Triplets, engine: str, address: str | None) -> str:
    """What `auto` is for these triplets: `local` for few. Raises UserError for an engine that cannot be."""
    from sdhubert_ray.runs.engines import IN_PROCESS_SECONDS, check_engine

    check_engine(engine, address)
    if engine != "auto":
        return engine
    return "ray" if address or triplets.seconds >= IN_PROCESS_SECONDS else "local"


def embed_clips(
    clips: Sequence[Clip],
    checkpoint: "Checkpoint",
    config: JobConfig,
    layers: Sequence[int],
    *,
    engine: str,
    address: str | None,
    progress: Callable[[int], None],
) -> tuple[Embeddings, list[str | None]]:
    """Embed each clip once, all layers and kinds of embedding in one pass.

    Args:
        clips: C clips.
        checkpoint: the weights.
        config: its audio, `windows.pad_samples`, dtype, device and resources count.
        layers: L layers to read.
        engine: `local` (this process) or `ray`.
        address: of a Ray cluster, or None to start one here.
        progress: told of each unit of work: clips in it.

    Returns:
        (C, L, D) float32 of each of `EMBEDDINGS`, and for each clip why it has none (its vectors are 0), or None.

    Raises:
        UserError: a layer that the checkpoint does not have; no such device or cluster.
        IncompleteRunError: Ray gave up.
    """
    units = cut_units(clips, config)
    errors: list[str | None] = [None] * len(clips)
    embedded: Embeddings = {}
    if engine == "ray":
        tables = _embed_on_ray(units, checkpoint, config, layers, address)
    else:
        tables = _embed_here(units, checkpoint, config, layers)
    for table in tables:
        numbers = [int(key) for key in table.column("key").to_pylist()]
        for number, error in zip(numbers, table.column("error").to_pylist(), strict=True):
            errors[number] = error
        for name in EMBEDDINGS:
            column = table.column(name)
            if name not in embedded:
                width = column.type.value_type.list_size
                embedded[name] = np.zeros((len(clips), len(layers), width), np.float32)
            for number, vectors in zip(numbers, read_vectors(column), strict=True):
                if vectors is not None:
                    embedded[name][number] = vectors
        progress(len(numbers))
    return embedded, errors


def list_left_out(triplets: Triplets, errors: Sequence[str | None]) -> dict[str, str]:
    """The triplets with a clip that has no embedding, by id, and why."""
    left_out: dict[str, str] = {}
    for name, roles in zip(triplets.ids, triplets.roles.tolist(), strict=True):
        for role, clip in zip(ROLES, roles, strict=True):
            if errors[clip] is not None:
                left_out.setdefault(name, f"{role}: {errors[clip]}")
    return left_out


def score_triplets(
    triplets: Triplets, embedded: Embeddings, left_out: Collection[str], scoring: Scoring
) -> list[Score]:
    """Score each embedding in each layer, on the triplets that are not left out.

    Args:
        triplets: M triplets.
        embedded: of `embed_clips`, of the layers of `scoring`.
        left_out: ids.
        scoring: what is scored.
    """
    used = triplets.roles[[name not in left_out for name in triplets.ids]]
    scores = []
    for name in scoring.embeddings:
        for index, layer in enumerate(scoring.layers):
            margins = ssabx_margins(*(embedded[name][used[:, role], index] for role in range(len(ROLES))))
            correct, ties = int((margins > 0).sum()), int((margins == 0).sum())
            share = correct / len(used) if len(used) else None
            interval = bootstrap_share(correct, len(used), scoring.bootstrap.resamples, scoring.bootstrap.seed)
            scores.append(Score(name, layer, correct, ties, Figure(share, interval.low, interval.high)))
    return scores


def cut_units(clips: Sequence[Clip], config: JobConfig) -> list[pa.Table]:
    """Clips as units of work: manifests whose keys are the numbers of the clips, those of like length together."""
    order = sorted(range(len(clips)), key=lambda number: clips[number].end - clips[number].start)
    most = config.resources.unit_seconds or _UNIT_SECONDS
    units: list[list[int]] = []
    seconds = 0.0
    for number in order:
        length = clips[number].end - clips[number].start
        full = not units or len(units[-1]) >= config.resources.unit_rows
        if full or seconds + length > most:
            units.append([])
            seconds = 0.0
        units[-1].append(number)
        seconds += length
    return [_unit_table(f"{index}", numbers, clips) for index, numbers in enumerate(units)]


def _unit_table(unit_name: str, numbers: Sequence[int], clips: Sequence[Clip]) -> pa.Table:
    keys = [str(number) for number in numbers]
    uris, starts, ends = zip(*(clips[number] for number in numbers), strict=True)
    values: dict[str, object] = {"key": keys, "id": keys, "uri": uris, "start": starts, "end": ends}
    values |= {"piece": [0] * len(keys), "num_pieces": [1] * len(keys)}
    columns = {
        field.name: pa.array(values[field.name], field.type)
        if field.name in values
        else pa.nulls(len(keys), field.type)
        for field in MANIFEST_FIELDS
    }
    return pa.table({**columns, "unit_name": pa.array([unit_name] * len(keys), pa.string())})


def _embed_here(
    units: Sequence[pa.Table], checkpoint: "Checkpoint", config: JobConfig, layers: Sequence[int]
) -> Iterator[pa.Table]:
    from sdhubert_ray.runs.devices import local_device

    embed = EmbedClips(lambda: checkpoint, config, layers, local_device(config.device))
    return map(embed, units)


def _embed_on_ray(
    units: Sequence[pa.Table], checkpoint: "Checkpoint", config: JobConfig, layers: Sequence[int], address: str | None
) -> Iterator[pa.Table]:
    from ray.exceptions import RayError

    from sdhubert_ray.encoder.checkpoint import load_model
    from sdhubert_ray.encoder.resampling import check_resampler
    from sdhubert_ray.runs.connect import connected, explain
    from sdhubert_ray.runs.devices import cluster_device
    from sdhubert_ray.runs.pipeline import build_embed_pipeline
    from sdhubert_ray.runs.session import IncompleteRunError

    check_resampler(config.audio.resampler)
    last = EncoderOptions(max(layers), max(layers))
    load_model(checkpoint, last, "float32", "cpu")  # what is wrong with it is told here, not by a worker
    with connected(address):
        config = replace(config, device=cluster_device(config.device, grows=address is not None))
        embedded = build_embed_pipeline(units, checkpoint, config, layers)
        try:
            yield from embedded.iter_batches(batch_size=None, batch_format="pyarrow")
        except RayError as error:
            raise IncompleteRunError(explain(error)) from error
