# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernel of the least squared error: plain loops over memory of the caller, without the GIL.

The package's `sse_cut` checks the input, allocates the memory and documents the formula.
"""

from libc.float cimport DBL_MAX
from libc.stdint cimport int64_t

# A cost that no path can have: DBL_MAX stays what it is when one is added, and is never added to itself.
cdef double NO_CUT = DBL_MAX


cdef void fill_errors(
    const double[:, ::1] products,
    Py_ssize_t shortest,
    double width,
    double[::1] within,
    double[:, ::1] errors,
) noexcept nogil:
    """Set errors[L - shortest, i] to that of the L frames before i, and NO_CUT where there are not so many.

    products[t, l] is the product of frames t and t - l. While a chunk grows to its front, the sum of all its
    products grows by one frame's square and twice its products with the others: within[l] is, of frame i - 1 - l,
    its products with the frames after it and before i, all summed up.
    """
    cdef Py_ssize_t longest = products.shape[1]
    cdef Py_ssize_t end, length, last, start
    cdef double square, squares
    for length in range(errors.shape[0]):
        for end in range(errors.shape[1]):
            errors[length, end] = NO_CUT
    for end in range(1, products.shape[0] + 1):
        last = end - 1
        # From the chunks that end one frame earlier: frame start gains its product with the last one.
        for length in range(min(longest, end) - 1, 0, -1):
            within[length] = within[length - 1] + products[last, length]
        within[0] = 0.0
        square = 0.0
        squares = 0.0
        for length in range(1, min(longest, end) + 1):
            start = end - length
            squares += products[start, 0]
            square += products[start, 0] + 2.0 * within[length - 1]
            if length >= shortest:
                # In exact numbers it is never negative.
                errors[length - shortest, end] = max(0.0, squares - square / length) / width


cdef void fill_best(
    const double[:, ::1] errors, Py_ssize_t shortest, double[:, ::1] best
) noexcept nogil:
    """Fill best[k, i], the least error of the frames before i in k chunks."""
    cdef Py_ssize_t n = best.shape[1] - 1
    cdef Py_ssize_t k, row, length, end
    cdef double value
    cdef const double* before
    cdef const double* error
    cdef double* found
    for end in range(n + 1):
        best[0, end] = NO_CUT
    best[0, 0] = 0.0
    for k in range(1, best.shape[0]):
        found = &best[k, 0]
        for end in range(n + 1):
            found[end] = NO_CUT
        for row in range(errors.shape[0]):
            length = row + shortest
            if length > n:
                break
            before = &best[k - 1, 0]
            error = &errors[row, 0]
            for end in range(length, n + 1):
                value = before[end - length] + error[end]
                found[end] = value if value < found[end] else found[end]


cdef void trace_back(
    const double[:, ::1] errors,
    Py_ssize_t shortest,
    const double[:, ::1] best,
    Py_ssize_t count,
    int64_t* boundaries,
    double* means,
) noexcept nogil:
    """Write the count + 1 boundaries and the error per frame of each chunk; of equals, the shortest last chunk."""
    cdef Py_ssize_t end = best.shape[1] - 1
    cdef Py_ssize_t k, row, chosen
    cdef double value, least
    boundaries[count] = end
    for k in range(count, 0, -1):
        chosen = 0
        least = NO_CUT
        for row in range(min(errors.shape[0], end - shortest + 1)):
            value = best[k - 1, end - shortest - row] + errors[row, end]
            if value < least:
                least = value
                chosen = row
        means[k - 1] = errors[chosen, end] / (shortest + chosen)
        end -= shortest + chosen
        boundaries[k - 1] = end


cdef double upper_quantile(double* values, Py_ssize_t count, double share) noexcept nogil:
    """Return a quantile, linear between values, which are sorted in place."""
    cdef Py_ssize_t i, j, low
    cdef double value, place
    for i in range(1, count):
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
    place = share * (count - 1)
    low = <Py_ssize_t>place
    if low + 1 >= count:
        return values[count - 1]
    return values[low] + (place - low) * (values[low + 1] - values[low])


def cut(
    const double[:, ::1] products,
    Py_ssize_t shortest,
    double width,
    Py_ssize_t fewest,
    double max_error,
    double share,
    double[::1] scratch,
    double[:, ::1] errors,
    double[:, ::1] best,
    int64_t[::1] boundaries,
):
    """Write the boundaries of the chosen number of chunks and return it; 0 where no number is possible.

    Nothing is checked here: that sizes agree and values are finite is the caller's part.

    Args:
        products: (n, L) of each frame and the l-th before it, 0 where there is none; L the longest chunk.
        shortest: frames of a chunk, 1 to L.
        width: d, dimensions.
        fewest: chunks, at least 1; best has rows for the most.
        max_error: chunks are added while the quantile of their errors per frame is larger.
        share: which quantile.
        scratch: (max(L, K),).
        errors: (L - shortest + 1, n + 1) scratch.
        best: (K + 1, n + 1) scratch.
        boundaries: (K + 1,) result.
    """
    cdef Py_ssize_t low = fewest
    cdef Py_ssize_t high = best.shape[0] - 1
    cdef Py_ssize_t last = best.shape[1] - 1
    cdef Py_ssize_t middle, chosen = 0
    cdef Py_ssize_t k
    with nogil:
        fill_errors(products, shortest, width, scratch, errors)
        fill_best(errors, shortest, best)
        while high >= low and best[high, last] == NO_CUT:
            high -= 1
        while low <= high and best[low, last] == NO_CUT:
            low += 1
        chosen = 0
        k = low
        if low <= high:
            while low <= high:
                middle = (low + high) // 2
                trace_back(errors, shortest, best, middle, &boundaries[0], &scratch[0])
                if upper_quantile(&scratch[0], middle, share) > max_error:
                    chosen = middle
                    low = middle + 1
                else:
                    high = middle - 1
            chosen = max(chosen, k)
            trace_back(errors, shortest, best, chosen, &boundaries[0], &scratch[0])
    return chosen
