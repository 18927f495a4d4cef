"""Telling a collapse: while training goes on, and by a score that a collapsed model cannot win."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdhubert_ray.speech import FRAME_RATE
from sdhubert_ray.training.distillation import Distilled, Sums, explained_share, most_information

_LEAST_SHARE = 0.01
_PATIENCE = 3
_EVERY_STEPS = 10
_TEMPERATURES = (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0)
_MEANS = ("score", "same", "other", "auc", "loss")

VALIDATION_SCORE = "val_score"
"""The metric that picks the best checkpoint, the higher the better, see `validation_metrics`."""

logger = logging.getLogger(__name__)


class CollapseWatch:
    """Says once, and loudly, that the model says the same of all samples.

    A collapse is seen where the teacher's targets tell less than 1 % of what they could about which sample they are of
    (`information` against the logarithm of the number of samples), at three looks in a row, ten steps apart. That
    holds for both ways to collapse: all targets peak at one place (teacher entropy near 0), or all are uniform (near
    log P). A look at which any metric is not finite counts as one at a collapse. Before `first_step` nothing is said:
    new layers and the center have to settle first.

    Attributes:
        collapsed: whether the last looks were of a collapse.
    """

    def __init__(self, final_dim: int, first_step: int) -> None:
        self.collapsed = False
        self._final_dim = final_dim
        self._first_step = first_step
        self._seen = 0
        self._said = False

    def is_due(self, step: int) -> bool:
        """Tell whether to look at a step; it makes the CPU wait for the GPU."""
        return step >= self._first_step and step % _EVERY_STEPS == 0

    def look(self, step: int, count: float, metrics: Mapping[str, float]) -> None:
        """Look at what an objective measures of a step with `count` crops of all workers; one of them tells nothing."""
        if count < 2:
            return
        is_finite = all(math.isfinite(value) for value in metrics.values())
        is_well = is_finite and self._share(count, metrics) >= _LEAST_SHARE
        self._seen = 0 if is_well else self._seen + 1
        self.collapsed = self._seen >= _PATIENCE
        if self.collapsed and not self._said:
            self._said = True
            logger.warning(
                "COLLAPSE at step %d: %s (%s). Begin again with a lower model.lr, a larger batch or another "
                "model.ema_decay.",
                step,
                self._same if is_finite else "states or targets are not finite",
                self._describe(count, metrics),
            )

    _same = "the teacher says the same of all samples"

    def _share(self, count: float, metrics: Mapping[str, float]) -> float:
        """What the targets tell, of what they could."""
        return metrics["information"] / most_information(count, self._final_dim)

    def _describe(self, count: float, metrics: Mapping[str, float]) -> str:
        return (
            f"{metrics['information']:.3g} of {most_information(count, self._final_dim):.3g} nats; its entropy is "
            f"{metrics['teacher_entropy']:.3g} of {most_information(float(self._final_dim), self._final_dim):.3g}, the "
            f"spread of CLS states {metrics['student_cls_spread']:.3g}"
        )


class SegmentWatch(CollapseWatch):
    """The same of the objective `segments`: its targets are alike in all segments, or there are no segments."""

    _same = "the teacher's segments are all alike, or there are none"

    def __init__(self, first_step: int) -> None:
        super().__init__(0, first_step)

    def _share(self, count: float, metrics: Mapping[str, float]) -> float:
        return metrics["target_variance"]

    def _describe(self, count: float, metrics: Mapping[str, float]) -> str:
        return (
            f"their variance is {metrics['target_variance']:.3g} of their squares; {metrics['segment_rate']:.3g} "
            f"segments per second, {metrics['speech_share']:.3g} of all frames are in one"
        )


@torch.no_grad()
def compare_crops(cls: Tensor, index: Tensor, samples: Tensor) -> Sums:
    """Compare each crop of a batch with its mates (of the same recording) and the others (of other recordings).

    Sums over pairs of a crop and one mate, float32 scalars but for `score`, each of which has a `*_count` beside it, a
    float32 scalar, to be divided by:

    `score`: (S,) how well the mate is found, with each of S temperatures: 1 + log(p) / log(n), p the mate's share in a
    softmax of cosines over the temperature, among n candidates, the mate and all others. `validation_metrics` takes
    the best temperature, of 0.1 or more.
    `same` and `other`: cosines of mates and of others; the difference of their means is the margin.
    `auc`: share of (crop, mate, other) where the mate is nearer, ties half; 0.5 for random and for equal states.
    `loss`: 0, see `no_comparisons`.

    Two crops with the same samples (both all of a short recording) are no mates, and a crop beside no other recording
    is left out. Where any state of the batch is not finite, all sums but `loss` and the counts are NaN. Nothing here
    makes the CPU wait for the GPU. It takes O(B * (B + D)) memory beside its arguments.

    Args:
        cls: (B, D) states, of any float dtype; they are compared in float32, whatever autocast is on.
        index: (B,) int64, the recording of each crop, in any order.
        samples: (B, N) float32 the crops.
    """
    with torch.autocast(cls.device.type, enabled=False):
        directions = F.normalize(cls.float(), dim=1)
        cosines = directions @ directions.T
        # The largest difference of any two samples is 0 for equal crops alone, and for a crop and itself.
        differ = torch.cdist(samples, samples, p=math.inf) > 0
    others = index[:, None] != index
    num_others = others.sum(1, keepdim=True)
    pairs = differ & ~others & (num_others > 0)
    num_pairs = pairs.sum(1, keepdim=True)
    logits = torch.stack([cosines / temperature for temperature in _TEMPERATURES])
    rest = logits.masked_fill(~others, -math.inf).logsumexp(2, keepdim=True)
    found = 1 + F.logsigmoid(logits - rest) / (1 + num_others).log()
    ascending = cosines.masked_fill(~others, math.inf).sort(1).values
    farther, farther_or_tied = (torch.searchsorted(ascending, cosines, right=right) for right in (False, True))
    values = {
        "score": found.masked_fill(~pairs, 0).sum((1, 2)),
        "same": cosines.masked_fill(~pairs, 0).sum(),
        "other": (num_pairs * cosines.masked_fill(~others, 0)).sum(),
        "auc": ((farther + farther_or_tied) / 2).masked_fill(~pairs, 0).sum(),
    }
    is_broken = ~cls.isfinite().all()
    values = {name: value.masked_fill(is_broken, math.nan) for name, value in values.items()}
    by_pair, by_triplet = num_pairs.sum().float(), (num_pairs * num_others).sum().float()
    counts = {"score_count": by_pair, "same_count": by_pair, "other_count": by_triplet, "auc_count": by_triplet}
    return no_comparisons(cls.device) | values | counts


def no_comparisons(device: torch.device) -> Sums:
    """Begin the sums of a validation: those of `compare_crops` and of the loss, float32 zeros."""
    counts = {f"{name}_count": torch.zeros((), device=device) for name in _MEANS}
    means = {name: torch.zeros((), device=device) for name in _MEANS}
    return counts | means | {"score": torch.zeros(len(_TEMPERATURES), device=device)}


@torch.no_grad()
def validation_metrics(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a validation has found by its sums, see `compare_crops`: float32 scalars.

    `val_score` picks the best checkpoint: what a CLS state tells about which recording it is of, as a share of what
    there is to tell, with the temperature that suits it (InfoNCE). A collapse cannot win: where all states are alike
    it is 0, whatever a little difference that is left may tell, as no temperature is under 0.1; states in k heaps
    cannot pass log(k) / log(n). It is never negative, and 1 where mates agree and no others do. It is never NaN: a
    validation with any state that is not finite has 0, while its margin and AUC are NaN.
    """
    means = {name: sums[name] / sums[f"{name}_count"].clamp(min=1) for name in _MEANS}
    return {
        VALIDATION_SCORE: means["score"].max().nan_to_num(nan=0, posinf=0, neginf=0).clamp(min=0),
        "val_margin": means["same"] - means["other"],
        "val_auc": means["auc"],
        "val_loss": means["loss"],
    }


class Validation(ABC):
    """What is found in a validation, as sums over its batches and all workers."""

    @abstractmethod
    def nothing(self, device: torch.device) -> Sums:
        """The sums of no batch, float32."""

    @abstractmethod
    def sums(self, distilled: Distilled, batch: Mapping[str, Any]) -> Sums:
        """Those of a batch."""

    @abstractmethod
    def metrics(self, sums: Sums) -> dict[str, Tensor]:
        """What they tell; without `VALIDATION_SCORE` where nothing does."""


class SentenceValidation(Validation):
    """How well a crop's CLS state finds the other crop of its recording, see `validation_metrics`."""

    def nothing(self, device: torch.device) -> Sums:
        """Those of `compare_crops`."""
        return no_comparisons(device)

    def sums(self, distilled: Distilled, batch: Mapping[str, Any]) -> Sums:
        """Compare the crops of a batch."""
        if distilled.cls is None:
            raise TypeError("the objective has no CLS states to compare")
        sums = compare_crops(distilled.cls, batch["index"], batch["samples"])
        return sums | {"loss": distilled.sums["loss"], "loss_count": distilled.sums["count"]}

    def metrics(self, sums: Sums) -> dict[str, Tensor]:
        """See `validation_metrics`."""
        metrics = validation_metrics(sums)
        if not float(sums["score_count"]):
            logger.warning("validation has no two different crops of one recording beside another one: no score")
            del metrics[VALIDATION_SCORE]  # so that nothing is kept as the best
        return metrics


class SegmentValidation(Validation):
    """How much of the variance of targets the student explains, see `explained_share`; of targets in the validation.

    A student cannot win by saying the same everywhere, nor can both by saying the same: that is 0. How good segments
    are, which the teacher makes, it does not tell.
    """

    _SUMS = ("loss", "count", "error", "target_square", "speech_count", "num_tokens", "num_segments")

    def __init__(self, width: int) -> None:
        """Of states of this width."""
        self._width = width

    def nothing(self, device: torch.device) -> Sums:
        """Those that `explained_share` needs, and of the loss."""
        return {
            "target": torch.zeros(self._width, device=device),
            **{name: torch.zeros((), device=device) for name in self._SUMS},
        }

    def sums(self, distilled: Distilled, batch: Mapping[str, Any]) -> Sums:
        """Those of a batch."""
        return {name: distilled.sums[name] for name in ("target", *self._SUMS)}

    def metrics(self, sums: Sums) -> dict[str, Tensor]:
        """The share that is explained, 0 to 1, and the loss."""
        explained, _ = explained_share(sums)
        rate = sums["num_segments"] / sums["num_tokens"].clamp(min=1) * FRAME_RATE
        metrics = {"val_loss": sums["loss"] / sums["count"].clamp(min=1), "val_segment_rate": rate}
        if not float(sums["speech_count"]):
            logger.warning("validation has no segments: no score")
            return metrics
        return {VALIDATION_SCORE: explained.nan_to_num(nan=0, posinf=0, neginf=0).clamp(min=0), **metrics}
