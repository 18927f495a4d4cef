"""Telling a collapse: while training goes on, and by a score that a collapsed model cannot win."""

import logging
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sdhubert_ray.distillation import Sums, most_information

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
    log P). Before `first_step` nothing is said: new layers and the center have to settle first.

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
        """Look at what `summarise` tells of a step with `count` samples of all workers."""
        if count < 2:
            return
        most = most_information(count, self._final_dim)
        self._seen = self._seen + 1 if metrics["information"] < _LEAST_SHARE * most else 0
        self.collapsed = self._seen >= _PATIENCE
        if self.collapsed and not self._said:
            self._said = True
            logger.warning(
                "COLLAPSE at step %d: the teacher says the same of all samples (%.3g of %.3g nats; its entropy is %.3g "
                "of %.3g, the spread of CLS states %.3g). Begin again with a lower model.lr, a larger batch or another "
                "model.ema_decay.",
                step,
                metrics["information"],
                most,
                metrics["teacher_entropy"],
                most_information(float(self._final_dim), self._final_dim),
                metrics["student_cls_spread"],
            )


@torch.no_grad()
def compare_crops(cls: Tensor, index: Tensor, samples: Tensor) -> Sums:
    """Compare each crop of a batch with its mate (of the same recording) and the others (of other recordings).

    Sums, each of which has a `*_count` beside it to be divided by:

    `score`: (S,) how well the mate is found, with each of S temperatures: 1 + log(p) / log(n), p the mate's share in a
    softmax of cosines over the temperature, among n candidates, the mate and all others. `validation_metrics` takes
    the best temperature, of 0.1 or more.
    `same` and `other`: cosines of mates and of others; the difference of their means is the margin.
    `auc`: share of (crop, mate, other) where the mate is nearer, ties half; 0.5 for random and for equal states.

    Two crops with the same samples (both all of a short recording) are no mates.

    Args:
        cls: (B, D) states.
        index: (B,) int64, the recording of each crop.
        samples: (B, N) the crops.
    """
    directions = F.normalize(cls.float(), dim=1)
    cosines = directions @ directions.T
    same_recording = index[:, None] == index
    others = ~same_recording
    temperatures = torch.tensor(_TEMPERATURES, device=cls.device)
    sums = no_comparisons(cls.device)
    for crop, mate in same_recording.nonzero().tolist():
        if crop == mate or torch.equal(samples[crop], samples[mate]) or not others[crop].any():
            continue
        mates, rest = cosines[crop, mate], cosines[crop, others[crop]]
        candidates = torch.cat([mates[None], rest]) / temperatures[:, None]
        found = 1 + candidates.log_softmax(1)[:, 0] / math.log(1 + len(rest))
        wins = ((mates > rest).float() + (mates == rest).float() / 2).sum()
        for name, value, count in (
            ("score", found, 1),
            ("same", mates, 1),
            ("other", rest.sum(), len(rest)),
            ("auc", wins, len(rest)),
        ):
            sums[name] = sums[name] + value
            sums[f"{name}_count"] = sums[f"{name}_count"] + count
    return sums


def no_comparisons(device: torch.device) -> Sums:
    """Begin the sums of a validation."""
    counts = {f"{name}_count": torch.zeros((), device=device) for name in _MEANS}
    means = {name: torch.zeros((), device=device) for name in _MEANS}
    return counts | means | {"score": torch.zeros(len(_TEMPERATURES), device=device)}


@torch.no_grad()
def validation_metrics(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a validation has found, scalars each.

    `val_score` picks the best checkpoint: what a CLS state tells about which recording it is of, as a share of what
    there is to tell, with the temperature that suits it (InfoNCE). A collapse cannot win: where all states are alike
    it is 0, whatever a little difference that is left may tell, as no temperature is under 0.1; states in k heaps
    cannot pass log(k) / log(n). It is never negative, and 1 where mates agree and no others do.
    """
    means = {name: sums[name] / sums[f"{name}_count"].clamp(min=1) for name in _MEANS}
    return {
        VALIDATION_SCORE: means["score"].max().clamp(min=0),
        "val_margin": means["same"] - means["other"],
        "val_auc": means["auc"],
        "val_loss": means["loss"],
    }
