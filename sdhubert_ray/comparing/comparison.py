"""From recordings, references and the names of systems to the figures of each: checked first, then run, resumed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sdhubert_ray import storage
from sdhubert_ray.comparing.running import Task, run_system
from sdhubert_ray.comparing.scoring import (
    SystemFigures,
    Truths,
    config_of,
    make_units,
    score_sentences,
    score_system,
)
from sdhubert_ray.comparing.systems import Contender, parse_systems
from sdhubert_ray.corpus import list_inputs, name_inputs
from sdhubert_ray.encoder import Checkpoint, fetch_checkpoint
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation import Joined, JoinOptions, Reference, load_references, renamed
from sdhubert_ray.evaluation.joining import how_names_meet, list_unmet, refuse_shared
from sdhubert_ray.evaluation.ssabx import Triplets, read_triplets
from sdhubert_ray.runs.config import JobConfig, load_config
from sdhubert_ray.runs.devices import local_device

_SYSTEMS, _SEGMENTS, _TRAIN = "systems", "segments", "train"
_SHOWN = 3

Progress = Callable[[str, str, int | None], Callable[[int, float], None]]
"""Begins a stretch of work: its name, of what, how many of these if that is known. What it gives is told of what is
done, and of how many seconds of audio."""


@dataclass(frozen=True)
class CompareOptions:
    """A comparison.

    Attributes:
        inputs: the recordings, as `corpus.list_inputs` takes them.
        systems: as `parse_systems` takes them.
        references: of the recordings that are tested.
        output: a folder or URI: new, or of a comparison that is gone on with.
        tune: references of those that shifts are chosen on, or None.
        train: recordings whose syllables are clustered into units; none takes `inputs`.
        n_units: how many units.
        triplets: of spoken-sentence ABX, or None.
        triplets_root: what their file names are relative to; None: the folder that they are in.
        tier: of TextGrids, or None.
        join: how references and recordings meet.
        device: of encoders.
    """

    inputs: tuple[str, ...]
    systems: str
    references: str
    output: str
    tune: str | None = None
    train: str | None = None
    n_units: int = 256
    triplets: str | None = None
    triplets_root: str | None = None
    tier: str | None = None
    join: JoinOptions = field(default_factory=JoinOptions)
    device: str = "auto"


@dataclass(frozen=True)
class Comparison:
    """A comparison that has been checked.

    Attributes:
        options: what was asked for.
        systems: in the order of the tables.
        weights: of those that have some, by title.
        truths: what they are compared with.
        triplets: or None.
    """

    options: CompareOptions
    systems: Sequence[Contender]
    weights: Mapping[str, Checkpoint]
    truths: Truths
    triplets: Triplets | None

    def folder_of(self, system: Contender) -> str:
        """The folder of all that a system makes."""
        return storage.join(self.options.output, f"{_SYSTEMS}/{system.folder}")

    def segments_of(self, system: Contender) -> str:
        """Its output, like that of `sdhubert segment`."""
        return storage.join(self.folder_of(system), _SEGMENTS)


def prepare(options: CompareOptions) -> Comparison:
    """Check what can be checked; nothing is written.

    Raises:
        UserError: a name, a checkpoint, a device, a list or references that cannot be, or a reference without a
            recording.
    """
    systems = parse_systems(options.systems)
    local_device(load_config(None, (), {"device": options.device}, {}).device)
    for name in (*options.inputs, *([options.train] if options.train else [])):
        if storage.is_folder(name) and storage.is_inside(options.output, name):
            raise UserError(f"output {options.output} is in the input {name}; choose an output outside of it")
    references = load_references(options.references, options.tier)
    validation = [] if options.tune is None else load_references(options.tune, options.tier)
    if options.tune is not None:
        refuse_shared(references, options.references, validation, options.tune)
    _refuse_unmet(options, {options.references: references, **({options.tune: validation} if options.tune else {})})
    triplets = None
    if options.triplets is not None:
        beside = storage.absolute(options.triplets).rpartition("/")[0]
        triplets = read_triplets(options.triplets, options.triplets_root or beside)
    weights = {
        one.title: fetch_checkpoint(one.checkpoint, one.preset or JobConfig().preset)
        for one in systems
        if one.checkpoint is not None
    }
    for uris in (options.inputs, *([(options.train,)] if options.train else [])):
        _refuse_pieces(uris, systems, weights)
    truths = Truths(references, options.references, validation, options.tune, options.join)
    return Comparison(options, systems, weights, truths, triplets)


def _refuse_unmet(options: CompareOptions, wanted: Mapping[str, Sequence[Reference]]) -> None:
    """Refuse references without a recording now, and not after hours."""
    recordings = [name for table in list_inputs(options.inputs).batches for name in table.column("id").to_pylist()]
    for uri, references in wanted.items():
        named = [renamed(one, *options.join.rename) for one in references]
        unmet = list_unmet(named, recordings)
        if not unmet or (options.join.missing != "error" and len(unmet) < len(named)):
            continue
        such = f"; recordings there are called like {recordings[0]!r}" if recordings else ""
        way = "give them, or --missing skip leaves their references out"
        if len(unmet) == len(named):
            way = how_names_meet(named, recordings[:_SHOWN])
        raise UserError(
            f"{len(unmet)} of {len(references)} recordings of {uri} are not among the inputs, such as "
            f"{', '.join(unmet[:_SHOWN])}{such}; {way}"
        )


def _refuse_pieces(uris: Sequence[str], systems: Sequence[Contender], weights: Mapping[str, Checkpoint]) -> None:
    """Refuse a manifest that is cut into pieces of another length than a system wants."""
    there = list_inputs(uris).piece_seconds
    for system in systems if there is not None else ():
        wanted = JobConfig().audio.piece_seconds
        if system.title in weights:
            wanted = config_of(system, weights[system.title]).audio.piece_seconds
        if there != wanted:
            raise UserError(
                f"{name_inputs(uris)} is cut into pieces of {there:g} s, but {system.title} takes {wanted:g} s; name "
                "the recordings themselves, or a manifest that is not cut"
            )


def run_comparison(comparison: Comparison, progress: Progress) -> Iterator[tuple[SystemFigures, Joined]]:
    """Do what is left of each system, and score it. Whatever is done stays done, also where this is interrupted.

    Yields:
        the figures of each system in turn, and its recordings with their references.

    Raises:
        UserError, BusyError, IncompleteRunError: as `run_system` and `score_system`.
    """
    options = comparison.options
    for system in comparison.systems:
        folder, segments = comparison.folder_of(system), comparison.segments_of(system)
        task = Task(system, options.inputs, segments, options.device)
        cost, num_syllables = run_system(task, folder, progress(system.title, "rows", None))
        learnt = segments
        if options.train is not None:
            learnt = storage.join(folder, _TRAIN)
            task = Task(system, (options.train,), learnt, options.device)
            _, num_syllables = run_system(task, None, progress(f"{system.title}, train", "rows", None))
        progress(f"{system.title}, units", "", None)
        quantizer = make_units(learnt, folder, options.n_units, num_syllables, options.device)
        weights, ssabx = comparison.weights.get(system.title), None
        if comparison.triplets is not None and weights is not None:
            clips = progress(f"{system.title}, clips", "clips", len(comparison.triplets.clips))
            ssabx = score_sentences(system, weights, comparison.triplets, folder, options.device, clips)
        progress(f"{system.title}, scoring", "", None)
        sha256 = None if weights is None else weights.sha256
        yield score_system(system, sha256, segments, quantizer, comparison.truths, cost, ssabx)
