"""Polynomials of vecmath.pxd, computed with mpmath: run it to print them with their errors.

Each is a Chebyshev fit in 40 digits; the last column is the largest error relative to the
function that the polynomial stands for, before rounding. Usage: python src_cython/coefficients.py
"""

import mpmath as mp

mp.mp.dps = 40

HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.0001")  # reduced arguments of exp reach a little past ln2 / 2


def exp_remainder(r):
    """Q(r) = (exp(r) - 1 - r) / r^2."""
    if abs(r) < mp.mpf("1e-10"):
        return mp.mpf(1) / 2 + r / 6 + r * r / 24
    return (mp.expm1(r) - r) / (r * r)


def log1p_remainder(w):
    """R(w) = (2 atanh(s) - 2 s) / (s w), w = s^2."""
    if w < mp.mpf("1e-16"):
        return mp.mpf(2) / 3 + 2 * w / 5 + 2 * w * w / 7
    s = mp.sqrt(w)
    return (2 * mp.atanh(s) - 2 * s) / (s * w)


def scaled_erfc(t, centre):
    """(1 + 2 x) exp(x^2) erfc(x) with x = centre (1 + t) / (1 - t)."""
    x = centre * (1 + t) / (1 - t)
    return (1 + 2 * x) * mp.exp(x * x) * mp.erfc(x)


FITS = {
    # name: (function, interval, number of coefficients)
    "exp, float64": (exp_remainder, (-HALF_LN2, HALF_LN2), 11),
    "exp, float32": (exp_remainder, (-HALF_LN2, HALF_LN2), 6),
    "log1p, float64": (log1p_remainder, (mp.mpf(0), mp.mpf(1) / 9), 10),
    "log1p, float32": (log1p_remainder, (mp.mpf(0), mp.mpf(1) / 9), 5),
    # x stops where exp(-x^2) is 0: 27.3 in float64, 10.2 in float32.
    "erfc, float64": (
        lambda t: scaled_erfc(t, 4),
        (mp.mpf(-1), (mp.mpf("27.3") - 4) / (mp.mpf("27.3") + 4)),
        22,
    ),
    "erfc, float32": (
        lambda t: scaled_erfc(t, 3),
        (mp.mpf(-1), (mp.mpf("10.2") - 3) / (mp.mpf("10.2") + 3)),
        10,
    ),
}


def fit(name):
    """(coefficients, highest power first, and the largest relative error) of a polynomial."""
    function, interval, count = FITS[name]
    coefficients = mp.chebyfit(function, interval, count)
    low, high = interval
    points = [low + (high - low) * i / 2000 for i in range(2001)]
    error = max(abs(mp.polyval(coefficients, x) / function(x) - 1) for x in points)
    return coefficients, error


if __name__ == "__main__":
    for name in FITS:
        coefficients, error = fit(name)
        print(f"{name}: relative error {mp.nstr(error, 3)} = 2^{mp.nstr(mp.log(error, 2), 4)}")
        for c in coefficients:
            value = float(c)
            if "float32" in name:
                print(f"    {mp.nstr(c, 10)}")
            else:
                print(f"    {value!r}")
