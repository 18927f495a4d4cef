"""`sdhubert evaluate ssabx`: do embeddings of clips tell what is said?"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sdhubert_ray.cli.console import (
    EXIT_FAILED_ROWS,
    console,
    log_as,
    note,
    raise_if_interrupted,
)
from sdhubert_ray.cli.help import MORE
from sdhubert_ray.cli.options import (
    CHECKPOINTS,
    DEVICES,
    DTYPES,
    ENGINES,
    PRESETS,
    Address,
    LogFormat,
    choose_address,
    one_of,
)
from sdhubert_ray.cli.progress import Phase, progress
from sdhubert_ray.cli.running import ended_early
from sdhubert_ray.cli.targets import JsonFile, check_figures, write_figures
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.evaluation.ssabx import Result

_SHOWN = 20
_LOOKED_FOR = 20


def ssabx(
    context: typer.Context,
    audio_root: Annotated[
        str, typer.Argument(metavar="AUDIO_ROOT", help="What file names are relative to: a folder or URI.")
    ],
    triplets: Annotated[
        str, typer.Argument(metavar="TRIPLETS", help="JSON: id -> {X, P, N: {file_name, segment: [start, end], text}}.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Of audio and resources: audio.channel=0")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(autocompletion=CHECKPOINTS, help="A path or URI, sdhubert_base, or bundled.")
    ] = "sdhubert_base",
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=one_of("favg", "cls"),
            help="favg (mean over frames, default) or cls (the CLS state); may be repeated.",
        ),
    ] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Of hidden states (default: the checkpoint's, or 9); may be repeated."),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(autocompletion=PRESETS, help="paper (no padding) or readme: how a clip is z-scored and padded."),
    ] = "paper",
    device: Annotated[str, typer.Option(autocompletion=DEVICES, help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[
        str,
        typer.Option(autocompletion=DTYPES, help="float32, bfloat16, float16, or auto: bfloat16 where it is fast."),
    ] = "float32",
    engine: Annotated[
        str,
        typer.Option(autocompletion=ENGINES, help="local (this process), ray, or auto: ray from 10 minutes of clips."),
    ] = "auto",
    address: Address = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples of the 95 % intervals; 0 for none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.", rich_help_panel=MORE)] = 0,
    max_failed: Annotated[
        int, typer.Option(min=0, help="More triplets that cannot be used exit with 3.", rich_help_panel=MORE)
    ] = 0,
    json_file: JsonFile = None,
    log_format: LogFormat = "text",
) -> None:
    """Spoken-sentence ABX: how often a clip that says the same is nearer than one that does not.

    Each distinct clip is encoded once, whole. Compared is the cosine similarity of embeddings.
    """
    log_as(log_format)
    from sdhubert_ray.runs.stages.embedding import EMBEDDINGS

    embeddings = tuple(dict.fromkeys(embedding or ["favg"]))
    unknown = [name for name in embeddings if name not in EMBEDDINGS]
    if unknown:
        raise UserError(f"--embedding is {unknown[0]!r}; it has to be one of {', '.join(EMBEDDINGS)}")
    other = [text for text in overrides or [] if not text.startswith(("audio.", "resources."))]
    if other:
        raise UserError(f"{other[0]!r} does not apply here; KEY=VALUE may be of audio and resources")
    if json_file:
        check_figures(json_file)
    flags = {"preset": preset, "device": device, "dtype": dtype, "checkpoint": checkpoint}
    # What can be mended is told before torch is loaded, which takes seconds.
    from sdhubert_ray import storage
    from sdhubert_ray.evaluation.ssabx import Bootstrap, Scoring, choose_engine, evaluate_ssabx, read_triplets
    from sdhubert_ray.runs.config import load_config

    load_config(None, overrides or [], flags, {})
    if not storage.is_folder(audio_root):
        raise UserError(f"AUDIO_ROOT {audio_root} is no folder; name the one that the file names are relative to")
    found = read_triplets(triplets, audio_root)
    looked_for = list(dict.fromkeys(clip.uri for clip in found.clips))[:_LOOKED_FOR]
    if not any(map(storage.exists, looked_for)):
        raise UserError(
            f"AUDIO_ROOT {audio_root} holds none of the first {len(looked_for)} files that {triplets} names, such as "
            f"{looked_for[0]}; name the folder that they are relative to"
        )

    from sdhubert_ray.encoder import fetch_checkpoint

    weights = fetch_checkpoint(checkpoint, preset)
    if "cls" in embeddings and not weights.has_cls:
        raise UserError(f"checkpoint {checkpoint} has no CLS state; take --embedding favg")
    config = load_config(None, overrides or [], flags, weights.carried(preset))
    layers = tuple(dict.fromkeys(layer or [config.encoder.layer]))
    scoring = Scoring(embeddings, layers, Bootstrap(bootstrap, seed))
    address = choose_address(context, engine, address)
    engine = choose_engine(found, engine, address)
    with ended_early(way=""), progress() as shown:
        phase = shown.begin(Phase("embedding", "clips", len(found.clips)))

        def advance(count: int) -> None:
            raise_if_interrupted()
            phase.advance(count)

        result = evaluate_ssabx(found, weights, config, scoring, engine=engine, address=address, progress=advance)
    _print_result(result)
    if json_file:
        _write(json_file, audio_root, triplets, result)
    if len(result.left_out) > max_failed:
        raise typer.Exit(EXIT_FAILED_ROWS)


def _print_result(result: "Result") -> None:
    facts = Table(show_header=False, box=None)
    facts.add_row("checkpoint", f"{result.checkpoint}, {result.preset}, {result.dtype}")
    facts.add_row("triplets", f"{result.num_triplets - len(result.left_out)} of {result.num_triplets}")
    facts.add_row("clips", f"{result.num_clips} distinct, {result.seconds:.1f} s; engine {result.engine}")
    console.print(facts, soft_wrap=True)
    table = Table(box=None)
    table.add_column("embedding")
    for name in ("layer", "SSABX %", "95 % interval", "ties"):
        table.add_column(name, justify="right")
    for score in result.scores:
        value, low, high = score.accuracy.value, score.accuracy.low, score.accuracy.high
        share = "-" if value is None else f"{100 * value:.1f}"
        interval = "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
        table.add_row(score.embedding, str(score.layer), share, interval, str(score.ties))
    console.print(table, soft_wrap=True)
    if any(score.ties for score in result.scores):
        note("note: ties (P as near to X as N) count as wrong")
    for name, reason in list(result.left_out.items())[:_SHOWN]:
        note(f"left out: {name}: {reason}")
    if len(result.left_out) > _SHOWN:
        note(f"... and {len(result.left_out) - _SHOWN} more; --json FILE lists all")


def _write(target: str, audio_root: str, triplets: str, result: "Result") -> None:
    from sdhubert_ray.metrics import LEVEL

    content = asdict(result)
    content["bootstrap"] |= {"level": LEVEL, "over": "triplets"}
    write_figures(target, "ssabx", {"audio_root": audio_root, "triplets": triplets, **content})
