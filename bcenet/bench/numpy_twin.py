"""Mini-batch training in pure NumPy, written for speed: the rival that bcenet is timed against.

Every array is allocated once, every operation writes into one of them, the products are
BLAS calls and the optimizer works in place on one flat array. What is left is what NumPy
cannot avoid: one pass through memory, and one call from Python, for each operation.
"""

from __future__ import annotations

import itertools
import math

import numpy as np


def _relu(z):
    np.maximum(z, 0, out=z)


def _relu_backward(a, da, mask):
    np.greater(a, 0, out=mask)
    da *= mask


def _tanh(z):
    np.tanh(z, out=z)


def _tanh_backward(a, da, mask):
    np.multiply(a, a, out=a)  # a is read no more after its layer's gradient
    np.subtract(1, a, out=a)
    da *= a


def _sigmoid(z):
    np.negative(z, out=z)
    np.exp(z, out=z)
    z += 1
    np.reciprocal(z, out=z)


def _sigmoid_backward(a, da, mask):
    da *= a
    np.subtract(1, a, out=a)
    da *= a


def _identity(z):
    pass


def _identity_backward(a, da, mask):
    pass


# name -> (z to a in place, da to dz in place; both overwrite what is no longer needed)
ACTIVATIONS = {
    "identity": (_identity, _identity_backward),
    "relu": (_relu, _relu_backward),
    "tanh": (_tanh, _tanh_backward),
    "sigmoid": (_sigmoid, _sigmoid_backward),
}
OPTIMIZERS = ("sgd", "adam")


class NumpyTwin:
    """A network with sigmoid outputs and its training state.

    `parameters` is the flat array W1, b1, W2, b2, ... and is trained in place, in its own
    dtype; `activation` is the hidden layers'. `epoch` runs all mini-batches of one epoch.
    """

    def __init__(
        self,
        layer_sizes,
        parameters,
        *,
        activation="relu",
        optimizer="adam",
        learning_rate=0.001,
        momentum=0.0,
        batch_size=200,
    ):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}; got {optimizer!r}")
        dtype = parameters.dtype
        self.parameters = parameters
        self.gradient = np.empty_like(parameters)
        self.weights, self.biases = _views(parameters, layer_sizes)
        self.weight_gradients, self.bias_gradients = _views(self.gradient, layer_sizes)
        self.forward_in_place, self.backward_in_place = ACTIVATIONS[activation]

        self.batch_size = batch_size
        self.rows = np.empty((batch_size, layer_sizes[0]), dtype)
        self.targets = np.empty((batch_size, layer_sizes[-1]), dtype)
        self.outputs = [np.empty((batch_size, size), dtype) for size in layer_sizes[1:]]
        self.deltas = [np.empty((batch_size, size), dtype) for size in layer_sizes[1:]]
        self.masks = [np.empty((batch_size, size), bool) for size in layer_sizes[1:]]
        self.tail = np.empty((2, batch_size, layer_sizes[-1]), dtype)
        self.ones = np.ones(batch_size, dtype)

        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.step = 0
        self.m = np.zeros_like(parameters)
        self.v = np.zeros_like(parameters)
        self.scratch = np.empty_like(parameters)

    def epoch(self, X, y, order):
        """Train on the rows of X and y in the given order; returns the epoch's mean loss."""
        y = y.reshape(len(X), -1)
        total = 0.0
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            n = len(rows)
            # mode="clip" lets take write into `out` without a buffer.
            np.take(X, rows, axis=0, out=self.rows[:n], mode="clip")
            np.take(y, rows, axis=0, out=self.targets[:n], mode="clip")
            total += self._gradient(n)
            getattr(self, f"_{self.optimizer}")()
        return total / (len(order) * y.shape[1])

    def _gradient(self, n):
        """The mean gradient over the first n gathered rows; returns the sum of their losses."""
        outputs = [a[:n] for a in self.outputs]
        last = len(outputs) - 1
        a = self.rows[:n]
        for i, z in enumerate(outputs):
            np.matmul(a, self.weights[i], out=z)  # (n, fan_out)
            z += self.biases[i]
            if i < last:
                self.forward_in_place(z)
            a = z

        # With e = e^-|z|: p = (z < 0 ? e : 1) / (1 + e) and
        # loss = log1p(e) + max(z, 0) - t z.
        z, t = outputs[-1], self.targets[:n]
        dz, e, scratch = self.deltas[-1][:n], self.tail[0][:n], self.tail[1][:n]
        np.abs(z, out=e)
        np.negative(e, out=e)
        np.exp(e, out=e)
        loss = np.log1p(e, out=scratch).sum() + np.maximum(z, 0, out=scratch).sum()
        loss -= np.multiply(t, z, out=scratch).sum()
        dz.fill(1)
        np.copyto(dz, e, where=np.less(z, 0, out=self.masks[-1][:n]))
        e += 1
        dz /= e
        dz -= t
        dz *= 1 / dz.size

        for i in range(last, -1, -1):
            below = outputs[i - 1] if i else self.rows[:n]
            np.matmul(below.T, dz, out=self.weight_gradients[i])
            np.matmul(self.ones[:n], dz, out=self.bias_gradients[i])
            if i:
                da = self.deltas[i - 1][:n]
                np.matmul(dz, self.weights[i].T, out=da)
                self.backward_in_place(below, da, self.masks[i - 1][:n])
                dz = da
        return float(loss)

    def _sgd(self):
        w, g = self.parameters, self.gradient
        if self.momentum:
            self.m *= self.momentum
            self.m += g
            g = self.m
        np.multiply(g, self.learning_rate, out=self.scratch)
        w -= self.scratch

    def _adam(self, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
        w, g, m, v, scratch = self.parameters, self.gradient, self.m, self.v, self.scratch
        self.step += 1
        m *= beta_1
        np.multiply(g, 1 - beta_1, out=scratch)
        m += scratch
        v *= beta_2
        np.multiply(g, g, out=scratch)
        scratch *= 1 - beta_2
        v += scratch
        # lr/c1 m / (sqrt(v)/sqrt(c2) + eps) = lr sqrt(c2)/c1 m / (sqrt(v) + eps sqrt(c2))
        root = math.sqrt(1 - beta_2**self.step)
        np.sqrt(v, out=scratch)
        scratch += epsilon * root
        np.divide(m, scratch, out=scratch)
        scratch *= self.learning_rate * root / (1 - beta_1**self.step)
        w -= scratch


def _views(flat, layer_sizes):
    """Views of every layer's W (fan_in, fan_out) and b (fan_out,) into the flat array."""
    weights, biases, at = [], [], 0
    for fan_in, fan_out in itertools.pairwise(layer_sizes):
        weights.append(flat[at : at + fan_in * fan_out].reshape(fan_in, fan_out))
        at += fan_in * fan_out
        biases.append(flat[at : at + fan_out])
        at += fan_out
    return weights, biases
