"""`sdhubert evaluate`: segments and units against reference syllables, embeddings against triplets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from sdhubert_ray.cli.console import console, note
from sdhubert_ray.cli.evaluate_ssabx import ssabx
from sdhubert_ray.cli.help import MORE, SETTINGS, Command, Group
from sdhubert_ray.cli.options import MISSING, Foreign, Rename, split_rename
from sdhubert_ray.cli.progress import Phase, progress
from sdhubert_ray.cli.running import waiting
from sdhubert_ray.cli.targets import JsonFile, check_figures, write_figures
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.evaluation.joining import Joined, JoinOptions, Quantize
    from sdhubert_ray.evaluation.published import Published
    from sdhubert_ray.evaluation.references import Reference
    from sdhubert_ray.evaluation.scoring import Bootstrap, Shift

evaluate = typer.Typer(
    cls=Group,
    help="Segments, units and embeddings against references: boundary, purity, ssabx.",
    no_args_is_help=True,
    context_settings=SETTINGS,
    epilog="""
sdhubert evaluate boundary segments syllables.json
sdhubert evaluate purity segments syllables.json --quantizer units
""",
)

_MAX_SHIFT = 1.0
_MAX_TOLERANCE = 1.0

Segments = Annotated[str, typer.Argument(metavar="SEGMENTS", help="An output folder or URI of `sdhubert segment`.")]
References = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCES",
        help="LibriSpeech syllable JSON (id -> {file_name, syllables: [{start, end, label}]}), a folder of Praat "
        "TextGrids, or one.",
    ),
]
Missing = Annotated[
    str,
    typer.Option(
        autocompletion=MISSING,
        help="Referenced recordings without segments: error, skip (left out) or empty (without segments).",
    ),
]
By = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="A table by this column, such as speaker; may be repeated.")
]
TierName = Annotated[
    str | None,
    typer.Option(
        help="Of TextGrids (default: called syllables, or phones, which are syllabified in English).",
        rich_help_panel=MORE,
    ),
]
Resamples = Annotated[
    int,
    typer.Option("--bootstrap", min=0, help="Resamples of utterances for 95 % intervals.", rich_help_panel=MORE),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap.", rich_help_panel=MORE)]


@evaluate.command(
    cls=Command,
    epilog="""
sdhubert evaluate boundary segments test.json --tune dev.json --tune-segments dev_segments
sdhubert evaluate boundary segments textgrids --missing skip --by speaker --json figures.json
""",
)
def boundary(
    segments: Segments,
    references: References,
    tune: Annotated[
        str | None, typer.Option(metavar="REFERENCES", help="Of validation recordings, to choose the shifts on.")
    ] = None,
    tune_segments: Annotated[
        str | None, typer.Option(metavar="SEGMENTS", help="Their output folder (default: SEGMENTS).")
    ] = None,
    shift: Annotated[
        float | None, typer.Option(help="Seconds added to the reference, chosen before: of sdhubert and zerosyl.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Seconds within which boundaries match (default: 0.05; 0.050001 takes all written 50 ms apart).",
            rich_help_panel=MORE,
        ),
    ] = None,
    missing: Missing = "error",
    by: By = None,
    tier: TierName = None,
    rename: Rename = None,
    json_file: JsonFile = None,
    bootstrap: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """How well segments meet the boundaries of syllables, within 50 ms: precision, recall, F1, R-value.

    Three protocols: `sdhubert` (starts and ends of syllables, shifted, and starts of segments), `onsets_offsets`
    (starts and ends of both, no shift) and `zerosyl` (within runs of speech, shifted; whole syllables, too). Shifts are
    chosen on other recordings with --tune; without, they are 0. Spans and nuclei are counted as by findsylls.
    """
    if shift is not None and tune is not None:
        raise UserError("--shift and --tune cannot both be given; leave out one")
    if shift is not None and not abs(shift) <= _MAX_SHIFT:
        raise UserError(f"--shift is {shift}; it has to be in seconds, from -{_MAX_SHIFT} to {_MAX_SHIFT}")
    if tolerance is not None and not 0 < tolerance <= _MAX_TOLERANCE:
        raise UserError(f"--tolerance is {tolerance}; it has to be in seconds, over 0 and up to {_MAX_TOLERANCE}")
    if tune_segments is not None and tune is None:
        raise UserError("--tune-segments needs --tune, the references of its recordings")
    if json_file:
        check_figures(json_file)
    from sdhubert_ray.evaluation import load_references, tables
    from sdhubert_ray.evaluation.joining import JoinOptions
    from sdhubert_ray.evaluation.published import BOUNDARY
    from sdhubert_ray.evaluation.scoring import Bootstrap, Shift, evaluate_boundary, measure_rate
    from sdhubert_ray.metrics import TOLERANCE

    within = TOLERANCE if tolerance is None else tolerance
    options = JoinOptions(missing, tuple(dict.fromkeys(by or [])), split_rename(rename))
    wanted = load_references(references, tier)
    chosen = within_runs = Shift() if shift is None else Shift(shift, "given")
    if tune is not None:
        chosen, within_runs = _tune(wanted, references, tune, tune_segments or segments, options, tier, within)
    joined = _join(wanted, segments, options)
    drawn = Bootstrap(bootstrap, seed)
    with waiting("scoring"):
        report = evaluate_boundary(joined, chosen.seconds, drawn, within, within_runs.seconds)
        rate = measure_rate(joined, drawn, _units_there(segments)[0])
    _print_join(joined, missing)
    console.print(tables.boundary_table(report, chosen, within_runs), soft_wrap=True)
    console.print(tables.syllable_table(report), soft_wrap=True)
    console.print(tables.rate_table(rate), soft_wrap=True)
    for table in tables.boundary_groups(report):
        console.print(table, soft_wrap=True)
    published = _print_published(joined, BOUNDARY) if within == TOLERANCE else []
    if chosen.source == "not tuned":
        note("NOT TUNED: the shifts of protocols are 0; --tune REFERENCES chooses them on validation recordings")
    if json_file:
        figures = {
            "shift": asdict(chosen),
            "zerosyl_shift": asdict(within_runs),
            "tolerance": within,
            "token_rate": asdict(rate),
            **asdict(report),
            "published": published,
        }
        _write(json_file, "boundary", (segments, references, tier, missing), joined, drawn, figures)


@evaluate.command(
    cls=Command,
    epilog="""
sdhubert evaluate purity segments syllables.json
sdhubert evaluate purity segments syllables.json --quantizer units --json figures.json
""",
)
def purity(
    segments: Segments,
    references: References,
    quantizer: Annotated[
        str | None, typer.Option(help="Makes units of the segment features (default: units of `sdhubert tokenize`).")
    ] = None,
    foreign_quantizer: Foreign = False,
    missing: Missing = "error",
    by: By = None,
    tier: TierName = None,
    rename: Rename = None,
    json_file: JsonFile = None,
    bootstrap: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """How well units and syllables agree: cluster purity, syllable purity, mutual information (SNMI).

    Three protocols: segments are assigned to syllables, of which `sdhubert` counts every pair, `strict` those that
    overlap; by `zerosyl` each is of what it overlaps most, a syllable or silence. Bitrate, too.
    """
    if json_file:
        check_figures(json_file)
    from sdhubert_ray.evaluation import evaluate_purity, load_references, tables
    from sdhubert_ray.evaluation.joining import JoinOptions
    from sdhubert_ray.evaluation.published import PURITY
    from sdhubert_ray.evaluation.scoring import Bootstrap, measure_rate

    options = JoinOptions(missing, tuple(dict.fromkeys(by or [])), split_rename(rename))
    wanted = load_references(references, tier)
    drawn = Bootstrap(bootstrap, seed)
    if quantizer is None:
        joined = _join(wanted, segments, options)
        num_units, identity = _units_there(segments)
    else:
        from sdhubert_ray.output import read_run
        from sdhubert_ray.units import Quantizer

        loaded = Quantizer.load(quantizer)
        record = read_run(segments) or {"fingerprint": {}}  # that there is none is told where it is joined
        loaded.check_origin(record["fingerprint"], quantizer, segments, foreign_quantizer)
        joined = _join(wanted, segments, options, loaded.predict)
        num_units, identity = loaded.num_units, loaded.sha256
    with waiting("scoring"):
        report = evaluate_purity(joined, drawn)
        rate = measure_rate(joined, drawn, num_units)
    _print_join(joined, missing)
    console.print(tables.purity_table(report), soft_wrap=True)
    console.print(tables.rate_table(rate), soft_wrap=True)
    for table in tables.purity_groups(report):
        console.print(table, soft_wrap=True)
    published = _print_published(joined, PURITY)
    if json_file:
        used = {"quantizer": quantizer, "quantizer_sha256": identity}
        figures = {**used, "token_rate": asdict(rate), **asdict(report), "published": published}
        _write(json_file, "purity", (segments, references, tier, missing), joined, drawn, figures)


evaluate.command(
    cls=Command,
    epilog="""
sdhubert evaluate ssabx LibriSpeech/test-clean triplets.json
sdhubert evaluate ssabx LibriSpeech/test-clean triplets.json --embedding cls --layer 9
""",
)(ssabx)


def _tune(
    tested: "Sequence[Reference]",
    references: str,
    tune: str,
    segments: str,
    options: "JoinOptions",
    tier: str | None,
    tolerance: float,
) -> "tuple[Shift, Shift]":
    from sdhubert_ray.evaluation import load_references, tune_on
    from sdhubert_ray.evaluation.joining import refuse_shared

    validation = load_references(tune, tier)
    refuse_shared(tested, references, validation, tune)
    joined = _join(validation, segments, replace(options, by=()))
    if joined.missing:
        note(f"note: {len(joined.missing)} of {len(validation)} recordings of {tune} are missing ({options.missing})")
    with waiting("choosing the shifts"):
        return tune_on(joined, tune, tolerance)


def _join(
    references: "Sequence[Reference]", segments: str, options: "JoinOptions", quantize: "Quantize | None" = None
) -> "Joined":
    """As `evaluation.join`, with its progress."""
    from sdhubert_ray.evaluation import join

    with progress() as shown:
        phase = shown.begin(Phase("reading segments", "recordings"))
        return join(references, segments, options, quantize, phase.advance)


def _units_there(segments: str) -> tuple[int | None, str | None]:
    """How many units there are to the quantizer of a table, and its digest, if the run record tells."""
    from sdhubert_ray.output import read_run

    quantizer = (read_run(segments) or {}).get("quantizer") or {}
    return quantizer.get("n_units"), quantizer.get("sha256")


def _print_join(joined: "Joined", missing: str) -> None:
    from sdhubert_ray.evaluation.tables import describe_join

    for line in describe_join(joined, missing):
        print(line)


def _print_published(joined: "Joined", published: "Sequence[Published]") -> list[dict[str, object]]:
    """Show what papers say, if it is of this test set."""
    from sdhubert_ray.evaluation.published import is_librispeech_test
    from sdhubert_ray.evaluation.tables import published_table

    if not is_librispeech_test(one.reference.file_name for one in joined.utterances):
        return []
    console.print(published_table(published), soft_wrap=True)
    return [asdict(one) for one in published]


def _write(
    target: str,
    metric: str,
    inputs: tuple[str, str, str | None, str],
    joined: "Joined",
    bootstrap: "Bootstrap",
    figures: Mapping[str, object],
) -> None:
    from sdhubert_ray.metrics import LEVEL

    segments, references, tier, missing = inputs
    result = {
        "segments": segments,
        "references": references,
        "tier": tier,
        "utterances": len(joined.utterances),
        "missing": {"policy": missing, "count": len(joined.missing), "file_names": joined.missing},
        "failed": dict(joined.failed),
        "extra": {"count": joined.num_extra, "such_as": joined.extra},
        "bootstrap": {**asdict(bootstrap), "level": LEVEL, "over": "utterances"},
        **figures,
    }
    write_figures(target, metric, result)
