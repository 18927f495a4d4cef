"""`sdhubert segment`: audio in, a dataset of syllables out."""

from typing import Annotated

import typer

from sdhubert_ray.cli.console import EXIT_FAILED_ROWS, log_as
from sdhubert_ray.cli.options import Address, Limit, LogFormat, Split, Where, choose_address
from sdhubert_ray.cli.plan import print_plan
from sdhubert_ray.cli.running import do_job, print_found
from sdhubert_ray.errors import UserError


def segment(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="A file, folder, glob, tar or Parquet shards, or a manifest; any URI."),
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A folder or URI: new, or one to resume.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as syllables.syl_dur=0.2")
    ] = None,
    config: Annotated[str | None, typer.Option(help="A YAML file of the same keys.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A path or URI, sdhubert_base (default), or bundled (random weights).")
    ] = None,
    quantizer: Annotated[
        str | None, typer.Option(help="A folder or URI of `sdhubert cluster`: syllables get its units.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="readme (default) or paper.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="parquet (always written), files, textgrid; may be repeated."),
    ] = None,
    frame_features: Annotated[
        str | None, typer.Option(help="Keep the features of all frames: float32 or float16.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu or cuda.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (default), bfloat16 or float16.")] = None,
    max_failed: Annotated[
        int | None,
        typer.Option(help="More unreadable, missing or failed recordings exit with 3 (default 0)."),
    ] = None,
    where: Where = None,
    limit: Limit = None,
    split: Split = None,
    engine: Annotated[
        str, typer.Option(help="local (this process), ray, or auto: ray from 10 minutes of audio.")
    ] = "auto",
    address: Address = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(help="Do failed, missing or unreadable rows of OUTPUT again; INPUT is not read; may be repeated."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Try a sample and tell what the run would take; write nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where another run has been.")] = False,
    log_format: LogFormat = "text",
) -> None:
    """Segment speech into syllables: audio in, a dataset of syllables out.

    Run again with the same configuration, it does what is left.
    """
    log_as(log_format)
    flags = {
        "checkpoint": checkpoint,
        "quantizer": quantizer,
        "preset": preset,
        "device": device,
        "dtype": dtype,
        "max_failed": max_failed,
        "output.frame_features": frame_features or ("float32" if formats and "files" in formats else None),
        "output.formats": formats or None,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    # What can be mended is told before torch is loaded, which takes seconds.
    from sdhubert_ray.corpus import Selection, list_input
    from sdhubert_ray.runs.config import load_config

    config_now = load_config(config, overrides or [], given, {})
    if retry and (where or limit or split):
        raise UserError(
            "--retry does rows of OUTPUT again, whatever INPUT holds; leave out --where, --limit and --split"
        )
    selection = Selection(where=tuple(where or ()), limit=limit, splits=tuple(split or ()))
    listing = None if retry else list_input(source, selection)

    from sdhubert_ray.encoder import fetch_checkpoint
    from sdhubert_ray.runs.execute import prepare_job

    weights = fetch_checkpoint(config_now.checkpoint)
    job = prepare_job(
        load_config(config, overrides or [], given, weights.options),
        weights,
        source,
        listing,
        output,
        engine=engine,
        address=choose_address(context, engine, address),
        overwrite=overwrite,
        retry=retry or (),
    )
    print_found(job)
    if plan:
        with job.folder:
            print_plan(job)
        return
    summary = do_job(job)
    if summary.totals.num_failed > job.config.max_failed:
        raise typer.Exit(EXIT_FAILED_ROWS)
