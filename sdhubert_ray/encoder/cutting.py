"""Many spans cut at once where their features are: the minimum cut of `mincut` in torch, for any device."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SIMILARITY_FLOOR = 1e-7


def similarities(features: Tensor, num_frames: Sequence[int]) -> Tensor:
    """X X^T - min(X X^T) + 1e-7 of each span, as `speech.syllables.initial_cut` has it.

    Args:
        features: (B, T, D) floating; any finite values beyond a span's frames.
        num_frames: of each of the B spans, 1 to T.

    Returns:
        (B, T, T) float64, zero beyond a span's frames.
    """
    wide = features.double()
    products = wide @ wide.transpose(1, 2)
    valid = torch.arange(features.shape[1], device=features.device) < _to_device(num_frames, features.device)[:, None]
    inside = valid[:, :, None] & valid[:, None, :]
    least = products.masked_fill(~inside, torch.inf).amin((1, 2), keepdim=True)
    return (products - least + _SIMILARITY_FLOOR).masked_fill_(~inside, 0)


def min_cuts(
    similarity: Tensor, num_frames: Sequence[int], num_segments: Sequence[int], max_frames: int
) -> list[npt.NDArray[np.int64]]:
    """What `mincut.min_cut` gives of each matrix, its segments `max_frames` long at most.

    Boundaries are those of the kernel but where two cuts differ by rounding alone: the sums of rows have another order.
    Time is O(B n L K) in L + K steps; memory O(B n (L + K)). Only the boundaries leave the device, at the end.

    Args:
        similarity: (B, n, n) float64, positive and finite within the frames of each span, zero beyond.
        num_frames: of each of the B spans, 2 to n.
        num_segments: of each, from 1 to its frames - 1.
        max_frames: L; L * num_segments reach a span's last frame.

    Returns:
        for each span (num_segments + 1,) int64 boundaries in frames, as of `min_cut`.

    Raises:
        ValueError: a number of segments that does not fit, or that `max_frames` is too small for.
    """
    for frames, segments in zip(num_frames, num_segments, strict=True):
        if not 1 <= segments <= frames - 1:
            raise ValueError(f"num_segments must be from 1 to {frames - 1} for {frames} frames, but it is {segments}")
        if segments * max_frames < frames - 1:
            raise ValueError(
                f"max_frames must be {-(-(frames - 1) // segments)} or more for {segments} segments of {frames} "
                f"frames, but it is {max_frames}"
            )
    if not len(num_frames):
        return []
    longest = min(max_frames, similarity.shape[1] - 1)
    starts = _best_starts(_costs(similarity, longest), max(num_segments))
    ends = _to_device([frames - 1 for frames in num_frames], similarity.device)
    cuts = _to_device(num_segments, similarity.device)
    boundaries = ends.new_zeros((len(ends), max(num_segments) + 1))
    for k in range(max(num_segments), 0, -1):
        is_cut = cuts >= k  # spans of fewer segments wait for theirs
        boundaries[:, k] = ends
        ends = torch.where(is_cut, ends - longest + starts[k - 1].gather(1, ends[:, None])[:, 0], ends)
    found = boundaries.cpu().numpy()
    return [row[: count + 1].copy() for row, count in zip(found, num_segments, strict=True)]


def _costs(similarity: Tensor, longest: int) -> Tensor:
    """The cost of each segment of up to L frames: (B, n, L), [b, i, L - m] of the m frames before i, inf before 0.

    Sums only ever grow by positive terms, in the order of the kernel: `border`, `blocks` and `rows` of m frames before
    each end i come from those of m - 1, of this end or of the one before.
    """
    size, n, _ = similarity.shape
    costs = similarity.new_full((size, n, longest), torch.inf)
    row_sums = similarity.sum(2)
    border, blocks, rows = (
        similarity.diagonal(dim1=1, dim2=2),
        similarity.new_zeros(size, n),
        torch.zeros_like(row_sums),
    )
    for m in range(1, longest + 1):
        # From here on, [:, x] is of the end i = m + x; there are n - m of them.
        if m > 1:
            pairs = similarity.diagonal(1 - m, 1, 2) + similarity.diagonal(m - 1, 1, 2)
            border = border[:, 1:] + pairs
            blocks, rows = blocks[:, :-1], rows[:, :-1]
        blocks = blocks + border
        rows = rows + row_sums[:, m - 1 :]
        cut = rows - blocks
        costs[:, m:, longest - m] = (cut / (cut + 0.5 * blocks))[:, : n - m]
    return costs


def _best_starts(costs: Tensor, num_segments: int) -> list[Tensor]:
    """For each k the start l of the last of k segments that end at i, as in `_costs`: (B, n) int64 of 0..L - 1.

    Equal values go to the smallest start.
    """
    size, n, longest = costs.shape
    best = costs.new_full((size, longest + n), torch.inf)  # of ends -L..n - 1
    best[:, longest] = 0.0
    starts = []
    for _ in range(num_segments):
        values, chosen = (best.unfold(1, longest, 1)[:, :n] + costs).min(dim=2)
        best = torch.cat([best.new_full((size, longest), torch.inf), values], dim=1)
        starts.append(chosen)
    return starts


def _to_device(counts: Sequence[int], device: torch.device) -> Tensor:
    """(B,) int64, which are not waited for."""
    host = torch.tensor(list(counts), dtype=torch.int64, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)
