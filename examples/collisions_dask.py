"""Train on simulated collisions alone, and on a local Dask cluster of processes: the two compared.

    python examples/make_collisions.py 600000 collisions.npy
    python examples/collisions_dask.py collisions.npy

It needs ``pip install 'bcenet[dask]'``. The last sixth of the rows is held out.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import bcenet
import bcenet.dask

LAYERS = [28, 64, 32, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="as make_collisions.py wrote it, .npy")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, help="falling as a cosine; Adam's without")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    X = np.load(options.path)
    y = np.load(options.path.with_name(f"{options.path.stem}-y.npy"))
    n = len(X) * 5 // 6
    X = (X - X[:n].mean(axis=0)) / X[:n].std(axis=0)

    def report(name: str, network: bcenet.Network, seconds: list[float]) -> None:
        auc = bcenet.metrics.roc_auc_score(y[n:], network.decision_function(X[n:]))
        digest = hashlib.sha256(network.parameters).hexdigest()[:12]
        epoch = np.median(np.diff(seconds))  # the first one reads the rows
        print(f"{name:22} AUC {auc:.4f}  {epoch:.3f} s an epoch  {digest}")

    fit = {"epochs": options.epochs, "random_state": 0}
    if options.learning_rate is not None:
        fit |= {"learning_rate": options.learning_rate, "schedule": "cosine"}
    for threads in (1, 2):
        network, seconds = bcenet.Network(LAYERS, random_state=0), []
        bcenet.fit(
            network,
            X[:n],
            y[:n],
            n_threads=threads,
            callbacks=lambda state, seconds=seconds: seconds.append(state.seconds),
            **fit,
        )
        report(f"alone, {threads} thread(s)", network, seconds)

    chunk = -(-n // options.partitions)
    for workers in options.workers:
        with (
            LocalCluster(workers, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            rows = da.from_array(X[:n], chunks=(chunk, 28))
            labels = da.from_array(y[:n], chunks=chunk)
            for steps in ("auto", 200, None):
                network, seconds = bcenet.Network(LAYERS, random_state=0), []
                begun = time.monotonic()
                bcenet.dask.fit(
                    client,
                    network,
                    rows,
                    labels,
                    local_steps=steps,
                    callbacks=lambda state, seconds=seconds, begun=begun: seconds.append(
                        time.monotonic() - begun
                    ),
                    **fit,
                )
                report(f"{workers} worker(s), {steps} steps", network, seconds)


if __name__ == "__main__":
    main()
