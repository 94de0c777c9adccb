"""JAX: a whole epoch in one jitted scan over its batches, Adam included, buffers donated."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from benchmarks.rivals.problems import BETA_1, BETA_2, EPSILON, LEARNING_RATE, Training

_map = jax.tree_util.tree_map


def _loss(layers, X, y):
    a = X
    for weights, intercepts in layers[:-1]:
        a = jax.nn.relu(a @ weights + intercepts)
    weights, intercepts = layers[-1]
    z = (a @ weights + intercepts)[:, 0]
    return jnp.mean(jnp.logaddexp(z, 0.0) - y * z)


def _adam(layers, first, second, count, gradient):
    first = _map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, first, gradient)
    second = _map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, second, gradient)
    # 1 - beta^count, which float32 would lose in the first steps.
    rate = LEARNING_RATE / -jnp.expm1(count * math.log(BETA_1))
    correction = 1 / -jnp.expm1(count * math.log(BETA_2))
    layers = _map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(v * correction) + EPSILON), layers, first, second
    )
    return layers, first, second


class Trainer:
    def __init__(self, training: Training, threads: int) -> None:
        jax.config.update("jax_enable_x64", training.dtype == "float64")
        self.training = training
        self.X, self.y = jnp.asarray(training.X), jnp.asarray(training.y)

        def epoch(state, X, y, order):
            def step(state, rows):
                layers, first, second, count = state
                loss, gradient = jax.value_and_grad(_loss)(layers, X[rows], y[rows])
                count = count + 1
                return (*_adam(layers, first, second, count, gradient), count), loss

            batches = order.reshape(-1, training.workload.batch)
            state, losses = jax.lax.scan(step, state, batches)
            return state, losses.mean()

        self.epoch = jax.jit(epoch, donate_argnums=0)

    def prepare(self, epochs: int) -> None:
        layers = [tuple(jnp.array(part) for part in layer) for layer in self.training.layers()]
        zeros = [_map(jnp.zeros_like, layers) for _ in range(2)]
        self.state = jax.block_until_ready((layers, *zeros, jnp.zeros((), self.X.dtype)))
        self.orders = jax.block_until_ready(
            [jnp.asarray(order) for order in self.training.orders(epochs)]
        )

    def run(self) -> list[float]:
        losses = []
        for order in self.orders:
            self.state, loss = self.epoch(self.state, self.X, self.y, order)
            losses.append(loss)
        jax.block_until_ready(self.state)
        return [float(loss) for loss in losses]
