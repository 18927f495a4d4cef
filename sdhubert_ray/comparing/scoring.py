"""All figures of one system, by the ways of `sdhubert cluster` and `sdhubert evaluate`."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from sdhubert_ray import storage
from sdhubert_ray.clustering.options import ClusterOptions, Workers
from sdhubert_ray.clustering.planning import prepare_clustering
from sdhubert_ray.clustering.running import run_clustering
from sdhubert_ray.comparing.running import Cost
from sdhubert_ray.comparing.systems import Contender
from sdhubert_ray.encoder import Checkpoint
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation import (
    Joined,
    JoinOptions,
    Reference,
    evaluate_boundary,
    evaluate_purity,
    join,
    tune_on,
)
from sdhubert_ray.evaluation.purity import PurityReport
from sdhubert_ray.evaluation.scoring import (
    Bootstrap,
    BoundaryReport,
    Figure,
    Shift,
    TokenRate,
    measure_rate,
)
from sdhubert_ray.evaluation.ssabx import Scoring, Triplets, evaluate_ssabx
from sdhubert_ray.runs.config import JobConfig, given, load_config
from sdhubert_ray.units import Quantizer

_SSABX = "ssabx.json"
_CLIPS_PRESET = "paper"
"""Of clips, where a system has no preset: as `sdhubert evaluate ssabx` has it."""


@dataclass(frozen=True)
class Truths:
    """What systems are compared with.

    Attributes:
        references: of the recordings that are tested.
        uri: where they are from.
        validation: of those that shifts are chosen on; none leaves them at 0.
        tune: where these are from, or None.
        options: how both meet recordings.
    """

    references: Sequence[Reference]
    uri: str
    validation: Sequence[Reference] = ()
    tune: str | None = None
    options: JoinOptions = field(default_factory=JoinOptions)


@dataclass(frozen=True)
class SentenceAbx:
    """Spoken-sentence ABX of a system.

    Attributes:
        accuracy: share of the triplets.
        layer: the states whose mean is compared.
        triplets: that could be used.
        made_from: digest of the weights, the triplets and the layer.
    """

    accuracy: Figure
    layer: int
    triplets: int
    made_from: str


@dataclass(frozen=True)
class SystemFigures:
    """What is known of a system.

    Attributes:
        system: which.
        checkpoint_sha256: of its weights, or None.
        utterances: recordings that were tested.
        shift: of protocol `sdhubert`.
        zerosyl_shift: of protocol `zerosyl`.
        boundary: as `sdhubert evaluate boundary` has it.
        token_rate: likewise; with units the bitrate, too.
        purity: as `sdhubert evaluate purity` has it; None where there are too few syllables for the units.
        ssabx: None without triplets or encoder.
        cost: of segmenting.
        real_time_factor: seconds on the clock for a second of audio, or None.
        num_units: that syllables were clustered into, or None.
        notes: what a reader has to know.
    """

    system: Contender
    checkpoint_sha256: str | None
    utterances: int
    shift: Shift
    zerosyl_shift: Shift
    boundary: BoundaryReport
    token_rate: TokenRate
    purity: PurityReport | None
    ssabx: SentenceAbx | None
    cost: Cost
    real_time_factor: float | None
    num_units: int | None
    notes: Sequence[str] = ()


def config_of(
    system: Contender, weights: Checkpoint, *, preset: str | None = None, device: str | None = None
) -> JobConfig:
    """The configuration of a system that has weights: that of its run, or by another preset, on a device."""
    chosen = preset or system.preset or JobConfig().preset
    flags = given({"preset": chosen, "device": device, "checkpoint": system.checkpoint})
    return load_config(None, (), flags, weights.carried(chosen))


def make_units(segments: str, folder: str, n_units: int, num_syllables: int, device: str) -> str | None:
    """Cluster the syllables of an output, as `sdhubert cluster --n-clusters N --n-units N` does; what is done stays.

    Args:
        segments: the output.
        folder: of what the system makes.
        n_units: N.
        num_syllables: in the output.
        device: of k-means.

    Returns:
        the quantizer's folder; None where there are fewer syllables than units.
    """
    if num_syllables < n_units:
        return None
    name = f"units-{segments.rpartition('/')[2]}-{num_syllables}-{n_units}"
    job = prepare_clustering(
        segments, storage.join(folder, name), ClusterOptions(n_units, n_units), Workers(device=device), engine="local"
    )
    run_clustering(job, lambda phase, done, total, value: None)
    return job.output


def score_system(
    system: Contender,
    checkpoint_sha256: str | None,
    segments: str,
    quantizer: str | None,
    truths: Truths,
    cost: Cost,
    ssabx: SentenceAbx | None,
) -> tuple[SystemFigures, Joined]:
    """Evaluate the segments of a system.

    Args:
        system: which.
        checkpoint_sha256: of its weights, or None.
        segments: its output.
        quantizer: of its units, or None.
        truths: what they are compared with.
        cost: of segmenting.
        ssabx: of its embeddings, or None.

    Returns:
        all figures, and the recordings with their references.

    Raises:
        UserError: as `join`.
    """
    notes: list[str] = []
    loaded = None if quantizer is None else Quantizer.load(quantizer)
    joined = join(truths.references, segments, truths.options, None if loaded is None else loaded.predict)
    shift, within = Shift(), Shift()
    if truths.tune is not None:
        validation = join(truths.validation, segments, truths.options)
        try:
            shift, within = tune_on(validation, truths.tune)
        except UserError as error:  # a system that finds nothing still has its line
            notes.append(f"{system.title}: the shifts are 0, as {error}")
    drawn = Bootstrap()
    boundary = evaluate_boundary(joined, shift.seconds, drawn, zerosyl_shift=within.seconds)
    if loaded is None:
        notes.append(f"{system.title} has fewer syllables than units, so there is no purity; --n-units takes fewer")
    if joined.missing:
        done = "left out" if truths.options.missing == "skip" else "counted as without syllables"
        notes.append(f"{system.title}: {len(joined.missing)} recordings are missing, {done}: {joined.missing[0]} ...")
    figures = SystemFigures(
        system,
        checkpoint_sha256,
        len(joined.utterances),
        shift,
        within,
        boundary,
        measure_rate(joined, drawn, None if loaded is None else loaded.num_units),
        None if loaded is None else evaluate_purity(joined, drawn),
        ssabx,
        cost,
        cost.real_time_factor,
        None if loaded is None else loaded.num_units,
        notes,
    )
    return figures, joined


def score_sentences(
    system: Contender,
    weights: Checkpoint,
    triplets: Triplets,
    folder: str,
    device: str,
    advance: Callable[[int, float], None],
) -> SentenceAbx:
    """Spoken-sentence ABX by the mean of the states that the system cuts, as `sdhubert evaluate ssabx`; kept.

    Args:
        system: which.
        weights: its checkpoint.
        triplets: of `read_triplets`.
        folder: of what the system makes: the figure is kept there.
        device: of the encoder.
        advance: told of clips that are done, and of 0 seconds.
    """
    config = config_of(system, weights, preset=system.preset or _CLIPS_PRESET, device=device)
    preset, layer = config.preset, config.encoder.layer
    clips = [[*triplets.ids], [*map(tuple, triplets.clips)], triplets.roles.tolist()]
    made_from = hashlib.sha256(json.dumps([weights.sha256, preset, layer, *clips]).encode()).hexdigest()
    uri = storage.join(folder, _SSABX)
    kept = storage.read_json(uri)
    if kept is not None and kept["made_from"] == made_from:
        return SentenceAbx(**{**kept, "accuracy": Figure(**kept["accuracy"])})
    scoring = Scoring(("favg",), (layer,))
    result = evaluate_ssabx(
        triplets, weights, config, scoring, engine="local", progress=lambda clips: advance(clips, 0.0)
    )
    used = result.num_triplets - len(result.left_out)
    found = SentenceAbx(result.scores[0].accuracy, layer, used, made_from)
    storage.put(uri, json.dumps(asdict(found)).encode())
    return found
