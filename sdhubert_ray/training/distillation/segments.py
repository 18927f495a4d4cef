"""Self-segmentation distillation: each frame of a segment becomes the segment's mean, as the teacher has it.

As of Sylber (Cho et al. 2024, arXiv 2410.07168). Nothing here reads a CLS state.
"""

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mincut
from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.speech import FRAME_RATE
from sdhubert_ray.training.distillation.loss import Sums
from sdhubert_ray.training.distillation.norms import NormThreshold, norms_of, sum_norms
from sdhubert_ray.training.distillation.objective import Distilled, Objective, Segmentation

NONE = -1
"""In the place of a segment's number: the frame is of none."""


@dataclass(frozen=True)
class SegmentDistillationOptions:
    """How the student is made to learn from its teacher.

    Attributes:
        given: segments come with the batch; else the teacher finds them.
        reinit_layers: transformer layers, counted from 0, that begin anew.
        ema_decay: share of the teacher that stays in a step.
        frozen_teacher: the teacher stays the initial copy.
        freeze_extractor: extractor and projection are not trained, and run without autograd.
        freeze_pos_embedding: the positional convolution is not trained.
        norm_decay: share of the running norms that stays in a step.
        merge_threshold: what the student's segments should be merged by.
    """

    given: bool
    reinit_layers: tuple[int, ...] = ()
    ema_decay: float = 0.9999
    frozen_teacher: bool = False
    freeze_extractor: bool = False
    freeze_pos_embedding: bool = False
    norm_decay: float = 0.9999
    merge_threshold: float = 0.8


class SegmentDistillation(Objective):
    """A student whose frames learn to be what its teacher's are in the mean of their segment, and zero outside of any.

    The teacher is a whole encoder: what is trained of the student below its layers does not move a frozen one. The
    student's last layer is the one that is trained.

    Attributes:
        teacher: never trained, always in eval mode.
        norms: of speech and other frames, and the threshold between them.
    """

    decisive = ("loss", "speech_norm", "quiet_norm")

    def __init__(self, student: SDHuBERT, options: SegmentDistillationOptions) -> None:
        """Take over `student`, see `Objective`."""
        super().__init__(student, options.reinit_layers, options.freeze_extractor)
        self.options = options
        self._freeze(options.freeze_pos_embedding)
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.norms = NormThreshold(options.norm_decay)
        self.train()

    def train(self, mode: bool = True) -> "SegmentDistillation":
        """Switch dropout on or off; the teacher and the frozen parts stay in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def distil(self, batch: Mapping[str, Any]) -> Distilled:
        """Loss of a batch with what `Hearing` draws: the student hears `heard`, the teacher `samples`."""
        distilled: Distilled = self(
            batch["samples"], batch["num_samples"], batch["heard"], batch["segment"], batch["merge_threshold"]
        )
        return distilled

    def forward(
        self, samples: Tensor, num_samples: Tensor, heard: Tensor, segment: Tensor, merge_threshold: Tensor
    ) -> Distilled:
        """Loss of a batch: |student's frame - target|^2, its mean over the frames of a crop, then over crops.

        Args:
            samples: (B, N) float32 z-scored 16 kHz samples, as the teacher hears them.
            num_samples: (B,) int64, how many are valid.
            heard: (B, N) float32, as the student hears them.
            segment: (B, T) int64, the number of the given segment that a frame is of, or -1.
            merge_threshold: (B,) float64, of segments that the teacher finds.
        """
        num_frames = self.student.count_frames(num_samples)
        with torch.no_grad():
            taught = self.teach(samples, num_samples)
            valid = torch.arange(taught.shape[1], device=taught.device) < num_frames[:, None]
            if not self.options.given:
                segment = self._find_segments(taught, num_frames, merge_threshold)
            segment = segment.masked_fill(~valid, NONE)
            targets = segment_means(taught, segment)
        states = self._run(self.student, self.project(heard, num_samples), num_frames)
        with torch.autocast(states.device.type, enabled=False):
            states = states.float()
            squares = (states - targets).square().sum(2).masked_fill(~valid, 0)
            losses = squares.sum(1) / num_frames
            return Distilled(losses.mean(), self._sum(losses, squares, states, taught, targets, segment, valid), None)

    @torch.no_grad()
    def teach(self, samples: Tensor, num_samples: Tensor) -> Tensor:
        """The teacher's states (B, T, D) float32 of (B, N) samples, (B,) of them valid."""
        frames = self.teacher.project(samples, num_samples)
        return self._run(self.teacher, frames, self.teacher.count_frames(num_samples)).float()

    def step(self, sums: Sums, taken: Tensor) -> None:
        """Move the teacher, unless it is frozen, and the norms; see `Objective`."""
        if not self.options.frozen_teacher:
            pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            moving = [(own, theirs.detach()) for own, theirs in pairs if theirs.requires_grad]
            weight = (1 - self.options.ema_decay) * taken
            torch._foreach_lerp_([own for own, _ in moving], [new for _, new in moving], [weight] * len(moving))
        self.norms.follow(sums, taken)

    @torch.no_grad()
    def measure(self, sums: Sums) -> dict[str, Tensor]:
        """What tells how training goes.

        `explained` and `target_variance`: see `explained_share`; `segment_rate`: segments per second; `speech_share`:
        of frames that are in segments; `token_spread`: as in `summarise` of the objective `sentence`.
        """
        explained, variance = explained_share(sums)
        return {
            "count": sums["count"],
            "loss": sums["loss"] / sums["count"],
            "explained": explained,
            "target_variance": variance,
            "segment_rate": sums["num_segments"] / sums["num_tokens"] * FRAME_RATE,
            "speech_share": sums["speech_count"] / sums["num_tokens"],
            "token_spread": (1 - (sums["tokens"] / sums["num_tokens"]).square().sum()).clamp(min=0).sqrt(),
            "speech_norm": self.norms.speech[0].clone(),
            "quiet_norm": self.norms.quiet[0].clone(),
            "norm_threshold": self.norms.value(),
        }

    def layers(self) -> Iterator[nn.Module]:
        """Transformer layers of student and teacher."""
        yield from (*self.student.speech_model.encoder.layers, *self.teacher.speech_model.encoder.layers)

    def segmentation(self) -> Segmentation:
        """Greedy segments of the whole recording, with the threshold between norms as it is now."""
        last = self.student.num_layers
        whole = {"normcut_strategy": "absolute", "normcut_threshold": -1.0, "silence_threshold": None}
        rules = {
            "norm_threshold": round(max(float(self.norms.value()), 0.0), 3),
            "merge_threshold": self.options.merge_threshold,
        }
        return {
            "encoder": {"layer": last, "normcut_layer": last},
            "speech": {**whole, "min_span_frames": 0},
            "syllables": {"segmenter": "greedy", "greedy": rules},
        }

    def _run(self, encoder: SDHuBERT, frames: Tensor, num_frames: Tensor) -> Tensor:
        """States (B, T, D) of the last layer for (B, T, D) projected frames, (B,) of them valid."""
        (states,) = deque(encoder.contextualise(frames, num_frames), maxlen=1)
        return states[:, -frames.shape[1] :]  # without what stands in front of them, where anything does

    def _find_segments(self, states: Tensor, num_frames: Tensor, merge_threshold: Tensor) -> Tensor:
        """Greedy segments of (B, T, D) states, (B,) of them valid: (B, T) int64, the number of the segment, or -1.

        On the CPU, on as many threads as torch has. A crop with states that are no numbers is one segment, so that its
        loss is none, and its step not taken.
        """
        norm_threshold = max(float(self.norms.value()), 0.0)
        on_cpu, counts, thresholds = states.cpu().numpy(), num_frames.tolist(), merge_threshold.tolist()
        found = np.full(states.shape[:2], NONE, np.int64)

        def find(row: int) -> None:
            valid = on_cpu[row, : counts[row]]
            spans = [(0, len(valid))]
            if np.isfinite(valid).all():
                spans = mincut.greedy_segments(valid, norm_threshold, thresholds[row]).tolist()
            for number, (start, end) in enumerate(spans):
                found[row, start:end] = number

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(find, range(len(found))))
        return torch.from_numpy(found).to(states.device)

    @torch.no_grad()
    def _sum(
        self,
        losses: Tensor,
        squares: Tensor,
        states: Tensor,
        taught: Tensor,
        targets: Tensor,
        segment: Tensor,
        valid: Tensor,
    ) -> Sums:
        inside = segment != NONE
        norms = norms_of(states)
        # As published: of what the teacher takes for speech it is the teacher that tells norms.
        of_speech = norms if self.options.given else norms_of(taught)
        begins = inside.clone()
        begins[:, 1:] &= segment[:, 1:] != segment[:, :-1]
        return {
            "count": torch.full((), float(len(losses)), device=losses.device),
            "loss": losses.sum(),
            "error": squares.sum(),
            "target": targets.sum((0, 1)),
            "target_square": targets.square().sum(),
            "num_tokens": valid.sum().float(),
            "num_segments": begins.sum().float(),
            "tokens": (F.normalize(states, dim=2) * valid[..., None]).sum((0, 1)),
            **sum_norms("speech", of_speech, inside),
            **sum_norms("quiet", norms, valid & ~inside),
        }


def segment_means(states: Tensor, segment: Tensor) -> Tensor:
    """Put the mean of its segment in the place of each of (B, T, D) states, and zero where it is of none.

    Args:
        states: float32.
        segment: (B, T) int64, numbers from 0 to T - 1 that mean something within a row only, or -1.
    """
    batch, length, width = states.shape
    place = (segment + 1)[..., None]
    sums = states.new_zeros(batch, length + 1, width).scatter_add_(1, place.expand(-1, -1, width), states)
    counts = states.new_zeros(batch, length + 1, 1).scatter_add_(1, place, states.new_ones(batch, length, 1))
    means = sums / counts.clamp(min=1)
    means[:, 0] = 0
    return means.gather(1, place.expand(-1, -1, width))


def explained_share(sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What of the targets' variance the student explains, and that variance as a share of the targets' squares.

    1 - sum |x - y|^2 / sum |y - mean y|^2 for states x and targets y, the second sum and the mean over frames that are
    in segments: 1 where student and targets are the same, 0 and less where it might as well say their mean, and 0 where
    all targets are the same.

    Args:
        sums: `error`, `target` (D,), `target_square` and `speech_count`.
    """
    mean_square = sums["target"].square().sum() / sums["speech_count"].clamp(min=1)
    varying = (sums["target_square"] - mean_square).clamp(min=0)
    share = varying / sums["target_square"].clamp(min=1e-12)
    explained = 1 - sums["error"] / varying.clamp(min=1e-12)
    return torch.where(share > 1e-6, explained, torch.zeros_like(explained)), share
