# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernel of the minimum cut: plain loops over memory of the caller, without the GIL.

The package's `min_cut` checks the input, allocates the memory and documents the formula.

k segments need k frames or more, and so do the K - k that follow them: of C[i, k] only
i = k + a with a in 0..n - 1 - K can lie on a path to the end. The table holds those
alone, best[k, a] = C[k + a, k], which leaves one rule without exceptions, for k >= 2
and segments of up to L frames:

    best[k, a] = min over a - L < b <= a of best[k - 1, b] + cost of [k - 1 + b, k + a)

Costs are kept in a band: costs[i, L - m] is that of the m frames before i, so that in
memory the cost of [j, i) stands at L + i * (L - 1) + j, starts j beside each other.
"""

from libc.float cimport DBL_MAX
from libc.stdint cimport int64_t

# Ends that are handled together: they share the loads of `best`, and being independent
# chains of minima they hide each other's latency. `least_of_tile` is written out for it.
cdef enum:
    TILE = 4

# The cost of what is too short: more than all costs of a cut together, so that a cut that needs none has none.
cdef double FORBIDDEN = 1e30


cdef inline const double* cost_of(
    const double[:, ::1] costs, Py_ssize_t start, Py_ssize_t end
) noexcept nogil:
    """Return where the cost of [start, end) is, those of the starts around it beside it."""
    return &costs[0, 0] + costs.shape[1] + end * (costs.shape[1] - 1) + start


cdef void fill_costs(
    const double[:, ::1] similarity,
    const double[::1] row_sums,
    double[::1] rows,
    double[::1] blocks,
    double[:, ::1] costs,
    Py_ssize_t shortest,
) noexcept nogil:
    """Set the cost cut / (cut + within) of each segment [j, i) of up to L frames, and forbid the too short.

    While i ascends, rows[j] = sum S[j:i, :] and blocks[j] = sum S[j:i, j:i] only ever
    grow by positive terms: differences of 2-D prefix sums would lose the small entries
    beside the large ones.
    """
    cdef Py_ssize_t end, first, last, start
    cdef double border, cut
    cdef double* row
    for end in range(1, similarity.shape[0]):
        last = end - 1
        first = max(0, end - costs.shape[1])
        row = <double*>cost_of(costs, 0, end)
        rows[last] = 0.0
        blocks[last] = border = similarity[last, last]
        for start in range(last - 1, first - 1, -1):
            border += similarity[last, start] + similarity[start, last]
            blocks[start] += border
        for start in range(first, end):
            rows[start] += row_sums[last]
            cut = rows[start] - blocks[start]
            row[start] = cut / (cut + 0.5 * blocks[start])
        for start in range(max(first, end - shortest + 1), end):
            row[start] = FORBIDDEN


cdef inline double least(
    const double* best,
    const double* costs,
    Py_ssize_t low,
    Py_ssize_t high,
    double bound,
) noexcept nogil:
    """Return the least of bound and best[b] + costs[b] for b in low..high - 1."""
    cdef Py_ssize_t b
    cdef double value
    for b in range(low, high):
        value = best[b] + costs[b]
        bound = value if value < bound else bound
    return bound


cdef inline void least_of_tile(
    const double* best,
    const double* costs,
    Py_ssize_t stride,
    Py_ssize_t low,
    Py_ssize_t high,
    double* found,
) noexcept nogil:
    """Set found[r] to the least best[b] + costs[r * stride + b], b in low..high - 1, r < TILE."""
    cdef const double* costs1 = costs + stride
    cdef const double* costs2 = costs1 + stride
    cdef const double* costs3 = costs2 + stride
    cdef double least0 = DBL_MAX
    cdef double least1 = DBL_MAX
    cdef double least2 = DBL_MAX
    cdef double least3 = DBL_MAX
    cdef double value0, value1, value2, value3
    cdef Py_ssize_t b
    for b in range(low, high):
        value0 = best[b] + costs[b]
        value1 = best[b] + costs1[b]
        value2 = best[b] + costs2[b]
        value3 = best[b] + costs3[b]
        least0 = value0 if value0 < least0 else least0
        least1 = value1 if value1 < least1 else least1
        least2 = value2 if value2 < least2 else least2
        least3 = value3 if value3 < least3 else least3
    found[0] = least0
    found[1] = least1
    found[2] = least2
    found[3] = least3


cdef void fill_best(const double[:, ::1] costs, double[:, ::1] best) noexcept nogil:
    """Fill best[k, a] for k in 1..K; row 0 is not used.

    Where k segments cannot reach, it is DBL_MAX: a cost, far smaller, makes it no larger.
    """
    cdef Py_ssize_t num_segments = best.shape[0] - 1
    cdef Py_ssize_t width = best.shape[1]
    cdef Py_ssize_t longest = costs.shape[1]
    cdef Py_ssize_t a, first, high, k, low, r, shared, tile
    cdef const double* before
    cdef const double* row
    cdef double found[TILE]
    for a in range(width):
        best[1, a] = cost_of(costs, 0, 1 + a)[0] if a < longest else DBL_MAX
    # What does not fill a tile comes first, where rows of the triangle b <= a are short.
    for a in range(width % TILE):
        low = max(0, a + 1 - longest)
        for k in range(2, num_segments + 1):
            row = cost_of(costs, k - 1, k + a)
            best[k, a] = least(&best[k - 1, 0], row, low, a + 1, DBL_MAX)
    for tile in range(width // TILE):
        first = width % TILE + tile * TILE
        # Starts shared..first are those of each end of the tile; there are none where longest < TILE.
        shared = min(max(0, first + TILE - longest), first + 1)
        for k in range(2, num_segments + 1):
            before = &best[k - 1, 0]
            row = cost_of(costs, k - 1, k + first)
            least_of_tile(before, row, longest - 1, shared, first + 1, found)
            for r in range(TILE):
                low = max(0, first + r + 1 - longest)
                found[r] = least(before, row, low, shared, found[r])
                high = first + r + 1
                best[k, first + r] = least(before, row, max(low, first + 1), high, found[r])
                row += longest - 1


cdef void trace_back(
    const double[:, ::1] costs, const double[:, ::1] best, int64_t[::1] boundaries
) noexcept nogil:
    """Follow the minima back from the end; equal values go to the smallest start."""
    cdef Py_ssize_t num_segments = best.shape[0] - 1
    cdef Py_ssize_t a = best.shape[1] - 1
    cdef Py_ssize_t b, chosen, k
    cdef double smallest, value
    cdef const double* row
    boundaries[num_segments] = num_segments + a
    for k in range(num_segments, 1, -1):
        row = cost_of(costs, k - 1, k + a)
        chosen = max(0, a + 1 - costs.shape[1])
        smallest = best[k - 1, chosen] + row[chosen]
        for b in range(chosen + 1, a + 1):
            value = best[k - 1, b] + row[b]
            if value < smallest:
                smallest = value
                chosen = b
        a = chosen
        boundaries[k - 1] = k - 1 + a
    boundaries[0] = 0


def cut(
    const double[:, ::1] similarity,
    const double[::1] row_sums,
    double[:, ::1] sums,
    double[:, ::1] costs,
    double[:, ::1] best,
    int64_t[::1] boundaries,
    Py_ssize_t shortest=1,
):
    """Write the K + 1 boundaries of the minimum cut into K segments of up to L frames.

    Nothing is checked here: that sizes agree, that K * shortest <= n - 1 <= K * L, that
    entries are positive and sums finite is the caller's part.

    Args:
        similarity: (n, n) positive.
        row_sums: (n,) sum of each row of similarity.
        sums: (2, n) scratch.
        costs: (n, L) scratch; costs[i, l] is set to the cost of [i - L + l, i).
        best: (K + 1, n - K) scratch; set to the table of the recurrence.
        boundaries: (K + 1,) result, frames.
        shortest: frames of a segment, at least.
    """
    with nogil:
        fill_costs(similarity, row_sums, sums[0], sums[1], costs, shortest)
        fill_best(costs, best)
        trace_back(costs, best, boundaries)
