"""The kernel of the minimum cut against its definition, and what `min_cut` refuses."""

import sys
import threading
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from places import GOLDEN

from mincut import _mincut, min_cut
from mincut.reference import min_cut_reference, objective

MINCUTS = GOLDEN / "mincut.npz"
TOLERANCE = 1e-9


def uniform(n, seed=0, dtype=np.float64):
    """Return an (n, n) similarity that is not symmetric, so that its optimum is unique."""
    return np.random.default_rng(seed).uniform(0.1, 1.0, (n, n)).astype(dtype)


def all_cuts(n, num_segments):
    for inner in combinations(range(1, n - 1), num_segments - 1):
        yield np.array([0, *inner, n - 1])


def problems(elements, max_n, symmetric=False):
    """Strategy for (similarity, num_segments) with the given entries and 2..max_n frames."""

    def of_size(n):
        matrices = hnp.arrays(np.float64, (n, n), elements=elements)
        if symmetric:
            matrices = matrices.map(lambda matrix: np.maximum(matrix, matrix.T))
        return st.tuples(matrices, st.integers(1, n - 1))

    return st.integers(2, max_n).flatmap(of_size)


ordinary = st.floats(0.01, 1.0)
small_integers = st.integers(1, 3).map(float)
wide = st.floats(-7, 6).map(lambda exponent: 10.0**exponent)


# -- the oracle itself


@settings(deadline=None, max_examples=60)
@given(problems(ordinary, 8))
def test_oracle_finds_the_best_of_all_cuts(problem):
    similarity, num_segments = problem
    boundaries, value = min_cut_reference(similarity, num_segments)
    best = min(objective(similarity, cut) for cut in all_cuts(len(similarity), num_segments))
    assert value == pytest.approx(best, abs=TOLERANCE)
    assert objective(similarity, boundaries) == pytest.approx(value, abs=TOLERANCE)


def test_objective_of_a_cut_done_by_hand():
    similarity = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    # [0, 1): within 1/2, cut 2 + 3.  [1, 2): within 5/2, cut 4 + 6.
    assert objective(similarity, [0, 1, 2]) == pytest.approx(5 / 5.5 + 10 / 12.5, abs=1e-15)


# -- the kernel against the oracle


def assert_optimal(similarity, num_segments):
    found = min_cut(similarity, num_segments)
    _, value = min_cut_reference(similarity, num_segments)
    assert found.shape == (num_segments + 1,)
    assert found.dtype == np.int64
    assert found[0] == 0
    assert found[-1] == len(similarity) - 1
    assert (np.diff(found) > 0).all()
    assert objective(similarity, found) == pytest.approx(value, abs=TOLERANCE)
    return found


@settings(deadline=None, max_examples=100)
@given(problems(ordinary, 16))
def test_objective_is_that_of_the_oracle(problem):
    assert_optimal(*problem)


@settings(deadline=None, max_examples=100)
@given(problems(wide, 14))
def test_large_dynamic_range(problem):
    assert_optimal(*problem)


@settings(deadline=None, max_examples=50)
@given(problems(wide, 14, symmetric=True))
def test_symmetric_similarity(problem):
    assert_optimal(*problem)


@settings(deadline=None, max_examples=60)
@given(problems(ordinary, 8))
def test_boundaries_where_the_optimum_is_unique(problem):
    similarity, num_segments = problem
    cuts = list(all_cuts(len(similarity), num_segments))
    values = np.array([objective(similarity, cut) for cut in cuts])
    best = values.argmin()
    if (np.delete(values, best) - values[best] > TOLERANCE).all():
        np.testing.assert_array_equal(min_cut(similarity, num_segments), cuts[best])


@settings(deadline=None, max_examples=150)
@given(problems(small_integers, 12))
def test_ties_of_exact_sums_go_where_the_oracle_sends_them(problem):
    # Sums of small integers are exact in any order, so that equal values are equal in both.
    similarity, num_segments = problem
    boundaries, _ = min_cut_reference(similarity, num_segments)
    np.testing.assert_array_equal(min_cut(similarity, num_segments), boundaries)


@pytest.mark.parametrize("n", range(2, 15))
def test_every_number_of_segments(n):
    for num_segments in range(1, n):
        for similarity in (uniform(n), np.ones((n, n))):
            boundaries, _ = min_cut_reference(similarity, num_segments)
            np.testing.assert_array_equal(min_cut(similarity, num_segments), boundaries)


@pytest.mark.parametrize(("n", "num_segments"), [(40, 1), (41, 8), (42, 20), (43, 42), (60, 12)])
def test_longer_spans(n, num_segments):
    boundaries, _ = min_cut_reference(uniform(n), num_segments)
    np.testing.assert_array_equal(min_cut(uniform(n), num_segments), boundaries)


def test_small_entries_survive_beside_large_ones():
    # Beside sums of 1e11, whose last digit is worth 1e-5, prefix sums lose the other frames.
    for seed in range(6):
        similarity = 1e-7 * uniform(30, seed)
        similarity[:10, :10] = 1e9
        boundaries, _ = min_cut_reference(similarity, 6)
        np.testing.assert_array_equal(min_cut(similarity, 6), boundaries)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_unit_of_similarity_does_not_matter(scale):
    np.testing.assert_array_equal(min_cut(uniform(20) * scale, 5), min_cut(uniform(20), 5))


def test_smallest_positive_entries():
    tiny = np.full((6, 6), np.nextafter(0.0, 1.0))
    assert min_cut(tiny, 3)[-1] == 5


# -- segments of a longest length


def limited(problems):
    """Strategy for (similarity, num_segments, max_frames): any limit with which the cut can be had, and beyond n."""

    def with_limit(problem):
        similarity, num_segments = problem
        n = len(similarity)
        return st.tuples(st.just(similarity), st.just(num_segments), st.integers(-(-(n - 1) // num_segments), n + 1))

    return problems.flatmap(with_limit)


@settings(deadline=None, max_examples=100)
@given(limited(problems(ordinary, 16)))
def test_objective_of_limited_segments_is_that_of_the_oracle(problem):
    similarity, num_segments, max_frames = problem
    found = min_cut(similarity, num_segments, max_frames)
    _, value = min_cut_reference(similarity, num_segments, max_frames)
    assert (found[0], found[-1]) == (0, len(similarity) - 1)
    assert (np.diff(found) > 0).all()
    assert (np.diff(found) <= max_frames).all()
    assert objective(similarity, found) == pytest.approx(value, abs=TOLERANCE)


@settings(deadline=None, max_examples=150)
@given(limited(problems(small_integers, 12)))
def test_ties_of_limited_segments_go_where_the_oracle_sends_them(problem):
    boundaries, _ = min_cut_reference(*problem)
    np.testing.assert_array_equal(min_cut(*problem), boundaries)


@pytest.mark.parametrize("n", range(2, 15))
def test_every_longest_length(n):
    """Tiles of four ends are not always full, nor are four starts always allowed."""
    for num_segments in range(1, n):
        for max_frames in range(-(-(n - 1) // num_segments), n + 1):
            boundaries, _ = min_cut_reference(uniform(n), num_segments, max_frames)
            np.testing.assert_array_equal(min_cut(uniform(n), num_segments, max_frames), boundaries)


@settings(deadline=None, max_examples=100)
@given(problems(ordinary, 40))
def test_a_limit_that_no_segment_reaches_changes_nothing(problem):
    unlimited = min_cut(*problem)
    for max_frames in (np.diff(unlimited).max(), 10**30):
        np.testing.assert_array_equal(min_cut(*problem, max_frames), unlimited)


def test_limited_costs_take_memory_for_the_limit_only():
    n, num_segments, max_frames = 60, 12, 9
    similarity, boundaries = uniform(n), np.empty(num_segments + 1, np.int64)
    memory = [np.empty((2, n)), np.empty((n, max_frames)), np.empty((num_segments + 1, n - num_segments))]
    _mincut.cut(similarity, similarity.sum(axis=1), *memory, boundaries)
    np.testing.assert_array_equal(boundaries, min_cut(similarity, num_segments, max_frames))


@pytest.mark.parametrize("max_frames", [-1, 0, 6])
def test_a_limit_that_is_too_small_is_refused(max_frames):
    message = f"^max_frames must be 7 or more for 3 segments of 20 frames, but it is {max_frames}$"
    with pytest.raises(ValueError, match=message):
        min_cut(uniform(20), 3, max_frames)


@pytest.mark.parametrize("max_frames", [7.0, True, "7"])
def test_a_limit_must_be_an_integer(max_frames):
    with pytest.raises(ValueError, match=r"^max_frames must be an integer or None, but it is "):
        min_cut(uniform(20), 3, max_frames)


# -- golden boundaries


def test_golden_boundaries():
    with np.load(MINCUTS) as file:
        golden = dict(file)
    keys = [key for key in golden if "_boundaries_" in key]
    assert keys
    for key in keys:
        case, num_segments = key.split("_boundaries_")
        features = golden[f"{case}_features"].astype(np.float64)
        products = features @ features.T
        found = min_cut(products - products.min() + 1e-7, int(num_segments))
        np.testing.assert_array_equal(found, golden[key], err_msg=key)


# -- kinds of arrays


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "layout",
    [
        lambda matrix: matrix,
        np.asfortranarray,
        lambda matrix: np.repeat(np.repeat(matrix, 2, axis=0), 3, axis=1)[::2, ::3],
        lambda matrix: matrix[::-1, ::-1].copy()[::-1, ::-1],
    ],
    ids=["c", "fortran", "strided", "reversed"],
)
def test_layouts_and_dtypes(dtype, layout):
    similarity = uniform(21, dtype=dtype)
    boundaries, _ = min_cut_reference(similarity, 6)
    view = layout(similarity)
    view.flags.writeable = False
    before = view.copy()
    np.testing.assert_array_equal(min_cut(view, 6), boundaries)
    np.testing.assert_array_equal(view, before)


def test_float32_is_summed_in_float64():
    similarity = uniform(200, dtype=np.float32)
    np.testing.assert_array_equal(min_cut(similarity, 40), min_cut(similarity.astype(np.float64), 40))


def test_numpy_integers_count_segments():
    np.testing.assert_array_equal(min_cut(uniform(9), np.int32(3)), min_cut(uniform(9), 3))


# -- what is refused


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"similarity must be finite, but similarity\[2, 1\] is nan"),
        (np.inf, r"similarity must be finite, but similarity\[2, 1\] is inf"),
        (-np.inf, r"similarity must be finite, but similarity\[2, 1\] is -inf"),
        (0.0, r"similarity must be positive, but similarity\[2, 1\] is 0\.0"),
        (-0.5, r"similarity must be positive, but similarity\[2, 1\] is -0\.5"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bad_entries_are_refused(value, message, dtype):
    similarity = uniform(4, dtype=dtype)
    similarity[2, 1] = value
    similarity[3, 3] = value
    with pytest.raises(ValueError, match=f"^{message}$"):
        min_cut(similarity, 2)


def test_entries_whose_sums_overflow_are_refused():
    similarity = uniform(4)
    similarity[0, 3] = 1e308
    with pytest.raises(ValueError, match=r"must not exceed .* similarity\[0, 3\] is 1e\+308$"):
        min_cut(similarity, 2)


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (np.ones((3, 4)), r"similarity must be square, but its shape is \(3, 4\)"),
        (np.ones((0, 3)), r"similarity must be square, but its shape is \(0, 3\)"),
        (np.ones((0, 0)), r"similarity must not be empty, but its shape is \(0, 0\)"),
        (np.ones(9), r"similarity must be a 2-D matrix, but its shape is \(9,\)"),
        (np.ones((2, 2, 2)), r"similarity must be a 2-D matrix, but its shape is \(2, 2, 2\)"),
        (np.float64(1.0), r"similarity must be a 2-D matrix, but its shape is \(\)"),
        (np.ones((3, 3), np.float16), "similarity must be float32 or float64, but its dtype is float16"),
        (np.ones((3, 3), np.int64), "similarity must be float32 or float64, but its dtype is int64"),
        (np.ones((3, 3), complex), "similarity must be float32 or float64, but its dtype is complex128"),
        (np.ones((3, 3), bool), "similarity must be float32 or float64, but its dtype is bool"),
        (np.ones((3, 3), object), "similarity must be float32 or float64, but its dtype is object"),
        (np.ones((1, 1)), r"similarity of a single frame cannot be cut: it must be \(2, 2\) or larger"),
    ],
)
def test_bad_matrices_are_refused(similarity, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        min_cut(similarity, 1)


@pytest.mark.parametrize("num_segments", [2.0, True, np.True_, "2", None, np.float64(2.0)])
def test_number_of_segments_must_be_an_integer(num_segments):
    with pytest.raises(ValueError, match=r"^num_segments must be an integer, but it is "):
        min_cut(np.ones((4, 4)), num_segments)


@pytest.mark.parametrize("num_segments", [-1, 0, 4, 5, 10**30])
def test_number_of_segments_must_fit(num_segments):
    message = f"^num_segments must be from 1 to 3 for 4 frames, but it is {num_segments}$"
    with pytest.raises(ValueError, match=message):
        min_cut(np.ones((4, 4)), num_segments)


# -- threads


def test_kernel_releases_the_gil():
    # With so long a switch interval a thread that holds the GIL keeps it: the other one gets to run only if
    # the kernel gives it up. Not through min_cut, because its calls of NumPy give it up as well.
    n, num_segments = 800, 160
    similarity = uniform(n)
    memory = [np.empty((2, n)), np.empty((n, n)), np.empty((num_segments + 1, n - num_segments))]
    arguments = [similarity, similarity.sum(axis=1), *memory, np.empty(num_segments + 1, np.int64)]
    gate = threading.Event()
    progress = []

    def run():
        gate.wait()
        progress.append("ran")

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=run)
    sys.setswitchinterval(1000)
    try:
        thread.start()
        gate.set()
        for _ in range(100):  # the system may be slow to wake a thread
            _mincut.cut(*arguments)
            if progress:
                break
        meanwhile = list(progress)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert meanwhile == ["ran"]


def test_threads_do_not_disturb_each_other():
    expected = [min_cut(uniform(150, seed), 30) for seed in range(4)]
    results = [[] for _ in expected]

    def cut(seed):
        results[seed] += [min_cut(uniform(150, seed), 30) for _ in range(20)]

    threads = [threading.Thread(target=cut, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, boundaries in zip(results, expected, strict=True):
        np.testing.assert_array_equal(found, [boundaries] * 20)
