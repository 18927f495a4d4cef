"""What a student can be asked for, and the options of the objective `segments`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from sdhubert_ray.errors import UserError, require_choice

SENTENCE, SEGMENTS = "sentence", "segments"
OBJECTIVES = (SENTENCE, SEGMENTS)
OF_SENTENCE = ("final_dim", "center_momentum", "perturb_teacher", "student_temperature", "teacher_temperature")
"""Options of `model` that the objective `sentence` alone has."""
_OF_OWN_SEGMENTS = ("merge_threshold", "speech_norm", "quiet_norm")
"""Options of `segments` that do nothing where segments are given."""


@dataclass(frozen=True)
class SegmentsOptions:
    """Self-segmentation distillation: each frame of a segment has to become the segment's mean, as the teacher has it.

    As of Sylber (Cho et al. 2024, arXiv 2410.07168), in two stages: with segments that are given, then with the
    teacher's own. Defaults are its published values.

    Attributes:
        source: an output folder of `sdhubert segment` with syllables of the same recordings, which are the segments;
            none: the teacher's own, which `mincut.greedy_segments` finds in its states.
        layer: the states that are trained, the output of this layer; the encoder ends with it.
        noise_share: share of the crops that the student hears with noise or other speech.
        mix_share: share of these that have a part of another recording in them, the others have noise.
        merge_threshold: range that the merge threshold of greedy segments is drawn from, for each crop.
        speech_norm: mean and variance that the norms of speech frames begin with; none finds them, and `quiet_norm`,
            in crops before the first step.
        quiet_norm: likewise, of the other frames. The norm threshold of greedy segments is where both normal
            densities cross.
        norm_decay: share of these means and variances that stays in a step.
    """

    source: str | None = None
    layer: int = 9
    noise_share: float = 0.2
    mix_share: float = 0.25
    merge_threshold: tuple[float, float] = (0.8, 0.9)
    speech_norm: tuple[float, float] | None = None
    quiet_norm: tuple[float, float] | None = None
    norm_decay: float = 0.9999

    def __post_init__(self) -> None:
        for key in ("merge_threshold", "speech_norm", "quiet_norm"):
            value = getattr(self, key)
            if value is not None:  # from YAML it comes as a list
                object.__setattr__(self, key, tuple(value))
        if self.layer < 1:
            raise ValueError(f"segments.layer is {self.layer}; the first layer whose output can be trained is 1")
        for key in ("noise_share", "mix_share", "norm_decay"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"segments.{key} is {getattr(self, key)}; it has to be from 0 to 1")
        if len(self.merge_threshold) != 2 or not 0 <= self.merge_threshold[0] <= self.merge_threshold[1] <= 1:
            raise ValueError(
                f"segments.merge_threshold is {list(self.merge_threshold)}; it has to be a range within 0 to 1"
            )
        for key in ("speech_norm", "quiet_norm"):
            value = getattr(self, key)
            if value is not None and (len(value) != 2 or not all(0 < part < math.inf for part in value)):
                raise ValueError(f"segments.{key} is {list(value)}; it has to be a mean and a variance, both above 0")
        if (self.speech_norm is None) != (self.quiet_norm is None):
            raise ValueError("of segments.speech_norm and segments.quiet_norm one is given; give both, or none")
        if self.speech_norm and self.quiet_norm and not self.speech_norm[0] > self.quiet_norm[0]:
            raise ValueError(
                f"segments.speech_norm has the mean {self.speech_norm[0]:g}, which has to be above that of "
                f"segments.quiet_norm, {self.quiet_norm[0]:g}"
            )


def check_objective(objective: str) -> None:
    """Refuse an objective that there is not, by a ValueError."""
    require_choice("objective", objective, OBJECTIVES)


def refuse_unused(objective: str, segments: SegmentsOptions, given: Sequence[DictConfig]) -> None:
    """Refuse options of another objective than the one that is chosen: they would do nothing, and nobody would see.

    Args:
        objective: that is chosen.
        segments: its options.
        given: parts of the configuration, but for a file, which may hold all that there are.

    Raises:
        UserError: one of them does nothing.
    """
    for part in given:
        for key in map(str, part.get("model") or {}):
            if objective != SENTENCE and key in OF_SENTENCE:
                raise UserError(_not_of(f"model.{key}", SENTENCE, objective))
        for key in map(str, part.get("segments") or {}):
            if objective != SEGMENTS:
                raise UserError(_not_of(f"segments.{key}", SEGMENTS, objective))
            if segments.source is not None and key in _OF_OWN_SEGMENTS and part["segments"][key] is not None:
                raise UserError(
                    f"segments.{key} is for segments that the teacher finds, but segments.source gives them; "
                    "leave one of the two out"
                )


def _not_of(key: str, whose: str, objective: str) -> str:
    return f"{key} is for the objective {whose}, but objective is {objective}; leave it out, or choose that one"
