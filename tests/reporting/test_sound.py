"""Sounds of a report: small, of the right stretch, and told where there are none."""

import io

import numpy as np
import pytest
import soundfile
from evaluation_inputs import make_output, make_row
from recorded import DEMO

from sdhubert_ray.output import read_segments, require_contents
from sdhubert_ray.reporting import sound
from sdhubert_ray.reporting.sound import read_sounds, to_opus


def sounds_of(output):
    return read_sounds(require_contents(output), output, list(read_segments(output)), lambda: None)


def decoded(data):
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    step = rate // 16_000
    return samples[::step]


def envelope(samples):
    cells = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    return np.sqrt((cells**2).mean(axis=1))


def test_opus_is_the_same_speech_at_the_same_times_in_a_tenth_of_the_bytes():
    samples, rate = soundfile.read(DEMO / "synth_2.flac", dtype="float32")
    data = to_opus(samples)
    assert len(data) * 8 / (len(samples) / rate) < 26_000
    heard = decoded(data)
    assert len(heard) == pytest.approx(len(samples), abs=320)
    before, after = envelope(samples), envelope(heard)
    size = min(len(before), len(after))
    fits = [np.corrcoef(before[3 : size - 3], after[3 + lag : size - 3 + lag])[0, 1] for lag in (-2, -1, 0, 1, 2)]
    assert int(np.argmax(fits)) == 2
    assert max(fits) > 0.97


@pytest.mark.parametrize("level", [0.0, 1e-4, 1.0])
def test_what_is_nearly_silent_stays_so(level):
    tone = level * np.sin(np.arange(16_000) * 0.2).astype(np.float32)
    assert np.abs(decoded(to_opus(tone))).max() <= max(12 * level, 1e-3)


def test_a_sound_begins_where_its_recording_does(tmp_path):
    ramp = np.concatenate([np.zeros(32_000), 0.5 * np.sin(np.arange(32_000) * 0.3)])
    soundfile.write(tmp_path / "ramp.wav", ramp, 16_000)
    row = make_row("late", [(1.9, 2.2)], uri=str(tmp_path / "ramp.wav"), offset=1.5, duration=1.0)
    (found,) = sounds_of(make_output(tmp_path / "out", [row]))
    heard = decoded(found.data)
    assert len(heard) == pytest.approx(16_000, abs=320)
    assert np.abs(heard[:7_000]).max() < 0.05 < 0.3 < np.abs(heard[9_000:]).max()


def test_what_cannot_be_had_is_told_and_does_not_stop_the_others(tmp_path):
    good = make_row("good", uri=str(DEMO / "synth_0.flac"), duration=2.0)
    (tmp_path / "text.wav").write_text("no audio\n")
    rows = [
        make_row("gone", uri=str(tmp_path / "gone.wav")),
        make_row("text", uri=str(tmp_path / "text.wav")),
        make_row("odd", uri="nowhere://a.wav"),
        make_row("bad", status="unreadable", error="/x is not audio"),
        good,
    ]
    found = sounds_of(make_output(tmp_path / "out", rows))
    assert [one.data is None for one in found] == [True, True, True, True, False]
    assert found[0].silence == "its audio is no longer where it was"
    assert found[1].silence.startswith("its audio ")
    assert "cannot be fetched" in found[2].silence
    assert found[3].silence == "/x is not audio"


def test_sounds_end_where_there_is_no_more_room(tmp_path, monkeypatch):
    row = make_row("a", uri=str(DEMO / "synth_0.flac"), duration=2.0)
    output = make_output(tmp_path / "out", [{**row, "id": name, "key": f"{name}#0"} for name in "abc"])
    one = len(sounds_of(output)[0].data)
    monkeypatch.setattr(sound, "MOST_BYTES", 2 * one + 1)
    assert [found.silence for found in sounds_of(output)] == [
        None,
        None,
        "there was no room for more sound in one page",
    ]
