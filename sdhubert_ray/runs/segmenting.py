"""A corpus from audio to syllables, as `sdhubert segment` does it: from what was asked for to a job, and to its end."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sdhubert_ray import storage
from sdhubert_ray.corpus import Listing, Selection, list_inputs
from sdhubert_ray.corpus.files import has_audio_name
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import read_run
from sdhubert_ray.runs.config import JobConfig, flags_of_output, given, load_config
from sdhubert_ray.runs.engines import check_engine
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.runs.session import Job, OnCommit, Summary

logger = logging.getLogger(__name__)

Compose = Callable[[Mapping[str, Mapping[str, object]]], JobConfig]
"""Makes the configuration, given the options that the checkpoint carries."""


def prepare_segmenting(
    inputs: Sequence[str],
    output: str,
    compose: Compose,
    *,
    selection: Selection,
    piped: Sequence[str] = (),
    engine: str = "auto",
    address: str | None = None,
    overwrite: bool = False,
    retry: Sequence[str] = (),
    on_listing: Callable[[Listing], None] = lambda listing: None,
) -> Job:
    """Check all that can be checked, and plan the work; nothing is written yet, and torch is loaded last.

    Args:
        inputs: as `corpus.list_inputs` takes them.
        output: a folder or URI: new, or one to resume.
        compose: makes the configuration.
        selection: which recordings are taken.
        piped: the files that the input `-` stands for.
        engine: `auto`, `local` (this process) or `ray`.
        address: of a Ray cluster; implies `ray`.
        overwrite: remove what an earlier run left.
        retry: statuses whose rows are to be done again; the inputs are not read then.
        on_listing: told of what the inputs hold, before it is read.

    Raises:
        UserError: anything that the caller has to mend.
        BusyError: another run is at work on the output, or there is no way to the cluster.
    """
    check_engine(engine, address)
    asked = compose({})
    if retry and selection != Selection():
        raise UserError(
            "--retry does rows of OUTPUT again, whatever INPUT holds; leave out --where, --limit and --split"
        )
    if len(inputs) > 1:
        _refuse_recordings(output)
    listing = None if retry else list_inputs(inputs, selection, asked.audio.schemes, piped=piped)
    if listing is not None:
        on_listing(listing)
    weights = fetch_checkpoint(asked.checkpoint, asked.preset)
    if asked.preset != JobConfig().preset and weights.options:
        brought = ", ".join(sorted(weights.options))
        logger.warning(
            "note: checkpoint %s brings its own %s, which go before those of %r", weights.name, brought, asked.preset
        )
    config = compose(weights.carried(asked.preset))
    return prepare_job(
        config,
        weights,
        inputs,
        listing,
        output,
        engine=engine,
        address=address,
        overwrite=overwrite,
        retry=retry,
    )


def segment_corpus(
    source: str | Path | Sequence[str | Path],
    output: str | Path,
    config: JobConfig | str | Path | None = None,
    options: Mapping[str, object] | None = None,
    *,
    checkpoint: str | Path | None = None,
    quantizer: str | Path | None = None,
    preset: str | None = None,
    rate: float | None = None,
    formats: Sequence[str] = (),
    frame_features: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    max_failed: int | None = None,
    where: Sequence[str] = (),
    limit: int | None = None,
    splits: Sequence[str] = (),
    engine: str = "auto",
    address: str | None = None,
    retry: Sequence[str] = (),
    overwrite: bool = False,
    on_commit: OnCommit = lambda rows, seconds: None,
) -> Summary:
    """Segment a corpus into syllables: `sdhubert segment` as a function, with its results, resuming and refusals.

    The output is the same to the bit, and either goes on with what the other has begun. `read_segments(output)` reads
    it. More recordings failed than may where `summary.totals.num_failed` is over `max_failed`: nothing is raised then.

    Args:
        source: a file, folder, glob, tar or Parquet shards, or a manifest; any URI; or several of them.
        output: a folder or URI: new, or one to resume.
        config: a YAML file of options; or a `JobConfig`, which is taken as it is: no preset or checkpoint changes it,
            and no further option may be given.
        options: single ones by their dotted keys: `{"syllables.syl_dur": 0.2}`.
        checkpoint: a path or URI, `bundled`, or `sdhubert_base` (the default).
        quantizer: a folder or URI of `sdhubert cluster`: syllables get its units.
        preset: `readme` (the default), `paper`, or that of a system (`speech.systems`).
        rate: syllables per second of audio that the segmenter is tuned to, on a sample of a new output.
        formats: further ones beside the table: `files`, `textgrid`, `csv`.
        frame_features: `float32` or `float16` keeps the features of all frames, (T, D) at 50 Hz.
        device: `auto`, `cpu` or `cuda`.
        dtype: precision of the encoder: `float32`, `bfloat16`, `float16` or `auto`.
        max_failed: what a command would exit with 3 for; kept in the run record.
        where: conditions `column=value` on the rows of a manifest.
        limit: a sample of so many recordings.
        splits: only these folders of LibriSpeech's layout, or values of the column `split`.
        engine: `auto` (Ray from 10 minutes of audio), `local` (this process) or `ray`.
        address: of a Ray cluster; without one Ray starts here.
        retry: statuses whose rows are to be done again: `failed`, `missing`, `unreadable`.
        overwrite: start anew where another run has been.
        on_commit: told of each commit: rows and seconds of audio in it.

    Returns:
        what was found and done: `totals` of the output (recordings, statuses, syllables, seconds), rows and seconds of
        this run, and where its time went.

    Raises:
        UserError: what the caller has to mend; nothing was written.
        BusyError: another run is at work on the output, or there is no way to the cluster.
        IncompleteRunError: the run could not finish; the same call resumes it.
    """
    for name, values in {"formats": formats, "where": where, "splits": splits, "retry": retry}.items():
        if isinstance(values, str):
            raise UserError(f"{name} is {values!r}; it has to be a list, such as [{values!r}]")
    flags = given(
        {
            **(options or {}),
            "checkpoint": _text(checkpoint),
            "quantizer": _text(quantizer),
            "preset": preset,
            "rate": rate,
            "device": device,
            "dtype": dtype,
            "max_failed": max_failed,
            **flags_of_output(formats, frame_features, "float32"),
        }
    )
    if isinstance(config, JobConfig) and flags:
        raise UserError(f"{min(flags)} is given beside a JobConfig, which holds all options; put it in there")
    job = prepare_segmenting(
        [str(source)] if isinstance(source, str | Path) else [*map(str, source)],
        str(output),
        lambda carried: config if isinstance(config, JobConfig) else load_config(_text(config), (), flags, carried),
        selection=Selection(tuple(where), limit, tuple(splits)),
        engine=engine,
        address=address,
        overwrite=overwrite,
        retry=retry,
    )
    return run_job(job, on_commit)


def _refuse_recordings(output: str) -> None:
    """Refuse a folder of recordings as the output of several inputs: it was meant as one of them."""
    if storage.is_folder(output) and read_run(output) is None:
        audio = next((entry.name for entry in storage.scan(output) if has_audio_name(entry.name)), None)
        if audio is not None:
            raise UserError(
                f"output {output} holds recordings, such as {audio}, and no run; of several paths the last is the "
                "output: name a new folder"
            )


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
