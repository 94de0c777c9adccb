# cython: boundscheck=False, wraparound=False, cdivision=True
"""Gradient-boosted stumps for yes-or-no targets, on the fused kernels of bcenet.

Columns are binned: one byte a value, a column after the other. Each round fits one stump to the
gradient and the second derivative of the binary cross-entropy of every row's margin (its logit).
"""

import math

import numpy as np

from bcenet.cimports.activations cimport logistic
from bcenet.cimports.losses cimport bce
from bcenet.cimports.vecmath cimport floating

cdef enum:
    BINS = 256  # values of a byte

cdef double LEAST_HESSIAN = 1e-3  # on each side of a split

cdef struct Stump:
    Py_ssize_t feature  # -1: no split lowers the loss
    int split  # rows with a bin up to this one go left
    double left  # what is added to the margins on the left
    double right


cdef void derivatives(floating* loss, floating* gradient, floating* hessian,
                      const floating* margins, const floating* targets, floating pos_weight,
                      Py_ssize_t n) noexcept nogil:
    cdef floating one = 1
    cdef Py_ssize_t i
    for i in range(n):
        loss[i] = bce(&gradient[i], margins[i], targets[i], pos_weight)
    for i in range(n):
        logistic(&hessian[i], margins[i])  # s(z) s(-z)
        hessian[i] = hessian[i] * ((one - targets[i]) + pos_weight * targets[i])


cdef Stump best_stump(const unsigned char* bins, const floating* gradient,
                      const floating* hessian, Py_ssize_t features, Py_ssize_t rows,
                      double l2) noexcept nogil:
    """The split with the largest G^2 / (H + l2), summed over its sides (Friedman 2001)."""
    cdef double[BINS] g
    cdef double[BINS] h
    cdef double g_all = 0
    cdef double h_all = 0
    cdef double g_left, h_left, gain, best_gain
    cdef Stump best = Stump(feature=-1, split=0, left=0, right=0)
    cdef const unsigned char* column
    cdef Py_ssize_t j, i
    cdef int b
    for i in range(rows):
        g_all += gradient[i]
        h_all += hessian[i]
    best_gain = g_all * g_all / (h_all + l2)
    for j in range(features):
        column = bins + j * rows
        for b in range(BINS):
            g[b] = h[b] = 0
        for i in range(rows):
            g[column[i]] += gradient[i]
            h[column[i]] += hessian[i]
        g_left = h_left = 0
        for b in range(BINS - 1):
            g_left += g[b]
            h_left += h[b]
            if h_left < LEAST_HESSIAN or h_all - h_left < LEAST_HESSIAN:
                continue
            gain = (g_left * g_left / (h_left + l2)
                    + (g_all - g_left) * (g_all - g_left) / (h_all - h_left + l2))
            if gain > best_gain:
                best_gain = gain
                best.feature = j
                best.split = b
                best.left = -g_left / (h_left + l2)
                best.right = -(g_all - g_left) / (h_all - h_left + l2)
    return best


cdef void add_stump(floating* margins, const unsigned char* column, const Stump* stump,
                    Py_ssize_t rows) noexcept nogil:
    cdef floating left = <floating> stump.left
    cdef floating right = <floating> stump.right
    cdef Py_ssize_t i
    for i in range(rows):
        margins[i] += left if column[i] <= stump.split else right


def loss_gradient_hessian(const floating[::1] margins, const floating[::1] targets,
                          double pos_weight=1.0):
    """(loss, gradient, hessian) of every row, with respect to its margin.

    margins: (n,) float32 or float64. targets: (n,) of the same dtype, in [0, 1].
    """
    cdef Py_ssize_t n = margins.shape[0]
    if targets.shape[0] != n:
        raise ValueError(f"targets must have {n} rows, as margins; got {targets.shape[0]}")
    result = np.empty((3, n), np.asarray(margins).dtype)
    cdef floating[:, ::1] out = result
    if n > 0:
        with nogil:
            derivatives(&out[0, 0], &out[1, 0], &out[2, 0], &margins[0], &targets[0],
                        <floating> pos_weight, n)
    return result[0], result[1], result[2]


class BoostedStumps:
    """A sum of stumps: ``base`` + left or right of each (feature, split, left, right).

    ``loss`` is the mean loss before each round.
    """

    def __init__(self, features, base, stumps, loss):
        self.features = features
        self.base = base
        self.stumps = stumps
        self.loss = loss

    def margins(self, const unsigned char[:, ::1] bins):
        """The margin of every row of ``bins``, (features, rows): float64."""
        cdef Py_ssize_t rows = bins.shape[1]
        cdef Stump stump
        if bins.shape[0] != self.features:
            raise ValueError(f"bins must have {self.features} features; got {bins.shape[0]}")
        result = np.full(rows, self.base)
        cdef double[::1] out = result
        if rows > 0:
            for stump.feature, stump.split, stump.left, stump.right in self.stumps:
                add_stump(&out[0], &bins[stump.feature, 0], &stump, rows)
        return result


def fit(const unsigned char[:, ::1] bins, const floating[::1] targets, Py_ssize_t rounds=100,
        double learning_rate=0.1, double l2=0.0):
    """Fit stumps to ``bins`` (features, rows) and ``targets`` (rows,): a BoostedStumps.

    Margins, gradients and second derivatives have the targets' dtype; sums are float64.
    """
    cdef Py_ssize_t features = bins.shape[0]
    cdef Py_ssize_t rows = bins.shape[1]
    cdef double total
    cdef Py_ssize_t i
    cdef Stump stump
    if targets.shape[0] != rows or rows == 0 or features == 0:
        raise ValueError(f"bins must be (features, {targets.shape[0]}); got ({features}, {rows})")
    values = np.asarray(targets)
    mean = values.mean(dtype=float)
    if not (values.min() >= 0 and values.max() <= 1 and 0 < mean < 1):
        raise ValueError("targets must be in [0, 1], and not all 0 or all 1")
    base = math.log(mean / (1 - mean))
    cdef floating[::1] margins = np.full(rows, base, values.dtype)
    cdef floating[:, ::1] out = np.empty((3, rows), values.dtype)
    stumps = []
    losses = []
    for _ in range(rounds):
        with nogil:
            derivatives(&out[0, 0], &out[1, 0], &out[2, 0], &margins[0], &targets[0],
                        <floating> 1, rows)
            total = 0
            for i in range(rows):
                total += out[0, i]
            stump = best_stump(&bins[0, 0], <const floating*> &out[1, 0],
                               <const floating*> &out[2, 0], features, rows, l2)
            if stump.feature >= 0:
                stump.left *= learning_rate
                stump.right *= learning_rate
                add_stump(&margins[0], &bins[stump.feature, 0], &stump, rows)
        losses.append(total / rows)
        if stump.feature < 0:
            break
        stumps.append((stump.feature, stump.split, stump.left, stump.right))
    return BoostedStumps(features, base, stumps, losses)
