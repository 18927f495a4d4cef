"""Two processes that sum over each other, as the workers of a training do."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch


@contextlib.contextmanager
def one_of_two(rank: int, folder: Path) -> Iterator[None]:
    """Be worker `rank` of two that meet in a folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
