"""What all objectives share: a student, its teacher, what of the student is trained, and what a step leaves."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.training.distillation.head import reinitialise
from sdhubert_ray.training.distillation.loss import Sums

Segmentation = dict[str, dict[str, object]]
"""Options of `sdhubert segment`: section -> field -> value."""


class Distilled(NamedTuple):
    """What comes of a batch.

    Attributes:
        loss: () float32, the mean over crops, with autograd.
        sums: over the batch, of the objective.
        cls: (B, D) the student's CLS states, without the graph; none where the objective has no part for them.
    """

    loss: Tensor
    sums: Sums
    cls: Tensor | None


class Objective(nn.Module, ABC):
    """A student that learns from its teacher; all that changes in training is a parameter or a buffer of this module.

    Attributes:
        student: the encoder that is trained.
        decisive: sums by which a step is judged: one that is not finite is not taken.
    """

    decisive: ClassVar[tuple[str, ...]]

    def __init__(self, student: SDHuBERT, reinit_layers: Sequence[int], freeze_extractor: bool) -> None:
        """Take over `student`, whose `reinit_layers` begin anew; random values come from torch's generator.

        Raises:
            ValueError: there is no such layer.
        """
        super().__init__()
        missing = [layer for layer in reinit_layers if not 0 <= layer < student.num_layers]
        if missing:
            raise ValueError(f"reinit_layers names layer {missing[0]}, but there are {student.num_layers}, from 0")
        reinitialise([student.speech_model.encoder.layers[layer] for layer in reinit_layers])
        self.student = student
        self._freeze_extractor = freeze_extractor

    def train(self, mode: bool = True) -> "Objective":
        """Switch dropout on or off; the frozen parts stay in eval mode."""
        super().train(mode)
        if self._freeze_extractor:
            self.student.speech_model.feature_extractor.eval()
            self.student.speech_model.feature_projection.eval()
        return self

    def project(self, samples: Tensor, num_samples: Tensor) -> Tensor:
        """The student's frames (B, T, D) of (B, N) samples, (B,) of them valid."""
        if not self._freeze_extractor:
            return self.student.project(samples, num_samples)
        with torch.no_grad():
            return self.student.project(samples, num_samples)

    @abstractmethod
    def distil(self, batch: Mapping[str, Any]) -> Distilled:
        """Loss of a `Batch`, as the reader of this objective has made it."""

    @abstractmethod
    def step(self, sums: Sums, taken: Tensor) -> None:
        """After a step of the optimizer: move what follows the student.

        Args:
            sums: of all workers and micro-batches.
            taken: () bool on the device, the same on all workers; where it is false nothing moves.
        """

    @abstractmethod
    def measure(self, sums: Sums) -> dict[str, Tensor]:
        """What tells how training goes, after `step`: scalars each, on the device."""

    @abstractmethod
    def layers(self) -> Iterator[nn.Module]:
        """Transformer layers of student and teacher."""

    @abstractmethod
    def segmentation(self) -> Segmentation:
        """The options that the student should be used with."""

    def options_kept(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of buffers that are options: those of a checkpoint give way to them."""
        yield from ()

    def _freeze(self, freeze_pos_embedding: bool) -> None:
        """Leave parts of the student untrained; call it last."""
        speech_model = self.student.speech_model
        if self._freeze_extractor:
            speech_model.feature_extractor.requires_grad_(False)
            speech_model.feature_projection.requires_grad_(False)
        if freeze_pos_embedding:
            speech_model.encoder.pos_conv_embed.requires_grad_(False)
        if hasattr(speech_model, "masked_spec_embed"):
            speech_model.masked_spec_embed.requires_grad_(False)  # the library's, which has no part in this
        for name, parameter in speech_model.encoder.layers.named_parameters():
            if name.endswith("k_proj.bias"):
                # It adds the same to all scores of a query, which the softmax does not see: its gradient is rounding
                # alone, of which AdamW would make steps that differ from one number of workers to the next.
                parameter.requires_grad_(False)
