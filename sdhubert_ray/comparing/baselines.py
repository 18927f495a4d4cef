"""Segmenters without an encoder, run as any other: what a system has to be better than."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sdhubert_ray.corpus import Listing, Selection, list_inputs, name_inputs
from sdhubert_ray.output import Commit, Plan, StagedPlan
from sdhubert_ray.output.tables import ragged, ragged_vectors
from sdhubert_ray.runs.config import JobConfig, that_count
from sdhubert_ray.runs.execute import plan_job
from sdhubert_ray.runs.planning import Found, UnitOptions, stage_input
from sdhubert_ray.runs.session import OnCommit, Origin, Session, Summary, publish_here
from sdhubert_ray.runs.stages import CutSyllables, DecodeAudio, InTurn, ReadUnits, WriteSegments
from sdhubert_ray.runs.stages.resampling import settle_rows
from sdhubert_ray.runs.stages.rows import timed
from sdhubert_ray.speech import Samples
from sdhubert_ray.speech.audio import SAMPLE_RATE, AudioOptions
from sdhubert_ray.speech.mel import BANDS, log_mel, mel_levels
from sdhubert_ray.speech.segmenters import Segmenter, UniformOptions, ValleyOptions, valleys
from sdhubert_ray.speech.spans import SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import SyllableOptions, bind_segmenter, to_seconds
from sdhubert_ray.speech.windows import frame_amplitude
from sdhubert_ray.storage import absolute

MEL, ENERGY = "mel", "energy"
_FLOOR = 1e-3
"""Added to amplitudes before their logarithm: -60 dB of z-scored speech."""
_SHORTEST_UNIT = 60.0
_EVERYTHING = SpeechOptions("absolute", -1e9, silence_threshold=None, min_span_frames=0, max_span_seconds=3600.0)
"""Nothing is taken for silence, whatever the level."""


@dataclass(frozen=True)
class Baseline:
    """How a recording is cut without an encoder. Its features are log-mel energies, each band z-scored over a piece.

    Attributes:
        level: what tells speech of a frame: `mel`, the mean log-mel energy, or `energy`, the log of the mean |sample|.
        speech: thresholds of the level.
        cut: how spans of speech are cut: at valleys of the level, or by a segmenter of the features.
    """

    level: str = MEL
    speech: SpeechOptions = _EVERYTHING
    cut: ValleyOptions | SyllableOptions = field(default_factory=SyllableOptions)

    @property
    def segmenter(self) -> Segmenter:
        """What cuts, with its options bound."""
        if isinstance(self.cut, ValleyOptions):
            return functools.partial(valleys, options=self.cut)
        return bind_segmenter(self.cut)

    def identity(self) -> dict[str, object]:
        """What decides the results."""
        cut = asdict(self.cut) if isinstance(self.cut, ValleyOptions) else that_count(asdict(self.cut))
        return {"baseline": {"level": self.level, "speech": asdict(self.speech), "cut": cut}}

    def segment(self, samples: Samples) -> npt.NDArray[np.float64]:
        """Syllables of (n,) z-scored samples at 16 kHz: (S, 2) seconds."""
        features, level, amplitude = encode_mel(samples, self.level)
        return to_seconds(self.segmenter(features, level, find_speech(level, amplitude, self.speech).spans))


BASELINES: Mapping[str, Baseline] = {
    "mel-valleys": Baseline(MEL, SpeechOptions("relative", 0.1, silence_threshold=None), ValleyOptions(1.0, 0.01)),
    "energy": Baseline(ENERGY, SpeechOptions("relative", 0.2, silence_threshold=None), ValleyOptions(1.0, 0.0)),
    "uniform": Baseline(cut=SyllableOptions(segmenter="uniform", uniform=UniformOptions(0.2))),
}
"""By name. Thresholds are those of the best mean of F1 and R-value on validation recordings: docs/comparing.md."""


def encode_mel(
    samples: Samples, level: str = MEL
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Features in the place of an encoder's.

    Args:
        samples: (n,) z-scored, at 16 kHz.
        level: as `Baseline.level`.

    Returns:
        (T, 80) float32 features, (T,) float32 levels in the place of norms, and (T,) float32 amplitudes, T = n // 320.
    """
    bands = log_mel(samples)
    scaled = ((bands - bands.mean(axis=0)) / (bands.std(axis=0) + 1e-6)) if len(bands) else bands
    amplitude = frame_amplitude(samples, len(bands))
    levels = mel_levels(bands) if level == MEL else np.log(amplitude + np.float32(_FLOOR))
    return scaled.astype(np.float32), levels, amplitude


class EncodeMel:
    """Make mel features of each row's samples, on a CPU.

    In:  samples (n,) float32 or null, samples_hz, and window_phase.
    Out: what `EncodeSpeech` gives.
    """

    def __init__(self, level: str, audio: AudioOptions) -> None:
        """`level` is as `Baseline.level`, `audio` how rows were decoded."""
        self.level = level
        self.audio = audio

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Encode the rows of a unit."""
        began = time.perf_counter()
        batch, samples = settle_rows(batch, self.audio, "cpu")
        rows = [None if one is None else encode_mel(one, self.level) for one in samples]
        batch = batch.drop_columns(["samples", "samples_hz", "window_phase"])
        for name, column in (
            ("frame_features", ragged_vectors([row and row[0] for row in rows], np.float32, BANDS)),
            ("raw_norm", ragged([row and row[1] for row in rows], pa.float32())),
            ("amplitude", ragged([row and row[2] for row in rows], pa.float32())),
        ):
            batch = batch.append_column(name, column)
        return timed(batch, "encode", began)


def run_baseline(
    name: str,
    baseline: Baseline,
    inputs: Sequence[str],
    output: str,
    selection: Selection | None = None,
    on_commit: OnCommit = lambda rows, seconds: None,
) -> Summary:
    """Segment a corpus without an encoder, into an output like that of `sdhubert segment`; in this process, resumed.

    Args:
        name: of the baseline, for the run record.
        baseline: how recordings are cut.
        inputs: as `corpus.list_inputs` takes them.
        output: a folder or URI: new, or one to resume.
        selection: which recordings are taken; None takes all.
        on_commit: told of each commit: rows and seconds of audio in it.

    Raises:
        UserError: what the caller has to mend; nothing was written.
        BusyError: another run is at work on the output.
        IncompleteRunError: the run could not finish; the same call resumes it.
    """
    config = JobConfig(checkpoint=name, device="cpu", speech=baseline.speech)
    listing = list_inputs(inputs, selection or Selection(), config.audio.schemes)
    origin = Origin(name_inputs(inputs), None, None)
    stage = functools.partial(_stage, listing, absolute(output), config)
    job = plan_job(
        config,
        origin,
        {**baseline.identity(), "audio": config.identity(name)["audio"]},
        absolute(output),
        stage,
        engine="local",
        address=None,
        overwrite=False,
    )
    summary = Summary(job.output, job.engine, rows_done_before=job.num_rows - job.rows_left)
    options = config.segmentation
    baseline.segment(np.zeros(SAMPLE_RATE, np.float32))  # what it imports takes seconds: no part of a run, as a model's
    work = InTurn(
        ReadUnits(job.output),
        DecodeAudio(options.audio, options.windows),
        EncodeMel(baseline.level, options.audio),
        CutSyllables(options, config.output, segmenter=baseline.segmenter),
        WriteSegments(job.output, config.output.compression, job.run_id),
    )
    try:
        with Session(job, summary, on_commit) as session:
            for plan, unit in session.units:
                session.add(work(pa.table({"plan": [plan], "unit": [unit]})))
            session.settle(publish_here)
    finally:
        job.folder.cleanup()
    return summary


def _stage(
    listing: Listing,
    output: str,
    config: JobConfig,
    plans: Sequence[Plan],
    _commits: Sequence[Commit],
    folder: Path,
) -> tuple[StagedPlan, Found, str]:
    resources = config.resources
    layout = UnitOptions(
        config.audio.piece_seconds, resources.unit_seconds, resources.unit_rows, lambda: 1, _SHORTEST_UNIT
    )
    return *stage_input(listing, output, plans, layout, folder), "input"
