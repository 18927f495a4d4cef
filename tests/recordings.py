"""Recordings of all kinds, for tests of whole runs."""

import json
import shutil

import numpy as np
import soundfile


def write_long(golden, path):
    """50 s of speech: three pieces of 20 s at most."""
    audio = [soundfile.read(golden / f"audio/synth_{number}.flac")[0] for number in range(5)]
    soundfile.write(path, np.concatenate(audio * 2)[: 50 * 16_000], 16_000)


def write_corpus(golden, folder):
    """A manifest of 13 recordings in 15 pieces, with a column to carry: good, long, silent, short, broken, missing."""
    audio = folder / "audio"
    audio.mkdir()
    names = [f"take{number}.flac" for number in range(9)]
    for number, name in enumerate(names):
        shutil.copy(golden / f"audio/synth_{number % 5}.flac", audio / name)
    write_long(golden, audio / "take0.flac")
    soundfile.write(audio / "silent.wav", np.zeros(32_000), 16_000)
    soundfile.write(audio / "short.wav", np.ones(800), 16_000)
    (audio / "broken.wav").write_text("no audio\n")
    names += ["silent.wav", "short.wav", "broken.wav", "missing.wav"]
    rows = [{"id": name, "uri": f"audio/{name}", "speaker": f"s{len(name)}"} for name in names]
    manifest = folder / "corpus.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest
