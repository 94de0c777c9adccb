"""The run: all contenders of a workload take turns, round by round."""

from __future__ import annotations

import contextlib
import json
import math
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.rivals.libraries import LIBRARIES, OURS, ROOF, library
from benchmarks.rivals.libraries.sgemm import SIZES
from benchmarks.rivals.problems import (
    AUC_TOLERANCE,
    PREDICTIONS,
    PROBABILITY_TOLERANCE,
    TOLERANCES,
    WORKLOADS,
)

TURN_SECONDS = 0.05
MOST_REPEATS = {"training": 100, "prediction": 100_000}
# After a turn the thread pools of some libraries go on spinning, OpenBLAS's for about 30 ms.
PAUSE_SECONDS = 0.05
ANSWER_SECONDS = 900


class WorkerError(Exception):
    """A worker raised, died or did not answer; the text says which."""


class Worker:
    """A process of ``module``, which runs what ``find`` gives for a name."""

    module = "benchmarks.rivals.worker"
    find = staticmethod(library)

    def __init__(self, name: str, threads: int) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module, name, str(threads)],
            env=self.find(name).environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises: WorkerError if there is none, or an error.
        """
        try:
            self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
            self.close()
            raise WorkerError(f"no answer in {ANSWER_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._dead()
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _dead(self) -> WorkerError:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return WorkerError(f"ended with status {status}{': ' + lines[-1] if lines else ''}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # a command that it did not live to read
            self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()


@dataclass
class Contender:
    """A library on a number of threads, and what became of it in one workload."""

    name: str
    threads: int
    dtype: str = "float32"
    status: str = "ok"  # or "disagrees", "failed"
    detail: str = ""
    answer: dict[str, Any] = field(default_factory=dict)
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int, str]:
        return self.name, self.threads, self.dtype

    def begin(self, answer: dict[str, Any], most_repeats: int) -> None:
        """Keep the answer to the first command, whose time says how often a turn repeats it."""
        self.answer = answer
        self.repeats = max(1, min(math.ceil(TURN_SECONDS / answer["seconds"]), most_repeats))

    def drop(self, status: str, detail: str) -> None:
        """Take no more turns: the times so far count no more either."""
        self.status, self.detail = status, detail
        self.seconds = []

    def record(self, steps: int) -> dict[str, Any]:
        """What the results keep; times a step, or a call where ``steps`` is 1."""
        kept = ("losses", "log_loss", "auc", "differences")
        record = {
            "library": self.name,
            "threads": self.threads,
            "dtype": self.dtype,
            "status": self.status,
            "detail": self.detail,
            **{key: self.answer[key] for key in kept if key in self.answer},
        }
        if self.seconds:
            record["seconds"] = statistics.median(self.seconds) / steps
            record["all_seconds"] = [seconds / steps for seconds in self.seconds]
        return record


def relative_difference(losses: list[float], reference: list[float]) -> float:
    """The largest difference of an epoch's loss from the reference's, relative to that."""
    # NumPy's maximum, because Python's would lose a NaN.
    return float(np.abs(np.divide(losses, reference) - 1).max())


def check_training(answer: dict[str, Any], reference: dict[str, Any]) -> str:
    """What disagrees with the reference, or "" if nothing does."""
    answer["differences"] = {}
    if not answer["losses"]["float32"]:
        below = max(0.0, reference["auc"] - answer["auc"])
        answer["differences"]["auc"] = below
        return _too_large("test AUC", below, AUC_TOLERANCE)
    wrong = ""
    for dtype, tolerance in TOLERANCES.items():
        difference = relative_difference(answer["losses"][dtype], reference["losses"][dtype])
        answer["differences"][dtype] = difference
        wrong = wrong or _too_large(f"loss in {dtype}", difference, tolerance)
    return wrong


def _too_large(what: str, difference: float, tolerance: float) -> str:
    if difference <= tolerance:  # False for NaN
        return ""
    return f"{what} differs by {difference:.2g}, more than {tolerance:g}"


def check_prediction(answer: dict[str, Any], reference: dict[str, Any]) -> str:
    """What disagrees with the reference, or "" if nothing does."""
    ours, theirs = np.array(reference["probabilities"]), np.array(answer["probabilities"])
    difference = float(np.abs(ours - theirs).max())
    answer["differences"] = {"probability": difference}
    return _too_large("a probability", difference, PROBABILITY_TOLERANCE)


class Run:
    """The workers, kept from workload to workload, and the rounds."""

    worker = Worker

    def __init__(self, rounds: int, say: Callable[[str], None]) -> None:
        self.rounds = rounds
        self.say = say
        self._workers: dict[tuple[str, int, str], Worker] = {}

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers = {}

    def _worker(self, name: str, threads: int, dtype: str = "float32") -> Worker:
        key = (name, threads, dtype)
        worker = self._workers.get(key)
        if worker is not None and not worker.alive:
            worker.close()
            worker = None
        if worker is None:
            self._workers[key] = self.worker(name, threads)
        return self._workers[key]

    def _ask(self, contender: Contender, do: str, **command: Any) -> dict[str, Any] | None:
        """The answer, or None after which the contender is out."""
        try:
            return self._worker(*contender.key).ask(do, **command)
        except WorkerError as error:
            contender.drop("failed", str(error))
            self.say(f"  {contender.name}, {contender.threads} thread(s): failed: {error}")
            return None

    def _begin(self, contenders: list[Contender], check: Any, do: str, **command: Any) -> None:
        """Load all contenders and compare each with its reference; the first is bcenet."""
        references: dict[str, Any] = {}
        for contender in contenders:
            own = {**command, "dtype": contender.dtype} if do == "training" else command
            answer = self._ask(contender, do, **own)
            if answer is None:
                if not references:
                    raise WorkerError(f"{contender.name}: {contender.detail}")
                continue
            contender.begin(answer, MOST_REPEATS[do])
            name = library(contender.name).reference
            if name not in references:
                own_reference = name == contender.name
                references[name] = answer if own_reference else self._worker(name, 1).ask(do, **own)
            wrong = check(answer, references[name])
            if wrong:
                contender.drop("disagrees", wrong)
                self.say(f"  {contender.name}, {contender.threads} thread(s): {wrong}")

    def _take_turns(self, contenders: list[Contender], roofs: dict[int, list[list[float]]]) -> None:
        """All rounds; each begins with another contender."""
        for number in range(self.rounds):
            for threads, rates in roofs.items():
                rates.append(self._worker(ROOF, threads).ask("roof")["rates"])
                time.sleep(PAUSE_SECONDS)
            start = number % len(contenders)
            for contender in contenders[start:] + contenders[:start]:
                if contender.status != "ok":
                    continue
                answer = self._ask(contender, "turn", repeats=contender.repeats)
                if answer is not None:
                    contender.seconds.append(answer["seconds"])
                time.sleep(PAUSE_SECONDS)

    def training(self, name: str, rivals: list[str], counts: list[int]) -> dict[str, Any]:
        """The results of a workload: its contenders, and the roof for each number of threads."""
        workload = WORKLOADS[name]
        names = [rival for rival in rivals if LIBRARIES[rival].training]
        contenders = [Contender(OURS, threads) for threads in counts]
        contenders += [Contender(OURS, threads, "float64") for threads in counts]
        contenders += [Contender(rival, threads) for rival in names for threads in counts]
        self._begin(contenders, check_training, "training", workload=name)
        roofs: dict[int, list[list[float]]] = {threads: [] for threads in counts}
        self._take_turns(contenders, roofs)
        return {
            "layer_sizes": list(workload.layer_sizes),
            "batch": workload.batch,
            "steps": workload.steps,
            "useful_operations": workload.useful_operations,
            "roof": {str(threads): roof_rate(rates) for threads, rates in roofs.items()},
            "contenders": [contender.record(workload.steps) for contender in contenders],
        }

    def prediction(self, name: str, rivals: list[str]) -> dict[str, Any]:
        """The results of predicting on one thread."""
        names = [rival for rival in rivals if LIBRARIES[rival].prediction]
        contenders = [Contender(rival, 1) for rival in (OURS, *names)]
        self._begin(contenders, check_prediction, "prediction", rows=PREDICTIONS[name])
        self._take_turns(contenders, {})
        return {
            "rows": PREDICTIONS[name],
            "contenders": [contender.record(1) for contender in contenders],
        }


def roof_rate(rates: list[list[float]]) -> float:
    """Operations a second of the best size, each size by its median over the rounds."""
    return max(statistics.median(rate[i] for rate in rates) for i in range(len(SIZES)))
