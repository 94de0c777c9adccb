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
#
# The focal loss (Lin et al. 2017) multiplies each term by a power g > 0 of the probability of the
# other label, so that rows that are right already count less:
#
#   loss  l = (1 - t) s(z)^g log(1 + e^z) + w t s(-z)^g log(1 + e^-z)
#   gradient dz = (1 - t) s(z)^g (g s(-z) log(1 + e^z) + s(z))
#                 - w t s(-z)^g (g s(z) log(1 + e^-z) + s(-z))
#
# Its terms have one sign each too. module.pxi gives the losses their names in Python.

from .vecmath cimport (
    absolute, exp_pair, floating, log1p_pair, log1p_parts, muladd, residual, sigmoid_pair,
    two_sum,
)

cdef enum Loss:
    BCE
    FOCAL


cdef inline floating sigmoid(floating z) noexcept nogil:
    """s(z) = 1 / (1 + e^-z)."""
    cdef floating e, e_tail, big, small
    e = exp_pair(&e_tail, absolute(z))
    big = sigmoid_pair(&small, e, e_tail)
    return small if z < 0 else big  # [formula sigmoid]


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
    # [formula fused-gradient]
    slope = muladd(negative, p, muladd(negative_tail, p, -positive * q))
    dz[0] = -positive * q if negative == 0 else slope  # keeps the sign of a vanishing gradient
    slope = negative if z > 0 else positive
    x = x if slope != 0 else 0  # 0 * inf would be NaN where the limit is 0
    # [formula stable-loss]
    return muladd(slope, x, (negative + positive) * log1p_pair(e, e_tail))


cdef inline floating power_of(floating head, floating tail, floating g) noexcept nogil:
    """exp(-g (head + tail)) for head >= 0: what rounding g head loses is put back."""
    cdef floating x, away, e, e_tail, largest
    if floating is float:
        largest = <floating> 110.0
    else:
        largest = 750.0
    x = g * head
    away = muladd(g, tail, -residual(x, g, head))
    e = exp_pair(&e_tail, x)
    e_tail = muladd(-e, away, e_tail)
    return 0 if x >= largest else e + e_tail  # residual is NaN where x is infinite; a NaN stays


cdef inline floating focal(floating* dz, floating z, floating t, floating w,
                           floating g) noexcept nogil:
    """The focal loss of one logit; its derivative goes to ``dz``."""
    cdef floating one = 1
    cdef floating x, e, e_tail, big, small, p, q, tail, lost, above, above_tail
    cdef floating below, below_tail, negative, positive, fading, rest
    x = absolute(z)
    e = exp_pair(&e_tail, x)
    big = sigmoid_pair(&small, e, e_tail)
    p = small if z < 0 else big  # s(z)
    q = big if z < 0 else small  # s(-z)
    tail = log1p_parts(&lost, e, e_tail)  # a power has g times its error
    above = two_sum(&above_tail, 0 if z < 0 else x, tail)  # log(1 + e^z) = -log s(-z)
    below = two_sum(&below_tail, x if z < 0 else 0, tail)  # log(1 + e^-z) = -log s(z)
    negative = (one - t) * power_of(below, below_tail + lost, g)
    positive = w * t * power_of(above, above_tail + lost, g)
    fading = q * above if q != 0 else 0  # its limit where z is infinite
    rest = p * below if p != 0 else 0
    dz[0] = (negative * muladd(g, fading, p) if negative != 0 else 0) - (
        positive * muladd(g, rest, q) if positive != 0 else 0)
    return (negative * above if negative != 0 else 0) + (
        positive * below if positive != 0 else 0)


cdef inline void loss_block(floating* loss, floating* dz, const floating* z, const floating* t,
                            const floating* w, int kind, double focus,
                            Py_ssize_t n) noexcept nogil:
    """Losses and derivatives of n logits; ``w`` holds the weights of the positive terms.

    ``focus`` is the focal loss's g.
    """
    cdef Py_ssize_t i
    cdef floating g = <floating> focus
    if kind == BCE:
        for i in range(n):
            loss[i] = bce(&dz[i], z[i], t[i], w[i])
    else:  # FOCAL
        for i in range(n):
            loss[i] = focal(&dz[i], z[i], t[i], w[i], g)


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
