"""The projection head, the teacher, and layers that begin anew."""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sdhubert_ray.encoder.model import SDHuBERT, run_to_cls


class Head(nn.Module):
    """Projection of CLS states: linear, GELU, linear, GELU, linear, layer norm, linear.

    Computed in the precision of its weights, whatever autocast says: it is small, and the loss divides by 0.05.
    """

    def __init__(self, width: int, final_dim: int) -> None:
        super().__init__()
        self.final_proj = nn.Sequential(
            nn.Linear(width, final_dim),
            nn.GELU(),
            nn.Linear(final_dim, final_dim),
            nn.GELU(),
            nn.Linear(final_dim, final_dim),
        )
        self.layernorm = nn.LayerNorm(final_dim)
        self.final_lin = nn.Linear(final_dim, final_dim)

    def forward(self, cls: Tensor) -> Tensor:
        """(B, D) CLS states to (B, P) logits."""
        with torch.autocast(cls.device.type, enabled=False):
            logits: Tensor = self.final_lin(self.layernorm(self.final_proj(cls.to(self.final_lin.weight.dtype))))
        return logits


class Teacher(nn.Module):
    """A copy of the student's transformer layers and head that follows them slowly; never trained, always in eval mode.

    What comes before the layers is the student's: projection, positional convolution, layer norm, CLS and mask vector.
    """

    def __init__(self, student: SDHuBERT, head: Head) -> None:
        super().__init__()
        self.layers: nn.ModuleList = copy.deepcopy(student.speech_model.encoder.layers)
        self.head = copy.deepcopy(head)
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever the student does."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, student: SDHuBERT, frames: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """CLS states (B, D) and logits (B, P) for (B, T, D) perturbed frames, (B,) of them valid."""
        states = student.put_cls(student.embed(frames))
        cls, _ = run_to_cls(states, num_frames, self.layers)
        return cls, self.head(cls)

    @torch.no_grad()
    def follow(self, student: SDHuBERT, head: Head, decay: float, taken: Tensor) -> None:
        """Move towards the student in place: decay * teacher + (1 - decay) * student.

        Where `taken`, () bool on its device, is false, it stays as it is; nothing is waited for.
        """
        own: list[Tensor] = [*self.layers.parameters(), *self.head.parameters()]
        theirs: list[Tensor] = [*student.speech_model.encoder.layers.parameters(), *head.parameters()]
        torch._foreach_lerp_(own, theirs, [(1 - decay) * taken] * len(own))


def reinitialise(layers: Sequence[nn.Module]) -> None:
    """Begin layers anew: weights of linear maps Xavier normal, biases zero, layer norms one and zero."""
    for module in _modules(layers):
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _modules(layers: Sequence[nn.Module]) -> Iterable[nn.Module]:
    for layer in layers:
        yield from layer.modules()
