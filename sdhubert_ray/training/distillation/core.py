"""Student, head, teacher and loss together: what one training step computes."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdhubert_ray.encoder.model import SDHuBERT, run_to_cls
from sdhubert_ray.training.distillation.head import Head, Teacher, reinitialise
from sdhubert_ray.training.distillation.loss import CentredLoss, Sums, sum_states
from sdhubert_ray.training.perturbations import Perturbation, perturb


@dataclass(frozen=True)
class DistillationOptions:
    """How the student is made to learn from its teacher.

    Attributes:
        reinit_layers: transformer layers, counted from 0, that begin anew.
        final_dim: P, width of the head and of its logits.
        ema_decay: share of the teacher that stays in a step.
        frozen_teacher: the teacher stays the initial copy.
        freeze_extractor: extractor and projection are not trained, and run without autograd.
        freeze_pos_embedding: the positional convolution is not trained.
        center_momentum: share of the center that stays in a step.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's softmax.
    """

    reinit_layers: tuple[int, ...] = (9, 10, 11)
    final_dim: int = 2048
    ema_decay: float = 0.999
    frozen_teacher: bool = False
    freeze_extractor: bool = True
    freeze_pos_embedding: bool = True
    center_momentum: float = 0.9
    student_temperature: float = 0.2
    teacher_temperature: float = 0.05


class Distilled(NamedTuple):
    """What a batch gave.

    Attributes:
        loss: its mean, with the graph of autograd.
        sums: over the batch, see `CentredLoss` and `sum_states`.
        cls: (B, D) the student's CLS states, without the graph.
    """

    loss: Tensor
    sums: Sums
    cls: Tensor


class Distillation(nn.Module):
    """A student that learns to say of a perturbed crop what its teacher says of the same crop, perturbed otherwise.

    All that changes in training is a parameter or a buffer of this module.

    Attributes:
        student: the encoder that is trained.
        head: its projection head.
        mask_vector: (D,) stands for masked frames; it begins as the encoder's own, where that has one.
    """

    def __init__(self, student: SDHuBERT, options: DistillationOptions) -> None:
        """Take over `student`, whose `reinit_layers` begin anew; random values come from torch's generator.

        Raises:
            ValueError: there is no such layer.
        """
        super().__init__()
        self.options = options
        encoder = student.speech_model.encoder
        missing = [layer for layer in options.reinit_layers if not 0 <= layer < student.num_layers]
        if missing:
            raise ValueError(f"reinit_layers names layer {missing[0]}, but there are {student.num_layers}, from 0")
        reinitialise([encoder.layers[layer] for layer in options.reinit_layers])
        self.student = student
        self.head = Head(student.hidden_size, options.final_dim)
        self.mask_vector = nn.Parameter(_first_mask_vector(student))
        self.teacher = Teacher(student, self.head)
        self.loss = CentredLoss(
            options.final_dim, options.center_momentum, options.student_temperature, options.teacher_temperature
        )
        self._freeze()

    def train(self, mode: bool = True) -> "Distillation":
        """Switch dropout on or off; the frozen parts stay in eval mode."""
        super().train(mode)
        if self.options.freeze_extractor:
            self.student.speech_model.feature_extractor.eval()
            self.student.speech_model.feature_projection.eval()
        return self

    def project(self, samples: Tensor, num_samples: Tensor) -> Tensor:
        """Frames (B, T, D) of (B, N) samples, (B,) of them valid: once for student and teacher."""
        if not self.options.freeze_extractor:
            return self.student.project(samples, num_samples)
        with torch.no_grad():
            return self.student.project(samples, num_samples)

    def forward(
        self, samples: Tensor, num_samples: Tensor, for_student: Perturbation, for_teacher: Perturbation
    ) -> Distilled:
        """Loss of a batch.

        Args:
            samples: (B, N) float32 z-scored 16 kHz samples.
            num_samples: (B,) int64, how many are valid.
            for_student: perturbation of what the student sees.
            for_teacher: perturbation of what the teacher sees.
        """
        num_frames = self.student.count_frames(num_samples)
        frames = self.project(samples, num_samples)
        cls, states = self.summarise(perturb(frames, for_student, self.mask_vector), num_frames)
        seen = perturb(frames.detach(), for_teacher, self.mask_vector.detach())
        teacher_cls, teacher_logits = self.teacher(self.student, seen, num_frames)
        loss, sums = self.loss(self.head(cls), teacher_logits)
        sums |= sum_states(cls, teacher_cls, states[:, 1:], num_frames)
        return Distilled(loss, sums, cls.detach())

    def summarise(self, frames: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """The student's CLS state (B, D) for (B, T, D) frames, (B,) of them valid, and what its last layer has seen."""
        return run_to_cls(self.student.enter(frames), num_frames, self.student.speech_model.encoder.layers)

    def step(self, sums: Sums, taken: Tensor) -> None:
        """After a step of the optimizer: move teacher and center.

        Args:
            sums: of all workers and micro-batches.
            taken: () bool on the device, the same on all workers; where it is false nothing moves.
        """
        if not self.options.frozen_teacher:
            self.teacher.follow(self.student, self.head, self.options.ema_decay, taken)
        self.loss.update_center(sums, taken)

    def _freeze(self) -> None:
        speech_model = self.student.speech_model
        if self.options.freeze_extractor:
            speech_model.feature_extractor.requires_grad_(False)
            speech_model.feature_projection.requires_grad_(False)
        if self.options.freeze_pos_embedding:
            speech_model.encoder.pos_conv_embed.requires_grad_(False)
        if hasattr(speech_model, "masked_spec_embed"):
            speech_model.masked_spec_embed.requires_grad_(False)  # the library's, which has no part in this
        for name, parameter in speech_model.encoder.layers.named_parameters():
            if name.endswith("k_proj.bias"):
                # It adds the same to all scores of a query, which the softmax does not see: its gradient is rounding
                # alone, of which AdamW would make steps that differ from one number of workers to the next.
                parameter.requires_grad_(False)


def _first_mask_vector(student: SDHuBERT) -> Tensor:
    if hasattr(student.speech_model, "masked_spec_embed"):
        vector: Tensor = student.speech_model.masked_spec_embed
        return vector.detach().clone()
    return torch.rand(student.hidden_size)
