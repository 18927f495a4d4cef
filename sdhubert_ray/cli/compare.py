"""`sdhubert compare`: systems on the same recordings, in one table and on one page."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sdhubert_ray.cli.console import console, note, raise_if_interrupted
from sdhubert_ray.cli.evaluate import Missing, TierName
from sdhubert_ray.cli.help import MORE
from sdhubert_ray.cli.options import DEVICES, Rename, split_rename
from sdhubert_ray.cli.progress import Phase, Shown, progress
from sdhubert_ray.cli.running import ended_early
from sdhubert_ray.cli.targets import check_figures, check_folder, write_figures
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.comparing.comparison import Comparison
    from sdhubert_ray.comparing.scoring import SystemFigures
    from sdhubert_ray.evaluation import Joined


def compare(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="AUDIO", help="Files, folders, globs, shards, manifests, of which all are segmented."),
    ],
    systems: Annotated[
        str,
        typer.Option(
            metavar="NAME[=FILE],...",
            help="bundled, mel-valleys, energy, uniform, and presets with their checkpoints: sylber=sylber.ckpt. "
            "TITLE:NAME=FILE calls one what you like.",
        ),
    ],
    references: Annotated[
        str, typer.Option(metavar="FILE", help="True syllables of what is tested, as `sdhubert evaluate` takes them.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", help="New, or of a comparison that is gone on with.")
    ],
    tune: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Those of validation recordings in AUDIO, to choose the shifts on."),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="AUDIO", help="Recordings whose syllables units are made of (default: AUDIO)."),
    ] = None,
    n_units: Annotated[int, typer.Option(min=1, help="Units of each system, by k-means.")] = 256,
    triplets: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Of spoken-sentence ABX, as `sdhubert evaluate ssabx` takes them."),
    ] = None,
    triplets_root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="What file names of triplets are relative to (default: the folder of the triplets).",
            rich_help_panel=MORE,
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Recordings to look at and listen to.")] = 50,
    device: Annotated[
        str, typer.Option(autocompletion=DEVICES, help="auto, cpu or cuda.", rich_help_panel=MORE)
    ] = "auto",
    missing: Missing = "error",
    tier: TierName = None,
    rename: Rename = None,
) -> None:
    """Compare systems on the same recordings: one table, and one page to look and listen.

    Each system segments in a process of its own, then it is clustered and evaluated as by the commands. Run again, it
    does what is left: a system that is added later is all the work. Published figures are shown beside, marked so.
    """
    # What can be mended is told before torch is loaded, which takes seconds.
    from sdhubert_ray.comparing.systems import parse_systems

    parse_systems(systems)
    _check_folder(output)
    from sdhubert_ray.comparing.comparison import CompareOptions, prepare, run_comparison
    from sdhubert_ray.comparing.tables import comparison_table, published_table
    from sdhubert_ray.evaluation import JoinOptions

    options = CompareOptions(
        inputs=tuple(inputs),
        systems=systems,
        references=references,
        output=output,
        tune=tune,
        train=train,
        n_units=n_units,
        triplets=triplets,
        triplets_root=triplets_root,
        tier=tier,
        join=JoinOptions(missing, (), split_rename(rename)),
        device=device,
    )
    comparison = prepare(options)
    with ended_early(), progress() as shown:
        done = list(run_comparison(comparison, lambda title, unit, total: _begin(shown, title, unit, total)))
    figures = [one for one, _ in done]
    console.print(comparison_table(figures), soft_wrap=True)
    console.print()
    console.print(published_table(), soft_wrap=True)
    for one in figures:
        for told in one.notes:
            note(f"note: {told}")
    if tune is None:
        note("NOT TUNED: the shifts of protocols are 0; --tune FILE chooses them on validation recordings")
    _write(comparison, figures, [joined for _, joined in done], sample)


def _check_folder(output: str) -> None:
    """Refuse a folder whose files are not those of a comparison."""
    from sdhubert_ray import storage
    from sdhubert_ray.comparing.systems import FIGURES, PAGE

    check_folder(output, (), False)
    if not storage.is_folder(output):
        return
    figures = storage.join(output, FIGURES)
    check_figures(figures)
    if storage.exists(storage.join(output, PAGE)) and not storage.exists(figures):
        raise UserError(f"{output} holds {PAGE} already, which is of no comparison; name another folder")


def _begin(shown: Shown, title: str, unit: str, total: int | None) -> Callable[[int, float], None]:
    phase = shown.begin(Phase(title, unit, total))
    hours = 0.0

    def advance(count: int, seconds: float) -> None:
        nonlocal hours
        raise_if_interrupted()
        hours += seconds / 3600
        phase.advance(count, text=f"{hours:.2f} h of audio" if hours else "")

    return advance


def _write(comparison: "Comparison", figures: "list[SystemFigures]", joined: "list[Joined]", sample: int) -> None:
    from sdhubert_ray import storage
    from sdhubert_ray.comparing.systems import FIGURES, PAGE
    from sdhubert_ray.evaluation.published import SYSTEMS
    from sdhubert_ray.metrics import LEVEL
    from sdhubert_ray.reporting import to_html
    from sdhubert_ray.reporting.comparison import comparison_page

    options = comparison.options
    told = {
        **asdict(options),
        "bootstrap": {"level": LEVEL, "over": "utterances"},
        "systems": [asdict(one) for one in figures],
        "published": [asdict(one) for one in SYSTEMS],
    }
    with progress() as shown:
        phase = shown.begin(Phase("reading audio", "recordings"))
        page = comparison_page(comparison, figures, joined, sample, phase.advance)
    write_figures(storage.join(options.output, FIGURES), "compare", told)
    target = storage.join(options.output, PAGE)
    storage.put(target, to_html(page))
    console.print(f"the page is {target}", soft_wrap=True)
