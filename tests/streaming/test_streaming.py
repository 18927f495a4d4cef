"""Streams: any division gives the same syllables, what is given out stays so, and is what a whole recording gives."""

import itertools
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mincut import greedy_segments
from sdhubert_ray import MincutWrapper, SDHuBERTSegmenter, StreamingSegmenter
from sdhubert_ray.encoder.blending import EncodedPiece
from sdhubert_ray.errors import UserError
from sdhubert_ray.speech.audio import NORMALISATIONS, AudioOptions, normalise, resample
from sdhubert_ray.speech.presets import SegmentationOptions
from sdhubert_ray.speech.segmenters import GreedyOptions, UniformOptions
from sdhubert_ray.speech.spans import SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import SyllableOptions, find_syllables
from sdhubert_ray.streaming import frames as frames_of_streams
from sdhubert_ray.streaming.cutting import PROVISIONAL, SyllableStream
from sdhubert_ray.streaming.frames import FrameStream
from sdhubert_ray.streaming.level import RunningLevel

seeds = st.integers(0, 2**32 - 1)
ALIKE = 0.97


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint):
    """Random weights; their norms lie about the threshold, so that there are many spans."""
    whole = SDHuBERTSegmenter(tiny_checkpoint, device="cpu", normcut_strategy="absolute", silence_threshold=0)
    samples, rate = soundfile.read(tiny_checkpoint.parent.parent / "audio/synth_0.flac", dtype="float32")
    middle = float(np.percentile(whole(samples, rate)["norm"], 30))
    return SDHuBERTSegmenter(
        tiny_checkpoint, device="cpu", normcut_strategy="absolute", normcut_threshold=middle, silence_threshold=0
    )


@pytest.fixture(scope="module")
def cutter():
    return MincutWrapper(segmenter="greedy", segmenter_options={"norm_threshold": 0.0, "merge_threshold": ALIKE})


@pytest.fixture(scope="module")
def sound(golden):
    """Seconds that begin without a sound, 16 kHz."""
    samples, _ = soundfile.read(golden / "audio/synth_0.flac", dtype="float32")
    return np.concatenate([np.zeros(6_000, np.float32), samples])[:56_000]


def divided(array, places):
    return np.split(array, sorted(places))


def all_of(stream, parts):
    """Syllables of a whole stream as plain values."""
    found = [syllable for part in parts for syllable in stream.push(part)] + stream.flush()
    return [(one.start, one.end, one.frames, one.feature.tobytes()) for one in found]


# -- the whole chain


@settings(deadline=None, max_examples=5)
@given(places=st.lists(st.integers(0, 56_000), max_size=12), hop=st.sampled_from([0.2, 0.74]))
def test_syllables_do_not_hang_on_how_samples_are_divided(encoder, cutter, sound, places, hop):
    def stream():
        return StreamingSegmenter(encoder, cutter, look_ahead=0.3, hop=hop, window=2.0)

    expected = all_of(stream(), [sound])
    assert len(expected) > 5
    assert all_of(stream(), divided(sound, places)) == expected


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_another_rate_is_resampled_as_a_recording_is_however_it_is_divided(encoder, cutter, rate):
    samples = (np.random.default_rng(0).standard_normal(2 * rate) * np.linspace(0, 0.3, 2 * rate)).astype(np.float32)
    expected = all_of(StreamingSegmenter(encoder, cutter), [resample(samples, rate)])
    assert expected
    parts = divided(samples, np.random.default_rng(rate).integers(0, len(samples), 200))
    assert all_of(StreamingSegmenter(encoder, cutter, rate), parts) == expected


@pytest.mark.parametrize("rate", [16_000.0, np.int64(16_000), np.float32(16_000)])
def test_a_rate_may_be_as_drivers_and_arrays_tell_it(encoder, cutter, sound, rate):
    stream = StreamingSegmenter(encoder, cutter, rate)
    assert type(stream.sample_rate) is int
    assert all_of(stream, [sound]) == all_of(StreamingSegmenter(encoder, cutter), [sound])


@pytest.mark.parametrize("seconds", [0.12, 1.0, 3.5])
@pytest.mark.parametrize("segmenter", ["greedy", "min-cut"])
def test_who_hears_all_before_answering_finds_what_offline_does(encoder, cutter, sound, segmenter, seconds):
    cut = cutter if segmenter == "greedy" else MincutWrapper()
    samples = sound[-round(16_000 * seconds) :]
    stream = StreamingSegmenter(encoder, cut, look_ahead=4.2, hop=0.2, window=5.0)
    assert stream.push(samples) == []
    found = stream.flush()
    whole = cut(encoder(samples, 16_000))
    np.testing.assert_array_equal(np.reshape([(one.start, one.end) for one in found], (-1, 2)), whole["segments"])
    for one, feature in zip(found, whole["segment_features"], strict=True):
        np.testing.assert_allclose(one.feature, feature, atol=1e-4)
        assert one.feature.dtype == np.float32
        assert one.frames == (round(one.start * 50), round(one.end * 50))


@pytest.mark.parametrize("seconds", [0.11, 0.5, 3.5])
def test_an_encoder_whose_windows_are_not_padded_is_heard_so(tiny_checkpoint, cutter, sound, seconds):
    """The preset `paper`: a frame sees other samples, 10 ms later, and the last one is missing."""
    paper = SDHuBERTSegmenter(tiny_checkpoint, device="cpu", preset="paper", normcut_threshold=0.1)
    samples = sound[-round(16_000 * seconds) :]
    whole = cutter(paper(samples, 16_000))
    assert len(whole["segments"])
    for parts in ([samples], np.split(samples, 10)):
        found = all_of(StreamingSegmenter(paper, cutter, look_ahead=4.2, hop=0.2), parts)
        np.testing.assert_array_equal(np.reshape([one[:2] for one in found], (-1, 2)), whole["segments"])
    with pytest.raises(UserError, match=r"look_ahead is 0; .* 1 of them or more"):
        StreamingSegmenter(paper, cutter, look_ahead=0)
    # Frame by frame, with the least that it can hear ahead, none is missing and none comes twice.
    found = all_of(StreamingSegmenter(paper, cutter, look_ahead=0.02, hop=0.02, window=0.4), [samples])
    assert found[-1][1] == whole["segments"][-1, 1]
    assert [one[1] for one in found[:-1]] == [one[0] for one in found[1:]]


def test_no_span_is_longer_than_a_recording_is_encoded_at_once(tiny_checkpoint):
    """Presets of other systems take all for speech, an hour of it at a time; their recordings are cut each minute."""
    everything = {"normcut_strategy": "absolute", "normcut_threshold": -1.0, "silence_threshold": 0.0}
    segmenter = SDHuBERTSegmenter(tiny_checkpoint, device="cpu", piece_seconds=20.0, **everything)
    speech = replace(segmenter.options.speech, max_span_seconds=3600.0)
    segmenter.options = replace(segmenter.options, speech=speech)
    noise = np.random.default_rng(0).standard_normal(16_000 * 26).astype(np.float32)
    # Nothing of a min-cut is final before its span has ended.
    given_out = StreamingSegmenter(segmenter, MincutWrapper(), hop=4.0).push(noise)
    assert 10 <= given_out[-1].end <= 20


def test_what_is_given_out_does_not_hang_on_what_follows(encoder, cutter, sound):
    """Two streams that part after two seconds have given out the same until then, most of it before."""
    streams = [StreamingSegmenter(encoder, cutter, look_ahead=0.3) for _ in range(2)]
    common = [stream.push(sound[:32_000]) for stream in streams]
    noise = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    rest = [streams[0].push(sound[32_000:]), streams[1].push(noise)]
    assert [one.frames for one in common[0]] == [one.frames for one in common[1]]
    assert common[0][-1].end > 1
    for given_out in rest:
        assert given_out[0].start >= common[0][-1].end
    assert [one.frames for one in rest[0]] != [one.frames for one in rest[1]]


def test_integers_tensors_and_a_buffer_that_is_used_again(encoder, cutter, sound):
    whole = np.rint(sound * 32767).astype(np.int16)
    expected = all_of(StreamingSegmenter(encoder, cutter), [(whole / 32768).astype(np.float64)])
    assert all_of(StreamingSegmenter(encoder, cutter), [whole]) == expected
    stream = StreamingSegmenter(encoder, cutter)
    buffer, found = np.zeros(1_000, np.float32), []
    for part in divided(whole, range(1_000, 56_000, 1_000)):
        buffer[:] = part / np.float32(32768)
        found += stream.push(torch.from_numpy(buffer))
    assert [one.frames for one in found + stream.flush()] == [one[2] for one in expected]


def test_silence_and_next_to_nothing_have_no_syllables(encoder, cutter):
    for parts in ([], [np.zeros(0, np.float32)], [np.ones(1_000, np.int16)], [np.zeros(100_000, np.float32)]):
        with StreamingSegmenter(encoder, cutter) as stream:
            assert all_of(stream, parts) == []
            assert stream.seconds == sum(map(len, parts)) / 16_000


def test_a_stream_that_has_ended_takes_nothing(encoder, cutter):
    with StreamingSegmenter(encoder, cutter) as flushed:
        flushed.flush()
    with StreamingSegmenter(encoder, cutter) as closed:
        pass
    for stream in (flushed, closed):
        stream.close()
        with pytest.raises(UserError, match="has ended"):
            stream.push(np.zeros(1))
        with pytest.raises(UserError, match="has ended"):
            stream.flush()


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ([0.0, 0.1], "list .* is no array of samples"),
        (bytes(100), "np.frombuffer"),
        (np.zeros((100, 2)), r"shape \(100, 2\).* samples\[:, 0\]"),
        (np.zeros(100, np.uint8), "uint8"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([0.0, 1e300]), "infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_are_no_samples_is_refused_and_the_stream_goes_on(encoder, cutter, sound, samples, sentence):
    stream = StreamingSegmenter(encoder, cutter)
    stream.push(sound[:10_000])
    with pytest.raises(UserError, match=sentence):
        stream.push(samples)
    rest = all_of(stream, [sound[10_000:]])
    assert rest == all_of(StreamingSegmenter(encoder, cutter), [sound])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sample_rate": 22_050.5}, "sample_rate is 22050.5"),
        ({"sample_rate": "16000"}, "sample_rate is '16000'"),
        ({"sample_rate": 100}, "sample_rate is 100"),
        ({"look_ahead": -0.02}, "look_ahead is -0.02"),
        ({"look_ahead": 0.03}, "look_ahead is 0.03"),
        ({"look_ahead": "0.5"}, "look_ahead is '0.5'"),
        ({"hop": 0}, "hop is 0"),
        ({"hop": float("nan")}, "hop is nan"),
        ({"look_ahead": 4.9}, "window is 5; it has to be from look_ahead [+] hop, 5.1 s"),
        ({"window": 700}, "window is 700; .* 600 s"),
        ({"mincut": None}, "SDHuBERTSegmenter and NoneType; it takes"),
        ({"mincut": MincutWrapper(segmenter="norm-peaks")}, "norm-peaks"),
        ({"mincut": MincutWrapper(ft_sr=100)}, "ft_sr is 100"),
    ],
)
def test_options_that_are_none_of_a_stream(encoder, cutter, options, sentence):
    with pytest.raises(UserError, match=sentence):
        StreamingSegmenter(encoder, **{"mincut": cutter, **options})


def test_norms_that_are_relative_to_the_recording_are_refused(tiny_checkpoint, cutter):
    with pytest.raises(UserError, match="normcut_strategy='absolute'"):
        StreamingSegmenter(SDHuBERTSegmenter(tiny_checkpoint, device="cpu"), cutter)


# -- from frames to syllables


def made_frames(seed, count, width=4):
    """Frames whose norms tell speech in runs, some long, some of one frame."""
    rng = np.random.default_rng(seed)
    features = (np.cumsum(rng.standard_normal((count, width)) * 0.4, axis=0) + 2).astype(np.float32)
    speech = np.repeat(rng.random(count) < 0.7, rng.integers(1, 20, count))[:count]
    norms = np.where(speech, 1 + rng.random(count), rng.random(count)).astype(np.float32)
    return EncodedPiece(features, norms, rng.random(count).astype(np.float32))


def streamed(made, speech, syllables, places):
    stream, found, when = SyllableStream(speech, syllables), [], []
    edges = [0, *sorted(set(places) - {0, len(made.raw_norm)}), len(made.raw_norm)]
    for start, end in itertools.pairwise(edges):
        fresh = stream.add(EncodedPiece(*(part[start:end] for part in made)))
        found += fresh
        when += [end] * len(fresh)
    return found + stream.end(), when


def offline(made, speech, syllables):
    return find_syllables(
        made.features, made.raw_norm, find_speech(made.raw_norm, made.amplitude, speech).spans, syllables
    )


def assert_offline(found, made, speech, syllables):
    expected = offline(made, speech, syllables)
    assert [one.frames for one in found] == list(map(tuple, expected.frames.tolist()))
    for one, feature in zip(found, expected.features, strict=True):
        np.testing.assert_array_equal(one.feature, feature)


divisions = st.lists(st.integers(1, 300), max_size=40)


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    count=st.integers(1, 300),
    places=divisions,
    segmenter=st.sampled_from(["greedy", "min-cut", "min-cut-banded", "sse-dp", "uniform"]),
    alike=st.sampled_from([0.7, 0.9, 0.98]),
    quiet=st.sampled_from([0.0, 3.0]),
    least=st.integers(0, 12),
)
def test_frames_of_any_division_give_what_offline_finds(seed, count, places, segmenter, alike, quiet, least):
    made = made_frames(seed, count)
    speech = SpeechOptions("absolute", 1.0, None, min_span_frames=least)
    syllables = SyllableOptions(
        segmenter=segmenter, greedy=GreedyOptions(quiet, alike), uniform=UniformOptions(seconds=0.08)
    )
    found, _ = streamed(made, speech, syllables, places)
    assert_offline(found, made, speech, syllables)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, places=divisions, loudness=st.floats(0.3, 0.7))
def test_soft_runs_are_dropped_and_long_ones_split_as_offline(seed, places, loudness):
    made = made_frames(seed, 300)
    whole = SyllableOptions(segmenter="min-cut")  # whose syllables are given out when a run ends
    soft = SpeechOptions("absolute", 1.0, loudness)
    assert_offline(streamed(made, soft, whole, places)[0], made, soft, whole)
    made.raw_norm[40:260] += 1
    long = SpeechOptions("absolute", 1.0, None, max_span_seconds=1.0)
    found = streamed(made, long, whole, places)[0]
    assert_offline(found, made, long, whole)
    assert max(np.diff([one.frames for one in found])[:, 0]) <= 50


@settings(deadline=None, max_examples=100)
@given(
    seed=seeds,
    count=st.integers(1, 80),
    shorter=st.integers(1, 80),
    alike=st.sampled_from([0.05, 0.7, 0.9, 0.98]),
    quiet=st.sampled_from([0.0, 3.0, 4.5]),
    reset=st.booleans(),
)
def test_all_but_the_last_segments_of_a_span_that_grows_are_final(seed, count, shorter, alike, quiet, reset):
    features = made_frames(seed, count).features
    whole, part = (greedy_segments(features[:length], quiet, alike, reset) for length in (count, shorter))
    final = part[: -PROVISIONAL["greedy"]]
    np.testing.assert_array_equal(final, whole[: len(final)])


@settings(deadline=None, max_examples=40)
@given(seed=seeds, places=divisions)
def test_long_speech_is_given_out_on_the_way_and_no_frame_twice(seed, places):
    made = made_frames(seed, 300)
    made.raw_norm[:] += 1
    syllables = SyllableOptions(segmenter="greedy", greedy=GreedyOptions(0.0, 0.98))
    speech = SpeechOptions("absolute", 1.0, None, max_span_seconds=1.0)
    found, when = streamed(made, speech, syllables, [*range(10, 300, 10), *places])
    edges = [frame for one in found for frame in one.frames]
    assert edges[0] == 0
    assert edges[-1] == 300
    assert edges[1:-1:2] == edges[2::2]  # none between two, none in both
    assert all(one.frames[1] <= end for one, end in zip(found, when, strict=False))
    assert len(when) > len(found) / 2


# -- levels and memory


@settings(deadline=None)
@given(
    seed=seeds,
    places=st.lists(st.integers(1, 999), unique=True, max_size=10),
    floor=st.sampled_from([0.0, 1e-7]),
    normalisation=st.sampled_from(NORMALISATIONS),
)
def test_a_level_is_that_of_all_samples_however_they_are_divided(seed, places, floor, normalisation):
    samples = (np.random.default_rng(seed).standard_normal(1_000) * 0.01 + 0.3).astype(np.float32)
    level = RunningLevel(1_000)
    for part in divided(samples, places):
        level.add(part)
    found = level.normalise(samples, AudioOptions(variance_floor=floor, normalisation=normalisation))
    np.testing.assert_allclose(found, normalise(samples, floor, normalisation), atol=1e-5)


def test_a_level_forgets_what_was_long_ago():
    rng = np.random.default_rng(0)
    loud, soft = (rng.standard_normal(20_000) * 100).astype(np.float32), rng.standard_normal(1_000).astype(np.float32)
    level = RunningLevel(1_000)
    level.add(loud)
    for _ in range(20):
        for part in np.split(soft, 10):
            level.add(part)
    # Twenty horizons later the loud ones, of a hundred times the level, count (1 - 1/10)^200 of what they did.
    assert level.normalise(soft, AudioOptions()).std() == pytest.approx(1, abs=0.05)


@pytest.mark.seconds
def test_memory_does_not_grow_with_the_hours(monkeypatch):
    """Speech without a pause, the worst there is, through an encoder that costs nothing."""

    def encode(_model, pieces, *_):
        count = len(pieces[0]) // 320
        turns = (np.arange(count) // 7 % 2).astype(np.float32)
        return [EncodedPiece(np.stack([turns, 1 - turns], axis=1), turns + 9, turns)]

    monkeypatch.setattr(frames_of_streams, "encode_pieces", encode)
    frames = FrameStream(SimpleNamespace(hidden_size=2), SegmentationOptions(), look_ahead=25, hop=50, window=100)
    options = SyllableOptions(segmenter="greedy", greedy=GreedyOptions(0.0, 0.9))
    syllables = SyllableStream(SpeechOptions("absolute", 1.0, None), options)
    second = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    count, kept = 0, {}
    tracemalloc.start()
    try:
        for past in range(1, 3_601):
            for block in frames.push(second):
                count += len(syllables.add(block))
            if past in (120, 3_600):
                kept[past] = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    assert count > 3_600
    for early, late in zip(kept[120], kept[3_600], strict=True):
        assert late < early + 50_000
