"""What is asked of states: alike within a syllable, unlike its neighbours, and short where there is no speech."""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from recipes.small.crops import NO_SYLLABLE, NUM_PARTS
from recipes.small.options import ObjectiveOptions


class Objective(nn.Module):
    """Losses of the last states, with a head for phones that is not exported."""

    def __init__(self, width: int, options: ObjectiveOptions) -> None:
        super().__init__()
        self.options = options
        self.head = nn.Linear(width, NUM_PARTS)

    def forward(self, states: Tensor, syllable: Tensor, parts: Tensor) -> dict[str, Tensor]:
        """The losses of (B, T, D) states of frames with (B, T) syllables and (B, T, P) phones, and their `sum`."""
        speech = syllable != NO_SYLLABLE
        losses = {
            "pairs": self._pairs(states, syllable, speech),
            "speech": self._speech(states, speech),
            "parts": self._parts(states, parts, speech),
        }
        losses["sum"] = losses["pairs"] + losses["speech"] + self.options.parts_weight * losses["parts"]
        return losses

    def _pairs(self, states: Tensor, syllable: Tensor, speech: Tensor) -> Tensor:
        """Whether two frames are of the same syllable, by their cosine; both answers weigh as much."""
        length = states.shape[1]
        unit = functional.normalize(states, dim=2)
        logits = (unit @ unit.mT - self.options.margin) * self.options.sharpness
        place = torch.arange(length, device=states.device)
        apart = place[None] - place[:, None]
        counted = speech[:, :, None] & speech[:, None] & (apart > 0) & (apart <= self.options.reach)
        same = syllable[:, :, None] == syllable[:, None]
        return _balanced(logits, same, counted)

    def _speech(self, states: Tensor, speech: Tensor) -> Tensor:
        """Whether a frame is speech, by its norm."""
        norm = torch.linalg.vector_norm(states, dim=2) / states.shape[2] ** 0.5
        logits = (norm - self.options.norm_margin) * self.options.norm_sharpness
        return _balanced(logits, speech, torch.ones_like(speech))

    def _parts(self, states: Tensor, parts: Tensor, speech: Tensor) -> Tensor:
        """Which phones are in the syllable of a frame: nats, summed over phones, mean over the frames with speech."""
        losses = functional.binary_cross_entropy_with_logits(self.head(states), parts, reduction="none").sum(2)
        return _mean(losses, speech)


def _balanced(logits: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Mean of the binary cross-entropies of the true and of the false."""
    losses = functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    return (_mean(losses, counted & truth) + _mean(losses, counted & ~truth)) / 2


def _mean(losses: Tensor, chosen: Tensor) -> Tensor:
    """Mean over what is chosen, by all workers: of the workers' gradients the mean is taken afterwards."""
    count = chosen.sum().to(losses.dtype)
    if distributed.is_initialized():
        distributed.all_reduce(count)
        count = count / distributed.get_world_size()
    return (losses * chosen).sum() / count.clamp(min=1)
