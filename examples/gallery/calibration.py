"""A calibration curve before and after a temperature, and after early stopping.

    python calibration.py FOLDER    # writes calibration.png there

Needs matplotlib: pip install 'bcenet[plot]'.
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from pictures import save

import bcenet


def curve(p, y, bins=10):
    """(mean probability, part of positive rows) of bins of about equally many rows."""
    parts = np.array_split(np.argsort(p, kind="stable"), bins)
    return [p[rows].mean() for rows in parts], [y[rows].mean() for rows in parts]


def draw(folder, rows=6000):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 10))
    y = rng.random(rows) < bcenet.sigmoid(X[:, 0] + X[:, 1] * X[:, 2])
    train, held_out, test = np.split(np.arange(rows), [rows // 6, rows // 2])

    def fit(*callbacks):
        net = bcenet.Network([10, 64, 64, 1], random_state=0)
        bcenet.fit(
            net,
            X[train],
            y[train],
            epochs=60,
            learning_rate=0.003,
            validation_data=(X[held_out], y[held_out]),
            callbacks=callbacks,
            random_state=0,
        )
        return net

    trained = fit()
    logits = trained.decision_function(X[test])
    temperature = bcenet.calibration.fit_temperature(
        trained.decision_function(X[held_out]), y[held_out]
    )
    stopped = fit(bcenet.callbacks.BestWeights())
    shown = {
        "60 epochs": bcenet.sigmoid(logits),
        f"divided by T = {temperature:.1f}": bcenet.sigmoid(logits / temperature),
        "best weights kept": stopped.predict_proba(X[test]),
    }
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color="gray", linewidth=1, label="said is what was")
    losses = []
    for (name, p), marker in zip(shown.items(), "os^", strict=True):
        losses.append(bcenet.metrics.log_loss(y[test], p))
        label = f"{name}: log-loss {losses[-1]:.3f}"
        panel.plot(*curve(p, y[test]), marker=marker, label=label)
    panel.set_xlabel("probability that was said")
    panel.set_ylabel("part of the rows that were positive")
    panel.legend()
    save(figure, f"{folder}/calibration.png")
    return losses


if __name__ == "__main__":
    print(*(f"{loss:.3f}" for loss in draw(sys.argv[1])))
