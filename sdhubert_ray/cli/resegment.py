"""`sdhubert resegment`: saved frame features in, a dataset of syllables out."""

from typing import Annotated

import typer

from sdhubert_ray.cli.console import log_as, note
from sdhubert_ray.cli.help import MORE
from sdhubert_ray.cli.options import (
    PRESETS,
    Address,
    ConfigFile,
    EngineName,
    Formats,
    LogFormat,
    Output,
    Overwrite,
    Rate,
    Rename,
    choose_address,
)
from sdhubert_ray.cli.references import Beside, find_tiers, with_tiers
from sdhubert_ray.cli.running import do_job, tell_engine, waiting
from sdhubert_ray.cli.targets import JsonFile, check_figures

FeaturesOutput = Annotated[
    str,
    typer.Argument(
        metavar="FEATURES_OUTPUT", help="An output of `sdhubert segment --frame-features float32` (or float16)."
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Of speech and syllables: syllables.syl_dur=0.2")
]
Preset = Annotated[
    str | None, typer.Option(autocompletion=PRESETS, help="The speech and syllables options of a preset.")
]
QuantizerName = Annotated[
    str | None, typer.Option(help="A quantizer for the units (default: that of the features' run, if any).")
]
MaxFailed = Annotated[
    int | None,
    typer.Option(
        help="More unreadable, missing or failed recordings exit with 3 (default: as the features' run).",
        rich_help_panel=MORE,
    ),
]


def resegment(
    context: typer.Context,
    source: FeaturesOutput,
    output: Output,
    overrides: Overrides = None,
    config: ConfigFile = None,
    preset: Preset = None,
    rate: Rate = None,
    quantizer: QuantizerName = None,
    formats: Formats = None,
    references: Beside = None,
    rename: Rename = None,
    max_failed: MaxFailed = None,
    engine: EngineName = "auto",
    address: Address = None,
    json_file: JsonFile = None,
    overwrite: Overwrite = False,
    log_format: LogFormat = "text",
) -> None:
    """Segment again with other thresholds, lengths or preset, from saved frame features: without encoder and audio.

    Options that are not given are those that the features were made with. Run again, it does what is left or new.
    """
    log_as(log_format)
    if json_file:
        check_figures(json_file)
    from sdhubert_ray.runs.config import flags_of_output, given
    from sdhubert_ray.runs.resegment import load_options, open_features, prepare_resegment

    features = open_features(source)
    of_run = {"preset": preset, "rate": rate, "quantizer": quantizer, "max_failed": max_failed}
    flags = given({**of_run, **flags_of_output(formats, None, features.precision)})
    options = load_options(features, config, overrides or [], flags)
    tiers = find_tiers(references, rename, options)
    with waiting("planning"):
        job = prepare_resegment(
            options,
            features,
            output,
            engine=engine,
            address=choose_address(context, engine, address),
            overwrite=overwrite,
        )
        job = with_tiers(job, tiers)
    if preset:
        note(f"note: of preset {preset} only speech and syllables are taken; all else is as the features were made")
    if features.rows_left:
        note(f"note: {features.rows_left} rows of {source} are not done yet; run this again when they are")
    if features.is_rounded:
        note("note: the features were kept in float16; segments may differ a little from float32's")
    done = job.num_rows - job.rows_left
    print(f"{job.found.recordings} recordings with features, {job.rows_left} rows to be cut; {tell_engine(job)}")
    if done:
        print(f"{done} of {job.num_rows} rows are done already and skipped")
    do_job(job, json_file=json_file)
