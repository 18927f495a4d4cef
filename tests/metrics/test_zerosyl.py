"""Protocol `zerosyl` against figures worked by hand, and against matchings of another kind on whole frames."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from sdhubert_ray.metrics import BoundaryCounts, count_zerosyl, overlapped_syllables, speech_runs

# Two runs of speech, of three and of two syllables; what lies between them is silent.
SYLLABLES = np.array([[0.2, 0.4], [0.4, 0.7], [0.7, 1.0], [1.5, 1.8], [1.8, 2.0]])
SEGMENTS = np.array([[0.22, 0.4], [0.43, 0.6], [0.6, 0.9], [0.97, 1.2], [1.2, 1.8], [1.84, 2.03]])
NEAR = 2  # frames of 20 ms that are less than the 50 ms of the tolerance


@st.composite
def frames(draw):
    """Intervals in frames of 20 ms, apart or next to each other, (n, 2)."""
    steps = draw(st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 3, 9]), st.integers(1, 12)), max_size=12))
    edges = np.cumsum(np.array(steps, np.int64).ravel()).reshape(-1, 2)
    return edges + draw(st.integers(0, 8))


def cells_of(interval):
    return set(range(*interval))


def most(pairs):
    """How many pairs any one to one matching of a table of possible pairs has at most."""
    return int((maximum_bipartite_matching(csr_array(pairs), perm_type="column") >= 0).sum()) if pairs.size else 0


def runs_of(syllables):
    """First and last frame of stretches of frames that are of a syllable, by the frames themselves."""
    spoken = sorted(set().union(*map(cells_of, syllables.tolist())))
    firsts = [cell for cell in spoken if cell - 1 not in spoken]
    return [(first, next(cell + 1 for cell in spoken if cell >= first and cell + 1 not in spoken)) for first in firsts]


def slow_counts(syllables, segments, shift):
    predicted = sorted([*segments[:, 0], *segments[-1:, 1]])
    boundaries, tokens = np.zeros(3, int), np.zeros(3, int)
    for first, last in runs_of(syllables):
        truth = np.array([end for _, end in syllables.tolist() if first < end < last])
        inner = np.array([one - shift for one in predicted if first + 2.5 < one - shift < last - 2.5])
        boundaries += [most(abs(truth[:, None] - inner) <= NEAR), len(truth), len(inner)]
        sides = [np.array([[0, *one], [*one, last]]).T for one in (truth, inner)]
        near = abs(sides[0][:, None] - sides[1]) <= NEAR
        tokens += [most(near.all(axis=2)), len(sides[0]), len(sides[1])]
    return BoundaryCounts(*boundaries.tolist()), BoundaryCounts(*tokens.tolist())


def test_boundaries_and_tokens_worked_by_hand():
    """In the runs, but for 50 ms at their edges, lie 0.43, 0.6 and 1.84; between the syllables 0.4, 0.7 and 1.8.

    Of tokens the first of the first run (to 0.43) and both of the second (to and from 1.84) are found.
    """
    assert count_zerosyl(SYLLABLES, SEGMENTS) == (BoundaryCounts(2, 3, 3), BoundaryCounts(3, 5, 5))
    # 100 ms later 0.32, 0.53, 0.7 and 1.94 lie there, and one of them is right.
    boundaries, tokens = count_zerosyl(SYLLABLES, SEGMENTS, shift=-0.1)
    assert boundaries == BoundaryCounts(1, 3, 4)
    # Tokens: to 0.32, 0.53, 0.7, 1.0; to 1.94, 2.0. That from 0.7 to 1.0 is found.
    assert tokens == BoundaryCounts(1, 5, 6)


def test_edges_of_runs_are_given():
    # One syllable has no boundary, and its token is found, whatever lies outside; without segments, too.
    one = np.array([[0.5, 0.7]])
    for segments in (np.zeros((0, 2)), np.array([[0.1, 0.54], [0.54, 0.9]])):
        assert count_zerosyl(one, segments) == (BoundaryCounts(0, 0, 0), BoundaryCounts(1, 1, 1))
    assert count_zerosyl(np.zeros((0, 2)), SEGMENTS) == (BoundaryCounts(0, 0, 0), BoundaryCounts(0, 0, 0))


def test_the_end_of_the_last_segment_is_a_boundary_and_no_other_end():
    syllables = np.array([[0.0, 0.5], [0.5, 1.0]])
    ended = count_zerosyl(syllables, np.array([[0.0, 0.5]]))[0]
    assert ended == BoundaryCounts(1, 1, 1)
    assert count_zerosyl(syllables, np.array([[0.0, 0.5], [0.8, 1.0]]))[0] == BoundaryCounts(0, 1, 1)


def test_times_are_taken_in_two_decimals():
    # 0.5451 is read as 0.55, 50 ms from 0.6; 0.5449 as 0.54.
    syllables = np.array([[0.0, 0.6], [0.6, 1.2]])
    for start, matched in ((0.5451, 1), (0.5449, 0)):
        assert count_zerosyl(syllables, np.array([[start, 1.2]]))[0].matched == matched
    # In float64 7.255 lies below the middle; an end is rounded as a start is.
    late = np.array([[0.0, 7.3], [7.3, 7.6]])
    for segments in ([[7.22, 9.0]], [[0.0, 7.22]]):
        assert round(7.22 + 0.035, 2) == 7.25
        assert count_zerosyl(late, np.array(segments), -0.035, tolerance=0.045)[0].matched == 0


@given(frames(), frames(), st.integers(-3, 3))
def test_counts_are_those_of_the_greatest_matching(syllables, segments, shift):
    found = count_zerosyl(syllables / 50, segments / 50, shift / 50)
    assert found == slow_counts(syllables, segments, shift)
    assert [round(50 * run[0]) for run in speech_runs(syllables / 50)] == [first for first, _ in runs_of(syllables)]


@given(frames())
def test_syllables_as_segments_are_all_found(syllables):
    boundaries, tokens = count_zerosyl(syllables / 50, syllables / 50)
    # Runs shorter than the tolerance hide their boundaries from the predictions; in others all are right.
    assert boundaries.matched == boundaries.predicted
    assert tokens.reference == len(syllables)
    long = syllables if len(syllables) and np.diff(syllables).min() > 2 * NEAR else np.zeros((0, 2))
    boundaries, tokens = count_zerosyl(long / 50, long / 50)
    assert boundaries.matched == boundaries.reference
    assert tokens.matched == len(long)


def test_syllables_that_overlap_a_little_are_one_run():
    runs = speech_runs(np.array([[0.0, 0.52], [0.5, 0.8], [0.8008, 1.0], [1.01, 1.2]]))
    np.testing.assert_array_equal(runs[0], [0.0, 0.52, 0.8, 1.0])
    np.testing.assert_array_equal(runs[1], [1.01, 1.2])


def test_the_syllable_of_a_segment_worked_by_hand():
    segments = [
        (0.1, 0.29),  # 0.1 s of silence, 0.09 of the first
        (0.3, 0.5),  # as much of the first as of the second
        (0.45, 0.72),
        (0.9, 1.7),  # 0.1 of the third, 0.5 of silence, 0.2 of the fourth
        (1.9, 2.05),  # 0.1 of the fifth, 0.05 of what comes after
        (3.0, 4.0),
    ]
    assert overlapped_syllables(SYLLABLES, np.array(segments)).tolist() == [-1, 0, 1, -1, 4, -1]
    assert overlapped_syllables(np.zeros((0, 2)), np.array(segments)).tolist() == [-1] * 6
    assert overlapped_syllables(SYLLABLES, np.zeros((0, 2))).tolist() == []


@given(frames(), frames())
def test_the_syllable_of_a_segment_has_most_of_its_frames(syllables, segments):
    runs = runs_of(syllables)
    silences = list(zip([-99, *(last for _, last in runs)], [*(first for first, _ in runs), 999], strict=True))
    parts = [(first, last, number) for number, (first, last) in enumerate(syllables.tolist())]
    parts = sorted([*parts, *((first, last, -1) for first, last in silences)])
    wanted = []
    for segment in segments.tolist():
        shared = [len(cells_of(segment) & cells_of(part[:2])) for part in parts]
        # Of parts that have as many frames, float64 may see one as longer.
        wanted.append({part[2] for part, frames in zip(parts, shared, strict=True) if frames == max(shared)})
    found = overlapped_syllables(syllables / 50, segments / 50).tolist()
    assert len(found) == len(wanted)
    assert all(one in some for one, some in zip(found, wanted, strict=True))


def test_a_pair_on_the_edge_is_judged_in_float64():
    # In float64 0.35 - 0.3 is below 0.05, and 1.1 - 1.05 above.
    for middle, start, matched in ((0.35, 0.3, 1), (1.1, 1.05, 0)):
        syllables = np.array([[0.0, middle], [middle, 2.0]])
        assert count_zerosyl(syllables, np.array([[start, 2.0]]))[0].matched == matched


def test_the_shift_is_taken_from_segments():
    syllables = np.array([[0.0, 0.5], [0.5, 1.0]])
    for late in (-0.1, 0.06):
        segments = np.array([[0.5 + late, 1.0]])
        assert [count_zerosyl(syllables, segments, shift)[0].matched for shift in (late, 0.0, -late)] == [1, 0, 0]
