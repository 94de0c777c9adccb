"""`bcenet.explain_last_layer` and `bcenet explain`: every figure against an independent one."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
import sys

import numpy as np
import pytest
import scipy.sparse
from helpers import exact_gradient, make_network, mp, problem, ulp, ulp_error
from hypothesis import example, given, settings
from hypothesis import strategies as st

import bcenet
from bcenet.cli import main
from bcenet.explain import curves, formula, pairings, paths

DTYPES = ["float32", "float64"]


def identity(dtype="float64", outputs=1):
    """A network whose logits are its inputs."""
    net = bcenet.Network([outputs, outputs], dtype=dtype)
    net.parameters[:] = 0
    net.coefs[0][:] = np.eye(outputs)
    return net


def explain(z, y, dtype="float64", **options):
    """The report of logits and targets on the network above."""
    X = np.reshape(z, (-1, 1)).astype(dtype)
    return bcenet.explain_last_layer(identity(dtype), X, np.ravel(y), **options)


def words(text):
    """A text on one line, with ASCII signs."""
    text = str(text)
    for sign, plain in {"\u2212": "-", "\u00a0": " "}.items():
        text = text.replace(sign, plain)
    return " ".join(text.split())


# --------------------------------------------------------------- the last layer, row by row

# dtype, logit, target -> verdicts of the chain rule and of a - y, and part of the reason
CASES = {
    ("float64", 37.0, 0): ("nan", "right", "dC/da = 1.0/0 is infinite"),
    ("float64", 37.0, 1): ("nan", "zero", "dC/da = 0/0 is NaN"),
    ("float64", 40.0, 0): ("nan", "right", "dC/da = 1.0/0 is infinite"),
    ("float64", 20.0, 1): ("wrong", "wrong", "about 7 of 16 digits"),
    ("float64", -709.9, 0): ("nan", "zero", "exp(-z) is beyond 1.798e+308"),
    ("float64", -50.0, 1): ("right", "right", ""),
    ("float32", 16.7, 0): ("nan", "right", "dC/da = 1.0/0 is infinite"),
    ("float32", 17.4, 1): ("nan", "zero", "dC/da = 0/0 is NaN"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rows_of_the_question(isa, case):
    dtype, z, y = case
    chain, literal, reason = CASES[case]
    report = explain([z], [y], dtype)
    found = getattr(report.rows[0], dtype)
    assert (found.chain.verdict, found.literal.verdict, found.fused.verdict) == (
        chain,
        literal,
        "right",
    )
    assert reason in found.chain.why
    assert bool(found.literal.why) == (literal != "right")
    truth = exact_gradient(float(np.dtype(dtype).type(z)), y)
    assert ulp_error(found.fused.value, truth, dtype) <= 2
    assert found.fused.why == ""
    text = str(report)
    for part in (found.chain, found.literal, found.fused):
        assert str(np.dtype(dtype).type(part.value)) in text
    assert all(part.why.split(";")[0][:40] in text for part in (found.chain, found.literal))


LOGITS = st.one_of(
    st.floats(-50, 50),
    st.floats(-800, 800),
    st.floats(allow_nan=False, allow_infinity=False),
)
TARGETS = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


@given(
    pairs=st.lists(st.tuples(LOGITS, TARGETS), min_size=1, max_size=20),
    dtype=st.sampled_from(DTYPES),
)
@example(pairs=[(0.0, 0.5), (745.2, 1.0), (1e308, 1.0), (-2302585.0, 0.0)], dtype="float64")
@example(pairs=[(5e-324, 0.5), (-1e-70, 0.5), (36.8, 0.25)], dtype="float64")
@settings(max_examples=40, deadline=None)
def test_every_figure_against_mpmath(pairs, dtype):
    z, y = np.transpose(pairs)
    z = np.clip(z, np.finfo(dtype).min, np.finfo(dtype).max)
    for row in explain(z, y, dtype, rows=range(len(z))).rows:
        found = getattr(row, dtype)
        assert found.logit == row.logit == float(np.dtype(dtype).type(z[row.row]))
        assert found.target == float(np.dtype(dtype).type(y[row.row]))
        check_figures(found, dtype)


def check_figures(found, dtype):
    # more digits where a small logit's s(z) is nearly the target
    with mp.workdps(420 if 0 < abs(found.logit) < 1e-9 else 80):
        truth = (
            exact_gradient(found.logit, found.target)
            if mp.dps == 80
            else 1 / (1 + mp.exp(-mp.mpf(found.logit))) - mp.mpf(found.target)
        )
        exact = mp.mpf(str(found.exact))
        # from |z| = 1e18 on e^-|z| has no exponent in decimal arithmetic and is 0
        far = abs(found.logit) > 1e18
        assert abs(exact - truth) <= abs(truth) * mp.mpf("1e-29") + far * mp.mpf("1e-1000")
        soft = found.target not in (0, 1)
        if not soft:
            assert ulp_error(found.fused.value, truth, dtype) <= 2
        for name in paths.PATHS:
            part = getattr(found, name)
            if np.isnan(part.value):
                assert part.verdict == "nan"
                assert np.isnan(part.relative_error)
                assert np.isnan(part.ulp)
                continue
            error = abs(mp.mpf(part.value) - truth)
            units = error / ulp(truth, dtype)
            # at a power of two the unit is that of the rounded number: twice as large
            assert any(part.ulp == pytest.approx(float(units / step), rel=1e-12) for step in (1, 2))
            if truth and not far:
                assert part.relative_error == pytest.approx(float(error / abs(truth)), rel=1e-12)
            if part.verdict == "right":
                allowed = 2 * float(np.finfo(dtype).eps) if soft else 0
                assert units <= 33 or error <= 1.01 * allowed
            else:
                assert units > 1.9
                assert part.why


def test_both_dtypes_stand_beside_each_other():
    z, y = 20.1, 0.3
    row = explain([z], [y]).rows[0]
    assert (row.float64.logit, row.float64.target) == (z, y)
    assert (row.float32.logit, row.float32.target) == (float(np.float32(z)), float(np.float32(y)))
    assert row.float32.chain.verdict == "nan"
    assert row.float64.chain.verdict == "right"


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_an_infinite_logit_is_judged_by_the_limit(y):
    net = identity()
    net.coefs[0][:] = np.inf
    row = bcenet.explain_last_layer(net, [[1.0]], [y]).rows[0]
    assert row.logit == np.inf
    assert row.float64.exact == 1 - int(y)
    assert row.float64.fused.value == 1 - y
    verdicts = [row.float64.chain.verdict, row.float64.literal.verdict, row.float64.fused.verdict]
    assert verdicts == ["nan", "right", "right"]


def test_the_repair_by_clipping_is_no_gradient():
    report = explain([-50.0, 37.0], [1, 0], rows=[0, 1])
    # in dC/da the clipped a = 1e-7, in da/dz the true one
    expected = (1e-7 - 1) / (1e-7 * (1 - 1e-7)) * 1.928749847963918e-22
    assert report.rows[0].float64.clipped == pytest.approx(expected, rel=1e-9)
    assert report.rows[1].float64.clipped == 0.0
    assert "gives -1.929e-15 here, where the truth is -1" in words(report)


def test_worst_first_and_the_counts_against_every_row_on_its_own():
    rng = np.random.default_rng(0)
    z = rng.normal(scale=15, size=300)
    y = (rng.random(300) < 0.5).astype(float)
    report = explain(z, y, rows=300)
    assert sorted(row.row for row in report.rows) == list(range(300))
    keys = []
    for row in report.rows:
        parts = [getattr(getattr(row, d), p) for d in DTYPES for p in paths.PATHS]
        verdicts = [part.verdict for part in parts]
        errors = [part.relative_error for part in parts if part.verdict == "wrong"]
        keys.append((-verdicts.count("nan"), -verdicts.count("zero"), -max(errors, default=0)))
    # the order is made with the fused gradient for the truth, 2 ULP from it
    rounded = [(lost, zero, float(f"{error:.1e}")) for lost, zero, error in keys]
    assert rounded == sorted(rounded)
    five = explain(z, y, rows=5)
    assert [row.row for row in five.rows] == [row.row for row in report.rows[:5]]
    for part in report.summary:
        values = [getattr(getattr(row, part.dtype), part.path) for row in report.rows]
        for verdict, count in part.counts.items():
            assert count == sum(value.verdict == verdict for value in values)
        assert sum(part.counts.values()) == 300
        mean = np.mean([value.value for value in values])
        assert part.mean == pytest.approx(mean, rel=1e-12, nan_ok=True)
    assert np.isnan(report.summary[0].mean)
    assert report.summary[2].counts["right"] == 300


def test_rows_that_are_asked_for_come_with_all_labels():
    net = identity(outputs=3)
    X = np.arange(12.0).reshape(4, 3)
    y = np.zeros((4, 3))
    report = bcenet.explain_last_layer(net, X, y, rows=[2, 0])
    expected = [(row, label, X[row, label]) for row in (2, 0) for label in range(3)]
    assert [(row.row, row.label, row.logit) for row in report.rows] == expected
    assert "Row 2, label 1: z = 7, y = 0" in str(report)
    assert len(bcenet.explain_last_layer(net, X, y).rows) == 5
    assert len(bcenet.explain_last_layer(net, X, y, rows=99).rows) == 12


# -------------------------------------------------------------------------------- thresholds


def threshold(found, dtype, path, target, upwards, effect):
    """The one logit of a threshold."""
    wanted = (dtype, path, target, upwards, effect)
    matching = [
        t.logit for t in found if (t.dtype, t.path, t.target, t.upwards, t.effect) == wanted
    ]
    assert len(matching) == 1
    return matching[0]


@pytest.mark.parametrize(("dtype", "above", "below"), [
    ("float64", 36.7368, -709.7827),
    ("float32", 16.6356, -88.7228),
])  # fmt: skip
def test_thresholds(dtype, above, below):
    found = explain([0.0], [0]).thresholds
    for path, target, upwards, effect, logit in [
        ("chain", 0, True, "nan", above),
        ("chain", 1, True, "nan", above),
        ("chain", 0, False, "nan", below),
        ("chain", 1, False, "nan", below),
        ("literal", 1, True, "zero", above),
        ("literal", 0, False, "zero", below),
    ]:
        first = threshold(found, dtype, path, target, upwards, effect)
        assert first == pytest.approx(logit, abs=1.01e-4)
        # the logit is of the dtype, and the one before it, towards 0, does not break
        assert first == float(np.dtype(dtype).type(first))
        for z, breaks in [(first, True), (np.nextafter(np.dtype(dtype).type(first), 0), False)]:
            value = getattr(getattr(explain([z], [target], dtype).rows[0], dtype), path).value
            assert bool(np.isnan(value) if effect == "nan" else value == 0) is breaks
    # e^-z is half the smallest number there
    smallest = mp.mpf(float(np.nextafter(np.dtype(dtype).type(0), 1)))
    limit = float(-mp.log(smallest / 2))
    for target in (0, 1):
        first = threshold(found, dtype, "fused", target, target == 1, "zero")
        assert abs(first) == pytest.approx(limit, rel=2 * float(np.finfo(dtype).eps))
    # the rounding of a, up to half of eps/2 (a is below 1), is sqrt(eps/2) of e^-z
    half = threshold(found, dtype, "literal", 1, True, "half")
    assert half == pytest.approx(-np.log(np.sqrt(np.finfo(dtype).eps / 2) / 2), abs=0.01)
    assert threshold(found, dtype, "chain", 1, True, "half") == half
    assert len([t for t in found if t.dtype == dtype]) == 10


# -------------------------------------------------------------------------------- hidden layers

NETWORKS = {
    "plain": {},
    "batch": {"normalization": "batch"},
    "layer": {"normalization": ["layer", None]},
    "scaled": {"feature_scale": True},
}


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("options", NETWORKS)
def test_hidden_units_hold_the_numbers_of_the_trace(options, outputs):
    net = make_network((7, 6, 5, outputs), "silu", **NETWORKS[options])
    X, y = problem(40, outputs=outputs)
    report = bcenet.explain_last_layer(net, X, y, rows=[11])
    trace = net.trace(X[11:12], y[11:12])
    assert [unit.layer for unit in report.units] == [1, 0]
    for unit in report.units:
        layer = trace.layers[unit.layer]
        assert unit.unit == np.argmax(np.abs(layer.dz[0]))
        for name in ("z", "a", "da", "dz"):
            expected = getattr(layer, name)[0, unit.unit]
            assert getattr(unit, name) == pytest.approx(expected, rel=1e-9), name
        assert unit.da == pytest.approx(sum(dz * w for dz, w in unit.terms), rel=1e-12)
        y_, h = layer.y[0, unit.unit], 1e-6
        slope = (silu(y_ + h) - silu(y_ - h)) / (2 * h)
        assert unit.slope == pytest.approx(slope, rel=1e-6)
        assert unit.product == pytest.approx(unit.da * slope, rel=1e-6)
        assert unit.literal == unit.a - y[11].mean()
        if unit.normalization is None:
            assert unit.dz == unit.product


def silu(z):
    return z / (1 + np.exp(-z))


def relative_and_cosine(wrong, right):
    size = np.linalg.norm
    return size(wrong - right) / size(right), wrong @ right / size(wrong) / size(right)


@pytest.mark.parametrize("options", NETWORKS)
def test_the_slope_at_the_output_is_the_gradient_of_squared_error(options):
    net = make_network((7, 6, 5, 1), "tanh", **NETWORKS[options])
    X, y = problem(40)
    report = bcenet.explain_last_layer(net, X, y)
    found = {mistake.name: mistake for mistake in report.mistakes}["slope-at-the-output"]
    assert [error.layer for error in found.layers] == [0, 1, 2]
    gradient = net.loss_gradient(X, y)[1]
    for layer in range(3):
        wrong = []
        for values in (net.coefs[layer], net.intercepts[layer]):
            flat = values.reshape(-1)
            for i in range(flat.size):
                kept, losses = flat[i], []
                for step in (1e-6, -1e-6):
                    flat[i] = kept + step
                    losses.append(np.mean((net.predict_proba(X) - y) ** 2 / 2))
                flat[i] = kept
                wrong.append((losses[0] - losses[1]) / 2e-6)
        right = np.append(gradient.coefs[layer], gradient.intercepts[layer])
        expected = relative_and_cosine(np.array(wrong), right)
        error = found.layers[layer]
        # central differences are right to 1e-9 or so
        assert (error.relative_error, error.cosine) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_formulas_in_hidden_layers(dtype):
    net = make_network((7, 6, 5, 1), "tanh", dtype)
    X, y = problem(5_000, dtype=dtype)  # two parts
    report = bcenet.explain_last_layer(net, X, y)
    found = {mistake.name: mistake for mistake in report.mistakes}
    assert list(found) == ["literal-in-hidden-layers", "slope-at-the-output", "slope-of-the-output"]
    layers = net.astype("float64").trace(X, y).layers
    a, befores = layers[-1].a, [X.astype(float), layers[0].a]
    w = [weights.astype(float) for weights in net.coefs]
    dz2 = layers[-1].dz @ w[2].T * (a * (1 - a))
    dzs = {
        "literal-in-hidden-layers": [layer.a - y[:, np.newaxis] for layer in layers[:2]],
        "slope-of-the-output": [dz2 @ w[1].T * (a * (1 - a)), dz2],
    }
    for name, wrong_dzs in dzs.items():
        assert len(found[name].layers) == 2
        for layer, (before, wrong) in enumerate(zip(befores, wrong_dzs, strict=True)):
            right = np.append(layers[layer].dw, layers[layer].db)
            wrong = np.append(before.T @ wrong, wrong.sum(0)) / len(X)
            error = found[name].layers[layer]
            expected = relative_and_cosine(wrong, right)
            assert (error.relative_error, error.cosine) == pytest.approx(expected, rel=1e-9)


def test_mistakes_that_cannot_be_made_are_left_out():
    X, y = problem(40)
    report = bcenet.explain_last_layer(make_network((7, 1)), X, y)
    assert [mistake.name for mistake in report.mistakes] == ["slope-at-the-output"]
    assert report.units == []
    assert "This network has no hidden layer" in str(report)
    X, y = problem(40, outputs=2)
    report = bcenet.explain_last_layer(make_network((7, 3, 2)), X, y)
    names = [mistake.name for mistake in report.mistakes]
    assert names == ["literal-in-hidden-layers", "slope-at-the-output"]


# ----------------------------------------------------------------------------- cost or activation

COSTS = {  # of the output a and the target y, in mpmath
    "BCE": lambda a, y: -(y * mp.log(a) + (1 - y) * mp.log(1 - a)),
    "cross-entropy": lambda a, y: -(y * mp.log(a) + (1 - y) * mp.log(1 - a)),
    "squared error": lambda a, y: (a - y) ** 2 / 2,
    "BCE of (1 + a)/2": lambda a, y: COSTS["BCE"]((1 + a) / 2, y),
}
ACTIVATIONS = {
    "sigmoid": lambda z: 1 / (1 + mp.exp(-z)),
    "softmax of two": lambda z: mp.exp(z) / (mp.exp(0) + mp.exp(z)),
    "identity": lambda z: z,
    "softsign": lambda z: (1 + z / (1 + abs(z))) / 2,
    "tanh": mp.tanh,
}


@pytest.mark.parametrize("y", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("z", [-30.5, -2.0, 0.75, 20.0])
def test_pairings_against_derivatives_of_the_cost(z, y):
    found = pairings.pairings(z, y)
    assert [(p.activation, p.cost) for p in found] == [(a, c) for a, c, *_ in pairings.PAIRS]
    for pair in found:
        g, cost = ACTIVATIONS[pair.activation], COSTS[pair.cost]
        a = g(mp.mpf(z))
        # 80 digits, and steps of 1e-25 or so: at least 1e-12 is right
        assert pair.a == pytest.approx(float(a), rel=1e-14)
        with mp.workdps(200):
            assert pair.da_dz == pytest.approx(float(mp.diff(g, z)), rel=1e-12)
            total = float(mp.diff(lambda z: cost(g(z), mp.mpf(y)), z))  # noqa: B023
        assert pair.product == pytest.approx(total, rel=1e-12)
        assert pair.dc_da * pair.da_dz == pytest.approx(pair.product, rel=1e-12)
        assert pair.difference == pytest.approx(float(a - y), rel=1e-12)
        canonical = (pair.activation, pair.cost) in [
            ("sigmoid", "BCE"), ("softmax of two", "cross-entropy"), ("identity", "squared error")
        ]  # fmt: skip
        # tanh: 2 (q - y) = a - y where 2 y - 1 = y
        assert pair.equal == (canonical or (pair.activation == "tanh" and y == 1))


def test_the_report_has_both_targets():
    report = explain([2.0, 40.0], [1, 0])
    assert {(p.logit, p.target) for p in report.pairings} == {(40.0, 0.0), (40.0, 1.0)}
    assert len(report.pairings) == 2 * len(pairings.PAIRS)
    assert len(explain([0.5], [0.5]).pairings) == len(pairings.PAIRS)
    assert explain([1e300], [1]).pairings == []


# ------------------------------------------------------------------- what a network may be like


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", NETWORKS)
def test_logits_are_the_network_s_and_sparse_rows_are_welcome(options, dtype):
    net = make_network((7, 6, 5, 2), dtype=dtype, **NETWORKS[options])
    X, y = problem(30, outputs=2, soft=True, dtype=dtype)
    X[np.abs(X) < 0.7] = 0
    report = bcenet.explain_last_layer(net, X, y, rows=99)
    logits = net.decision_function(X)
    assert all(row.logit == logits[row.row, row.label] for row in report.rows)
    assert all(row.target == y[row.row, row.label] for row in report.rows)
    for kind in (scipy.sparse.csr_array, scipy.sparse.coo_matrix):
        again = bcenet.explain_last_layer(net, kind(X), y, rows=99)
        assert again.as_dict() == report.as_dict()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["coefs", "intercepts", "norms", "scale", "statistics"])
def test_a_network_that_is_not_finite_is_explained(place, bad):
    net = make_network((7, 6, 5, 1), normalization="batch", feature_scale=True)
    X, y = problem(30)
    values = getattr(net, place)
    values = values[0] if isinstance(values, list) else values
    values.reshape(-1)[2] = bad
    report = bcenet.explain_last_layer(net, X, y)
    name = f"{place}[0]" if place not in ("scale", "statistics") else place
    assert any(re.search(rf"^{re.escape(name)} .* = {bad}$", text) for text in report.remarks)
    json.dumps(report.as_dict(), allow_nan=False)
    assert f"= {bad}." in " ".join(str(report).split())
    assert "nan" in report.to_html()
    report.plot()
    logits = net.decision_function(X)
    for row in report.rows:
        if np.isnan(logits[row.row]):
            assert row.float64.exact is None
            assert row.float64.fused.why == "the logit itself is NaN"
    if np.isnan(logits).any():
        assert any("logits are NaN" in text for text in report.remarks)


def test_nothing_is_said_of_a_network_in_order():
    X, y = problem(30)
    assert bcenet.explain_last_layer(make_network(), X, y).remarks == []


BAD = {
    "no network": ({"network": 3}, TypeError, r"network must be a bcenet.Network; got 3"),
    "y (n, 1)": ({"y": np.zeros((30, 1))}, ValueError, r"y.*\(30,\).*\(30, 1\)"),
    "X features": ({"X": np.zeros((30, 6))}, ValueError, r"X.*7.*\(30, 6\)"),
    "X NaN": ({"X": np.full((30, 7), np.nan)}, ValueError, r"X.*row 0.*column 0"),
    "y above 1": ({"y": np.full(30, 2)}, ValueError, r"y.*\[0, 1\].*2"),
    "no rows": ({"X": np.zeros((0, 7)), "y": np.zeros(0)}, ValueError, r"X.*row"),
    "rows 0": ({"rows": 0}, ValueError, r"rows must be at least 1; got 0"),
    "rows a text": ({"rows": "3"}, TypeError, r"rows must be an integer; got '3'"),
    "rows True": ({"rows": True}, TypeError, r"rows must be an integer"),
    "rows empty": ({"rows": []}, ValueError, r"rows must hold at least one"),
    "rows beyond": ({"rows": [3, 30]}, ValueError, r"rows must hold numbers from 0 to 29.*got 30"),
    "rows below": ({"rows": [-1]}, ValueError, r"rows.*from 0 to 29.*got -1"),
    "rows of floats": ({"rows": [1.0]}, TypeError, r"rows must hold row numbers; got 1.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    changes, error, message = BAD[case]
    arguments = {"network": make_network(), "X": np.zeros((30, 7)), "y": np.zeros(30), **changes}
    with pytest.raises(error, match=message):
        bcenet.explain_last_layer(**arguments)


# ------------------------------------------------------------------------------------ rendering


class Page(html.parser.HTMLParser):
    """Checks that every element is closed, and collects tags, attributes and text."""

    VOID = {"meta", "br", "line", "polyline", "path", "circle", "mspace"}  # noqa: RUF012

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in self.VOID
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report():
    return explain([37, 37, 40, 20, -709.9, -50, 0.25], [0, 1, 0, 1, 0, 1, 0.5], rows=range(7))


def test_the_page_stands_alone(report):
    page = report.to_html(title="<b>&\"'", subtitle="<script>x</script>")
    assert re.search(r"https?:|//|url\(|@import|<script|<b>", page) is None
    parsed = Page(page)
    assert {"src", "href", "onload", "onclick"}.isdisjoint(name for name, _ in parsed.attributes)
    assert {"script", "link", "img", "iframe"}.isdisjoint(parsed.tags)
    assert parsed.text.count("<b>&\"'") == 2  # title and heading
    assert "<script>x</script>" in parsed.text
    assert "prefers-color-scheme: dark" in page
    assert ("name", "viewport") in parsed.attributes
    assert parsed.tags.count("svg") == 2
    assert parsed.tags.count("math") >= 7 * 7
    for row in report.rows:
        for part, name in itertools.product((row.float32, row.float64), paths.PATHS):
            kind = np.float32 if part is row.float32 else np.float64
            assert str(kind(getattr(part, name).value)) in parsed.text


def test_text_and_page_say_the_same(report):
    text, page = words(report), words(Page(report.to_html()).text)
    for sentence in [
        "Why the last layer's gradient is a - y",
        "This network has no hidden layer",
        "the sigmoid is the canonical link of the Bernoulli likelihood",
        "a rounds to 1 and 1 - a to 0, because exp(-z) = 8.533e-17",
    ]:
        assert sentence in text
        assert sentence in page
    lines = [line for line in str(report).splitlines() if not line.startswith("    ")]
    assert max(map(len, lines)) <= 100
    # the reader's own figures, in the formulas
    for line in [
        "dC/da = (a - y)/(a (1 - a)) = (1.0 - 1.0)/(1.0 * 0.0) = nan",
        "(2) a - y = 1.0 - 1.0 = 0.0",
        "(3) -s(-z) = -1/(1 + e^37.0) = -8.533047625744065e-17",
        "(3) s(z) = 1/(1 + e^-37.0) = 0.9999999999999999",
        "(3) (1 - y) s(z) - y s(-z) = 0.5 * s(0.25) - 0.5 * s(-0.25) = 0.06217650",
    ]:
        assert line in text


def test_a_notebook_shows_the_page_in_a_frame(report):
    frame = Page(report._repr_html_())
    assert dict(frame.attributes)["srcdoc"] == report.to_html()


def test_formulas_in_mathml():
    unary, binary = formula.to_mathml("-2 * (-3)"), formula.to_mathml("5 - 4.5e-08")
    assert unary.count('<mo form="prefix">\u2212</mo>') == 2
    assert binary.count("<mo>\u2212</mo>") == 1
    assert "<mn>4.5</mn><mo>\u00b7</mo><msup><mn>10</mn><mn>\u22128</mn></msup>" in binary
    assert formula.to_mathml("nan = inf") == "<mi>NaN</mi><mo>=</mo><mn>\u221e</mn>"
    assert formula.to_mathml("W_{l+1}^T") == (
        "<msubsup><mi>W</mi><mrow><mi>l</mi><mo>+</mo><mn>1</mn></mrow>"
        "<mrow><mi>T</mi></mrow></msubsup>"
    )
    assert formula.to_mathml("a < b & c").count("&lt;") == 1


def test_the_dict_is_json(report):
    content = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert list(content) == list(type(report).__annotations__)
    first = content["rows"][0]["float64"]
    assert first["chain"]["value"] == "nan"
    assert first["fused"]["value"] == report.rows[0].float64.fused.value
    assert first["exact"] == str(report.rows[0].float64.exact)
    assert content["pairings"][0]["equal"] is True


def test_the_curves_are_the_paths(report):
    for dtype, target in itertools.product(DTYPES, (0, 1)):
        panel = curves.panel(report, dtype, target)
        assert panel.z.dtype == dtype
        of_target = [row for row in report.rows if row.target == target]
        assert len(panel.rows) + panel.left_out == len(of_target)
        assert all(panel.z[0] <= row.logit <= panel.z[-1] for row in panel.rows)
        for curve in panel.curves:
            for z, size in zip(panel.z[::40], curve.size[::40], strict=True):
                truth = abs(exact_gradient(float(z), target))
                if curve.path == "fused":
                    assert ulp_error(size, truth, dtype) <= 2
                elif curve.ends and z >= curve.ends[0]:
                    assert np.isnan(size)
                else:
                    error = 2 * float(np.finfo(dtype).eps)
                    assert abs(mp.mpf(float(size)) - truth) <= error


def test_the_plot(report, tmp_path):
    figure = report.plot()
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert axes.get_yscale() == "log"
        # three paths, the lines where they end, and two kinds of marks
        marked = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert len(marked) == 2
        assert sum(len(line.get_xdata()) for line in marked) >= 1
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_the_extra_is_named(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'bcenet\[plot\]'"):
        report.plot()


# ---------------------------------------------------------------------------------- the command


@pytest.fixture
def files(tmp_path, capsys):
    """(model, data): a trained model whose target and labels need escaping, and its table."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=60)
    lines = ['size,"<b>&"'] + [f"{x:.3f},{'<i>' if x > 0 else 'no'}" for x in size]
    data = tmp_path / "data.csv"
    data.write_text("\n".join(lines) + "\n")
    model = tmp_path / "data.bcenet"
    command = ["train", str(data), "--target", "<b>&", "--positive", "<i>", "--quiet"]
    assert main([*command, "--epochs", "3"]) == 0
    capsys.readouterr()
    return str(model), str(data)


def run(capsys, *arguments, status=0):
    assert main([str(argument) for argument in arguments]) == status
    return capsys.readouterr()


def test_command(files, capsys):
    model, data = files
    out = run(capsys, "explain", model, data).out
    assert out.startswith(f"{model} on {data}; y is 1 where <b>& is <i>, 0 where it is no\n\nWhy ")
    assert out.count("\nRow ") >= 5
    loaded = bcenet.load_model(model)
    table = bcenet.data.read_table(data)
    logit = loaded.decision_function(table)[7]
    y = int(table["<b>&"][7] == "<i>")
    out = run(capsys, "explain", model, data, "--row", 7).out
    assert f"Row 7: z = {float(logit):.6g}, y = {y}" in out
    assert len(re.findall(r"^Row \d+: z = .*\n-", out, re.MULTILINE)) == 1


def test_command_json(files, capsys):
    model, data = files
    printed = run(capsys, "explain", model, data, "--json", "--row", 3, "--row", 1).out
    content = json.loads(printed, parse_constant=lambda text: pytest.fail(text))
    assert [row["row"] for row in content["explanation"]["rows"]] == [3, 1]
    assert content["command"] == "explain"
    assert content["target"] == "<b>&"
    assert content["labels"] == {"negative": "no", "positive": "<i>"}
    printed = run(capsys, "explain", model, data, "--json", "--rows", 2).out
    assert len(json.loads(printed)["explanation"]["rows"]) == 2


def test_command_html(files, capsys, tmp_path):
    model, data = files
    page = tmp_path / "page.html"
    page.write_text("old")
    with open(page) as old:  # replaced, not written over: who has it open reads on
        assert run(capsys, "explain", model, data, "--html", page).out.startswith(model)
        assert old.read() == "old"
    content = page.read_text()
    assert "<i>" not in content
    assert "<b>&" in Page(content).text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.bcenet", "data.csv", "page.html"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["{model}", "{data}", "--row", "60"], r"--row must be at most 59, the last of .*; got 60"),
    (["{model}", "{data}", "--row", "-1"], r"argument --row: must be an integer of at least 0"),
    (["{model}", "{data}", "--rows", "0"], r"argument --rows: must be an integer of at least 1"),
    (["{model}", "{data}", "--row", "1", "--rows", "2"], r"argument --rows: not allowed with"),
    (["{model}", "{other}"], r"the model's target: .*other.csv has no column '<b>&'"),
    (["{model}", "{data}.gone"], r"data.csv.gone"),
    (["{data}", "{data}"], r"data.csv"),
    (["{model}", "{data}", "--html", "{data}"], r"--html must not be the input file"),
    (["{model}", "{data}", "--html", "{folder}/none/page.html"], r"none/page.html: No such file"),
    (["{model}", "{data}", "--htlm", "x"], r"unknown option --htlm \(did you mean --html\?\)"),
])  # fmt: skip
def test_wrong_commands_end_with_one_line(files, capsys, tmp_path, arguments, message):
    model, data = files
    other = tmp_path / "other.csv"
    other.write_text("size\n1\n2\n")
    names = {"model": model, "data": data, "other": other, "folder": tmp_path}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    printed = run(capsys, "explain", *(a.format(**names) for a in arguments), status=2)
    assert printed.out == ""
    assert re.fullmatch(rf"bcenet: error: .*{message}.*\n", printed.err)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_is_written_if_the_explanation_fails(files, capsys, tmp_path):
    model, data = files
    with open(data, "a") as file:
        file.write("1.0,maybe\n")
    printed = run(capsys, "explain", model, data, "--html", tmp_path / "page.html", status=2)
    assert "must be 'no' or '<i>'; got 'maybe'" in printed.err
    assert not (tmp_path / "page.html").exists()
