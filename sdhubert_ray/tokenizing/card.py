"""The card of a folder of sequences: how `datasets` loads it, and what it holds, as the Hugging Face hub shows it."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import PurePosixPath

from sdhubert_ray.output.formats import sequence_files
from sdhubert_ray.output.formats.sequences import LOADABLE
from sdhubert_ray.output.usage import UnitUsage
from sdhubert_ray.speech import FRAME_RATE
from sdhubert_ray.tokenizing.planning import TokenizeJob

_ROWS = {
    "parquet": "id, status, duration (seconds), units, durations (frames of each unit)",
    "jsonl": "id, units, duration (seconds){durations}",
    "slamkit": "units, duration (frames of each unit), file_name (the id)",
}
_WITH_DURATIONS = ", durations and starts (frames of each unit)"


def write_card(job: TokenizeJob, usage: UnitUsage) -> bytes:
    """README.md for the sequences of a job, one of which is `LOADABLE` at least."""
    wanted = [name for name in LOADABLE if name in job.sequences.formats]
    title = PurePosixPath(job.sequences_folder).name
    rates = usage.rates(merged=job.sequences.dedup)
    checkpoint = job.record.get("checkpoint") or {}
    facts = {
        "recordings": f"{usage.recordings:,}, {usage.audio_seconds / 3600:.2f} hours",
        "units": f"{job.quantizer.num_units:,}, numbered from 0; {rates.used:,} are used",
        "tokens": f"{rates.tokens:,}, {rates.rate:.2f} a second",
        "runs of one unit": "merged" if job.sequences.dedup else "as they are",
        "entropy": f"{rates.entropy:.2f} bit a token, {rates.entropy_bitrate:.1f} bit a second",
        # By the last part of its name alone: the card is for others, the folders of this machine are not.
        "encoder": f"{PurePosixPath(checkpoint.get('name', 'not known')).name}, sha256 {checkpoint.get('sha256')}",
        "quantizer": f"sha256 {job.sha256}",
        "made with": f"sdhubert_ray {version('sdhubert_ray')}",
    }
    durations = _WITH_DURATIONS if job.sequences.durations else ""
    return _CARD.format(
        title=title,
        configs="\n".join(_configs(wanted)),
        facts="\n".join(f"| {label} | {text} |" for label, text in facts.items()),
        rows="\n".join(f"| `{name}` | {_ROWS[name].format(durations=durations)} |" for name in wanted),
        frame_rate=FRAME_RATE,
    ).encode()


def _configs(formats: Sequence[str]) -> Iterator[str]:
    """What `datasets` finds here; without it the statistics would be data.

    It reads all of a folder by one kind of reader, so that lines of JSON beside Parquet are for others.
    """
    kind = [name for name in formats if name == "parquet"] or formats
    for number, name in enumerate(kind):
        (file,) = sequence_files([name])
        yield f"- config_name: {name}\n  data_files: {file}" + ("" if number else "\n  default: true")


_CARD = """\
---
configs:
{configs}
tags:
- speech
- syllables
- speech-units
- sdhubert_ray
---

# {title}

Recordings of speech as sequences of discrete units, one for each syllable, for unit language models.

## Use

```python
from datasets import load_dataset

rows = load_dataset("USER/{title}", split="train")  # or the path of a copy of this folder
rows[0]["units"]
```

| format | a row, which is a recording |
|---|---|
{rows}

Frames are of {frame_rate} Hz. Between two units there may be frames that belong to neither: pauses.

## What it is

| | |
|---|---|
{facts}

## Data and licence

To be told by whoever publishes it: which recordings these are, and under which licence the sequences may be used
(`license:` above).
"""
