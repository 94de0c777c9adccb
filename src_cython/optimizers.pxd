# Update rules: each is one function from a parameter w and its gradient g, with up to two
# state values, to the new ones, and one row in `update`. Each returns whether a new value is
# not finite: the check hides behind the divisions. `prepare` computes what a step has in
# common. module.pxi gives the rules their names in Python.

from bcenet.cimports.vecmath cimport floating, muladd, not_finite, square_root

cdef enum Rule:
    SGD
    ADAM
    RMSPROP

cdef struct Hyper:
    # What the Python objects hold. Sources: Robbins and Monro 1951, Polyak 1964, Nesterov 1983;
    # Kingma and Ba 2015 (Adam); Loshchilov and Hutter 2019 (AdamW); Tieleman and Hinton 2012.
    int rule
    double learning_rate
    double momentum
    int nesterov
    double weight_decay
    double beta_1
    double beta_2
    double epsilon
    int epsilon_inside
    double rho

cdef struct Step:
    # What one step needs for every parameter, in float64.
    double rate  # learning rate, with Adam's bias corrections
    double decay  # 1 - learning rate * weight decay: decoupled
    double root_scale  # 1 / sqrt(1 - beta_2^t), or 1 where epsilon is inside


cdef inline double integer_power(double base, Py_ssize_t exponent) noexcept nogil:
    """base^exponent by squaring: the same bits with every C library."""
    cdef double result = 1
    while exponent > 0:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


cdef inline void prepare(Step* step, const Hyper* h, Py_ssize_t t) noexcept nogil:
    """The values of step t, counted from 1."""
    cdef double root
    step.rate = h.learning_rate
    step.decay = 1 - h.learning_rate * h.weight_decay
    step.root_scale = 1
    if h.rule == ADAM:
        root = square_root(1 - integer_power(h.beta_2, t))
        step.rate = h.learning_rate / (1 - integer_power(h.beta_1, t))
        if h.epsilon_inside:
            step.rate *= root
        else:
            step.root_scale = 1 / root


cdef inline int state_count(const Hyper* h) noexcept nogil:
    """How many state values a parameter has."""
    if h.rule == ADAM:
        return 2
    if h.rule == RMSPROP or h.momentum != 0:
        return 1
    return 0


cdef inline bint sgd(floating* w, const floating* g, floating rate, floating decay,
                     Py_ssize_t n) noexcept nogil:
    """w -= rate g."""
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        w[i] = muladd(-rate, g[i], w[i] * decay)
        bad |= not_finite(w[i])
    return bad


cdef inline bint sgd_momentum(floating* w, floating* m, const floating* g, floating rate,
                              floating decay, floating momentum, bint nesterov,
                              Py_ssize_t n) noexcept nogil:
    """m = momentum m + g; w -= rate m, or rate (g + momentum m) with Nesterov's look-ahead."""
    cdef Py_ssize_t i
    cdef bint bad = False
    if nesterov:
        for i in range(n):
            m[i] = muladd(momentum, m[i], g[i])
            w[i] = muladd(-rate, muladd(momentum, m[i], g[i]), w[i] * decay)
            bad |= not_finite(w[i]) | not_finite(m[i])
    else:
        for i in range(n):
            m[i] = muladd(momentum, m[i], g[i])
            w[i] = muladd(-rate, m[i], w[i] * decay)
            bad |= not_finite(w[i]) | not_finite(m[i])
    return bad


cdef inline bint adam(floating* w, floating* m, floating* v, const floating* g, floating rate,
                      floating decay, floating beta_1, floating fresh_1, floating beta_2,
                      floating fresh_2, floating root_scale, floating epsilon,
                      Py_ssize_t n) noexcept nogil:
    """m = beta_1 m + fresh_1 g; v = beta_2 v + fresh_2 g^2, with fresh = 1 - beta;
    w -= rate m / (root_scale sqrt(v) + epsilon)."""
    cdef Py_ssize_t i
    cdef floating step
    cdef bint bad = False
    for i in range(n):
        m[i] = muladd(beta_1, m[i], fresh_1 * g[i])
        v[i] = muladd(beta_2, v[i], fresh_2 * g[i] * g[i])
        step = m[i] / muladd(root_scale, square_root(v[i]), epsilon)
        w[i] = muladd(-rate, step, w[i] * decay)
        bad |= not_finite(w[i]) | not_finite(v[i])
    return bad


cdef inline bint rmsprop(floating* w, floating* v, const floating* g, floating rate,
                         floating decay, floating rho, floating fresh, floating epsilon,
                         Py_ssize_t n) noexcept nogil:
    """v = rho v + fresh g^2, fresh = 1 - rho; w -= rate g / (sqrt(v) + epsilon)."""
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        v[i] = muladd(rho, v[i], fresh * g[i] * g[i])
        w[i] = muladd(-rate, g[i] / (square_root(v[i]) + epsilon), w[i] * decay)
        bad |= not_finite(w[i]) | not_finite(v[i])
    return bad


cdef inline bint update(floating* w, floating* first, floating* second, const floating* g,
                        const Hyper* h, const Step* step, bint decays,
                        Py_ssize_t n) noexcept nogil:
    """Apply the rule to n parameters; ``first`` and ``second`` are their state, if any.

    Returns whether the new parameters and state are all finite.
    """
    cdef floating rate = <floating> step.rate
    cdef floating decay = <floating> (step.decay if decays else 1.0)
    if h.rule == SGD and h.momentum == 0:
        return not sgd(w, g, rate, decay, n)
    elif h.rule == SGD:
        return not sgd_momentum(w, first, g, rate, decay, <floating> h.momentum, h.nesterov,
                                n)
    elif h.rule == ADAM:
        return not adam(w, first, second, g, rate, decay, <floating> h.beta_1,
                        <floating> (1 - h.beta_1), <floating> h.beta_2,
                        <floating> (1 - h.beta_2), <floating> step.root_scale,
                        <floating> h.epsilon, n)
    else:  # RMSPROP
        return not rmsprop(w, first, g, rate, decay, <floating> h.rho, <floating> (1 - h.rho),
                           <floating> h.epsilon, n)
