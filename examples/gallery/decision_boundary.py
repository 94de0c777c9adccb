"""A decision boundary that grows: two moons, and P(y = 1) over the plane after some epochs.

    python decision_boundary.py FOLDER    # writes decision-boundary.png there

Needs matplotlib: pip install 'bcenet[plot]'.
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from pictures import save

import bcenet

EPOCHS = (0, 5, 20, 30, 40, 60)


def two_moons(n, noise, rng):
    """(X, y): two half circles that reach into each other."""
    angle = np.pi * rng.random(n)
    y = rng.random(n) < 0.5
    X = np.c_[np.cos(angle), np.sin(angle) - 0.25]
    X[y] = np.c_[1 - np.cos(angle[y]), 0.25 - np.sin(angle[y])]
    return X + noise * rng.normal(size=X.shape), y


def draw(folder, points=500):
    X, y = two_moons(points, 0.15, np.random.default_rng(0))
    across, up = np.meshgrid(np.linspace(-1.6, 2.6, 200), np.linspace(-1.3, 1.3, 130))
    grid = np.c_[across.ravel(), up.ravel()]
    seen = {}

    def look(state):
        if state.epoch in EPOCHS:
            p = state.network.predict_proba(grid).reshape(across.shape)
            seen[state.epoch] = p, state.loss

    net = bcenet.Network([2, 32, 32, 1], "tanh", random_state=0)
    seen[0] = (
        net.predict_proba(grid).reshape(across.shape),
        bcenet.metrics.log_loss(y, net.predict_proba(X)),
    )
    bcenet.fit(
        net,
        X,
        y,
        epochs=EPOCHS[-1],
        batch_size=32,
        learning_rate=0.003,
        callbacks=look,
        random_state=0,
    )

    figure = Figure(figsize=(7, 4), layout="constrained")
    for panel, epoch in zip(figure.subplots(2, 3).ravel(), EPOCHS, strict=True):
        p, loss = seen[epoch]
        panel.contourf(across, up, p, levels=np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.7)
        panel.contour(across, up, p, levels=[0.5], colors="black", linewidths=1.2)
        for label, color in [(False, "#2166ac"), (True, "#b2182b")]:
            panel.plot(*X[y == label].T, ".", color=color, markersize=2)
        panel.set_title(f"epoch {epoch}, loss {loss:.2f}", fontsize="medium")
        panel.set_xticks([])
        panel.set_yticks([])
    save(figure, f"{folder}/decision-boundary.png")
    return net


if __name__ == "__main__":
    draw(sys.argv[1])
