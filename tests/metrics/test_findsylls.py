"""Spans and nuclei against figures worked by hand, all assignments tried, and a count by lists."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sdhubert_ray.metrics import BoundaryCounts, count_nuclei, count_spans
from sdhubert_ray.metrics.overlaps import overlapping


@st.composite
def intervals(draw, most=6):
    """Apart from each other or touching, on a grid of 20 ms, (n, 2) seconds."""
    edges = draw(st.lists(st.integers(0, 60), max_size=2 * most))
    edges = sorted(edges[: len(edges) // 2 * 2])
    found = np.array(edges, np.float64).reshape(-1, 2) / 50
    return found[found[:, 1] > found[:, 0]]


def test_spans_worked_by_hand():
    syllables = np.array([[0.0, 0.2], [0.2, 0.5], [0.8, 1.0]])
    # The first and last are right at both ends; the second is assigned to the second syllable (2/3 of their union, the
    # third segment has 0.1 / 0.36 of it), whose end it misses by 0.1 s.
    segments = np.array([[0.02, 0.18], [0.2, 0.4], [0.4, 0.56], [0.83, 1.04]])
    assert count_spans(syllables, segments) == BoundaryCounts(2, 3, 4)
    assert count_spans(syllables, segments, tolerance=0.035) == BoundaryCounts(1, 3, 4)
    assert count_spans(syllables, np.zeros((0, 2))) == BoundaryCounts(0, 3, 0)
    assert count_spans(np.zeros((0, 2)), segments) == BoundaryCounts(0, 0, 4)
    # Ends are compared of assigned pairs only: the short segment is nearer at its start, but has less of the union.
    assert count_spans(np.array([[0.0, 1.0]]), np.array([[0.0, 0.3], [0.3, 1.04]])) == BoundaryCounts(0, 1, 2)


@given(intervals(), intervals())
@settings(max_examples=60)
def test_spans_are_those_of_an_assignment_with_the_greatest_total(syllables, segments):
    few, many = sorted((syllables, segments), key=len)

    def union_share(one, other):
        return max(0.0, min(one[1], other[1]) - max(one[0], other[0])) / (max(one[1], other[1]) - min(one[0], other[0]))

    tried = []
    for order in itertools.islice(itertools.permutations(range(len(many)), len(few)), 5000):
        pairs = [(few[here], many[there]) for here, there in enumerate(order)]
        total = sum(union_share(*pair) for pair in pairs)
        tried.append(
            (total, sum(bool(union_share(*pair) and (abs(pair[0] - pair[1]) <= 0.05).all()) for pair in pairs))
        )
    best = max(total for total, _ in tried)
    found = count_spans(syllables, segments)
    assert (found.reference, found.predicted) == (len(syllables), len(segments))
    if len(tried) < 5000:
        assert found.matched in {matched for total, matched in tried if total > best - 1e-9}


@given(intervals(), intervals())
def test_overlapping_pairs_are_all_that_there_are(syllables, segments):
    rows, columns, overlaps = overlapping(syllables, segments)
    wanted = [
        (row, column, min(one[1], other[1]) - max(one[0], other[0]))
        for column, other in enumerate(segments)
        for row, one in enumerate(syllables)
        if min(one[1], other[1]) > max(one[0], other[0])
    ]
    assert list(zip(rows, columns, overlaps, strict=True)) == wanted


def test_nuclei_worked_by_hand():
    def around(*middles):
        return np.array([[middle - 0.06, middle + 0.06] for middle in middles])

    vowels = np.array([[0.1, 0.2], [0.5, 0.6], [1.0, 1.1]])
    # 0.08 and 0.22 are both near the first, 0.64 near the second, 0.4 near none; the third has none.
    assert count_nuclei(vowels, around(0.08, 0.22, 0.4, 0.64)) == BoundaryCounts(2, 3, 4)
    assert count_nuclei(vowels, np.zeros((0, 2))) == BoundaryCounts(0, 3, 0)
    assert count_nuclei(np.zeros((0, 2)), around(0.08, 0.22)) == BoundaryCounts(0, 0, 2)
    close = np.array([[0.0, 0.1], [0.16, 0.26]])
    # One middle counts for both vowels that it is near to.
    assert count_nuclei(close, around(0.13)) == BoundaryCounts(2, 2, 2)
    # And is an insertion besides, where the first of them has another before.
    assert count_nuclei(close, around(0.05, 0.13)) == BoundaryCounts(2, 2, 3)


@given(intervals(), intervals())
def test_nuclei_are_what_lists_give(vowels, segments):
    middles = [(start + end) / 2 for start, end in segments]
    found, firsts, further = 0, set(), set()
    for start, end in vowels:
        near = [middle for middle in middles if start - 0.05 <= middle <= end + 0.05]
        found += bool(near)
        firsts.update(near[:1])
        further.update(near[1:])
    insertions = sum(middle in further or middle not in firsts for middle in middles)
    assert count_nuclei(vowels, segments) == BoundaryCounts(found, len(vowels), found + insertions)
