"""Which well-known mistake gives a wrong gradient: each is made on purpose, and compared.

The layers are gone through as backpropagation does, from the last to the first. In each of them
every mistake is made in the step from the delta above, the one that the user was found to have
and the right one; what matches the user's dW and db to rounding is what they did. The delta so
found is what the next layer starts from: several mistakes in several layers are found, and a layer
that is wrong only because of one above it is told from one with a mistake of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from bcenet import kernels
from bcenet.gradient_check.twin import Delta, Twin
from bcenet.records import Record

# In this order: the first of two that give the same numbers is named.
MISTAKES = (
    "sign",
    "missing-batch-mean",
    "output-sigmoid-derivative-twice",
    "missing-activation-derivative",
    "relu-mask",
    "transposed-weights",
    "bias-axis",
    "updated-weights",
    "unknown",
)
_FACTORS = ("sign", "missing-batch-mean")  # of a whole array
_LEFT = 0.05  # the part of an error that its explanation may leave over


class Given(Record):
    """A user's gradient of one layer: dw (fan_in, fan_out), and db, flat, which is of another
    length where it is the sum over a wrong axis. Both are float64."""

    dw: np.ndarray
    db: np.ndarray


class Finding(Record):
    """What is wrong in a layer: the mistake, the layer it was made in, what was done, and how many
    mistakes were made in this layer."""

    mistake: str
    origin: int
    text: str
    own: int


class _Step(Record):
    """A way to a layer's delta, with the mistake made in it, or None."""

    mistake: str | None
    text: str
    delta: Delta


class _Form(Record):
    """What may be made of a delta: an array, with the mistake made in it, or None."""

    mistake: str | None
    text: str
    value: np.ndarray


class _Way(Record):
    """A delta that the user may have in a layer, and what made it wrong, if it is."""

    delta: Delta
    cause: Finding | None


def find(
    twin: Twin, given: list[Given], wrong: list[bool], eps: float, tolerance: float
) -> list[Finding | None]:
    """The mistake in each wrong layer of a gradient, None in the others.

    ``eps`` is the rounding unit of the gradient, ``tolerance`` what a right entry may be off by, of
    the largest of its array. What a mistake gives must fit ten times as well.
    """
    search = _Search(twin, given, eps, tolerance)
    findings: list[Finding | None] = [None] * len(given)
    ways: list[_Way] = []
    if not any(wrong):
        return findings
    for index in range(twin.last, -1, -1):
        # Whoever makes no mistake in this layer is led on by those above.
        led = [_Way(_right_step(twin, index, way.delta), way.cause) for way in ways if way.cause]
        # What is small enough to pass here may be larger in the layers before.
        best = search.best(index, ways, tolerance if wrong[index] else tolerance / 100)
        if best is not None:
            finding, way = best
            led = [way]
        elif wrong[index]:
            finding = Finding("unknown", index, _describe(twin, index, given[index]), 1)
        if wrong[index]:
            findings[index] = finding
        ways = [*(way for way in led if way.cause), _Way(twin.deltas[index], None)]
    return findings


class _Search:
    def __init__(self, twin: Twin, given: list[Given], eps: float, tolerance: float) -> None:
        self._twin, self._given = twin, given
        self._eps, self._tolerance = eps, tolerance

    def best(self, index: int, ways: list[_Way], floor: float) -> tuple[Finding, _Way] | None:
        """The explanation of a layer with the fewest mistakes of its own, and where it leads; None
        where nothing explains it, or errors are below a floor."""
        twin, here = self._twin, self._given[index]
        claims = {"dW": here.dw, "db": here.db}
        errors = [self._error(index, name, claim, floor) for name, claim in claims.items()]
        if not any(errors):
            return None
        found: list[tuple[tuple[int, int], Finding, _Way]] = []
        for way in ways if index < twin.last else [_Way(twin.deltas[index], None)]:
            if index == twin.last:
                steps = _last_steps(twin)
            else:
                steps = self._hidden_steps(index, way.delta)
            for step in steps:
                dw = self._match(
                    index, "dW", here.dw, errors[0], _weight_forms(twin, index, step.delta)
                )
                if dw is None:
                    continue
                forms = _bias_forms(twin, index, step.delta, here.db.size)
                db = self._match(index, "db", here.db, errors[1], forms)
                if db is None:
                    continue
                own = _own(index, step, dw, db)
                cause = next((f for f in own if f.mistake == step.mistake), way.cause)
                causes = [f for f in own if f.mistake not in _FACTORS]
                if way.cause is not None and not causes:
                    causes.append(_following(way.cause))
                causes += [f for f in own if f.mistake in _FACTORS]
                if causes:
                    text = ". Besides, ".join(f.text for f in causes)
                    finding = Finding(causes[0].mistake, causes[0].origin, text, len(own))
                    rank = (len(own), MISTAKES.index(finding.mistake))
                    found.append((rank, finding, _Way(step.delta, cause)))
        if not found:
            return None
        _, finding, way = min(found, key=lambda one: one[0])
        return finding, way

    def _error(self, index: int, name: str, claim: np.ndarray, floor: float) -> float:
        """How far an array is from the right one; 0 below a part of its largest entry."""
        truth = self._twin.gradient(index, name, self._twin.deltas[index])
        if claim.shape != truth.shape:
            return np.inf
        error = float(np.abs(claim - truth).max())
        noise = self._twin.noise(index, name, self._eps)
        return 0.0 if error <= floor * np.abs(truth).max() + noise else error

    def _match(
        self, index: int, name: str, claim: np.ndarray, error: float, forms: Iterable[_Form]
    ) -> _Form | None:
        """The first form that an array has, to rounding, and that leaves next to no error over."""
        noise = self._twin.noise(index, name, self._eps)
        for form in forms:
            largest = float(np.abs(form.value).max())
            if error == 0:
                limit = self._tolerance * largest + noise
            else:
                limit = min(self._tolerance / 10 * largest + noise, _LEFT * error)
            if np.abs(claim - form.value).max() <= limit and (largest > 0 or error == 0):
                return form
        return None

    def _hidden_steps(self, index: int, above: Delta) -> Iterator[_Step]:
        """Every way from the delta of the layer above to that of a hidden one."""
        twin = self._twin
        weights = twin.coefs[index + 1]  # (fan_in, fan_out) of the layer above
        back, name = above[1], twin.names[index]
        da = back @ weights.T
        yield _Step(None, "", twin.back(index, da))
        yield _Step(
            "missing-activation-derivative",
            f"the delta was not multiplied by this layer's own derivative, that of {name} at z",
            twin.back(index, da, 1.0),
        )
        for text, slope in _other_slopes(twin, index, da):
            yield _Step("relu-mask", text, twin.back(index, da, slope))
        if index + 1 < twin.last:
            yield _Step(
                "relu-mask",
                f"the delta was multiplied by the {twin.names[index + 1]} derivative of layer "
                f"{index + 1} once more, instead of by that of this layer",
                twin.back(index, (back * twin.slopes[index + 1]) @ weights.T, 1.0),
            )
        fan_in, fan_out = weights.shape
        if fan_in == fan_out:
            yield _Step(
                "transposed-weights",
                f"the delta came back through the weights of layer {index + 1} as they are, "
                "where it takes their transpose",
                twin.back(index, back @ weights),
            )
        elif min(fan_in, fan_out) > 1:
            for mixed in (weights.reshape(fan_out, fan_in), weights.T.reshape(fan_in, fan_out).T):
                yield _Step(
                    "transposed-weights",
                    f"the delta came back through the weights of layer {index + 1} reshaped, "
                    "where they must be transposed",
                    twin.back(index, back @ mixed),
                )
        yield from self._updated(index, above)
        yield from _mistaken_formulas(twin, index, da)

    def _updated(self, index: int, above: Delta) -> Iterator[_Step]:
        """The delta through W - rate dW of the layer above, the rate fitted by least squares."""
        twin, here, step_of = self._twin, self._given[index], self._given[index + 1].dw
        if not np.isfinite(step_of).all():
            return
        weights, back = twin.coefs[index + 1], above[1]
        start = twin.gradient(index, "dW", twin.back(index, back @ weights.T))
        change = twin.gradient(index, "dW", twin.back(index, back @ step_of.T))
        size, own = (change * change).sum(), (start * start).sum()
        if not (np.isfinite(size) and size > 0 and own > 0):
            return
        # Where the change only scales the gradient any factor fits, and nothing is proved.
        aside = change - (change * start).sum() / own * start
        if (aside * aside).sum() <= 1e-8 * size:
            return
        for factor, _, _ in _factors(twin):
            gap = start - here.dw / factor
            rate = float((gap * change).sum() / size)
            left = np.abs(gap - rate * change).max()
            if rate > 0 and left <= _LEFT * rate * np.abs(change).max():
                yield _Step(
                    "updated-weights",
                    f"the delta came back through weights of layer {index + 1} that were already "
                    f"updated, by {rate:.6g} times the gradient given for them: find all deltas "
                    "first, then update",
                    twin.back(index, back @ (weights - rate * step_of).T),
                )


def _right_step(twin: Twin, index: int, above: Delta) -> Delta:
    return twin.back(index, above[1] @ twin.coefs[index + 1].T)


def _following(cause: Finding) -> Finding:
    text = f"it follows from the delta of layer {cause.origin}, see there"
    return Finding(cause.mistake, cause.origin, text, 0)


def _own(index: int, step: _Step, dw: _Form, db: _Form) -> list[Finding]:
    """The mistakes made in a layer, each once, in the order of its computing."""
    own = []
    if step.mistake is not None:
        own.append(Finding(step.mistake, index, step.text, 1))
    if dw.mistake == db.mistake and dw.text == db.text:
        parts = [("the gradient", dw)]
    else:
        parts = [("db", db), ("dW", dw)] if dw.mistake in _FACTORS else [("dW", dw), ("db", db)]
    for name, form in parts:
        if form.mistake is not None:
            own.append(Finding(form.mistake, index, f"{name} {form.text}", 1))
    return own


def _last_steps(twin: Twin) -> Iterator[_Step]:
    delta, odds = twin.delta, twin.odds
    yield _Step(None, "", (delta, delta))
    twice = delta * odds
    yield _Step(
        "output-sigmoid-derivative-twice",
        "the delta was multiplied by p (1 - p) once more than it should be: the sigmoid's "
        "derivative is already in p - y",
        (twice, twice),
    )
    alone = delta / odds
    yield _Step(
        "missing-activation-derivative",
        "the delta is dC/dp, and was not multiplied by the sigmoid's derivative p (1 - p), with "
        "which it is p - y",
        (alone, alone),
    )


def _other_slopes(twin: Twin, index: int, da: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Derivatives that are not this layer's, of a shape that can be taken for it."""
    name, width = twin.names[index], twin.coefs[index].shape[1]
    others = [other for other in range(len(twin.y)) if other != index]
    places = [
        ("the inputs", twin.inputs),
        *((f"layer {other}'s z", twin.y[other]) for other in others),
    ]
    places.append(("the delta that came back", da))
    for place, values in places:
        if values.shape[1] in (1, width):
            if name != "identity":
                slope = kernels.activate(name, values)[1]
                yield f"the derivative of {name} was taken at {place}, not at this layer's z", slope
            mask = (values > 0).astype(np.float64)
            yield f"the delta was masked where {place} is not above 0", mask
    for other in others:
        slope = twin.slopes[other]
        if slope.shape[1] in (1, width):
            text = f"the delta was multiplied by layer {other}'s derivative, not by this layer's"
            yield text, slope
    if name != "relu":
        text = f"the delta was masked as relu's is, where it takes the derivative of {name}"
        yield text, kernels.activate("relu", twin.y[index])[1]


def _mistaken_formulas(twin: Twin, index: int, da: np.ndarray) -> Iterator[_Step]:
    """Ways to a wrong derivative that have no name of their own."""
    name, y, a = twin.names[index], twin.y[index], twin.a[index]
    slopes = [(f"the derivative of {name} was taken at a, not at z", kernels.activate(name, a)[1])]
    if name == "tanh":
        slopes.append(("the derivative of tanh was computed as 1 - z^2; it is 1 - a^2", 1 - y * y))
    if name == "sigmoid":
        text = "the derivative of the sigmoid was computed as z (1 - z); it is a (1 - a)"
        slopes.append((text, y * (1 - y)))
    for other in kernels.activation_names():
        if other != name:
            text = f"the derivative of {other} was taken, where the layer's activation is {name}"
            slopes.append((text, kernels.activate(other, y)[1]))
    for text, slope in slopes:
        yield _Step("unknown", text, twin.back(index, da, slope))


def _factors(twin: Twin) -> list[tuple[float, str | None, str]]:
    """Factors of a whole array: (factor, mistake, text)."""
    n, k, whole = twin.n, twin.k, twin.divisor
    sums = {whole: f"it is the sum over the {n} samples, not divided by their number"}
    if twin.is_mean and k > 1:
        sums[whole] = f"it is the sum over {n} samples and {k} labels, not divided by {n * k}"
        sums[whole / k] = f"it is the mean over {k} labels, but the sum over the {n} samples"
        sums[whole / n] = (
            f"it is the mean over {n} samples, but the sum over their {k} labels; the loss is the "
            "mean over both"
        )
    factors: list[tuple[float, str | None, str]] = [
        (1.0, None, ""),
        (-1.0, "sign", "has the opposite sign, as from y - p where it should be p - y"),
    ]
    for factor, text in sums.items():
        if factor > 1 + 1e-6:
            factors.append(
                (factor, "missing-batch-mean", f"is {factor:.6g} times too large: {text}")
            )
            both = f"has the opposite sign and is {factor:.6g} times too large: {text}"
            factors.append((-factor, "sign", both))
    return factors


def _weight_forms(twin: Twin, index: int, delta: Delta) -> Iterator[_Form]:
    right = twin.gradient(index, "dW", delta)
    yield from _multiples(twin, right)
    fan_in, fan_out = right.shape
    if fan_in == fan_out:
        turned = [(right.T, "is transposed")]
    elif min(fan_in, fan_out) > 1:
        text = "was reshaped where it must be transposed"
        turned = [
            (right.T.reshape(right.shape), text),
            (right.reshape(fan_out, fan_in).T, text),
        ]
    else:
        return
    for value, text in turned:
        for form in _multiples(twin, value):
            also = "" if form.mistake is None else f", and it {form.text}"
            yield _Form("transposed-weights", text + also, form.value)


def _multiples(twin: Twin, value: np.ndarray) -> Iterator[_Form]:
    for factor, mistake, text in _factors(twin):
        yield _Form(mistake, text, factor * value)


def _bias_forms(twin: Twin, index: int, delta: Delta, size: int) -> Iterator[_Form]:
    dz = delta[1]
    fan_out = dz.shape[1]
    if size == fan_out:
        yield from _multiples(twin, twin.gradient(index, "db", delta))
    n, k, whole = twin.n, twin.k, twin.divisor
    sums = []
    if fan_out > 1 and size in (1, fan_out):
        everything = np.full(size, dz.sum())
        sums.append(("is the sum over samples and units, one number for all units", everything))
    if n > 1 and size == n:
        text = "is the sum over the units, one number a sample; it must be the sum over the samples"
        sums.append((text, dz.sum(1)))
    if min(n, fan_out) > 1 and size == n * fan_out:
        text = "is the delta itself; it must be the sum over the samples"
        sums += [(text, dz.reshape(-1)), (text, dz.T.reshape(-1))]
    for text, total in sums:
        for divisor in dict.fromkeys((whole, whole / k, 1.0, n, k)):
            for more in dict.fromkeys((1, fan_out)):
                for sign in (1, -1):
                    yield _Form("bias-axis", text, sign * total / (divisor * more))


def _describe(twin: Twin, index: int, here: Given) -> str:
    """What can be said of a gradient that no known mistake gives."""
    parts = []
    for name, claim in (("dW", here.dw), ("db", here.db)):
        truth = twin.gradient(index, name, twin.deltas[index])
        if claim.shape != truth.shape:
            parts.append(f"{name} has {claim.size} entries in place of {truth.size}")
            continue
        noise = twin.noise(index, name, 2.0**-52)
        scale = float(np.abs(truth).max()) + noise
        off = ~(np.abs(claim - truth) <= 1e-4 * scale)
        own = float((truth * truth).sum())
        factor = float((claim * truth).sum()) / own if own > 0 else 0.0
        if not off.any():
            parts.append(f"{name} is right to 1e-4")
        elif not claim.any():
            parts.append(f"{name} is 0 everywhere")
        elif truth.size > 1 and np.abs(claim - factor * truth).max() <= 1e-6 * abs(factor) * scale:
            parts.append(f"{name} is {factor:.6g} times the right one in every entry")
        else:
            units = np.flatnonzero(off.reshape(-1, truth.shape[-1]).any(0))
            text = f"{name} is wrong in {off.sum()} of {off.size} entries"
            if units.size < truth.shape[-1]:
                listed = ", ".join(map(str, units[:5])) + (", ..." if units.size > 5 else "")
                text += f", all of unit{'s' * (units.size > 1)} {listed}"
            parts.append(text)
    return "none of the known mistakes gives these numbers: " + ", ".join(parts)
