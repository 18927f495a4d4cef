"""The search for options: what it says of them is what they do, and syllables that can be found are found."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.tuning import Encoded, Grid, tune_segmentation
from sdhubert_ray.metrics import BoundaryCounts, count_sdhubert, score_boundaries, tune_shift
from sdhubert_ray.speech.presets import PRESETS
from sdhubert_ray.speech.spans import SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import SyllableOptions, cut_syllables, to_seconds

BASE = PRESETS["readme"]
GRID = Grid(
    layers=((1, 1), (2, 2), (1, 2)),
    speech=tuple(SpeechOptions("absolute", norm, silence_threshold=None) for norm in (0.5, 2.0)),
    cuts=tuple(SyllableOptions(syl_dur=seconds, drop_frames=drop) for seconds in (0.1, 0.2) for drop in (0, 2)),
    merge_thresholds=(0.3, 0.9, 0.6),
)


def recording(seed, noise):
    """Syllables of 5 to 14 frames, of a vector each, with pauses of zeros between some; layer 1 is only noise."""
    rng = np.random.default_rng(seed)
    frames, syllables, at = [np.zeros((6, 24))], [], 6
    for _ in range(12):
        length = int(rng.integers(5, 15))
        frames.append(np.tile(rng.standard_normal(24), (length, 1)))
        syllables.append((at / 50, (at + length) / 50))
        at += length
        if rng.random() < 0.3:
            frames.append(np.zeros((4, 24)))
            at += 4
    states = np.concatenate([*frames, np.zeros((6, 24))])
    states = states + noise * rng.standard_normal(states.shape)
    other = rng.standard_normal(states.shape).astype(np.float32)
    return Encoded({1: other, 2: states.astype(np.float32)}, np.ones(len(states), np.float32), np.array(syllables))


def score(corpus, options):
    """By the functions that a segmentation uses."""
    pairs = []
    for one in corpus:
        features = one.states[options.encoder.layer]
        levels = np.linalg.norm(one.states[options.encoder.normcut_layer], axis=1)
        spans = find_speech(levels, one.amplitude, options.speech).spans
        pairs.append((one.syllables, to_seconds(cut_syllables(features, spans, options.syllables).frames)))
    found = tune_shift(pairs)
    if found is None:
        return None, None
    counts = [count_sdhubert(*pair, found[0]) for pair in pairs]
    sums = (
        sum(one.matched for one in counts),
        sum(one.reference for one in counts),
        sum(one.predicted for one in counts),
    )
    return found[0], score_boundaries(BoundaryCounts(*sums))


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 0.6]))
def test_what_is_told_of_options_is_what_they_do(seed, noise):
    corpora = [[recording(seed, noise), recording(seed + 1, noise)], [recording(seed + 2, noise)]]
    tuned = tune_segmentation(corpora, BASE, GRID)
    means = []
    for corpus, shift, scores in zip(corpora, tuned.shifts, tuned.scores, strict=True):
        assert score(corpus, tuned.options) == (shift, scores)
        means.append((scores.f1 + scores.r_value) / 2)
    assert tuned.score == pytest.approx(np.mean(means))
    # Nothing that is one step away is better.
    options = tuned.options
    near = [
        replace(options, syllables=replace(cut, merge_threshold=threshold))
        for cut, threshold in itertools.product(GRID.cuts, GRID.merge_thresholds)
    ]
    near += [replace(options, speech=speech) for speech in GRID.speech]
    for other in near:
        found = [score(corpus, other)[1] for corpus in corpora]
        if all(one is not None for one in found):
            assert np.mean([(one.f1 + one.r_value) / 2 for one in found]) <= tuned.score + 1e-12


def test_syllables_that_can_be_found_are_found():
    corpora = [[recording(seed, 0.02) for seed in range(4)]]
    tuned = tune_segmentation(corpora, BASE, GRID)
    assert tuned.options.encoder.layer == tuned.options.encoder.normcut_layer == 2
    assert tuned.options.windows == BASE.windows
    (scores,) = tuned.scores
    assert scores.precision == 1
    assert scores.recall > 0.7  # the ends of what a pause follows are no starts
    assert abs(tuned.shifts[0]) <= 0.05


def test_levels_that_are_given_tell_speech():
    """As for a front end whose features have no norm that means anything."""
    one = recording(0, 0.02)
    levels = np.linalg.norm(one.states[2], axis=1)
    scaled = {layer: states / np.linalg.norm(states, axis=1, keepdims=True) for layer, states in one.states.items()}
    told = replace(one, states=scaled, levels=levels)
    grid = replace(GRID, layers=((2, 2),), speech=GRID.speech[1:])
    assert tune_segmentation([[told]], BASE, grid).scores[0].precision == 1


def test_nothing_that_matches_is_refused():
    far = replace(recording(0, 0.1), syllables=np.array([[100.0, 101.0]]))
    with pytest.raises(UserError, match="no boundary of the validation recordings is matched"):
        tune_segmentation([[far]], BASE, GRID)
