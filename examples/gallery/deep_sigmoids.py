"""A network of sigmoids that is too deep, seen by `bcenet.TrainingHealth`; and what helps.

    python deep_sigmoids.py FOLDER    # writes deep-sigmoids.png and deep-silu.png there

Needs matplotlib: pip install 'bcenet[plot]'.
"""

import sys

import numpy as np
from pictures import save

import bcenet


def draw(folder, rows=4000, epochs=12):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 10))
    y = rng.random(rows) < bcenet.sigmoid(3 * X[:, 0] * X[:, 1])
    healths = {}
    for name, activation in [("deep-sigmoids", "sigmoid"), ("deep-silu", "silu")]:
        net = bcenet.Network([10, *[32] * 7, 1], activation, random_state=0)
        healths[name] = health = bcenet.TrainingHealth(X, y)
        history = bcenet.fit(net, X, y, epochs=epochs, callbacks=health, random_state=0)
        save(health.plot(), f"{folder}/{name}.png")
        print(f"{activation}: loss {history.loss[-1]:.3f}")
        print(health, end="\n\n")
    return healths


if __name__ == "__main__":
    draw(sys.argv[1])
