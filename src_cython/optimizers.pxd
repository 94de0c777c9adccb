# Update rules: each is one function from a parameter w and its gradient g, with up to three
# state values, to the new ones, and one row in `update`. Each returns whether a new value is
# not finite: the check hides behind the divisions. `prepare` computes what a step has in
# common. module.pxi gives the rules their names in Python.

from bcenet.cimports.vecmath cimport floating, muladd, not_finite, square_root

cdef enum Rule:
    SGD
    ADAM
    AMSGRAD
    RMSPROP
    LION

cdef enum Group:
    # Parameters that have a learning rate of their own; weights alone decay.
    COEFS
    INTERCEPTS
    NORMS  # gain and shift of a normalisation
    SCALE  # a factor a column of X

cdef enum:
    GROUPS = 4
    STATES = 3  # the most state values of a parameter

cdef struct Hyper:
    # What the Python objects hold. Sources: Robbins and Monro 1951, Polyak 1964, Nesterov 1983;
    # Kingma and Ba 2015 (Adam); Loshchilov and Hutter 2019 (AdamW); Reddi, Kale and Kumar 2018
    # (AMSGrad); Tieleman and Hinton 2012 (RMSprop); Chen et al. 2023 (Lion).
    int rule
    double learning_rate
    double momentum
    int nesterov
    int rate_inside
    double weight_decay
    double beta_1
    double beta_2
    double epsilon
    int epsilon_inside
    double rho
    double rate_factors[GROUPS]

cdef struct Step:
    # What one step needs for every parameter, in float64.
    double learning_rate
    double rate  # the same, with Adam's bias corrections
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


cdef inline void prepare(Step* step, const Hyper* h, double factor,
                         Py_ssize_t t) noexcept nogil:
    """The values of step t, counted from 1, at ``factor`` times the learning rate."""
    cdef double root
    step.learning_rate = h.learning_rate * factor
    step.rate = step.learning_rate
    step.root_scale = 1
    if h.rule == ADAM or h.rule == AMSGRAD:
        root = square_root(1 - integer_power(h.beta_2, t))
        step.rate = step.learning_rate / (1 - integer_power(h.beta_1, t))
        if h.epsilon_inside:
            step.rate *= root
        else:
            step.root_scale = 1 / root


cdef inline int state_count(const Hyper* h) noexcept nogil:
    """How many state values a parameter has."""
    if h.rule == AMSGRAD:
        return 3
    if h.rule == ADAM:
        return 2
    if h.rule == RMSPROP or h.rule == LION or h.momentum != 0:
        return 1
    return 0


cdef inline floating sign(floating x) noexcept nogil:
    """-1, 0 or 1."""
    return (<floating> 1 if x > 0 else <floating> 0) - (<floating> 1 if x < 0 else <floating> 0)


cdef inline void penalize(floating* g, const floating* w, floating l1, floating l2,
                          Py_ssize_t n) noexcept nogil:
    """Add the derivative of l1 |w| + l2 w^2 / 2; that of |w| is 0 at 0."""
    cdef Py_ssize_t i
    for i in range(n):
        g[i] = muladd(l2, w[i], muladd(l1, sign(w[i]), g[i]))


cdef inline void average(floating* mean, const floating* w, floating rate,
                         Py_ssize_t n) noexcept nogil:
    """mean += rate (w - mean): a moving average of the parameters; a rate of 1 copies them."""
    cdef Py_ssize_t i
    if rate == 1:
        for i in range(n):
            mean[i] = w[i]
    else:
        for i in range(n):
            mean[i] = muladd(rate, w[i] - mean[i], mean[i])


cdef inline bint sgd(floating* w, const floating* g, floating rate, floating decay,
                     Py_ssize_t n) noexcept nogil:
    """w -= rate g."""
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        w[i] = muladd(-rate, g[i], w[i] * decay)
        bad |= not_finite(w[i])
    return bad


cdef inline bint sgd_momentum(floating* w, floating* m, const floating* g, floating inside,
                              floating outside, floating decay, floating momentum,
                              bint nesterov, Py_ssize_t n) noexcept nogil:
    """m = momentum m + inside g; w -= outside m, or with Nesterov's look-ahead
    w -= outside (inside g + momentum m). One of the two factors is the rate, the other 1."""
    cdef Py_ssize_t i
    cdef floating scaled
    cdef bint bad = False
    if nesterov:
        for i in range(n):
            scaled = inside * g[i]
            m[i] = muladd(momentum, m[i], scaled)
            w[i] = muladd(-outside, muladd(momentum, m[i], scaled), w[i] * decay)
            bad |= not_finite(w[i]) | not_finite(m[i])
    else:
        for i in range(n):
            m[i] = muladd(momentum, m[i], inside * g[i])
            w[i] = muladd(-outside, m[i], w[i] * decay)
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


cdef inline bint amsgrad(floating* w, floating* m, floating* v, floating* top,
                         const floating* g, floating rate, floating decay, floating beta_1,
                         floating fresh_1, floating beta_2, floating fresh_2,
                         floating root_scale, floating epsilon, Py_ssize_t n) noexcept nogil:
    """Adam with the largest v so far, ``top``, in the place of v."""
    cdef Py_ssize_t i
    cdef floating step
    cdef bint bad = False
    for i in range(n):
        m[i] = muladd(beta_1, m[i], fresh_1 * g[i])
        v[i] = muladd(beta_2, v[i], fresh_2 * g[i] * g[i])
        top[i] = v[i] if v[i] > top[i] else top[i]
        step = m[i] / muladd(root_scale, square_root(top[i]), epsilon)
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


cdef inline bint lion(floating* w, floating* m, const floating* g, floating rate,
                      floating decay, floating beta_1, floating fresh_1, floating beta_2,
                      floating fresh_2, Py_ssize_t n) noexcept nogil:
    """w -= rate sign(beta_1 m + fresh_1 g), then m = beta_2 m + fresh_2 g; fresh = 1 - beta."""
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        w[i] = muladd(-rate, sign(muladd(beta_1, m[i], fresh_1 * g[i])), w[i] * decay)
        m[i] = muladd(beta_2, m[i], fresh_2 * g[i])
        bad |= not_finite(w[i]) | not_finite(m[i])
    return bad


cdef inline bint update(floating* w, floating* first, floating* second, floating* third,
                        const floating* g, const Hyper* h, const Step* step, int group,
                        Py_ssize_t n) noexcept nogil:
    """Apply the rule to n parameters of a group; ``first`` to ``third`` are state, if any.

    Weight decay is decoupled: w is first multiplied by 1 - rate * decay. Returns whether the new
    parameters and state are all finite.
    """
    cdef double factor = h.rate_factors[group]
    cdef floating rate = <floating> (step.rate * factor)
    cdef floating decay = 1
    cdef floating beta_1 = <floating> h.beta_1
    cdef floating fresh_1 = <floating> (1 - h.beta_1)
    cdef floating beta_2 = <floating> h.beta_2
    cdef floating fresh_2 = <floating> (1 - h.beta_2)
    cdef floating root_scale = <floating> step.root_scale
    cdef floating one = 1
    if group == COEFS:
        decay = <floating> (1 - step.learning_rate * factor * h.weight_decay)
    if h.rule == SGD and h.momentum == 0:
        return not sgd(w, g, rate, decay, n)
    elif h.rule == SGD:
        return not sgd_momentum(w, first, g, rate if h.rate_inside else one,
                                one if h.rate_inside else rate, decay,
                                <floating> h.momentum, h.nesterov, n)
    elif h.rule == ADAM:
        return not adam(w, first, second, g, rate, decay, beta_1, fresh_1, beta_2, fresh_2,
                        root_scale, <floating> h.epsilon, n)
    elif h.rule == AMSGRAD:
        return not amsgrad(w, first, second, third, g, rate, decay, beta_1, fresh_1, beta_2,
                           fresh_2, root_scale, <floating> h.epsilon, n)
    elif h.rule == RMSPROP:
        return not rmsprop(w, first, g, rate, decay, <floating> h.rho, <floating> (1 - h.rho),
                           <floating> h.epsilon, n)
    else:  # LION
        return not lion(w, first, g, rate, decay, beta_1, fresh_1, beta_2, fresh_2, n)
