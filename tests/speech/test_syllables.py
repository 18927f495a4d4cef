"""Min-cut, merging and pooling: golden values, and the definitions written out naively."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mincut.reference import min_cut_reference
from sdhubert_ray.speech.presets import PRESETS
from sdhubert_ray.speech.syllables import SyllableOptions, cut_syllables, initial_cut, merge, to_seconds

README = PRESETS["readme"].syllables
PAPER = PRESETS["paper"].syllables

seeds = st.integers(0, 2**32 - 1)


def smooth_features(seed, frames, width=6, step=0.7):
    """A random walk: neighbours are alike, as in speech, so that some merge and some do not."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.standard_normal((frames, width)) * step, axis=0)


def cosine(left, right):
    return float(np.dot(left, right) / (np.linalg.norm(left) * np.linalg.norm(right)))


def merge_by_definition(features, segments, threshold, minimum):
    """All means and all similarities anew in each round."""
    segments = [tuple(segment) for segment in segments]
    while len(segments) >= minimum:
        means = [np.mean(features[start:end], axis=0) for start, end in segments]
        pairs = [cosine(means[index], means[index + 1]) for index in range(len(segments) - 1)]
        best = max(range(len(pairs)), key=lambda index: (pairs[index], -index))
        if pairs[best] < threshold:
            break
        segments[best : best + 2] = [(segments[best][0], segments[best + 1][1])]
    return segments


def cut_by_definition(features, options):
    n = len(features)
    if n == 1 or n < options.min_cut_minimum:
        return [(0, n)]
    count = min(max(math.ceil(n / 50 / options.syl_dur), 1), n - 1)
    products = features @ features.T
    boundaries = list(min_cut_reference(products - products.min() + 1e-7, count, options.max_frames)[0])
    if options.keep_last_frame:
        boundaries[-1] = n
    segments = list(itertools.pairwise(int(boundary) for boundary in boundaries))
    kept = [(start, end) for start, end in segments if end - start > options.drop_frames]
    return kept or segments


@settings(deadline=None, max_examples=150)
@given(
    seed=seeds,
    bounds=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    threshold=st.floats(-1, 1),
    minimum=st.integers(2, 4),
    dropped=st.sets(st.integers(0, 11)),
)
def test_merging_equals_a_naive_one(seed, bounds, threshold, minimum, dropped):
    edges = np.cumsum([0, *bounds])
    segments = [pair for index, pair in enumerate(itertools.pairwise(edges.tolist())) if index not in dropped]
    segments = segments or [(0, int(edges[-1]))]
    features = smooth_features(seed, int(edges[-1]))
    features.flags.writeable = False
    options = SyllableOptions(merge_threshold=threshold, merge_minimum=minimum)
    found, means = merge(features, np.array(segments), options)
    expected = merge_by_definition(features, segments, threshold, minimum)
    assert [tuple(segment) for segment in found.tolist()] == expected
    np.testing.assert_allclose(means, [features[start:end].mean(axis=0) for start, end in expected], atol=1e-12)


@pytest.mark.parametrize(
    ("minimum", "expected"),
    [
        (5, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (4, [(0, 2), (2, 3), (3, 4)]),
        (3, [(0, 2), (2, 4)]),
        (2, [(0, 2), (2, 4)]),
    ],
)
def test_the_first_of_equal_pairs_is_merged_first(minimum, expected):
    features = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    segments = np.array([(0, 1), (1, 2), (2, 3), (3, 4)])
    found, _ = merge(features, segments, SyllableOptions(merge_threshold=0.5, merge_minimum=minimum))
    assert [tuple(segment) for segment in found.tolist()] == expected


def test_similarity_that_equals_the_threshold_merges():
    features = np.array([[1.0, 0], [0, 1], [0, 1]])
    segments = np.array([(0, 1), (1, 2), (2, 3)])
    found, _ = merge(features, segments, SyllableOptions(merge_threshold=1.0))
    assert found.tolist() == [[0, 1], [1, 3]]
    found, _ = merge(features, segments, SyllableOptions(merge_threshold=1.0 + 1e-9))
    assert found.tolist() == [[0, 1], [1, 2], [2, 3]]


def test_frames_of_a_dropped_segment_count_in_what_is_merged_across_it():
    features = np.array([[1.0, 0], [1, 0], [1, 0], [0, 9], [1, 0], [1, 0], [1, 0], [-1, 0]])
    found, means = merge(features, np.array([(0, 3), (4, 7), (7, 8)]), SyllableOptions(merge_minimum=3))
    assert found.tolist() == [[0, 7], [7, 8]]
    np.testing.assert_allclose(means[0], [6 / 7, 9 / 7])


def test_without_a_threshold_nothing_merges():
    features = np.ones((4, 2))
    segments = np.array([(0, 1), (1, 2), (2, 4)])
    found, means = merge(features, segments, SyllableOptions(merge_threshold=None))
    assert found.tolist() == segments.tolist()
    np.testing.assert_array_equal(means, np.ones((3, 2)))


def test_frames_of_zeros_are_like_nothing():
    found, _ = merge(np.array([[1.0, 0], [0, 0], [1, 0]]), np.array([(0, 1), (1, 2), (2, 3)]), README)
    assert found.tolist() == [[0, 1], [1, 2], [2, 3]]


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    frames=st.integers(1, 30),
    syl_dur=st.sampled_from([0.02, 0.06, 0.1, 0.2, 0.5]),
    rules=st.sampled_from([README, PAPER]),
    beyond=st.none() | st.integers(0, 5),
)
def test_initial_cut_equals_the_definition(seed, frames, syl_dur, rules, beyond):
    """With segments of any length, or of a few frames at most over those of their mean."""
    longest = None if beyond is None else round(50 * syl_dur) + beyond
    options = SyllableOptions(
        syl_dur, None, rules.min_cut_minimum, rules.keep_last_frame, rules.drop_frames, rules.merge_minimum, longest
    )
    features = smooth_features(seed, frames)
    found = initial_cut(features, options)
    assert [tuple(segment) for segment in found.tolist()] == cut_by_definition(features, options)


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    lengths=st.lists(st.integers(1, 25), max_size=4),
    gaps=st.lists(st.integers(0, 5), min_size=5, max_size=5),
    threshold=st.floats(-0.5, 1),
    rules=st.sampled_from([README, PAPER]),
)
def test_syllables_of_all_spans_equal_the_definition(seed, lengths, gaps, threshold, rules):
    options = SyllableOptions(
        rules.syl_dur,
        threshold,
        rules.min_cut_minimum,
        rules.keep_last_frame,
        rules.drop_frames,
        rules.merge_minimum,
    )
    spans, at = [], 0
    for gap, length in zip(gaps, lengths, strict=False):
        spans.append((at + gap, at + gap + length))
        at = spans[-1][1]
    features = smooth_features(seed, at + gaps[-1]).astype(np.float32)
    features.flags.writeable = False
    syllables = cut_syllables(features, np.array(spans, np.int64).reshape(-1, 2), options)

    expected = []
    for start, end in spans:
        span = features[start:end].astype(np.float64)
        merged = merge_by_definition(span, cut_by_definition(span, options), threshold, options.merge_minimum)
        expected.extend((start + begin, start + stop) for begin, stop in merged)
    assert [tuple(segment) for segment in syllables.frames.tolist()] == expected
    assert syllables.frames.dtype == np.int64
    assert (syllables.features.dtype, syllables.features.shape) == (np.float32, (len(expected), 6))
    for (start, end), mean in zip(expected, syllables.features, strict=True):
        np.testing.assert_allclose(mean, features[start:end].astype(np.float64).mean(axis=0), atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(seed=seeds, lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_readme_syllables_tile_every_span(seed, lengths):
    edges = np.cumsum([0, *lengths])
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    found = cut_syllables(smooth_features(seed, int(edges[-1])), spans, README).frames
    np.testing.assert_array_equal(found[1:, 0], found[:-1, 1])
    assert found[0, 0] == 0
    assert found[-1, 1] == edges[-1]
    assert set(edges[1:].tolist()) <= set(found[:, 1].tolist())


def test_no_span_gives_arrays_of_no_rows():
    syllables = cut_syllables(np.zeros((9, 5), np.float32), np.zeros((0, 2), np.int64), README)
    assert (syllables.frames.shape, syllables.frames.dtype) == ((0, 2), np.int64)
    assert (syllables.features.shape, syllables.features.dtype) == ((0, 5), np.float32)


def test_half_precision_features_are_summed_in_double():
    features = np.full((3000, 2), 30.0, np.float16)  # a half sum overflows at 65,504, a half product sooner
    syllables = cut_syllables(features, np.array([(0, 1500), (1500, 3000)]), README)
    np.testing.assert_array_equal(syllables.features, np.full((len(syllables.frames), 2), 30.0, np.float32))


def test_short_paper_spans_are_one_whole_segment():
    features = smooth_features(0, 20)
    for frames in range(1, 5):
        found = cut_syllables(features, np.array([(3, 3 + frames)]), PAPER).frames
        assert found.tolist() == [[3, 3 + frames]]
    assert cut_syllables(features, np.array([(3, 8)]), PAPER).frames[-1, 1] == 7  # cut: its last frame is left out


def golden_cases(golden):
    values = np.load(golden / "mincut.npz")
    count = len({name.split("_")[0] for name in values.files})
    assert count == 11
    return [(values, f"case{index}") for index in range(count)]


@pytest.mark.parametrize(("suffix", "syl_dur", "threshold"), [("m04", 0.1, 0.4), ("m03", 0.2, 0.3)])
def test_golden_merged_and_pooled(golden, suffix, syl_dur, threshold):
    for values, case in golden_cases(golden):
        features = values[f"{case}_features"]
        options = SyllableOptions(syl_dur=syl_dur, merge_threshold=threshold)
        syllables = cut_syllables(features, np.array([(0, len(features))]), options)
        np.testing.assert_array_equal(to_seconds(syllables.frames), values[f"{case}_merged_{suffix}"], err_msg=case)
        np.testing.assert_allclose(
            syllables.features, values[f"{case}_pooled_{suffix}"], atol=1e-4, rtol=0, err_msg=case
        )


def test_golden_boundaries(golden):
    checked = 0
    for values, case in golden_cases(golden):
        features = values[f"{case}_features"].astype(np.float64)
        for name in values.files:
            if not name.startswith(f"{case}_boundaries_"):
                continue
            count = int(name.rpartition("_")[2])
            options = SyllableOptions(syl_dur=len(features) / 50 / count * (1 + 1e-9), keep_last_frame=False)
            found = initial_cut(features, options)
            np.testing.assert_array_equal([0, *found[:, 1]], values[name], err_msg=name)
            checked += 1
    assert checked == 19


def test_golden_paper_rules(golden):
    values = np.load(golden / "merge_paper.npz")
    for index in range(8):
        syllables = cut_syllables(values[f"case{index}_features"], values[f"case{index}_spans"], PAPER)
        case = f"case{index}"
        np.testing.assert_array_equal(to_seconds(syllables.frames), values[f"{case}_segments"], err_msg=case)
        np.testing.assert_allclose(syllables.features, values[f"{case}_pooled"], atol=1e-4, rtol=0, err_msg=case)


def check_golden_segmentation(folder, preset, count):
    """From the stored features and spans alone: what comes after the encoder."""
    options = PRESETS[preset].syllables
    unmerged = SyllableOptions(syl_dur=0.2, merge_threshold=None)
    paths = sorted((folder / "segmentation" / preset).glob("*.npz"))
    assert len(paths) == count
    for path in paths:
        values = np.load(path)
        features = values["frame_features"] * values["mask"][:, None]
        syllables = cut_syllables(features, values["speech_spans"], options)
        np.testing.assert_array_equal(to_seconds(syllables.frames), values["segments"], err_msg=path.name)
        np.testing.assert_allclose(syllables.features, values["segment_features"], atol=1e-4, rtol=0)
        if preset == "readme":
            unmerged_frames = cut_syllables(features, values["speech_spans"], unmerged).frames
            np.testing.assert_array_equal(to_seconds(unmerged_frames), values["segments_unmerged"], err_msg=path.name)


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_golden_segmentation(golden, preset):
    check_golden_segmentation(golden, preset, 5)


@pytest.mark.parametrize("preset", ["readme", "paper"])
def test_real_golden_segmentation(real_golden, preset):
    check_golden_segmentation(real_golden, preset, 4)


@given(st.integers(0, 10**7), st.integers(0, 10**6))
def test_a_piece_on_the_grid_has_the_times_of_the_whole_file(first, frame):
    """Bit for bit: frame i of a piece is frame first + i of the file."""
    times = to_seconds(np.array([[frame, frame + 1]]), offset=first / 50)
    assert times.dtype == np.float64
    assert times.tolist() == [[(first + frame) / 50, (first + frame + 1) / 50]]


def test_times_of_other_rates_and_off_the_grid():
    frames = np.array([[0, 5], [5, 20]])
    np.testing.assert_allclose(to_seconds(frames, 0.0, 100), [[0, 0.05], [0.05, 0.2]])
    np.testing.assert_allclose(to_seconds(frames, 1.005), [[1.005, 1.105], [1.105, 1.405]])


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"syl_dur": 0.0}, "syl_dur"),
        ({"syl_dur": float("nan")}, "syl_dur"),
        ({"syl_dur": float("inf")}, "syl_dur"),
        ({"merge_threshold": float("nan")}, "merge_threshold"),
        ({"merge_threshold": 2.0}, "merge_threshold"),
        ({"merge_threshold": -1.11}, "merge_threshold"),
        ({"min_cut_minimum": 0}, "min_cut_minimum"),
        ({"drop_frames": -1}, "drop_frames"),
        ({"merge_minimum": 1}, "merge_minimum"),
        ({"max_frames": 4}, "max_frames"),
        ({"syl_dur": 0.01, "max_frames": 0}, "max_frames"),
    ],
)
def test_bad_options_are_refused_by_name(values, key):
    with pytest.raises(ValueError, match=rf"syllables\.{key} is "):
        SyllableOptions(**values)


@pytest.mark.parametrize("frames", range(1, 51))
def test_the_shortest_longest_segment_can_always_be_cut(frames):
    """0.02 s times 50 Hz times any number is not always that number in floating point."""
    options = SyllableOptions(syl_dur=frames / 50, max_frames=frames, keep_last_frame=False)
    for n in (2, frames, 5 * frames + 1, 7 * frames):
        segments = initial_cut(smooth_features(frames, max(n, 2)), options)
        assert (np.diff(segments, axis=1) <= frames).all()
