"""`sdhubert tokenize`: segments in, units out."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sdhubert_ray.cli.console import console, log_as, note
from sdhubert_ray.cli.options import DEVICES, ENGINES, Address, Foreign, LogFormat, choose_address, one_of
from sdhubert_ray.cli.progress import Phase, progress
from sdhubert_ray.cli.running import ended_early, waiting
from sdhubert_ray.cli.targets import JsonFile, check_figures, write_figures
from sdhubert_ray.errors import UserError

if TYPE_CHECKING:
    from sdhubert_ray.output.usage import UnitUsage
    from sdhubert_ray.tokenizing import Tokenized, TokenizeJob


_WRITING = "counting and writing"


def tokenize(
    context: typer.Context,
    segments: Annotated[str, typer.Argument(metavar="SEGMENTS", help="An output folder of `sdhubert segment`.")],
    output: Annotated[
        str | None,
        typer.Argument(metavar="OUT", help="A folder for sequences; SEGMENTS is then left as it is."),
    ] = None,
    quantizer: Annotated[str, typer.Option(help="A folder or URI of `sdhubert cluster` or `import-quantizer`.")] = ...,  # type: ignore[assignment]  # Typer's way to say that it has to be given
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            autocompletion=one_of("txt", "jsonl", "npy", "slamkit", "parquet", "card"),
            help="txt, jsonl, npy, slamkit, parquet (default with OUT), or a card (README.md); may be repeated.",
        ),
    ] = None,
    dedup: Annotated[bool, typer.Option("--dedup", help="In sequences, merge runs of equal units.")] = False,
    durations: Annotated[
        bool, typer.Option("--durations", help="In txt, jsonl and npy too, tell how long each unit lasts, in frames.")
    ] = False,
    device: Annotated[str, typer.Option(autocompletion=DEVICES, help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[
        str,
        typer.Option(autocompletion=ENGINES, help="local (this process), ray, or auto: ray from 1 GiB of table."),
    ] = "auto",
    address: Address = None,
    json_file: JsonFile = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the units of another quantizer.")] = False,
    foreign_quantizer: Foreign = False,
    log_format: LogFormat = "text",
) -> None:
    """Give each syllable its unit: in the table of SEGMENTS, and as sequences for a unit language model.

    Without OUT the table gets the units, and sequences go to SEGMENTS/units. Interrupted, the same command goes on.
    """
    log_as(log_format)
    from sdhubert_ray.output.formats import SequenceOptions
    from sdhubert_ray.units import Quantizer

    wanted = tuple(formats or (() if output is None else ("parquet",)))
    if not wanted and (dedup or durations):
        flag = "--dedup" if dedup else "--durations"
        raise UserError(f"{flag} is of sequences, and none are asked for; give --format, or name a folder for them")
    if json_file:
        check_figures(json_file)
    sequences = SequenceOptions(wanted, dedup, durations)
    loaded = Quantizer.load(quantizer)

    from sdhubert_ray.tokenizing import prepare_tokenizing

    with waiting("planning"):
        job = prepare_tokenizing(
            segments,
            loaded,
            quantizer,
            sequences,
            target=output,
            device=device,
            engine=engine,
            address=choose_address(context, engine, address),
            overwrite=overwrite,
            foreign=foreign_quantizer,
        )
    if job.to_do:
        print(f"{len(job.commits)} files of segments, {loaded.num_units} units; engine {job.engine}")
    else:
        print(f"{job.segments} has the units of this quantizer already")
    done = _run(job)
    if done.files_done_before:
        print(f"{done.files_done_before} of {len(job.commits)} files had their units already and were skipped")
    if done.usage.left_out:
        note(f"note: {done.usage.left_out} recordings are unreadable, missing or failed, and are left out")
    _print_usage(done.usage, job.quantizer.num_units)
    if wanted:
        print(f"sequences ({', '.join(wanted)}) are in {job.sequences_folder}")
    print(f"statistics are in {job.statistics}")
    if json_file:
        usage = done.usage
        figures = {"recordings": usage.recordings, "left_out": usage.left_out, "audio_seconds": usage.audio_seconds}
        rates = {"units": asdict(usage.rates()), "merged": asdict(usage.rates(merged=True))}
        write_figures(json_file, "tokenize", {"statistics": job.statistics, **figures, **rates})


def _run(job: "TokenizeJob") -> "Tokenized":
    from sdhubert_ray.tokenizing import run_tokenizing

    with ended_early(), progress() as shown:
        phase = shown.begin(Phase("tokenizing", "files", len(job.commits)))
        rows = 0

        def advance(count: int) -> None:
            nonlocal rows
            rows += count
            phase.advance(text=f"{rows} rows")

        def count_recording() -> None:
            nonlocal phase
            if phase.title != _WRITING:
                phase = shown.begin(Phase(_WRITING, "recordings"))
            phase.advance()

        return run_tokenizing(job, advance, count_recording)


def _print_usage(usage: "UnitUsage", num_units: int) -> None:
    """The figures as they are, and of sequences with runs of equal units merged."""
    print(f"{usage.recordings} recordings, {usage.audio_seconds / 3600:.3f} hours")
    table = Table()
    table.add_column("")
    for heading in ("units", "runs merged"):
        table.add_column(heading, justify="right")
    both = (usage.rates(), usage.rates(merged=True))
    for label, figures in (
        ("tokens", [f"{rates.tokens}" for rates in both]),
        ("per second of audio (Hz)", [f"{rates.rate:.2f}" for rates in both]),
        ("per second within segments (Hz)", [f"{rates.rate_in_segments:.2f}" for rates in both]),
        ("bitrate, all units alike (bit/s)", [f"{rates.bitrate:.2f}" for rates in both]),
        ("bitrate, entropy-coded (bit/s)", [f"{rates.entropy_bitrate:.2f}" for rates in both]),
        ("entropy (bit)", [f"{rates.entropy:.3f}" for rates in both]),
        ("perplexity", [f"{rates.perplexity:.1f}" for rates in both]),
        (f"used of {num_units} units", [f"{rates.used}" for rates in both]),
        ("unused", [f"{rates.unused}" for rates in both]),
    ):
        table.add_row(label, *figures)
    console.print(table)
