# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Kernel of the greedy segments: plain loops over memory of the caller, without the GIL.

The package's `greedy_segments` checks the input, allocates the memory and documents the rule.

Means are kept as sums with their counts, u = c * centroid: (c * centroid + x) / (c + 1) becomes u + x.
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t

cdef double EPSILON = 1e-8

# Loops over the values of a frame, in C for the attribute: where the processor has AVX2, four double at once. Products
# are summed in eight lanes, which are added up in one order, so that the bits are the same on every machine.
cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
    #define WIDEST __attribute__((target_clones("avx2", "default")))
    #else
    #define WIDEST
    #endif

    #define DEFINE_DOT(name, left_type, right_type) \
    WIDEST static double name(const left_type *x, const right_type *y, Py_ssize_t width) { \
        double lanes[8] = {0.0}; \
        Py_ssize_t block, lane; \
        for (block = 0; block < width / 8; block++, x += 8, y += 8) \
            for (lane = 0; lane < 8; lane++) lanes[lane] += (double)x[lane] * (double)y[lane]; \
        for (lane = 0; lane < width % 8; lane++) lanes[lane] += (double)x[lane] * (double)y[lane]; \
        return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) \
            + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])); \
    }

    #define DEFINE_ADD(name, type) \
    WIDEST static void name(const type *x, double scale, double *total, Py_ssize_t width) { \
        Py_ssize_t i; \
        for (i = 0; i < width; i++) total[i] += scale * x[i]; \
    }

    DEFINE_DOT(dot_frames, float, float)
    DEFINE_DOT(dot_frame_sum, float, double)
    DEFINE_DOT(dot_sums, double, double)
    DEFINE_ADD(add_frame, float)
    DEFINE_ADD(add_sum, double)
    """
    double dot_frames(const float* x, const float* y, Py_ssize_t width) noexcept nogil
    double dot_frame_sum(const float* x, const double* y, Py_ssize_t width) noexcept nogil
    double dot_sums(const double* x, const double* y, Py_ssize_t width) noexcept nogil
    void add_frame(const float* x, double scale, double* total, Py_ssize_t width) noexcept nogil
    void add_sum(const double* x, double scale, double* total, Py_ssize_t width) noexcept nogil


cdef inline void clear(double* total, Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(width):
        total[i] = 0.0


cdef inline double norm(double square, double count) noexcept nogil:
    """Return that of the mean of count frames, from the squared norm of their sum; 1e-8 is added to its square."""
    return sqrt(square / (count * count) + EPSILON)


cdef Py_ssize_t collect(
    const float[:, ::1] features,
    double norm_threshold,
    double merge_threshold,
    bint reset_count,
    double[::1] norms,
    double[:, ::1] sums,
    double[::1] first_counts,
    int64_t[:, ::1] segments,
) noexcept nogil:
    """Fill segments with runs of frames like their centroid; return how many there are.

    sums[k] is the sum of their centroid, in which the first frame counts first_counts[k] times.
    """
    cdef Py_ssize_t width = features.shape[1]
    cdef Py_ssize_t t, k = -1
    cdef double count = 0.0, frame_square, product, square = 0.0
    cdef bint is_open = False
    cdef const float* x
    for t in range(features.shape[0]):
        x = &features[t, 0]
        frame_square = dot_frames(x, x, width)
        norms[t] = norm(frame_square, 1.0)
        if norms[t] < norm_threshold:
            is_open = False
            count = 0.0
            continue
        if is_open:
            product = dot_frame_sum(x, &sums[k, 0], width)
            if product / count / (norms[t] * norm(square, count)) >= merge_threshold:
                add_frame(x, 1.0, &sums[k, 0], width)
                square += 2.0 * product + frame_square
                count += 1.0
                segments[k, 1] = t + 1
                continue
        k += 1
        count = 1.0 if reset_count else count + 1.0
        square = count * count * frame_square
        clear(&sums[k, 0], width)
        add_frame(x, count, &sums[k, 0], width)
        segments[k, 0] = t
        segments[k, 1] = t + 1
        first_counts[k] = count
        is_open = True
    return k + 1


cdef Py_ssize_t best_boundary(
    const float[:, ::1] features,
    const double[::1] norms,
    Py_ssize_t low,
    Py_ssize_t high,
    const double* contrast,
) noexcept nogil:
    """Return the first boundary in low..high - 1 that has frames most like the mean on their side.

    contrast: the left mean minus the right one, each divided by its norm: the product with a frame is by how much
    that one is more like the left.
    """
    cdef Py_ssize_t t, best = low
    cdef double gain = 0.0, most = 0.0
    for t in range(low, high - 1):
        gain += dot_frame_sum(&features[t, 0], contrast, features.shape[1]) / norms[t]
        if gain > most:
            most = gain
            best = t + 1
    return best


cdef void refine(
    const float[:, ::1] features,
    const double[::1] norms,
    double merge_threshold,
    Py_ssize_t num_segments,
    double[:, ::1] sums,
    const double[::1] first_counts,
    double[::1] contrast,
    int64_t[:, ::1] segments,
) noexcept nogil:
    """Merge neighbours or move their boundary, in order; what is merged or emptied becomes [t, t)."""
    cdef Py_ssize_t width = features.shape[1]
    cdef Py_ssize_t k, t, start, boundary, end, low, high
    cdef double left, right, left_norm, right_norm
    for k in range(num_segments):
        if first_counts[k] > 1:
            add_frame(&features[segments[k, 0], 0], 1.0 - first_counts[k], &sums[k, 0], width)
    for k in range(num_segments - 1):
        start = segments[k, 0]
        boundary = segments[k, 1]
        if boundary < segments[k + 1, 0]:
            continue
        end = segments[k + 1, 1]
        left = boundary - start
        right = end - boundary
        left_norm = norm(dot_sums(&sums[k, 0], &sums[k, 0], width), left)
        right_norm = norm(dot_sums(&sums[k + 1, 0], &sums[k + 1, 0], width), right)
        if dot_sums(&sums[k, 0], &sums[k + 1, 0], width) / (left * right) / (left_norm * right_norm) >= merge_threshold:
            add_sum(&sums[k, 0], 1.0, &sums[k + 1, 0], width)
            segments[k, 1] = start
            segments[k + 1, 0] = start
            continue
        low = max(start, boundary - max(1, (boundary - start) // 2))
        high = min(end, boundary + max(1, (end - boundary) // 2))
        clear(&contrast[0], width)
        add_sum(&sums[k, 0], 1.0 / (left * left_norm), &contrast[0], width)
        add_sum(&sums[k + 1, 0], -1.0 / (right * right_norm), &contrast[0], width)
        low = best_boundary(features, norms, low, high, &contrast[0])
        segments[k, 1] = low
        segments[k + 1, 0] = low
        for t in range(low, boundary):
            add_frame(&features[t, 0], 1.0, &sums[k + 1, 0], width)
        for t in range(boundary, low):
            add_frame(&features[t, 0], -1.0, &sums[k + 1, 0], width)


def find(
    const float[:, ::1] features,
    double norm_threshold,
    double merge_threshold,
    bint reset_count,
    double[::1] norms,
    double[:, ::1] sums,
    double[::1] first_counts,
    double[::1] contrast,
    int64_t[:, ::1] segments,
):
    """Write the segments and return how many rows there are; rows without frames are to be left out.

    Nothing is checked here: that sizes agree and values are finite is the caller's part.

    Args:
        features: (n, d), n and d at least 1.
        norm_threshold: frames of a smaller norm are in no segment.
        merge_threshold: similarity from which frames and segments are taken together, above 0.
        reset_count: whether the count of a centroid begins at 1 in each segment.
        norms: (n,) scratch.
        sums: (n, d) scratch, of which as many rows are touched as there are segments.
        first_counts: (n,) scratch.
        contrast: (d,) scratch.
        segments: (n, 2) result, frames [start, end).
    """
    cdef Py_ssize_t num_segments
    with nogil:
        num_segments = collect(
            features, norm_threshold, merge_threshold, reset_count, norms, sums, first_counts, segments
        )
        refine(features, norms, merge_threshold, num_segments, sums, first_counts, contrast, segments)
    return num_segments
