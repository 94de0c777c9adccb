"""A process that runs one library on a number of threads, as commanded line by line.

`python -m benchmarks.rivals.worker LIBRARY THREADS`: commands come as JSON on standard input, a
line each, and each is answered by a line of JSON on standard output.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from benchmarks.rivals.libraries import library
from benchmarks.rivals.problems import TOLERANCES, WORKLOADS, Prediction, Training

# What is compared before any time counts.
CHECKED_EPOCHS = 3
CHECKED_ROWS = 1000


def pin(threads: int) -> None:
    """Hold this process to as many CPUs as threads, the last ones of those that it may use.

    XLA has no option for the size of its pool: it takes one thread a CPU of the mask. The others
    are held to it too, so that all run alike.
    """
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[-threads:])


class Session:
    """The commands: each method takes what the command says and returns what is answered."""

    adapters = "benchmarks.rivals.libraries"
    find = staticmethod(library)

    def __init__(self, name: str, threads: int) -> None:
        self.library = self.find(name)
        self.threads = threads
        self.adapter = importlib.import_module(f"{self.adapters}.{self.library.adapter}")
        self.task: Any = None

    def _make(self, kind: str, problem: Any) -> Any:
        return getattr(self.adapter, self.library.prefix + kind)(problem, self.threads)

    def training(self, workload: str, dtype: str) -> dict[str, Any]:
        """Make the trainer and warm up: its losses by dtype, a test AUC, seconds an epoch."""
        from bcenet.metrics import roc_auc_score

        losses = {}
        # In its own dtype last: that trainer stays.
        for name in sorted(TOLERANCES, key=lambda name: name == dtype):
            problem = Training(WORKLOADS[workload], name)
            self.task = self._make("Trainer", problem)
            self.task.prepare(CHECKED_EPOCHS)
            losses[name] = self.task.run()
        auc = None
        if hasattr(self.task, "test_scores"):
            auc = roc_auc_score(problem.y_test, self.task.test_scores())
        return {"losses": losses, "auc": auc, **self.turn(1)}

    def prediction(self, rows: int) -> dict[str, Any]:
        """Make the predictor and warm up: the first probabilities, seconds a call."""
        self.task = self._make("Predictor", Prediction(rows))
        probabilities = self.task.run()[:CHECKED_ROWS]
        self.turn(10)
        return {"probabilities": [float(p) for p in probabilities], **self.turn(10)}

    def turn(self, repeats: int) -> dict[str, Any]:
        """Seconds of one of so many epochs from the start, or of one of so many calls."""
        run = self.task.run
        if hasattr(self.task, "prepare"):
            self.task.prepare(repeats)
            start = time.perf_counter()
            run()
        else:
            start = time.perf_counter()
            for _ in range(repeats):
                run()
        return {"seconds": (time.perf_counter() - start) / repeats}

    def roof(self) -> dict[str, Any]:
        """Floating-point operations a second of a matrix product, of each size."""
        if self.task is None:
            self.task = self.adapter.Roof()
            self.task.run()
        return {"rates": self.task.run()}


def main(kind: type[Session] = Session) -> None:
    # Whatever a library prints goes to standard error: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, threads = sys.argv[1], int(sys.argv[2])
    pin(threads)
    session = kind(name, threads)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(session, command.pop("do"))(**command)
        except Exception as error:  # whatever a library raises is reported under its name
            text = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {text[0]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
