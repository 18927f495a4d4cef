"""`sdhubert resegment`: saved frame features in, a dataset of syllables out."""

from typing import Annotated

import typer

from sdhubert_ray.cli.console import EXIT_FAILED_ROWS, log_as, note
from sdhubert_ray.cli.options import Address, LogFormat, choose_address
from sdhubert_ray.cli.running import do_job


def resegment(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FEATURES_OUTPUT", help="An output of `sdhubert segment --frame-features float32` (or float16)."
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A folder or URI: new, or one to resume.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Of speech and syllables: syllables.syl_dur=0.2")
    ] = None,
    config: Annotated[str | None, typer.Option(help="A YAML file of the same keys.")] = None,
    preset: Annotated[str | None, typer.Option(help="readme or paper: their speech and syllables options.")] = None,
    quantizer: Annotated[
        str | None, typer.Option(help="A quantizer for the units (default: that of the features' run, if any).")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="parquet (always written), files, textgrid; may be repeated."),
    ] = None,
    max_failed: Annotated[
        int | None,
        typer.Option(help="More unreadable, missing or failed recordings exit with 3 (default: as the features' run)."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local (this process), ray, or auto: ray from 10 minutes of audio.")
    ] = "auto",
    address: Address = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where another run has been.")] = False,
    log_format: LogFormat = "text",
) -> None:
    """Segment again with other thresholds, lengths or preset, from saved frame features: without encoder and audio.

    Options that are not given are those that the features were made with. Run again, it does what is left or new.
    """
    log_as(log_format)
    from sdhubert_ray.runs.resegment import load_options, open_features, prepare_resegment

    features = open_features(source)
    flags = {
        "preset": preset,
        "quantizer": quantizer,
        "max_failed": max_failed,
        "output.formats": formats or None,
        "output.frame_features": features.precision if formats and "files" in formats else None,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    job = prepare_resegment(
        load_options(features, config, overrides or [], given),
        features,
        output,
        engine=engine,
        address=choose_address(context, engine, address),
        overwrite=overwrite,
    )
    if preset:
        note(f"note: of preset {preset} only speech and syllables are taken; all else is as the features were made")
    if features.rows_left:
        note(f"note: {features.rows_left} rows of {source} are not done yet; run this again when they are")
    if features.is_rounded:
        note("note: the features were kept in float16; segments may differ a little from float32's")
    done = job.num_rows - job.rows_left
    print(f"{job.found.recordings} recordings with features, {job.rows_left} rows to be cut; engine {job.engine}")
    if done:
        print(f"{done} of {job.num_rows} rows are done already and skipped")
    summary = do_job(job)
    if summary.totals.num_failed > job.config.max_failed:
        raise typer.Exit(EXIT_FAILED_ROWS)
