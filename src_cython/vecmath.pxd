# cython: cdivision=True, overflowcheck=False
# Elementary functions of one number, written so that a loop over them vectorises:
# no branch, no table, no call into libm. Coefficients: coefficients.py prints them.
#
# Notation in comments: x = |z| >= 0, e = exp(-x). A pair (head, tail) stands for the sum
# head + tail, where |tail| is at most half a unit in the last place of head.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

ctypedef fused floating:
    float
    double

cdef extern from "bcenet_math.h" nogil:
    enum: bcn_has_fma
    float bcn_muladdf(float a, float b, float c)
    double bcn_muladd(double a, double b, double c)
    float bcn_sqrtf(float x)
    double bcn_sqrt(double x)
    uint32_t bcn_bits32(float x)
    uint64_t bcn_bits64(double x)
    float bcn_float32(uint32_t u)
    double bcn_float64(uint64_t u)


cdef inline floating muladd(floating a, floating b, floating c) noexcept nogil:
    """a b + c, rounded once where the hardware has a fused multiply-add."""
    if floating is float:
        return bcn_muladdf(a, b, c)
    else:
        return bcn_muladd(a, b, c)


cdef inline floating square_root(floating x) noexcept nogil:
    if floating is float:
        return bcn_sqrtf(x)
    else:
        return bcn_sqrt(x)


cdef inline floating absolute(floating x) noexcept nogil:
    if floating is float:
        return bcn_float32(bcn_bits32(x) & <uint32_t> 0x7FFFFFFF)
    else:
        return bcn_float64(bcn_bits64(x) & <uint64_t> 0x7FFFFFFFFFFFFFFF)


cdef inline floating with_sign(floating magnitude, floating sign) noexcept nogil:
    """``magnitude`` (>= 0 or NaN) with the sign bit of ``sign``."""
    if floating is float:
        return bcn_float32(bcn_bits32(magnitude) | (bcn_bits32(sign) & <uint32_t> 0x80000000))
    else:
        return bcn_float64(
            bcn_bits64(magnitude) | (bcn_bits64(sign) & <uint64_t> 0x8000000000000000)
        )


cdef inline bint not_finite(floating x) noexcept nogil:
    """Whether the exponent is all ones: an operation on integers, which vectorises."""
    if floating is float:
        return (bcn_bits32(x) & <uint32_t> 0x7F800000) == <uint32_t> 0x7F800000
    else:
        return (bcn_bits64(x) & <uint64_t> 0x7FF0000000000000) == <uint64_t> 0x7FF0000000000000


cdef inline floating power_of_two(floating shifted) noexcept nogil:
    """2^n from ``shifted`` = n + 1.5 * 2^(mantissa bits), whose low bits hold n."""
    if floating is float:
        return bcn_float32((bcn_bits32(shifted) + <uint32_t> 127) << 23)
    else:
        return bcn_float64((bcn_bits64(shifted) + <uint64_t> 1023) << 52)


cdef inline floating residual(floating numerator, floating q, floating d) noexcept nogil:
    """numerator - q d, exact: fused, or with both factors split in halves (Dekker 1971)."""
    cdef floating splitter, t, q_high, q_low, d_high, d_low, product
    if bcn_has_fma:
        return muladd(-q, d, numerator)
    if floating is float:
        splitter = 4097.0  # 2^12 + 1
    else:
        splitter = 134217729.0  # 2^27 + 1
    t = splitter * q
    q_high = t - (t - q)
    q_low = q - q_high
    t = splitter * d
    d_high = t - (t - d)
    d_low = d - d_high
    product = q * d
    return (numerator - product) - (
        ((q_high * d_high - product) + q_high * d_low + q_low * d_high) + q_low * d_low
    )


cdef inline floating two_sum(floating* tail, floating a, floating b) noexcept nogil:
    """a + b, and what its rounding lost (Knuth); the tail is NaN where a or b is infinite."""
    cdef floating s = a + b
    cdef floating part = s - a
    tail[0] = (a - (s - part)) + (b - part)
    return s


cdef inline floating exp_polynomial(floating r) noexcept nogil:
    """(exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2, to 2^-58 (float64), 2^-28 (float32)."""
    cdef floating q
    if floating is float:
        q = <floating> 0.0001989099082
        q = muladd(q, r, <floating> 0.001393365)
        q = muladd(q, r, <floating> 0.008333310925)
        q = muladd(q, r, <floating> 0.04166646493)
        q = muladd(q, r, <floating> 0.1666666668)
        return muladd(q, r, <floating> 0.5000000013)
    else:
        q = 2.0914686968086876e-09
        q = muladd(q, r, <floating> 2.5105217004720745e-08)
        q = muladd(q, r, <floating> 2.75572736431103e-07)
        q = muladd(q, r, <floating> 2.7557255400206422e-06)
        q = muladd(q, r, <floating> 2.4801587325547743e-05)
        q = muladd(q, r, <floating> 0.00019841269874820627)
        q = muladd(q, r, <floating> 0.0013888888888883748)
        q = muladd(q, r, <floating> 0.008333333333326136)
        q = muladd(q, r, <floating> 0.04166666666666667)
        q = muladd(q, r, <floating> 0.1666666666666667)
        return muladd(q, r, <floating> 0.5)


cdef inline floating exp_reduce(floating* r_tail, floating* half, floating* rest,
                                floating x) noexcept nogil:
    """Write -x = n ln(2) + r with |r| <= ln(2) / 2; returns r, and 2^n = half * rest.

    2^n comes as two factors because n reaches -1082, below the exponents of normal numbers.
    """
    cdef floating log2e, ln2_high, ln2_low, shift, largest, shifted, n, t, c, shifted_half
    if floating is float:
        log2e = <floating> 1.442695040888963
        ln2_high = <floating> 0.693145751953125  # 15 bits: n * ln2_high is exact
        ln2_low = <floating> 1.4286068203094172e-06
        shift = <floating> 12582912.0  # 1.5 * 2^23
        largest = <floating> 110.0  # exp(-110) rounds to 0
    else:
        log2e = 1.4426950408889634
        ln2_high = 0.6931471805598903  # 42 bits
        ln2_low = 5.497923018708371e-14
        shift = 6755399441055744.0  # 1.5 * 2^52
        largest = 750.0
    x = largest if x > largest else x  # a NaN stays
    shifted = muladd(x, -log2e, shift)
    n = shifted - shift
    shifted_half = muladd(n, <floating> 0.5, shift)
    half[0] = power_of_two(shifted_half)
    rest[0] = power_of_two((n - (shifted_half - shift)) + shift)
    t = muladd(-n, ln2_high, -x)
    c = n * ln2_low
    r_tail[0] = t - c
    t = (t - r_tail[0]) - c
    c = r_tail[0]
    r_tail[0] = t
    return c


cdef inline floating exp_pair(floating* tail, floating x) noexcept nogil:
    """exp(-x) for x >= 0 as a pair: 2^-57 relative (float64), 2^-28 (float32)."""
    cdef floating one = 1
    cdef floating half, rest, r, r_tail, w, s, head, low, joined
    r = exp_reduce(&r_tail, &half, &rest, x)
    w = muladd(r * r, exp_polynomial(r), r_tail)
    s = r + w
    head = one + s
    low = ((one - head) + s) + ((r - s) + w)
    joined = head + low
    tail[0] = ((head - joined) + low) * half * rest
    return joined * half * rest


cdef inline floating sigmoid_pair(floating* small, floating e, floating e_tail) noexcept nogil:
    """s(x) = 1 / (1 + e), returned, and s(-x) = e / (1 + e) for x >= 0, both within 1 ULP.

    The division is compensated: its residual, and what was lost in 1 + e, are added back.
    """
    cdef floating one = 1
    cdef floating s, s_tail, inverse, r
    s = one + e
    s_tail = (e - (s - one)) + e_tail
    inverse = one / s
    small[0] = e * inverse
    r = residual(e, small[0], s) + (e_tail - small[0] * s_tail)
    small[0] = muladd(r, inverse, small[0])
    r = residual(one, inverse, s) - inverse * s_tail
    return muladd(r, inverse, inverse)


cdef inline floating log1p_parts(floating* tail, floating e, floating e_tail) noexcept nogil:
    """log(1 + e) for e in [0, 1] given as a pair, as a pair: a third of a unit of error is left.

    With s = e / (2 + e): log(1 + e) = 2 atanh(s) = e - s (e - R(s^2)),
    R(w) = 2 w / 3 + 2 w^2 / 5 + …, so the exact e leads and the rest corrects it.
    """
    cdef floating one = 1
    cdef floating s, w, q, rest, head
    s = e / (<floating> 2 + e)
    w = s * s
    if floating is float:
        q = <floating> 0.2322432922
        q = muladd(q, w, <floating> 0.217065758)
        q = muladd(q, w, <floating> 0.2859235799)
        q = muladd(q, w, <floating> 0.3999970633)
        q = muladd(q, w, <floating> 0.6666666732)
    else:
        q = 0.1616404561194353
        q = muladd(q, w, <floating> 0.08800738486144674)
        q = muladd(q, w, <floating> 0.12001072809590713)
        q = muladd(q, w, <floating> 0.13314144209654935)
        q = muladd(q, w, <floating> 0.15385570064958623)
        q = muladd(q, w, <floating> 0.18181789436132859)
        q = muladd(q, w, <floating> 0.22222222717427864)
        q = muladd(q, w, <floating> 0.2857142856710876)
        q = muladd(q, w, <floating> 0.40000000000014585)
        q = muladd(q, w, <floating> 0.6666666666666666)
    rest = e_tail / (one + e) - s * (e - w * q)
    head = e + rest
    tail[0] = (e - head) + rest
    return head


cdef inline floating log1p_pair(floating e, floating e_tail) noexcept nogil:
    """The same, rounded."""
    cdef floating lost
    return log1p_parts(&lost, e, e_tail)


cdef inline floating normal_tail(floating* density, floating x) noexcept nogil:
    """P(N > x) = erfc(x / sqrt 2) / 2 for x >= 0, and exp(-x^2 / 2) / sqrt(2 pi).

    erfc(u) = exp(-u^2) P(t) / (1 + 2 u), t = (u - K) / (u + K), after Shepherd and Laframboise
    (Mathematics of Computation 36, 1981): one polynomial serves every u.
    """
    cdef floating u, t, p, square, square_tail, gauss, gauss_tail, largest
    if floating is float:
        largest = <floating> 14.5  # exp(-x^2 / 2) rounds to 0
    else:
        largest = 38.7
    x = largest if x > largest else x
    square = x * x
    square_tail = -residual(square, x, x)
    gauss = exp_pair(&gauss_tail, <floating> 0.5 * square)
    gauss = muladd(gauss, <floating> -0.5 * square_tail, gauss)
    u = x * <floating> 0.7071067811865476
    if floating is float:
        t = (u - <floating> 3) / (u + <floating> 3)
        p = <floating> -0.0001731112285
        p = muladd(p, t, <floating> 0.002214163369)
        p = muladd(p, t, <floating> 0.002213812242)
        p = muladd(p, t, <floating> -0.02401145538)
        p = muladd(p, t, <floating> 0.06836193459)
        p = muladd(p, t, <floating> -0.1192214183)
        p = muladd(p, t, <floating> 0.1296418007)
        p = muladd(p, t, <floating> -0.04756593778)
        p = muladd(p, t, <floating> -0.1356210293)
        p = muladd(p, t, <floating> 1.253008098)
    else:
        t = (u - 4) / (u + 4)
        p = -8.827824139476265e-09
        p = muladd(p, t, <floating> -9.229782964906567e-09)
        p = muladd(p, t, <floating> 1.018155763923159e-07)
        p = muladd(p, t, <floating> 5.829586025103651e-08)
        p = muladd(p, t, <floating> -8.190803148450041e-07)
        p = muladd(p, t, <floating> 3.104608870181641e-07)
        p = muladd(p, t, <floating> 5.707283228489271e-06)
        p = muladd(p, t, <floating> -1.12323425606321e-05)
        p = muladd(p, t, <floating> -2.4398917153665706e-05)
        p = muladd(p, t, <floating> 0.00015062573837285406)
        p = muladd(p, t, <floating> -0.00019925657847632148)
        p = muladd(p, t, <floating> -0.0007577743135517262)
        p = muladd(p, t, <floating> 0.005031969925454691)
        p = muladd(p, t, <floating> -0.01619773389628393)
        p = muladd(p, t, <floating> 0.03716751554600587)
        p = muladd(p, t, <floating> -0.0663303658271374)
        p = muladd(p, t, <floating> 0.09373283499772478)
        p = muladd(p, t, <floating> -0.10103906603559304)
        p = muladd(p, t, <floating> 0.06809705425471074)
        p = muladd(p, t, <floating> 0.015379652102606434)
        p = muladd(p, t, <floating> -0.13962111684056264)
        p = muladd(p, t, <floating> 1.2329951186255526)
    density[0] = gauss * <floating> 0.3989422804014327
    return <floating> 0.5 * gauss * p / muladd(<floating> 2, u, <floating> 1)
