"""What several test files share: errors in units in the last place, layouts, small problems, and
fits that are interrupted."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time

import mpmath
import numpy as np
import pytest
import reference as ref

import bcenet
import bcenet.optimizers
from bcenet import checkpoint, model_file

# 80 decimal digits; mpmath numbers have no smallest or largest exponent.
mp = mpmath.mp.clone()
mp.dps = 80

needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63,
    reason="the oracle needs a long double of at least 64 bits of mantissa",
)

# ------------------------------------------------------------- units in the last place


def ulp(exact, dtype):
    """The spacing of dtype's numbers around `exact`, an mpf or an array of a wider dtype."""
    info = np.finfo(dtype)
    smallest = info.minexp - info.nmant  # exponent of the smallest subnormal number
    if isinstance(exact, np.ndarray):
        exponent = np.frexp(exact)[1]
        return np.ldexp(exact.dtype.type(1), np.maximum(exponent - 1 - info.nmant, smallest))
    exponent = mp.frexp(exact)[1] if exact else -(10**9)
    return mp.ldexp(1, max(exponent - 1 - info.nmant, smallest))


def ulp_error(actual, exact, dtype):
    """|actual - exact| in units of `exact`; infinite where a limit or the sign is missed."""
    if mp.isinf(exact) or mp.isinf(actual) or mp.isnan(actual):
        return 0.0 if actual == exact else float("inf")
    if actual * exact < 0:
        return float("inf")
    return float(abs(mp.mpf(actual) - exact) / ulp(exact, dtype))


def ulp_errors(actual, exact):
    """`ulp_error` of a float array against a wider one, element by element."""
    wide = actual.astype(exact.dtype)
    with np.errstate(invalid="ignore"):
        errors = np.abs(wide - exact) / ulp(exact, actual.dtype)
    missed = np.isnan(actual) | (wide * exact < 0) | (np.isinf(wide) != np.isinf(exact))
    return np.where(wide == exact, 0, np.where(missed, np.inf, errors)).astype(float)


@functools.cache
def exact_parts(z):
    """(s(z), s(-z), log(1 + e^-|z|)) of one logit, to 80 digits."""
    if np.isinf(z):
        return mp.mpf(z > 0), mp.mpf(z < 0), mp.mpf(0)
    e = mp.exp(-abs(mp.mpf(z)))
    large, small = 1 / (1 + e), e / (1 + e)
    return (large, small, mp.log1p(e)) if z >= 0 else (small, large, mp.log1p(e))


def exact_loss(z, t):
    """-[t log s(z) + (1-t) log s(-z)] to 80 digits; the limit where z is infinite."""
    weight = 1 - mp.mpf(t) if z > 0 else -mp.mpf(t)
    return exact_parts(z)[2] + (weight * mp.mpf(z) if weight else 0)


def exact_gradient(z, t):
    """s(z) - t to 80 digits, from the form that loses nothing for t = 0 and t = 1."""
    positive, negative, _ = exact_parts(z)
    return (1 - mp.mpf(t)) * positive - mp.mpf(t) * negative


# ------------------------------------------------------------------------------ layouts


def _strided(array):
    wide = np.full([2 * size + 1 for size in array.shape], 7, array.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def _unaligned(array):
    buffer = bytearray(array.nbytes + 1)
    view = np.frombuffer(buffer, array.dtype, offset=1).reshape(array.shape)
    view[...] = array
    return view


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


# name -> function that gives the same values in another memory layout
LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": _strided,
    "negative strides": lambda array: np.flip(np.flip(array).copy()),
    "unaligned": _unaligned,
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "read-only": _read_only,
}

# ----------------------------------------------------------------------------- problems


def problem(n=103, features=7, outputs=1, *, seed=0, dtype=np.float64, soft=False):
    """(X, y): a small learnable problem; y is (n,) for one output, else (n, outputs)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, features)).astype(dtype)
    noise = rng.logistic(size=(n, outputs))
    score = X @ rng.normal(size=(features, outputs)) + noise
    y = ref.sigmoid(score) if soft else score > 0
    return X, (y[:, 0] if outputs == 1 else y).astype(dtype)


def digest(array):
    """SHA-256 of an array's bytes: equal only for equal bits."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def relative_to_largest(actual, expected):
    """The largest difference, as a fraction of the largest entry of `expected`."""
    expected = np.asarray(expected)
    difference = np.abs(np.asarray(actual).astype(expected.dtype) - expected).max(initial=0)
    return float(difference / max(np.abs(expected).max(initial=0), np.finfo(float).tiny))


def make_network(
    layer_sizes=(7, 6, 5, 1), activation="relu", dtype="float64", *, seed=1, **options
):
    """A network whose parameters are all random, those of the last layer too."""
    net = bcenet.Network(
        layer_sizes, activation=activation, dtype=dtype, random_state=seed, **options
    )
    rng = np.random.default_rng(seed)
    net.parameters[:] = rng.normal(scale=0.5, size=net.parameters.shape)
    for values in [*(gain for gain, _ in net.norms), *([] if net.scale is None else [net.scale])]:
        values += 1  # a normalisation's gains and the factors of X's columns lie around it
    if net.statistics.size:  # means around 0, variances around 1
        net.statistics[:] = rng.normal(scale=0.3, size=net.statistics.shape)
        for mean_and_variance in net.shape.split_statistics(net.statistics):
            mean_and_variance[1] = rng.uniform(0.5, 2, mean_and_variance[1].shape)
    return net


def twin_layers(net, dtype=np.longdouble):
    """The network's parts for the twin's functions, copied into another dtype."""
    return ref.unflatten(
        net.parameters.astype(dtype),
        net.layer_sizes,
        net.shape.normalization,
        net.shape.feature_scale,
    )


def twin_prediction(net, dtype=np.longdouble):
    """What the twin's functions take besides, to normalise as predictions do."""
    running = ref.pairs(net.statistics.astype(dtype), net.layer_sizes, net.shape.normalization)
    return {"normalization": net.shape.normalization, "running": running}


def fit_twin(net, X, y, optimizer, *, epochs, seed=None, **options):
    """`bcenet.fit` by the twin, in float64, with the same options: (parameters, history).

    Rows are taken in the order of a seed, or as they lie without one.
    """
    name = next(name for name, kind in bcenet.optimizers.BY_NAME.items() if kind is type(optimizer))
    hyper = optimizer.hyper()
    factors = hyper.pop("rate_factors")
    n, batch_size = len(X), min(options.pop("batch_size", 200), len(X))
    loss = options.pop("loss", "bce")
    if isinstance(loss, bcenet.FocalLoss):
        loss, options["gamma"] = "focal", loss.gamma
    dropout = options.pop("dropout", 0)
    if dropout:
        hidden = len(net.layer_sizes) - 2
        rates = list(dropout) if isinstance(dropout, (list, tuple)) else [dropout] * hidden
        options["dropout"] = ([round(rate * 65536) for rate in rates] + [0], seed)
    schedule = options.pop("schedule", None)
    if schedule is not None:  # a fresh one: its own tests are tests/test_schedules.py
        schedule = bcenet.schedules.resolve(copy.deepcopy(schedule))
        schedule.begin(epochs, n)
        batches = -(-n // batch_size)
        options["schedule"] = [schedule.factors(epoch, batches) for epoch in range(epochs)]
    averaging = options.pop("averaging", None)
    if isinstance(averaging, bcenet.EMA):
        options["ema"] = averaging.decay
    if isinstance(averaging, bcenet.SWA):
        options["swa"] = averaging.start
    return ref.fit(
        net.parameters.astype(float),
        net.layer_sizes,
        net.activations,
        X,
        y,
        order=[np.arange(n) if seed is None else ref.row_order(seed, e, n) for e in range(epochs)],
        optimizer=name,
        optimizer_options=hyper,
        rate_factors=factors,
        batch_size=batch_size,
        loss=loss,
        label_sum=options.pop("label_reduction", "mean") == "sum",
        masked=options.pop("missing_labels", "error") == "ignore",
        normalization=net.shape.normalization,
        feature_scale=net.shape.feature_scale,
        statistics=net.statistics,
        **options,
    )


# -------------------------------------------------------------------------- checkpoints


def outcome(network, history):
    """All that a fit leaves: equal only for equal bits."""
    lists = [history.loss, history.penalty, history.validation_loss]
    return [digest(network.parameters), digest(network.statistics), *map(repr, lists)]


def outcome_of_objects(optimizer, averaging):
    """What an optimizer and an average carry to the next fit."""
    state = [digest(optimizer.state[name]) for name in optimizer.state]
    counts = [optimizer.step, optimizer.epoch, optimizer.seed]
    if averaging is None:
        return [*state, *counts]
    return [*state, *counts, digest(averaging.raw), digest(averaging.average), averaging.count]


class _Interrupter:
    """A trace function that raises KeyboardInterrupt before the k-th line of bcenet's."""

    def __init__(self, k):
        self.left = k

    def __call__(self, frame, event, argument):
        inside = f"{os.sep}bcenet{os.sep}" in frame.f_code.co_filename
        return self.line if inside else None

    def line(self, frame, event, argument):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.line


def interrupted_before_lines(lines, path, fit, resume, wanted):
    """Interrupt a fit before its k-th line, for each k in ``lines``, and each time go on.

    Gives the places, (epochs, batches), of the checkpoints that were found.
    """
    found, previous = set(), sys.gettrace()
    for k in lines:
        sys.settrace(_Interrupter(k))
        try:
            fit()
        except KeyboardInterrupt:
            pass
        else:
            return found
        finally:
            sys.settrace(previous)
        folder, name = os.path.split(path)
        assert os.listdir(folder) in ([], [name])
        if not os.path.exists(path):  # it had not begun to train
            continue
        saved = checkpoint.read(path)
        found.add((saved.config["epoch"]["done"], saved.config["at"]["batch"]))
        assert resume() == wanted
        os.unlink(path)
    raise AssertionError("the fit never came to its end")


class Begun:
    """The callback of a process that is to be killed: says that its fit has begun."""

    def on_fit_begin(self, state):
        print("begun", flush=True)


def checkpoints_in(folder):
    return checkpoint._names(folder) if os.path.isdir(folder) else []


def kill_and_go_on(code, folder, kills, seed, resume, wanted):
    """Kill a fit that checkpoints every step at random moments, and each time go on.

    Arguments:
        code: of a process that fits, or resumes from the folder in its argument, with a `Begun`,
            and prints the digest of what it has got.
        resume: goes on from a copy of the folder, and returns the digest.
    """
    rng = np.random.default_rng(seed)
    done = 0
    tests = os.path.dirname(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    command = [sys.executable, "-c", code, str(folder)]
    while done < kills:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout.readline() == "begun\n"
            time.sleep(rng.uniform(0, 0.2))
            child.kill()
            last = child.stdout.read()
        if last:  # it was done before: begin again
            assert (child.wait(), last) in ((0, f"{wanted}\n"), (-signal.SIGKILL, f"{wanted}\n"))
            shutil.rmtree(folder)
            continue
        assert child.wait() == -signal.SIGKILL
        done += 1
        for name in checkpoints_in(folder):
            model_file.read(folder / name)
        if checkpoints_in(folder):
            there = folder.parent / "copy"
            shutil.copytree(folder, there)
            assert resume(there) == wanted
            shutil.rmtree(there)
