"""The checkpoints of a run: which there are, whether they are whole, which is the best, and which may go."""

import json
import logging
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError, first_line

CHECKPOINT_FILE = "checkpoint.ckpt"
"""The file in a checkpoint's folder that holds the state."""
BEST_FOLDER, BEST_RECORD = "best", "best.json"
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's own record of checkpoints."""
_CHECKPOINT = re.compile(rf"checkpoint_(\d+)/{re.escape(CHECKPOINT_FILE)}")

logger = logging.getLogger(__name__)


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


def list_checkpoints(output: str) -> list[tuple[int, str]]:
    """Steps and URIs of a run's checkpoint files, whole or not, the latest first."""
    if not storage.exists(output):
        return []
    found = (_CHECKPOINT.fullmatch(name) for name in storage.list_files(output))
    return sorted(((int(match[1]), storage.join(output, match[0])) for match in found if match), reverse=True)


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
        record = storage.read_json(uri)
        if record is None:
            return None
        best = Kept(storage.join(output, record["file"]), int(record["step"]), float(record["score"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{uri} is damaged ({error!r}); remove it, or choose another output") from error
    if not storage.exists(best.uri):
        raise UserError(f"{uri} names {record['file']}, which is not there; remove it, or choose another output")
    return best


def find_sound_checkpoint(output: str) -> Kept | None:
    """The last checkpoint of a run whose every byte is as it was written; the file is read through."""
    for step, uri in list_checkpoints(output):
        damage = _find_damage(uri, every_byte=True)
        if damage is None:
            return Kept(uri, step, None)
        logger.warning("checkpoint %s is damaged; going on from the one before (%s)", uri, damage)
    return None


def remove_older_checkpoints(output: str, keep: int) -> None:
    """Remove all but the latest whole ones, and any that is being written now."""
    found = list_checkpoints(output)
    whole = [step for step, uri in found if _find_damage(uri) is None]
    for step, uri in found:
        if step < min(whole[:keep], default=0):
            storage.remove_files([uri])
            storage.tidy(uri.rpartition("/")[0])


def forget_snapshot(output: str) -> None:
    """Remove Ray Train's own record of checkpoints, which it refuses to begin with where one of them is missing."""
    storage.remove_files([storage.join(output, SNAPSHOT)])


def _find_last(output: str) -> Kept | None:
    """The checkpoint of the most steps whose file is whole: a process may have died while it wrote the last one."""
    return next((Kept(uri, step, None) for step, uri in list_checkpoints(output) if _find_damage(uri) is None), None)


def _find_damage(uri: str, every_byte: bool = False) -> str | None:
    """What is wrong with a checkpoint's file, an archive with its index at the end; None if it was written to its end.

    Raises:
        UserError: it may not be read, which does not make it damaged.
        TransientError: the store could not be reached.
    """
    try:
        with storage.open_binary(uri, sparse=not every_byte) as file, zipfile.ZipFile(file) as archive:
            broken = archive.testzip() if every_byte else None
            return None if broken is None else f"{broken} is not what was written"
    except storage.TransientError:
        raise
    except PermissionError as error:
        raise UserError(f"checkpoint {uri} may not be read ({error.strerror or error}); mend the access") from error
    # Gone, or on a bad sector (OSError); or an index that names methods, passwords and places that are not there.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        return f"{type(error).__name__}: {first_line(error)}"


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


def put_best(output: str, path: Path, step: int, score: float) -> None:
    """Make the file at `path` the best checkpoint: whenever this process dies, there is one, whole."""
    before = find_checkpoint(output, "best")
    name = f"{BEST_FOLDER}/step_{step:09d}.ckpt"
    uri = storage.join(output, name)
    storage.upload(path, uri)
    storage.put(storage.join(output, BEST_RECORD), json.dumps({"file": name, "step": step, "score": score}).encode())
    if before is not None and before.uri != uri:
        storage.remove_files([before.uri])
