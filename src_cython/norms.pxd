# Normalisations of a layer's z, row by row: z becomes y = gain x + shift, x = (z - m) d, with m a
# mean and d = 1 / sqrt(variance + EPSILON).
#
# Batch normalisation (Ioffe and Szegedy 2015) takes mean and variance of each column over the
# batch, layer normalisation (Ba, Kiros and Hinton 2016) of each row over its columns. Backwards,
# with dx = gain dy and the means over whatever m and the variance were taken of,
#
#   dz = d (dx - mean(dx) - x mean(dx x)),  dgain = sum over rows of dy x,  dshift = sum of dy.
#
# Means are sums of numbers in float64, in an order that depends on shapes alone.

from affine cimport lane_sum
from bcenet.cimports.losses cimport sum_block
from bcenet.cimports.vecmath cimport floating, muladd, square_root

cdef enum Norm:
    NO_NORM
    BATCH_NORM
    LAYER_NORM

cdef extern from *:
    """
    #define bcn_norm_epsilon 1e-5
    """
    const double EPSILON "bcn_norm_epsilon"


cdef inline double deviation_inverse(double variance) noexcept nogil:
    return 1 / square_root(variance + EPSILON)


cdef inline double squares(const floating* z, double mean, Py_ssize_t n) noexcept nogil:
    """Sum of (z - mean)^2: 8 lanes, then a tree."""
    cdef double lanes[8]
    cdef double away
    cdef Py_ssize_t i, j
    for j in range(8):
        lanes[j] = 0
    for i in range(n // 8):
        for j in range(8):
            away = <double> z[8 * i + j] - mean
            lanes[j] += away * away
    for i in range(n // 8 * 8, n):
        away = <double> z[i] - mean
        lanes[i % 8] += away * away
    return lane_sum(<const double*> lanes)


cdef inline floating normalize_row(floating* y, floating* x, const floating* gain,
                                   const floating* shift, Py_ssize_t n) noexcept nogil:
    """Layer normalisation of the z in ``y``; x goes to ``x``. Returns d."""
    cdef Py_ssize_t j
    cdef double mean = sum_block(<const floating*> y, n) / n
    cdef floating m = <floating> mean
    cdef floating d = <floating> deviation_inverse(squares(<const floating*> y, mean, n) / n)
    for j in range(n):
        x[j] = (y[j] - m) * d
        y[j] = muladd(gain[j], x[j], shift[j])
    return d


cdef inline void normalize_row_back(floating* dz, const floating* dy, const floating* x,
                                    const floating* gain, floating d,
                                    Py_ssize_t n) noexcept nogil:
    """dz of a row whose mean and variance were taken over its own columns."""
    cdef Py_ssize_t i, j
    cdef double dx
    cdef double sums[8]
    cdef double products[8]
    cdef floating mean, slope
    for j in range(8):
        sums[j] = 0
        products[j] = 0
    for i in range(n // 8):
        for j in range(8):
            dx = <double> gain[8 * i + j] * <double> dy[8 * i + j]
            sums[j] += dx
            products[j] += dx * <double> x[8 * i + j]
    for i in range(n // 8 * 8, n):
        dx = <double> gain[i] * <double> dy[i]
        sums[i % 8] += dx
        products[i % 8] += dx * <double> x[i]
    mean = <floating> (lane_sum(<const double*> sums) / n)
    slope = <floating> (lane_sum(<const double*> products) / n)
    for j in range(n):
        dz[j] = d * muladd(-x[j], slope, gain[j] * dy[j] - mean)


cdef inline void standardize_row(floating* y, floating* x, const floating* mean,
                                 const floating* d, const floating* gain,
                                 const floating* shift, Py_ssize_t n) noexcept nogil:
    """Batch normalisation of the z in ``y`` with one mean and d a column; x goes to ``x``."""
    cdef Py_ssize_t j
    for j in range(n):
        x[j] = (y[j] - mean[j]) * d[j]
        y[j] = muladd(gain[j], x[j], shift[j])


cdef inline void standardize_row_back(floating* dz, const floating* dy, const floating* x,
                                      const floating* d, const floating* gain,
                                      const floating* mean, const floating* slope,
                                      Py_ssize_t n) noexcept nogil:
    """dz of a row; ``mean`` and ``slope`` are the means of dy and of dy x over the batch.

    They are 0 where mean and variance are constants.
    """
    cdef Py_ssize_t j
    for j in range(n):
        dz[j] = gain[j] * d[j] * muladd(-x[j], slope[j], dy[j] - mean[j])
