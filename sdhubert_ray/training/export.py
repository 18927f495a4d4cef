"""From a training run to the handy checkpoint: the student alone, in the official format, ready for `segment`."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from sdhubert_ray import storage
from sdhubert_ray.encoder import Checkpoint, fetch_checkpoint
from sdhubert_ray.encoder.weights import read_config
from sdhubert_ray.errors import UserError
from sdhubert_ray.training.checkpoints import CHECKPOINT_FILE, find_checkpoint, locate_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

CONTENT_KEY = "sdhubert"
"""Where a checkpoint of a run holds what its weights belong to."""

# Where the official names come from; what is in none of these (the teacher, counts) stays behind.
_PLACES = {
    "distillation.student.": "",
    "distillation.head.": "",
    "distillation.loss.": "",
    "distillation.mask_vector": "masked_spec_embed",
}


class Exported(NamedTuple):
    """What was exported.

    Attributes:
        source: URI of the training's checkpoint.
        step: steps that it has been trained for.
        target: URI of the file or folder that was written.
    """

    source: str
    step: int
    target: str


def export_checkpoint(run: str, target: str, which: str = "best") -> Exported:
    """Write the student of a run as a checkpoint for segmentation, with the options it should be used with.

    Args:
        run: folder of a run; or a checkpoint's folder or file in it, which leaves no choice.
        target: path or URI of the .pt file, which holds its encoder's config too.
        which: of a run: `best` of its validations, or `last`.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or `target` cannot be written.
    """
    if not target.endswith(".pt") or storage.is_folder(target):
        raise UserError(f"{target} cannot be what is exported to; name a file that ends with .pt")
    source, step, data = _pack(run, which)
    storage.put(target, data)
    return Exported(source, step, target)


def export_folder(run: str, target: str, which: str = "best") -> Exported:
    """Write a folder for the Hugging Face hub: card, config.json, model.safetensors, which `fetch_checkpoint` reads.

    Args:
        run: as `export_checkpoint` takes it; or a checkpoint that is exported already, by name, path or URI.
        target: path or URI of the folder, such as `hf://USER/NAME`; its last part is the title of the card.
        which: as `export_checkpoint` takes it.

    Returns:
        what was exported; steps are 0 where they are not known.

    Raises:
        UserError: as `export_checkpoint`.
    """
    from sdhubert_ray.encoder.hub import pack_folder

    source, step = run, 0
    made = {"made with": f"sdhubert_ray {version('sdhubert_ray')}"}
    if storage.is_folder(run) or PurePosixPath(run).suffix == PurePosixPath(CHECKPOINT_FILE).suffix:
        source, step, data = _pack(run, which)
        found = read_config(source, data)
        checkpoint = Checkpoint(source, data, found.upstream or {}, found.options)
        made["trained for"] = f"{step:,} steps"
    else:
        checkpoint = fetch_checkpoint(run)
    title = target.rstrip("/").rpartition("/")[2]
    for name, content in pack_folder(checkpoint, title, made).items():
        storage.put(storage.join(target, name), content)
    return Exported(source, step, target)


def _pack(run: str, which: str) -> tuple[str, int, bytes]:
    """The checkpoint of a training, its steps, and its student in the official format."""
    source = _find(run, which)
    from sdhubert_ray.encoder.checkpoint import load_plain, pack_checkpoint  # torch takes seconds

    content = load_plain(source, storage.read_bytes(source))
    belongs = content.get(CONTENT_KEY) if isinstance(content, dict) else None
    if not isinstance(belongs, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"checkpoint {source} is of no training by sdhubert_ray")
    state = student_state(content["state_dict"])
    packed = pack_checkpoint(belongs["config"], belongs["upstream"], state, belongs["segmentation"])
    return source, int(content["global_step"]), packed


def student_state(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The student's part of a training's state dict."""
    return {
        name + key.removeprefix(place): value
        for key, value in state.items()
        for place, name in _PLACES.items()
        if key.startswith(place)
    }


def _find(run: str, which: str) -> str:
    kept = find_checkpoint(storage.absolute(run), which)
    if kept is not None:
        return kept.uri
    is_run = storage.exists(storage.join(run, "run.json"))
    if is_run and which == "best" and find_checkpoint(storage.absolute(run), "last") is not None:
        raise UserError(f"{run} has no best checkpoint, as no validation has been done; take --which last")
    if is_run:
        raise UserError(f"{run} has no checkpoint yet")
    return locate_checkpoint(run)
