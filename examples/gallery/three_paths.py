"""Three ways to the last layer's gradient, against the logit: `bcenet.explain_last_layer`.

    python three_paths.py FOLDER    # writes three-paths.png there

Needs matplotlib: pip install 'bcenet[plot]'.
"""

import sys

import numpy as np
from pictures import save

import bcenet


def draw(folder):
    net = bcenet.Network([1, 1], dtype="float64")
    net.parameters[:] = [1.0, 0.0]  # so each row is its own logit
    X = np.array([[37.0], [37.0], [20.0], [-50.0]])
    y = np.array([0, 1, 1, 1])
    report = bcenet.explain_last_layer(net, X, y)
    save(report.plot(), f"{folder}/three-paths.png")
    return report


if __name__ == "__main__":
    print(draw(sys.argv[1]))
