"""Mean and variance of samples as they go by, for the z-score of a recording whose end nobody has heard."""

import math

import numpy as np

from sdhubert_ray.speech import Samples
from sdhubert_ray.speech.audio import NONE, AudioOptions, correction_of


class RunningLevel:
    """Mean and variance of all samples so far, or, of more than `horizon`, of the last ones above all.

    Blocks are added as in Chan, Golub and LeVeque (1983), in float64. From `horizon` samples on what has been counts as
    much as so many less the new ones: its weight fades with that time constant.
    """

    def __init__(self, horizon: int) -> None:
        """Begin with nothing; `horizon` is in samples."""
        self._horizon = horizon
        self._count = 0
        self._mean = 0.0
        self._variance = 0.0

    def add(self, samples: Samples) -> None:
        """Take (n,) float32 samples, n at least 1."""
        new = len(samples)
        old = min(self._count, max(self._horizon - new, 0))
        self._count = old + new
        share = new / self._count
        apart = float(np.mean(samples, dtype=np.float64)) - self._mean
        within = float(np.var(samples, dtype=np.float64)) - self._variance
        self._mean += share * apart
        self._variance += share * within + share * (1 - share) * apart**2

    def normalise(self, samples: Samples, options: AudioOptions) -> Samples:
        """`speech.audio.normalise` of (n,) float32 samples by this mean and variance; they may not both be 0."""
        if options.normalisation == NONE:
            return samples
        correction = self._count / (self._count - correction_of(options.normalisation))
        scale = math.sqrt(self._variance * correction + options.variance_floor)
        return ((samples - np.float32(self._mean)) / np.float32(scale)).astype(np.float32, copy=False)
