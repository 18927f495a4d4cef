"""Runs of `segment` in the tests' own process."""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

from sdhubert_ray.corpus import list_input
from sdhubert_ray.encoder import fetch_checkpoint
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.execute import prepare_job, run_job
from sdhubert_ray.runs.session import Job, Summary

SMALL = ("resources.unit_rows=3", "audio.piece_seconds=20", "output.rows_per_file=6")


class Segmenting:
    """Runs `segment`; of recordings that no test changes, one run a choice of options, whose output is copied."""

    def __init__(self, folder: Path, checkpoint: Path, unchanged: Sequence[Path]) -> None:
        """`folder` is for the runs that are copied, `unchanged` are the sources that no test changes."""
        self._folder = folder
        self._checkpoint = fetch_checkpoint(str(checkpoint))
        self._unchanged = {*map(str, unchanged)}
        self._made: dict[tuple[str, ...], tuple[Path, Summary]] = {}

    def plan(
        self,
        source: Path,
        output: Path,
        overrides: Sequence[str] = SMALL,
        engine: str = "local",
        retry: Sequence[str] = (),
    ) -> Job:
        config = load_config(None, list(overrides), {}, self._checkpoint.options)
        listing = None if retry else list_input(str(source))
        return prepare_job(config, self._checkpoint, str(source), listing, str(output), engine=engine, retry=retry)

    def __call__(self, source: Path, output: Path, overrides: Sequence[str] = SMALL) -> Summary:
        if str(source) not in self._unchanged or output.exists():
            return run(self.plan(source, output, overrides))
        choice = (str(source), *overrides)
        if choice not in self._made:
            made = self._folder / str(len(self._made))
            self._made[choice] = made, run(self.plan(source, made, overrides))
        made, summary = self._made[choice]
        shutil.copytree(made, output)
        return copy.deepcopy(summary)


def run(job: Job) -> Summary:
    """Do a planned job to its end."""
    return run_job(job, lambda rows, seconds: None)
