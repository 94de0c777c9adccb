# cython: cdivision=True, overflowcheck=False
# Binary cross-entropy on logits, with its gradient: the fused form, right at every logit.
#
# For a logit z, a target t in [0, 1] and a weight w of the positive term, with s the sigmoid:
#
#   loss  l = (1 - t) log(1 + e^z) + w t log(1 + e^-z)
#           = ((1 - t) + w t) log(1 + e^-|z|) + (z > 0 ? (1 - t) z : -w t z)
#   gradient dz = dl/dz = (1 - t) s(z) - w t s(-z)
#
# Every term of the loss is positive, and a hard target leaves one term of the gradient, so no
# digits cancel. The literal p - y would lose them all where p rounds to 1.

from .vecmath cimport absolute, exp_pair, floating, log1p_pair, muladd, sigmoid_pair


cdef inline floating sigmoid(floating z) noexcept nogil:
    """s(z) = 1 / (1 + e^-z)."""
    cdef floating e, e_tail, big, small
    e = exp_pair(&e_tail, absolute(z))
    big = sigmoid_pair(&small, e, e_tail)
    return small if z < 0 else big


cdef inline floating bce(floating* dz, floating z, floating t, floating w) noexcept nogil:
    """The loss of one logit; its derivative goes to ``dz``."""
    cdef floating one = 1
    cdef floating x, e, e_tail, big, small, p, q, negative, negative_tail, positive, slope
    x = absolute(z)
    e = exp_pair(&e_tail, x)
    big = sigmoid_pair(&small, e, e_tail)
    p = small if z < 0 else big  # s(z)
    q = big if z < 0 else small  # s(-z)
    negative = one - t
    negative_tail = (one - negative) - t  # what 1 - t lost to rounding
    positive = w * t
    slope = muladd(negative, p, muladd(negative_tail, p, -positive * q))
    dz[0] = -positive * q if negative == 0 else slope  # keeps the sign of a vanishing gradient
    slope = negative if z > 0 else positive
    x = x if slope != 0 else 0  # 0 * inf would be NaN where the limit is 0
    return muladd(slope, x, (negative + positive) * log1p_pair(e, e_tail))


cdef inline void bce_block(floating* loss, floating* dz, const floating* z, const floating* t,
                           const floating* w, Py_ssize_t n) noexcept nogil:
    """Losses and derivatives of n logits; ``w`` holds the weights of the positive terms."""
    cdef Py_ssize_t i
    for i in range(n):
        loss[i] = bce(&dz[i], z[i], t[i], w[i])


cdef inline void smooth_block(floating* t, double smoothing, Py_ssize_t n) noexcept nogil:
    """t (1 - smoothing) + smoothing / 2, in place."""
    cdef Py_ssize_t i
    cdef floating factor = <floating> (1 - smoothing)
    cdef floating offset = <floating> (smoothing / 2)
    for i in range(n):
        t[i] = muladd(t[i], factor, offset)


cdef inline double sum_block(const floating* values, Py_ssize_t n) noexcept nogil:
    """The sum in float64: 8 lanes, then a tree. The order depends on n alone."""
    cdef double lanes[8]
    cdef Py_ssize_t i, j
    for j in range(8):
        lanes[j] = 0
    for i in range(n // 8):
        for j in range(8):
            lanes[j] += values[8 * i + j]
    for i in range(n // 8 * 8, n):
        lanes[i % 8] += values[i]
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + (
        (lanes[1] + lanes[5]) + (lanes[3] + lanes[7])
    )
