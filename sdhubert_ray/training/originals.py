"""Keys of the original's configuration, put where they stand in ours."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from sdhubert_ray.composing import from_dotted
from sdhubert_ray.errors import UserError

_MODEL_KEYS = ("gamma", "lr", "T_max", "loss_coefs")
"""Keys of the section `model` that are also taken at the top."""
_BY_EPOCHS = {"checkpoint_epoch": "checkpoint.every_steps", "check_val_every_n_epoch": "val_check_interval"}
"""Keys of the original that count epochs, and those that take their place."""


def in_our_places(part: DictConfig) -> DictConfig:
    """A part of the configuration whose keys stand where they do here, under the names that they have here.

    Raises:
        UserError: a key that has no place here.
    """
    for key, ours in _BY_EPOCHS.items():
        if key in part:
            raise UserError(f"config key {key} counts epochs, and there are none; give {ours}, in steps")
    if OmegaConf.select(part, "data.loader") is not None:
        raise UserError(
            "config key data.loader is gone, data.num_workers beside each worker read the crops; leave it out"
        )
    moved = [from_dotted(f"model.{key}", part.pop(key)) for key in _MODEL_KEYS if key in part]
    if "gpus" in part:
        moved += _workers_of_gpus(part.pop("gpus"))
    merged = OmegaConf.merge(*moved, part)
    if not isinstance(merged, DictConfig):
        raise TypeError(f"configuration became a {type(merged).__name__}")
    coefficients = OmegaConf.select(merged, "model.loss_coefs")
    if isinstance(coefficients, DictConfig) and "distill_loss" in coefficients:
        coefficients["distillation_loss"] = coefficients.pop("distill_loss")
    return merged


def _workers_of_gpus(gpus: object) -> list[DictConfig]:
    if gpus is None:
        return []
    named = gpus.split(",") if isinstance(gpus, str) else gpus
    numbers = [str(name).strip() for name in named] if isinstance(named, Sequence) else None
    count = gpus if numbers is None or not all(map(str.isdigit, numbers)) else len(numbers)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"config key gpus is {gpus!r}; give a list such as [0,1], or how many; or scaling.num_workers")
    if numbers is not None and numbers != [str(number) for number in range(count)]:
        raise UserError(
            f"config key gpus is {gpus}, but Ray gives GPUs out by itself; name those that it may use in "
            f"CUDA_VISIBLE_DEVICES, and give scaling.num_workers={count}"
        )
    return [from_dotted("scaling.num_workers", count), from_dotted("scaling.use_gpu", "true")]
