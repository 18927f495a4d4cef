"""The folder of a training run: whose it is, the recordings it was begun with, and its checkpoints.

RUN/run.json                    configuration, fingerprint, versions, what was found
RUN/lease.json                  who is training, and its heartbeat; gone when nobody is
RUN/data/train.arrow, val.arrow the recordings, listed when the run began: a run goes on with them, whatever is added
RUN/metrics.csv, tensorboard/   what is logged, by the number of steps done
RUN/checkpoint_STEP/            the latest checkpoints
RUN/best.json, best/            the one of the best validation
"""

import platform
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage
from sdhubert_ray.encoder.weights import is_checkpoint
from sdhubert_ray.errors import BusyError, UserError
from sdhubert_ray.output import Lease, fingerprint, read_run, read_segments, refuse_other, write_run
from sdhubert_ray.output.record import RUN_RECORD
from sdhubert_ray.training.checkpoints import (
    BEST_FOLDER,
    BEST_RECORD,
    SNAPSHOT,
    Kept,
    find_checkpoint,
    list_checkpoints,
    locate_checkpoint,
)
from sdhubert_ray.training.metrics import METRICS_FILE, TENSORBOARD_FOLDER
from sdhubert_ray.training.options import TrainConfig
from sdhubert_ray.training.recordings import list_recordings, put_recordings

DATA_FOLDER = "data"
_BEGINNING = "beginning"
"""State of a run whose recordings are not all written down."""
_FILES = {
    BEST_FOLDER: r"step_[0-9]+\.ckpt",
    DATA_FOLDER: r"(train|val)\.arrow",
    TENSORBOARD_FOLDER: r"events\.out\.tfevents\..+",
}
"""The folders that a run writes into beside checkpoints, and what its files in them are called."""
_WRITTEN = (METRICS_FILE, BEST_RECORD, SNAPSHOT, *_FILES)
_PACKAGES = ("sdhubert_ray", "torch", "lightning", "transformers", "numpy", "ray")


@dataclass(frozen=True)
class Run:
    """A run, new or to be gone on with, which no other process may train until `lease` is released.

    Attributes:
        output: its folder, absolute.
        config: its configuration; `resume_ckpt` is a file.
        found: how many recordings there are: num_train, num_val, too_short.
        begun: the checkpoint that it goes on from; None for a new run.
        lease: the right to write into the folder.
    """

    output: str
    config: TrainConfig
    found: Mapping[str, int]
    begun: Kept | None
    lease: Lease


def prepare_run(config: TrainConfig, output: str, run_id: str, overwrite: bool = False) -> Run:
    """Open the folder of a run: list the recordings of a new one, or check that one there has the same configuration.

    All that can be refused is refused before anything is removed or written. A run that has no checkpoint yet may be
    begun with another configuration.

    Args:
        config: of the run.
        output: folder or URI.
        run_id: unique to this process.
        overwrite: remove the run that is there.

    Raises:
        UserError: the folder holds another run (the message names the keys) or something else, or the recordings,
            their segments, a checkpoint to begin with or `resume_ckpt` cannot be had.
        BusyError: another process trains this run.
        TransientError: a store could not be reached.
    """
    output = storage.absolute(output)
    config = _with_absolute_paths(config)
    wanted = fingerprint(config.identity())
    seen = read_run(output)
    before = _check_before(output, seen, wanted, overwrite)
    upstream = config.model.speech_upstream
    if is_checkpoint(upstream) and not storage.exists(upstream):  # told now: the workers read it, when they are there
        raise UserError(f"model.speech_upstream {upstream} does not exist; name the file of a checkpoint")
    if before is None and config.resume_ckpt is not None and f"{config.resume_ckpt}/".startswith(f"{output}/"):
        raise UserError(f"resume_ckpt is in {output}, which is to be written anew; choose another output")
    with tempfile.TemporaryDirectory(prefix="sdhubert-") as listed:
        if before is not None:
            found, begun_with = before["found"], before["begun_with"]
        else:
            found = asdict(list_recordings(config.data, Path(listed), _read_given(config.segments.source)))
            begun_with = None if config.resume_ckpt is None else locate_checkpoint(config.resume_ckpt)
        lease = Lease(output, run_id)
        try:
            if read_run(output) != seen:
                raise BusyError(f"output {output} has been changed by another run meanwhile")
            record = {
                "kind": "training",
                "runs": before["runs"] + 1 if before else 1,
                "config": asdict(config),
                "begun_with": begun_with,
                "fingerprint": wanted,
                "found": found,
                "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
            }
            if before is None:
                _clear(output)
                write_run(output, {**record, "state": _BEGINNING})  # so that what is written next is known to be ours
                put_recordings(Path(listed), storage.join(output, DATA_FOLDER))
            write_run(output, record)
            return Run(output, replace(config, resume_ckpt=begun_with), found, find_checkpoint(output, "last"), lease)
        except BaseException:
            lease.release()
            raise


def _read_given(source: str | None) -> dict[str, npt.NDArray[np.float64]] | None:
    """The segments in an output folder, in seconds of the file, by the id of the recording; none without one.

    Raises:
        UserError: there is no run in it, or it has not ended.
    """
    if source is None:
        return None
    record = read_run(source)
    if record is None:
        raise UserError(f"segments.source {source} is no output of `sdhubert segment`; name the folder of one")
    return {result.id: result.segments for result in read_segments(source) if result.num_frames}


def _check_before(
    output: str, before: Mapping[str, Any] | None, wanted: Mapping[str, str], overwrite: bool
) -> Mapping[str, Any] | None:
    """The record of a run to go on with; None where a new one begins."""
    if before is None:
        taken = [name for name in _WRITTEN if storage.exists(storage.join(output, name))]
        taken += [uri.removeprefix(f"{output}/") for _, uri in list_checkpoints(output)]
        if taken:
            raise UserError(
                f"output {output} holds {taken[0]}, which no run in it is known to have written; choose another output"
            )
        return None
    if before.get("kind") != "training":
        raise UserError(f"output {output} is no training run; choose another output")
    if overwrite or before.get("state") == _BEGINNING:
        return None
    if before["fingerprint"] != wanted and find_checkpoint(output, "last") is None:
        return None
    refuse_other(output, before["fingerprint"], wanted)
    return before


def _clear(output: str) -> None:
    """Remove what a run has written, and nothing else; its record last."""
    if read_run(output) is None:
        return
    checkpoints = [uri for _, uri in list_checkpoints(output)]
    storage.remove_files(checkpoints)
    for uri in checkpoints:
        storage.tidy(uri.rpartition("/")[0])
    storage.remove_files([storage.join(output, name) for name in (METRICS_FILE, BEST_RECORD, SNAPSHOT)])
    for folder, names in _FILES.items():
        storage.remove_own(storage.join(output, folder), re.compile(names).fullmatch)
    storage.remove_files([storage.join(output, RUN_RECORD)])


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Paths that mean the same in the working directory of a worker."""
    data, model = config.data, config.model
    places = (data.root_dir, data.source, data.val_source)
    root_dir, source, val_source = (place and storage.absolute(place) for place in places)
    data = replace(data, root_dir=root_dir, source=source, val_source=val_source)
    segments = config.segments
    segments = replace(segments, source=segments.source and storage.absolute(segments.source))
    if is_checkpoint(model.speech_upstream) or storage.exists(storage.join(model.speech_upstream, "config.json")):
        model = replace(model, speech_upstream=storage.absolute(model.speech_upstream))
    resume = config.resume_ckpt and storage.absolute(config.resume_ckpt)
    return replace(config, data=data, model=model, segments=segments, resume_ckpt=resume)
