"""The folder of a training run: whose it is, the recordings it was begun with, and its checkpoints.

RUN/run.json                    configuration, fingerprint, versions, what was found
RUN/lease.json                  who is training, and its heartbeat; gone when nobody is
RUN/data/train.arrow, val.arrow the recordings, listed when the run began: a run goes on with them, whatever is added
RUN/metrics.csv, tensorboard/   what is logged, by the number of steps done
RUN/checkpoint_STEP/            the latest checkpoints
RUN/best.json, best/            the one of the best validation
"""

import json
import platform
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import fingerprint, read_run, refuse_other, write_run
from sdhubert_ray.training.options import TrainConfig
from sdhubert_ray.training.recordings import list_recordings

CHECKPOINT_FILE = "checkpoint.ckpt"
"""The file in a checkpoint's folder that holds the state."""
DATA_FOLDER, BEST_FOLDER, BEST_RECORD = "data", "best", "best.json"
_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's own record of checkpoints
_CHECKPOINT = re.compile(rf"checkpoint_(\d+)/{re.escape(CHECKPOINT_FILE)}")
_PACKAGES = ("sdhubert_ray", "torch", "lightning", "transformers", "numpy", "ray")


@dataclass(frozen=True)
class Kept:
    """A checkpoint.

    Attributes:
        uri: of its file.
        step: how many steps had been done.
        score: of the validation at that step; told of the best only.
    """

    uri: str
    step: int
    score: float | None


@dataclass(frozen=True)
class Run:
    """A run, new or to be gone on with.

    Attributes:
        output: its folder, absolute.
        config: its configuration.
        found: how many recordings there are: num_train, num_val, too_short.
        begun: the checkpoint that it goes on from; None for a new run.
    """

    output: str
    config: TrainConfig
    found: Mapping[str, int]
    begun: Kept | None


def prepare_run(config: TrainConfig, output: str, overwrite: bool = False) -> Run:
    """Open the folder of a run: list the recordings of a new one, or check that one there has the same configuration.

    Raises:
        UserError: the folder holds another run (the message names the keys) or something else, or the recordings
            cannot be had.
        TransientError: a store could not be reached.
    """
    output = storage.absolute(output)
    config = _with_absolute_paths(config)
    wanted = fingerprint(config.identity())
    if overwrite and read_run(output) is not None:
        storage.remove(output)
    before = read_run(output)
    if before is not None:
        if "found" not in before:
            raise UserError(f"output {output} is no training run; choose another output")
        refuse_other(output, before["fingerprint"], wanted)
        found = before["found"]
    else:
        if storage.exists(storage.join(output, _SNAPSHOT)):
            raise UserError(f"output {output} has checkpoints but no run.json; choose another output")
        found = asdict(list_recordings(config.data, storage.join(output, DATA_FOLDER)))
    record = {
        "kind": "training",
        "runs": before["runs"] + 1 if before else 1,
        "config": asdict(config),
        "fingerprint": wanted,
        "found": found,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
    write_run(output, record)
    return Run(output, config, found, find_checkpoint(output, "last"))


def find_checkpoint(output: str, which: str) -> Kept | None:
    """Find the `last` complete checkpoint of a run, or the `best`; None where there is none yet.

    Raises:
        UserError: the record of the best is damaged.
        TransientError: a store could not be reached.
    """
    if which == "last":
        return _find_last(output)
    if which != "best":
        raise UserError(f"the checkpoint is {which!r}; it has to be last or best")
    uri = storage.join(output, BEST_RECORD)
    try:
        record = json.loads(storage.read_bytes(uri))
        return Kept(storage.join(output, record["file"]), int(record["step"]), float(record["score"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{uri} is damaged ({error!r}); remove it, or choose another output") from error


def _find_last(output: str) -> Kept | None:
    """The checkpoint of the most steps whose file is whole: a process may have died while it wrote the last one."""
    for step, uri in _list_checkpoints(output):
        try:
            with storage.open_binary(uri, sparse=True) as file, zipfile.ZipFile(file):
                return Kept(uri, step, None)
        except (zipfile.BadZipFile, FileNotFoundError):
            continue
    return None


def _list_checkpoints(output: str) -> list[tuple[int, str]]:
    """Steps and URIs of checkpoint files, the latest first."""
    if not storage.exists(output):
        return []
    found = (_CHECKPOINT.fullmatch(name) for name in storage.list_files(output))
    return sorted(((int(match[1]), storage.join(output, match[0])) for match in found if match), reverse=True)


def remove_older_checkpoints(output: str, keep: int) -> None:
    """Remove all but the latest: Ray Train forgets those whose worker has died before it knew of them.

    To be called when it has ended, as it keeps a record of others.
    """
    for _, uri in _list_checkpoints(output)[keep:]:
        storage.remove(uri.rpartition("/")[0])


def drop_damaged_snapshot(output: str) -> None:
    """Remove Ray Train's record of checkpoints where a process has died while it wrote it: it would refuse to begin."""
    uri = storage.join(output, _SNAPSHOT)
    try:
        json.loads(storage.read_bytes(uri))
    except (FileNotFoundError, NotADirectoryError):
        return
    except ValueError:
        storage.remove_files([uri])


def locate_checkpoint(name: str) -> str:
    """The URI of the file that a name means: the file, a checkpoint's folder, or the folder of a run (its last).

    Raises:
        UserError: there is none.
    """
    for uri in (name, storage.join(name, CHECKPOINT_FILE)):
        if storage.exists(uri) and not storage.is_folder(uri):
            return storage.absolute(uri)
    last = find_checkpoint(storage.absolute(name), "last")
    if last is None:
        raise UserError(f"there is no checkpoint in {name}; name the folder of a run, or of a checkpoint in it")
    return last.uri


def read_best_score(output: str) -> float | None:
    """The score of the best validation so far."""
    best = find_checkpoint(output, "best")
    return None if best is None else best.score


def put_best(output: str, path: str, step: int, score: float) -> None:
    """Make the file at `path` the best checkpoint: whenever this process dies, there is one, whole."""
    before = find_checkpoint(output, "best")
    name = f"{BEST_FOLDER}/step_{step:09d}.ckpt"
    uri = storage.join(output, name)
    with storage.open_binary(path) as file:
        storage.put(uri, iter(lambda: file.read(8 << 20), b""))
    storage.put(storage.join(output, BEST_RECORD), json.dumps({"file": name, "step": step, "score": score}).encode())
    if before is not None and before.uri != uri:
        storage.remove_files([before.uri])


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Paths that mean the same in the working directory of a worker."""
    data, model = config.data, config.model
    places = (data.root_dir, data.source, data.val_source)
    root_dir, source, val_source = (place and storage.absolute(place) for place in places)
    data = replace(data, root_dir=root_dir, source=source, val_source=val_source)
    if storage.exists(storage.join(model.speech_upstream, "config.json")):
        model = replace(model, speech_upstream=storage.absolute(model.speech_upstream))
    resume = None if config.resume_ckpt is None else locate_checkpoint(config.resume_ckpt)
    return replace(config, data=data, model=model, resume_ckpt=resume)
