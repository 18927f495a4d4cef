"""Small modules of distillation and Lightning's Trainer around them: batches, steps and what they log."""

import itertools

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from transformers import HubertConfig, HubertModel

from sdhubert_ray.encoder.weights import fetch_upstream
from sdhubert_ray.training.module import DistillationModule
from sdhubert_ray.training.options import ModelOptions, OptimOptions
from sdhubert_ray.training.perturbations import VIEWS, Perturbing

QUIET = pytest.mark.filterwarnings(
    # Lightning's advice on loaders of this size, and its own use of what torch has deprecated.
    "ignore:.*does not have many workers.*",
    # The teacher and the frozen parts.
    "ignore:Found .* in eval mode at the start of training.*",
    "ignore:You defined a `validation_step` but have no `val_dataloader`.*",
    "ignore:.*isinstance.treespec, LeafSpec.* is deprecated.*",
)
"""Mark of tests that train a module."""
SAMPLES = 6000
KERNELS = tuple(zip(HubertConfig().conv_kernel, HubertConfig().conv_stride, strict=True))


def write_upstream(folder):
    """The folder of a HuBERT as small as one can be, with weights."""
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    HubertModel(config).save_pretrained(folder)
    return folder


def options_of(upstream, **values):
    small = {"reinit_layers": (2,), "final_dim": 24, "lr": 1e-3, "T_max": 10}
    return ModelOptions(**{"speech_upstream": str(upstream), **small, **values})


def module_of(upstream, optim=None, seed=0, **values):
    options = options_of(upstream, **values)
    return DistillationModule(options, optim or OptimOptions(), seed, fetch_upstream(options.speech_upstream))


def batch_of(number, size=4, skipped=0):
    rng = np.random.default_rng(number)
    counts = torch.from_numpy(rng.integers(SAMPLES // 2, SAMPLES + 1, size))
    return seen(
        {
            "samples": torch.from_numpy(rng.standard_normal((size, SAMPLES)).astype(np.float32)),
            "num_samples": counts,
            "seeds": torch.arange(size) + 1000 * number,
            "index": torch.arange(size) // 2,
            "skipped": skipped,
        }
    )


def seen(batch, views=VIEWS):
    """A batch with what its readers draw."""
    drawn = Perturbing(KERNELS, views).draw(batch["seeds"], batch["num_samples"], batch["samples"].shape[1])
    return {**batch, **drawn}


def joined(batches):
    one = {key: torch.cat([batch[key] for batch in batches]) for key in ("samples", "num_samples", "seeds", "index")}
    return seen({**one, "skipped": sum(batch["skipped"] for batch in batches)})


class Endless:
    """Batches, over and over, as those of a run: without a length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return itertools.cycle(self.batches)


def loader_of(batches):
    """To validate with, unperturbed."""
    return DataLoader([seen(batch, ()) for batch in batches], batch_size=None)


class Record(Callback):
    """What was logged in each step."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, *_):
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def trainer_of(steps, *callbacks, **values):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    defaults = {"accelerator": "cpu", "max_epochs": -1, "max_steps": steps, "gradient_clip_val": 0.5}
    defaults |= {"num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return lightning.Trainer(**{**quiet, **defaults, **values}, callbacks=list(callbacks))


def fit(module, batches, steps, **values):
    record = Record()
    trainer = trainer_of(steps, record, **values)
    trainer.fit(module, Endless(batches))
    return trainer, record.rows


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}
