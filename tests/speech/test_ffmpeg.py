"""What FFmpeg decodes, in time and to its end; and no other file with it."""

import io

import numpy as np
import pytest
from speech.encoding import (
    ID3V1,
    encode_by_ffmpeg,
    made_by_ffmpeg,
    read,
    speech_like,
    tone,
    write,
)

from sdhubert_ray.errors import AudioError
from sdhubert_ray.speech.audio import Span, probe_duration

# -- FFmpeg's formats

LOSSLESS = [("mp4", "alac"), ("matroska", "alac")]
LOSSY = [("mp4", "aac"), ("ipod", "aac"), ("mov", "aac"), ("3gp", "aac"), ("webm", "libopus"), ("matroska", "libopus")]
RAW = [("adts", "aac"), ("mpegts", "aac"), ("flv", "aac"), ("wav", "libmp3lame")]
"""Whose delay no header tells."""


def rate_of(codec):
    return 48_000 if codec == "libopus" else 16_000


@pytest.mark.parametrize("name", LOSSLESS)
def test_ffmpeg_lossless_samples_are_what_was_written(name):
    signal = speech_like(2.0)
    audio = read(made_by_ffmpeg(name, signal))
    assert audio.shortfall is None
    np.testing.assert_array_equal(audio.samples, np.round(signal * 32_767).astype(np.float32) / 32_768)


@pytest.mark.parametrize(
    ("name", "channels"), [(("mp4", "aac"), 8), (("mov", "pcm_s24le"), 6), (("wav", "pcm_u8"), 16)]
)
def test_many_channels(name, channels):
    """Eight that lie apart are more than PyAV's own arrays take: they read behind their end."""
    tones = [200 * (channel + 1) for channel in range(channels)]
    signal = np.stack([tone(frequency, 1.0) for frequency in tones], axis=1)
    data = made_by_ffmpeg(name, signal / 2)
    heard = set()
    for channel in range(channels):
        spectrum = np.abs(np.fft.rfft(read(data, channel=channel).samples[:16_000]))
        heard.add(round(float(np.argmax(spectrum[1:])) + 1, -1))
    if name[1] == "aac":  # the eighth is for low tones only
        assert len(heard & set(tones)) >= 7
    else:
        assert sorted(heard) == tones
    with pytest.raises(AudioError, match=f"has {channels} channel"):
        read(data, channel=channels)


@pytest.mark.parametrize("name", LOSSY + RAW)
def test_ffmpeg_formats_are_decoded(name):
    """In time where the format tells its delay; the length to the sample where it tells that."""
    rate = rate_of(name[1])
    left = tone(300, 3.0, rate) * np.hanning(3 * rate)
    right = tone(700, 3.0, rate, 0.2)
    data = made_by_ffmpeg(name, np.stack([left, right], axis=1), rate)
    audio = read(data, channel=0)
    assert audio.shortfall is None
    exact = 0.01 if name in LOSSY else 0.2
    assert audio.duration == pytest.approx(3.0, abs=exact)
    assert probe_duration(io.BytesIO(data)) == pytest.approx(3.0, abs=exact if name in RAW else 0.02)
    expected = tone(300, 3.0) * np.hanning(48_000)
    found = audio.samples[: len(expected)]
    if name in LOSSY:
        assert np.corrcoef(found, expected[: len(found)])[0, 1] > 0.99
    assert np.abs(found).max() == pytest.approx(0.5, abs=0.05)
    assert np.abs(read(data, channel=1).samples[8000:40_000]).max() == pytest.approx(0.2, abs=0.05)
    with pytest.raises(AudioError, match=r"has 2 channel\(s\), but channel 2"):
        read(data, channel=2)


@pytest.mark.parametrize("name", LOSSLESS + LOSSY + RAW)
def test_ranges_of_ffmpeg_formats_equal_the_slices(name):
    data = made_by_ffmpeg(name, speech_like(3.0, rate_of(name[1])), rate_of(name[1]))
    rate = rate_of(name[1])
    whole = read(data)
    for start, end in ((0.0, 1.0), (0.7, 2.2), (1.5, None)):
        audio = read(data, Span(start, end))
        assert (audio.offset, audio.shortfall) == (start, None)
        if rate == 16_000:
            stop = None if end is None else round(end * rate)
            np.testing.assert_array_equal(audio.samples, whole.samples[round(start * rate) : stop])
    beyond = read(data, Span(2.0, 9.0))
    assert beyond.shortfall.endswith("before the 9.000 s that were asked for")


@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.9])
@pytest.mark.parametrize(
    ("name", "movflags"),
    [
        (("mp4", "alac"), "faststart"),
        (("mp4", "aac"), "faststart"),
        (("mp4", "aac"), "frag_keyframe+empty_moov"),
        (("mp4", "aac"), ""),
        (("matroska", "libopus"), ""),
    ],
)
def test_a_cut_file_of_ffmpeg_is_told(name, movflags, fraction):
    options = {"movflags": movflags} if movflags else {}
    rate = rate_of(name[1])
    data = encode_by_ffmpeg(speech_like(4.0, rate), rate, *name, **options)
    cut = data[: int(len(data) * fraction)]
    if name[0] == "mp4" and not movflags:  # its index is at its end
        with pytest.raises(AudioError, match=r"^is not audio that can be decoded \(Invalid data found when .*\)$"):
            read(cut)
        return
    audio = read(cut)
    assert audio.duration < 3.95
    assert audio.shortfall.startswith(("is truncated: ", "is damaged: "))


def test_a_file_names_no_other_that_is_opened(tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(write(speech_like(1.0), "wav"))
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"[playlist]\nFile1={secret}\n",
    ):
        with pytest.raises(AudioError, match="is not audio that can be decoded"):
            read(text.encode())


def test_a_video_without_sound_is_refused():
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(AudioError, match="has no audio in it"):
        read(buffer.getvalue())


@pytest.mark.parametrize("name", [("ipod", "aac"), ("mp4", "alac"), ("mov", "aac")])
def test_joined_mp4s_are_the_audio_of_each(name):
    one, two = (made_by_ffmpeg(name, speech_like(seconds)) for seconds in (3.0, 2.0))
    audio = read(one + two)
    assert audio.shortfall is None
    np.testing.assert_array_equal(audio.samples, np.concatenate([read(one).samples, read(two).samples]))
    assert probe_duration(io.BytesIO(one + two)) == pytest.approx(5.0)


@pytest.mark.parametrize("after", [b"\r\n", ID3V1, bytes(4096), b"A comment of somebody, put behind it." * 30])
def test_what_is_put_behind_an_mp4_is_no_matter(after):
    data = made_by_ffmpeg(("ipod", "aac"), speech_like(2.0))
    audio = read(data + after)
    assert audio.shortfall is None
    np.testing.assert_array_equal(audio.samples, read(data).samples)
