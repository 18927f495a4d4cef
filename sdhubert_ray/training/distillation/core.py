"""Student, head, teacher and centred loss together: the objective `sentence`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdhubert_ray.encoder.model import SDHuBERT, run_to_cls
from sdhubert_ray.training.distillation.head import Head, Teacher
from sdhubert_ray.training.distillation.loss import CentredLoss, Sums, sum_states, summarise
from sdhubert_ray.training.distillation.objective import Distilled, Objective, Segmentation
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


class Distillation(Objective):
    """A student that learns to say of a perturbed crop what its teacher says of the same crop, perturbed otherwise.

    Attributes:
        head: the student's projection head.
        mask_vector: (D,) stands for masked frames; it begins as the encoder's own, where that has one.
    """

    decisive = ("loss", "teacher_logits")

    def __init__(self, student: SDHuBERT, options: DistillationOptions) -> None:
        """Take over `student`, see `Objective`."""
        super().__init__(student, options.reinit_layers, options.freeze_extractor)
        self.options = options
        self.head = Head(student.hidden_size, options.final_dim)
        self.mask_vector = nn.Parameter(_first_mask_vector(student))
        self.teacher = Teacher(student, self.head)
        self.loss = CentredLoss(
            options.final_dim, options.center_momentum, options.student_temperature, options.teacher_temperature
        )
        self._freeze(options.freeze_pos_embedding)

    def distil(self, batch: Mapping[str, Any]) -> Distilled:
        """Loss of a batch with what `Perturbing` draws."""
        distilled: Distilled = self(batch["samples"], batch["num_samples"], batch["student"], batch["teacher"])
        return distilled

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

    def measure(self, sums: Sums) -> dict[str, Tensor]:
        """What tells how training goes, see `summarise`."""
        center_norm = torch.linalg.vector_norm(self.loss.center)
        return {**summarise(sums), "center_norm": center_norm, "count": sums["count"]}

    def layers(self) -> Iterator[nn.Module]:
        """Transformer layers of student and teacher."""
        yield from (*self.student.speech_model.encoder.layers, *self.teacher.layers)

    def segmentation(self) -> Segmentation:
        """See `segmentation_of`."""
        return segmentation_of(self.student.num_layers)

    def options_kept(self) -> Iterator[tuple[str, Tensor]]:
        """Temperatures and the center's momentum; the center is learnt."""
        for name, value in self.loss.named_buffers():
            if name != "center":
                yield f"loss.{name}", value


def segmentation_of(num_layers: int) -> Segmentation:
    """The options that a model of so many layers should be used with: layers 9 and 11 of 12, the norm relative."""
    return {
        "encoder": {"layer": round(num_layers * 9 / 12), "normcut_layer": round(num_layers * 11 / 12)},
        "speech": {"normcut_strategy": "relative", "normcut_threshold": 0.1},
    }


def _first_mask_vector(student: SDHuBERT) -> Tensor:
    if hasattr(student.speech_model, "masked_spec_embed"):
        vector: Tensor = student.speech_model.masked_spec_embed
        return vector.detach().clone()
    return torch.rand(student.hidden_size)
