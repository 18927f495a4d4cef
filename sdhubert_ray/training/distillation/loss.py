"""The centred loss, and sums over the batch of all workers: center, entropies, spread of states."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sums = dict[str, Tensor]
"""Sums over samples (or tokens) by name, each of any shape, float32."""


class CentredLoss(nn.Module):
    """Cross entropy of softmax((t - center) / temp_t) against log_softmax(s / temp_s), in float32.

    Attributes:
        center: (P,) running mean of the teacher's logits, a buffer as all else here; zeros until the first step, whose
            mean it then is.
    """

    center: Tensor
    center_momentum_: Tensor
    temp_s: Tensor
    temp_t: Tensor

    def __init__(
        self,
        final_dim: int,
        center_momentum: float = 0.9,
        student_temperature: float = 0.2,
        teacher_temperature: float = 0.05,
    ) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(final_dim))
        self.register_buffer("center_momentum_", torch.tensor(center_momentum))
        self.register_buffer("temp_s", torch.tensor([student_temperature]))
        self.register_buffer("temp_t", torch.tensor([teacher_temperature]))

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Sums]:
        """Mean loss over (B, P) logits of both, and the sums that `update_center` and `summarise` need."""
        with torch.autocast(student.device.type, enabled=False):
            predicted = F.log_softmax(student.float() / self.temp_s, dim=1)
            logits = teacher.detach().float()
            wanted = F.log_softmax((logits - self.center) / self.temp_t, dim=1)
            losses = -(wanted.exp() * predicted).sum(1)
            with torch.no_grad():
                sums = {
                    "count": torch.full((), float(len(logits)), device=logits.device),
                    "loss": losses.sum(),
                    "teacher_logits": logits.sum(0),
                    "teacher_shares": wanted.exp().sum(0),
                    "teacher_entropy": _entropy(wanted).sum(),
                    "student_entropy": _entropy(predicted).sum(),
                }
            return losses.mean(), sums

    @torch.no_grad()
    def update_center(self, sums: Mapping[str, Tensor], taken: Tensor) -> None:
        """Move the center towards the mean of the teacher's logits; call it after their use, with all workers' sums.

        It begins with the first mean, unless all of it is to stay. Where `taken`, () bool on its device, is false, it
        stays; nothing is waited for.
        """
        mean = sums["teacher_logits"] / sums["count"]
        begins = (self.center == 0).all() & (self.center_momentum_ < 1)
        moved = torch.where(begins, mean, self.center.lerp(mean, 1 - self.center_momentum_))
        self.center.copy_(torch.where(taken, moved, self.center))


@torch.no_grad()
def sum_states(student_cls: Tensor, teacher_cls: Tensor, tokens: Tensor, num_frames: Tensor) -> Sums:
    """Sum directions: (B, D) CLS states of both, and (B, T, D) states of frames (tokens), (B,) of them valid."""
    valid = torch.arange(tokens.shape[1], device=tokens.device) < num_frames[:, None]
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        scale = valid / torch.linalg.vector_norm(tokens, dim=2).clamp(min=1e-12)
        return {
            "student_cls": F.normalize(student_cls.float(), dim=1).sum(0),
            "teacher_cls": F.normalize(teacher_cls.float(), dim=1).sum(0),
            "tokens": torch.einsum("btd,bt->d", tokens, scale),
            "num_tokens": valid.sum().float(),
        }


def add_sums(one: Sums, other: Sums) -> Sums:
    """Sums over two batches."""
    return {name: one[name] + other[name] for name in one}


@torch.no_grad()
def sum_over_workers(sums: Sums) -> Sums:
    """Sums over the batches of all workers, of whatever sizes: one all-reduce for all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return sums
    flat = torch.cat([value.reshape(-1) for value in sums.values()])
    torch.distributed.all_reduce(flat)
    parts = torch.split(flat, [value.numel() for value in sums.values()])
    return {name: part.view_as(value) for (name, value), part in zip(sums.items(), parts, strict=True)}


@torch.no_grad()
def summarise(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What tells how training goes, scalars each; entropies in nats.

    `information` is what the teacher's target tells about its input: the entropy of the mean target less the mean
    entropy of targets. It is 0 where all samples have the same target, whether that is one peak or uniform.
    `*_spread` is the standard deviation of states over the batch, scaled to the states' length: root of the mean
    square over dimensions of unit vectors times sqrt(D); 0 where all are the same, 1 where their mean is zero.
    """
    count = sums["count"]
    means = {name: sums[name] / count for name in ("loss", "teacher_entropy", "student_entropy")}
    mean_target = sums["teacher_shares"] / count
    information = -(torch.xlogy(mean_target, mean_target)).sum() - means["teacher_entropy"]
    return {
        **means,
        "information": information.clamp(min=0),
        "student_cls_spread": _spread(sums["student_cls"] / count),
        "teacher_cls_spread": _spread(sums["teacher_cls"] / count),
        "token_spread": _spread(sums["tokens"] / sums["num_tokens"]),
    }


def most_information(count: float, final_dim: int) -> float:
    """The most that targets of `final_dim` values can tell about `count` samples, nats."""
    return math.log(min(count, final_dim))


def _entropy(log_probabilities: Tensor) -> Tensor:
    """Entropy of (B, P) log probabilities: (B,), nats."""
    return -(log_probabilities.exp() * log_probabilities).sum(1)


def _spread(mean_direction: Tensor) -> Tensor:
    return (1 - mean_direction.square().sum()).clamp(min=0).sqrt()
