"""Speech with syllables, for training: recordings aligned with their transcripts, and sentences said by flite."""

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from recipes.small.align import Aligner, spoken_words
from recipes.small.options import PrepareOptions
from recipes.small.voices import VOICES, Flite, Manner
from sdhubert_ray.corpus import Selection, list_input
from sdhubert_ray.corpus.shards import audio_to_decode
from sdhubert_ray.errors import AudioError, UserError, first_line
from sdhubert_ray.evaluation.syllabify import Phone, syllabify
from sdhubert_ray.speech import Samples
from sdhubert_ray.speech.audio import SAMPLE_RATE, Span, read_audio

REFERENCES = "syllables.json"
"""The file of a folder of recordings that says what their syllables are."""
_FOLLOWING, _OWN_PITCH = 0.8, 0.5


class _Folder:
    """Recordings with their syllables, which count when all are there: `syllables.json` is written last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._references: dict[str, dict[str, Any]] = {}
        path.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._references)

    def add(self, name: str, samples: Samples, phones: list[Phone]) -> bool:
        """Add a recording of (n,) samples at 16 kHz, unless it has no syllable."""
        entries = [
            {"start": round(start, 4), "end": round(end, 4), "label": label}
            for start, end, label in syllabify(phones, name)
            if round(start, 4) < round(end, 4)
        ]
        if entries:
            file_name = f"{len(self):05d}.flac"
            soundfile.write(self._path / file_name, samples, SAMPLE_RATE, subtype="PCM_16")
            self._references[name] = {"file_name": file_name, "syllables": entries}
        return bool(entries)

    def close(self) -> None:
        """Make it count."""
        written = self._path / f"{REFERENCES}.part"
        written.write_text(json.dumps(self._references))
        written.rename(self._path / REFERENCES)


def prepare(source: str, out: Path, options: PrepareOptions, seed: int) -> None:
    """Write `real/` and `synthetic/` below a folder, each a FLAC a recording and last `syllables.json`.

    Raises:
        UserError: the manifest cannot be used, names no transcripts, or nothing can be aligned; flite or pocketsphinx
            is not there.
    """
    real, synthetic = out / "real", out / "synthetic"
    needed = {real: True, synthetic: options.synthetic_minutes > 0}
    missing = [folder for folder, is_needed in needed.items() if is_needed and not (folder / REFERENCES).exists()]
    if not missing:
        return
    rows, flite = list_recordings(source, options.split), Flite()
    if real in missing:
        _align_all(rows, Aligner(flite), real)
    if synthetic in missing:
        _say_all([row["transcript"] for row in rows], flite, synthetic, options, seed)


def list_recordings(source: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split that have a transcript.

    Raises:
        UserError: the manifest cannot be used, or has none.
    """
    rows = [row for batch in list_input(source, Selection(splits=(split,))).batches for row in batch.to_pylist()]
    rows = [row for row in rows if row.get("transcript")]
    for row in rows:
        if not isinstance(row["transcript"], str):
            raise UserError(f"{source} has the transcript {row['transcript']!r} for {row['id']!r}; it has to be a text")
    if not rows:
        raise UserError(f"{source} has no recordings of split {split!r} with a transcript; add the column `transcript`")
    return rows


def _align_all(rows: list[dict[str, Any]], aligner: Aligner, out: Path) -> None:
    folder, left = _Folder(out), []
    for row in rows:
        try:
            samples = _read(row)
        except (AudioError, OSError) as error:
            left.append(f"{row['id']} ({first_line(error)})")
            continue
        phones = aligner.align(samples, row["transcript"])
        if phones is None or not folder.add(row["id"], samples, phones):
            left.append(f"{row['id']} (no alignment)")
    if not len(folder):
        raise UserError(f"none of {len(rows)} recordings can be aligned with its transcript, such as {left[0]}")
    folder.close()
    print(f"aligned {len(folder)} recordings; left out {len(left)}: {', '.join(left) or 'none'}", flush=True)


def _read(row: dict[str, Any]) -> Samples:
    """The samples of a recording, 16 kHz."""
    place = row.get("member"), row.get("byte_offset"), row.get("byte_size")
    with audio_to_decode(row["uri"], *place, None) as file:
        return read_audio(file, Span(row.get("start") or 0.0, row.get("end")), row.get("channel")).samples


def _say_all(transcripts: list[str], flite: Flite, out: Path, options: PrepareOptions, seed: int) -> None:
    """Say sentences that go on from word to word as the transcripts do."""
    draw = np.random.default_rng((seed, 1))
    followers = defaultdict(list)
    for transcript in transcripts:
        for one, other in itertools.pairwise(spoken_words(transcript)):
            followers[one].append(other)
    if not followers:
        raise UserError("no transcript has two words to make sentences of; give more, or prepare.synthetic_minutes=0")
    starts, seconds = sorted(followers), 0.0
    folder = _Folder(out)
    while seconds < 60 * options.synthetic_minutes:
        words = [starts[draw.integers(len(starts))]]
        for _ in range(int(draw.integers(options.words[0] - 1, options.words[1]))):
            # A word of its own now and then, as the transcripts do not go on for ever.
            known = followers.get(words[-1]) if draw.random() < _FOLLOWING else None
            words.append(known[draw.integers(len(known))] if known else starts[draw.integers(len(starts))])
        pitch = float(draw.uniform(*options.pitch)) if draw.random() < _OWN_PITCH else None
        manner = Manner(VOICES[draw.integers(len(VOICES))], float(draw.uniform(*options.stretch)), pitch)
        spoken = flite.say(" ".join(words), manner)
        folder.add(f"{len(folder):05d}", spoken.samples, spoken.phones)
        seconds += len(spoken.samples) / SAMPLE_RATE
    folder.close()
    print(f"said {len(folder)} sentences, {seconds / 60:.1f} minutes", flush=True)
