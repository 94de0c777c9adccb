"""A process that runs one form of a library: `benchmarks.rivals.worker` with these problems.

`python -m benchmarks.large.worker FORM THREADS`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bcenet
from benchmarks.large.libraries import form
from benchmarks.large.problems import Training
from benchmarks.rivals import worker


class Session(worker.Session):
    adapters = "benchmarks.large.libraries"
    find = staticmethod(form)

    def training(self, workload: str, folder: str, shuffled: bool) -> dict[str, Any]:
        """Make the trainer and train an epoch: what it learned, and the seconds of another."""
        problem = Training(workload, self.library, folder, shuffled)
        self.task = self._make("Trainer", problem)
        self.task.prepare(1)
        self.task.run()
        logits = np.asarray(self.task.test_scores(), np.float64)
        return {
            "log_loss": float(bcenet.bce_loss(logits, problem.y_test)),
            "auc": float(bcenet.metrics.roc_auc_score(problem.y_test, logits)),
            **self.turn(1),
        }


if __name__ == "__main__":
    worker.main(Session)
