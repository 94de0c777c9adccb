"""Learning curves under schedules: the same network, rows and peak rate, four ways to change it.

    python schedules.py FOLDER    # writes schedules.png there

Needs matplotlib: pip install 'bcenet[plot]'.
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from pictures import save

import bcenet
from bcenet.schedules import Constant, Cosine, OneCycle, WarmUp

SCHEDULES = {
    "constant": Constant,
    "cosine": Cosine,
    "one cycle": OneCycle,
    "warm-up, then cosine": lambda: WarmUp(3, after="cosine"),
}


def problem(n, rng):
    X = rng.normal(size=(n, 10)).astype(np.float32)
    return X, rng.random(n) < bcenet.sigmoid(2 * X[:, 0] * X[:, 1] + np.sin(3 * X[:, 2]) * 2)


def draw(folder, rows=20_000, epochs=30):
    rng = np.random.default_rng(0)
    X, y = problem(rows, rng)
    held_out = problem(rows, rng)
    figure = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    losses = {}
    for name, schedule in SCHEDULES.items():
        factors = schedule()
        net = bcenet.Network([10, 64, 32, 1], "silu", random_state=0)
        history = bcenet.fit(
            net,
            X,
            y,
            epochs=epochs,
            learning_rate=0.01,
            schedule=factors,
            validation_data=held_out,
            random_state=0,
        )
        losses[name] = history.validation_loss
        curve = np.concatenate([factors.factors(epoch, 20) for epoch in range(epochs)])
        top.plot(np.arange(curve.size) / 20, curve, label=name)
        bottom.plot(np.arange(1, epochs + 1), history.validation_loss, label=name)
    top.set_ylabel("factor of the rate")
    bottom.set_ylabel("validation loss")
    bottom.set_xlabel("epoch")
    least = min(map(min, losses.values()))
    bottom.set_ylim(least - 0.005, least + 0.06)
    bottom.legend()
    save(figure, f"{folder}/schedules.png")
    return losses


if __name__ == "__main__":
    for name, losses in draw(sys.argv[1]).items():
        print(f"{name:22s} best {min(losses):.4f}, last {losses[-1]:.4f}")
