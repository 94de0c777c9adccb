# cython: cdivision=True, overflowcheck=False
# Activations: each is one function from z to (a, slope), a = g(z) and slope = g'(z) sharing
# their work, and one row in `activate`. module.pxi gives them their names in Python.

from .losses cimport sigmoid
from .vecmath cimport (
    absolute, exp_pair, exp_polynomial, exp_reduce, floating, log1p_pair, muladd, normal_tail,
    sigmoid_pair, with_sign,
)

cdef enum Activation:
    IDENTITY
    RELU
    LEAKY_RELU
    ELU
    SELU
    GELU
    SILU
    TANH
    SIGMOID
    SOFTPLUS


cdef inline floating identity(floating* slope, floating z) noexcept nogil:
    """g(z) = z."""
    slope[0] = 1
    return z


cdef inline floating relu(floating* slope, floating z) noexcept nogil:
    """g(z) = max(z, 0), with slope 0 at 0; a NaN stays a NaN."""
    slope[0] = 1 if z > 0 else 0  # [formula relu-slope]
    return 0 if z < 0 else z


cdef inline floating leaky_relu(floating* slope, floating z) noexcept nogil:
    """g(z) = z for z > 0, else 0.01 z (Maas et al. 2013)."""
    slope[0] = 1 if z > 0 else <floating> 0.01
    return z * slope[0]


cdef inline floating expm1_negative(floating* e, floating x) noexcept nogil:
    """exp(-x) - 1 for x >= 0, accurate near 0; ``e`` receives exp(-x)."""
    cdef floating one = 1
    cdef floating half, rest, r, r_tail, p, power
    r = exp_reduce(&r_tail, &half, &rest, x)
    p = r + muladd(r * r, exp_polynomial(r), r_tail)  # exp(r) - 1
    power = half * rest
    e[0] = muladd(power, p, power)
    return muladd(power, p, power - one)


cdef inline floating elu(floating* slope, floating z) noexcept nogil:
    """g(z) = z for z > 0, else exp(z) - 1 (Clevert et al. 2016, alpha = 1)."""
    cdef floating e
    cdef floating below = expm1_negative(&e, absolute(z))
    slope[0] = 1 if z > 0 else e  # [formula elu-slope]
    return z if z > 0 else below


cdef inline floating selu(floating* slope, floating z) noexcept nogil:
    """g(z) = lambda (z for z > 0, else alpha (exp(z) - 1)) (Klambauer et al. 2017)."""
    cdef floating scale = <floating> 1.0507009873554804934
    cdef floating scaled_alpha = <floating> 1.7580993408473768599  # lambda * alpha
    cdef floating e
    cdef floating below = expm1_negative(&e, absolute(z))
    slope[0] = scale if z > 0 else scaled_alpha * e
    return scale * z if z > 0 else scaled_alpha * below


cdef inline floating gelu(floating* slope, floating z) noexcept nogil:
    """g(z) = z P(N <= z), exact (Hendrycks and Gimpel 2016); g' = P(N <= z) + z density(z)."""
    cdef floating density, tail, probability, a, limit
    if floating is float:
        limit = <floating> 14.5
    else:
        limit = 38.7
    tail = normal_tail(&density, absolute(z))
    probability = tail if z < 0 else <floating> 1 - tail
    a = z * probability
    # [formula gelu-slope]
    slope[0] = 1 if z > limit else (0 if z < -limit else muladd(z, density, probability))
    return 0 if z < -limit else a  # -inf * 0


cdef inline floating silu(floating* slope, floating z) noexcept nogil:
    """g(z) = z s(z); g' = s(z) (1 + z s(-z)) (Elfwing et al. 2017)."""
    cdef floating e, e_tail, big, small, p, q, limit
    if floating is float:
        limit = <floating> 110.0
    else:
        limit = 750.0
    e = exp_pair(&e_tail, absolute(z))
    big = sigmoid_pair(&small, e, e_tail)
    p = small if z < 0 else big
    q = big if z < 0 else small
    # [formula silu-slope]
    slope[0] = 1 if z > limit else (0 if z < -limit else p * muladd(z, q, <floating> 1))
    return 0 if z < -limit else z * p  # -inf * 0


cdef inline floating tanh(floating* slope, floating z) noexcept nogil:
    """g(z) = tanh z = -(e - 1) / (1 + e), e = exp(-2 |z|); g' = 4 e / (1 + e)^2."""
    cdef floating one = 1
    cdef floating e, inverse
    cdef floating x = absolute(z)
    cdef floating below = expm1_negative(&e, x + x)
    inverse = one / (one + e)
    slope[0] = <floating> 4 * e * inverse * inverse  # [formula tanh-slope]
    return with_sign(-below / (<floating> 2 + below), z)


cdef inline floating logistic(floating* slope, floating z) noexcept nogil:
    """g(z) = s(z); g' = s(z) s(-z)."""
    cdef floating e, e_tail, big, small
    e = exp_pair(&e_tail, absolute(z))
    big = sigmoid_pair(&small, e, e_tail)
    slope[0] = big * small  # [formula sigmoid-slope]
    return small if z < 0 else big


cdef inline floating softplus(floating* slope, floating z) noexcept nogil:
    """g(z) = log(1 + e^z) = max(z, 0) + log(1 + e^-|z|); g' = s(z)."""
    cdef floating e, e_tail, big, small
    e = exp_pair(&e_tail, absolute(z))
    big = sigmoid_pair(&small, e, e_tail)
    slope[0] = small if z < 0 else big  # [formula softplus-slope]
    return (0 if z < 0 else z) + log1p_pair(e, e_tail)


cdef inline void activate(floating* a, floating* slope, int kind, Py_ssize_t n) noexcept nogil:
    """Replace the n values z in ``a`` by g(z), and write g'(z) to ``slope``."""
    cdef Py_ssize_t i
    if kind == IDENTITY:
        for i in range(n):
            a[i] = identity(&slope[i], a[i])
    elif kind == RELU:
        for i in range(n):
            a[i] = relu(&slope[i], a[i])
    elif kind == LEAKY_RELU:
        for i in range(n):
            a[i] = leaky_relu(&slope[i], a[i])
    elif kind == ELU:
        for i in range(n):
            a[i] = elu(&slope[i], a[i])
    elif kind == SELU:
        for i in range(n):
            a[i] = selu(&slope[i], a[i])
    elif kind == GELU:
        for i in range(n):
            a[i] = gelu(&slope[i], a[i])
    elif kind == SILU:
        for i in range(n):
            a[i] = silu(&slope[i], a[i])
    elif kind == TANH:
        for i in range(n):
            a[i] = tanh(&slope[i], a[i])
    elif kind == SIGMOID:
        for i in range(n):
            a[i] = logistic(&slope[i], a[i])
    elif kind == SOFTPLUS:
        for i in range(n):
            a[i] = softplus(&slope[i], a[i])
