"""A network written by hand in NumPy, a mistake planted in its gradient, and a check that names it.

The network is written as many courses write it: samples are columns, W is (units, inputs), b is
(units, 1), and a layer is np.dot(W, A) + b. Run it for every mistake, or for those named:

    python examples/find_the_mistake.py
    python examples/find_the_mistake.py sign bias-axis
"""

import sys

import numpy as np

import bcenet

MISTAKES = [
    "sign",
    "missing-batch-mean",
    "output-sigmoid-derivative-twice",
    "missing-activation-derivative",
    "relu-mask",
    "transposed-weights",
    "bias-axis",
    "updated-weights",
]


def make_problem(seed=0):
    """(X, Y, parameters): 40 samples of 4 features, layers of 6, 6 and 1 units."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(4, 40))
    Y = (X[0] * X[1] + X[2] > 0).astype(float).reshape(1, 40)
    parameters = []
    for inputs, units in [(4, 6), (6, 6), (6, 1)]:
        W = rng.normal(size=(units, inputs)) * np.sqrt(2 / inputs)
        parameters.append((W, rng.normal(size=(units, 1)) * 0.1))
    return X, Y, parameters


def forward(parameters, X):
    """Z and A of every layer; A[0] is X, the last A is the probability."""
    Z, A = [None], [X]
    for layer, (W, b) in enumerate(parameters, start=1):
        Z.append(np.dot(W, A[-1]) + b)
        is_output = layer == len(parameters)
        A.append(1 / (1 + np.exp(-Z[-1])) if is_output else np.maximum(Z[-1], 0))
    return Z, A


def loss(parameters, X, Y):
    P = forward(parameters, X)[1][-1]
    return -np.mean(Y * np.log(P) + (1 - Y) * np.log(1 - P))


def backward(parameters, X, Y, mistake=None):
    """One (dW, db) a layer: right, unless a mistake is to be made."""
    Z, A = forward(parameters, X)
    W = [None, *(W.copy() for W, _ in parameters)]
    last, m = len(parameters), X.shape[1]
    gradients = []

    dZ = A[last] - Y
    if mistake == "sign":
        dZ = Y - A[last]
    if mistake == "output-sigmoid-derivative-twice":
        dZ = (A[last] - Y) * A[last] * (1 - A[last])

    for layer in range(last, 0, -1):
        dW = np.dot(dZ, A[layer - 1].T) / m
        db = np.sum(dZ, axis=1, keepdims=True) / m
        if mistake == "missing-batch-mean":
            dW, db = dW * m, db * m
        if mistake == "bias-axis":
            db = np.sum(dZ) / m  # no axis: one number for all units
        gradients.insert(0, (dW, db))
        if layer == 1:
            break

        if mistake == "updated-weights":
            W[layer] -= 0.5 * dW  # too early: the next line needs the weights of the forward pass
        dA = np.dot(W[layer].T, dZ)
        if mistake == "transposed-weights" and layer == 2:
            dA = np.dot(W[layer], dZ)  # 6 x 6: the shapes fit all the same

        mask = Z[layer - 1] > 0
        if mistake == "missing-activation-derivative":
            mask = 1
        if mistake == "relu-mask" and layer == 2:
            mask = Z[layer] > 0  # that of the layer above, of the same shape
        dZ = dA * mask
    return gradients


def check(mistake=None):
    """The report on the network's gradient, with a mistake in it or none."""
    X, Y, parameters = make_problem()
    gradients = backward(parameters, X, Y, mistake)
    return bcenet.check_gradient(loss, X, Y, gradients, parameters=parameters)


def main(mistakes):
    for mistake in mistakes or [None, *MISTAKES]:
        print(f"---- planted: {mistake or 'nothing'}")
        print(check(mistake))
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
