"""Thresholds against trying all of them, temperatures against SciPy and mpmath."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from helpers import mp
from hypothesis import given
from hypothesis import strategies as st

import bcenet
from bcenet import metrics
from bcenet.calibration import METRICS, choose_threshold, fit_temperature

# ---------------------------------------------------------------------------- thresholds

# Few distinct values, so that ties are common; 0 and 1, and some that are next to each other.
NEAR = 0.375
FLOAT64 = [0.0, 5e-324, 0.125, NEAR, math.nextafter(NEAR, 1), 0.5, 0.7, math.nextafter(1, 0), 1.0]
FLOAT32 = [
    *(np.nextafter(np.float32(v), np.float32(1)) for v in (0, NEAR, 0.7)),
    *(np.float32(v) for v in (0, 0.2, NEAR, 0.7, 0.9, 1)),
    np.nextafter(np.float32(1), np.float32(0)),
]
FLOAT16 = [np.float16(k / 8) for k in range(9)] + [np.float16(0.50049), np.float16(0.9995)]
WEIGHTS = st.integers(0, 6).map(lambda k: k / 2)


@st.composite
def rows(draw):
    """Targets, probabilities of some dtype, and weights or None; a row of each class at least."""
    dtype, values = draw(st.sampled_from([("f8", FLOAT64), ("f4", FLOAT32), ("f2", FLOAT16)]))
    row = st.tuples(st.integers(0, 1), st.sampled_from(values), WEIGHTS)
    some = draw(st.lists(row, max_size=25))
    p = draw(st.tuples(st.sampled_from(values), st.sampled_from(values)))
    y, probability, weight = zip(*some, (0, p[0], 1.0), (1, p[1], 0.5), strict=True)
    weighted = draw(st.booleans())
    return np.array(y), np.array(probability, dtype), np.array(weight) if weighted else None


def exact_gain(y, predicted, weight, metric, cost):
    """What is to be large, as a fraction."""
    weight = [Fraction(w) for w in (np.ones(len(y)) if weight is None else weight)]
    tn, fp, fn, tp = (
        sum((w for w, t, p in zip(weight, y, predicted, strict=True) if (t, p) == case), Fraction())
        for case in ((0, 0), (0, 1), (1, 0), (1, 1))
    )
    if cost is not None:
        return -(Fraction(cost[0]) * fp + Fraction(cost[1]) * fn)
    if metric == "f1":
        return 2 * tp / (2 * tp + fp + fn)
    if metric == "accuracy":
        return (tp + tn) / (tp + tn + fp + fn)
    return tp / (tp + fn) / 2 + tn / (tn + fp) / 2


def all_thresholds(y, probability, weight):
    """Every prediction that a threshold makes on the rows that count, as (lower, upper) of it."""
    counted = probability if weight is None else probability[weight > 0]
    edges = [0.0, *sorted(set(counted.tolist()))]
    if edges[-1] < 1:
        edges.append(1.0)
    return list(itertools.pairwise(edges))


TARGETS = [{"metric": name} for name in METRICS]
TARGETS += [{"cost": cost} for cost in ((1, 1), (3, 1), (0.5, 4.0), (0, 1), (1, 0))]


@given(rows(), st.sampled_from(TARGETS))
def test_no_threshold_is_better_and_the_prediction_is_exact(data, target):
    y, probability, weight = data
    threshold = choose_threshold(y, probability, **target, sample_weight=weight)
    assert type(threshold) is float
    assert 0 <= threshold <= 1

    def gain(value):
        predicted = probability.astype(float) >= value
        return exact_gain(y, predicted, weight, target.get("metric"), target.get("cost"))

    candidates = {(low, high): gain(high) for low, high in all_thresholds(y, probability, weight)}
    best = [edges for edges, value in candidates.items() if value == max(candidates.values())]
    ((lower, upper),) = (e for e in best if e[0] < threshold <= e[1] or threshold == e[1] == 0)
    # In the dtype of the probabilities, as Model.label_of compares, it is the same prediction.
    counted = slice(None) if weight is None else weight > 0
    expected = probability.astype(float) >= upper
    assert np.array_equal((probability >= threshold)[counted], expected[counted])
    # Half-way where there is room, and else at the upper end.
    assert threshold in (lower + (upper - lower) / 2, upper)
    if upper - lower > 2e-3:  # twice float16's spacing below 1
        assert threshold < upper
    # No other one of the best is clearly nearer to 0.5.
    nearest = min(max(low - 0.5, 0.5 - high, 0.0) for low, high in best)
    assert abs(threshold - 0.5) >= nearest
    halves = [abs(low + (high - low) / 2 - 0.5) for low, high in best]
    assert abs(threshold - 0.5) <= min(halves) + 1e-3


@given(rows(), st.sampled_from(TARGETS))
def test_rows_of_weight_0_and_repeated_rows(data, target):
    y, probability, weight = data
    weight = np.ones(len(y)) if weight is None else weight
    expected = choose_threshold(y, probability, **target, sample_weight=weight)
    counted = weight > 0
    assert expected == choose_threshold(
        y[counted], probability[counted], **target, sample_weight=weight[counted]
    )
    counts = (2 * weight).astype(int)
    assert expected == choose_threshold(
        np.repeat(y, counts), np.repeat(probability, counts), **target
    )
    order = np.argsort(weight, kind="stable")
    assert expected == choose_threshold(
        y[order], probability[order], **target, sample_weight=weight[order]
    )


@pytest.mark.parametrize("scale", [1e-305, 1e304])
@pytest.mark.parametrize("target", TARGETS)
def test_the_size_of_weights_and_costs_does_not_matter(scale, target):
    rng = np.random.default_rng(2)
    probability = rng.random(300).round(2)
    y = (rng.random(300) < probability).astype(int)
    weight = rng.integers(1, 9, 300)
    expected = choose_threshold(y, probability, **target, sample_weight=weight)
    # A power of 2: it leaves every sum's digits, and so the ties, as they are.
    power = 2.0 ** round(math.log2(scale))
    assert expected == choose_threshold(y, probability, **target, sample_weight=weight * power)
    if "cost" in target:
        cost = tuple(value * power for value in target["cost"])
        assert expected == choose_threshold(y, probability, cost=cost, sample_weight=weight)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_rows_against_sklearn_s_curve(metric, dtype):
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="it is the oracle")
    rng = np.random.default_rng(3)
    logits = rng.normal(-1, 2, 20_000)
    probability = bcenet.sigmoid(logits.astype(dtype))
    y = (rng.random(20_000) < bcenet.sigmoid(1.5 * logits + 0.5)).astype(int)
    weight = rng.exponential(size=20_000)
    threshold = choose_threshold(y, probability, metric=metric, sample_weight=weight)
    score = getattr(metrics, f"{metric}_score")
    ours = score(y, probability >= threshold, sample_weight=weight)
    false, true, _ = sklearn_metrics.roc_curve(
        y, probability, sample_weight=weight, drop_intermediate=False
    )
    zeros, ones = np.bincount(y, weight)
    fp, tp = false * zeros, true * ones
    every = {
        "f1": 2 * tp / (tp + fp + ones),
        "balanced_accuracy": (true + 1 - false) / 2,
        "accuracy": (tp + zeros - fp) / (ones + zeros),
    }
    assert len(tp) > 15_000
    assert ours == pytest.approx(every[metric].max(), rel=1e-12)


def test_thresholds_by_hand():
    y, p = [0, 0, 1, 1], [0.1, 0.4, 0.6, 0.8]
    for target in TARGETS[:5]:
        assert choose_threshold(y, p, **target) == pytest.approx(0.5, rel=1e-15)
    # All positive and none positive.
    assert choose_threshold([1, 1], [0.25, 0.75], metric="accuracy") == 0.125
    assert choose_threshold([0, 0], [0.25, 0.75], metric="accuracy") == 0.875
    assert choose_threshold([1, 1], [0.0, 0.5], metric="accuracy") == 0.0
    # Where a row of 0 has probability 1, no threshold calls it negative.
    assert choose_threshold([0, 0], [0.5, 1.0], metric="accuracy") == 0.75
    assert choose_threshold([0], [1.0], metric="accuracy") == 0.5
    # Without a cost of false positives everything may be positive, without the other one nothing.
    assert choose_threshold([0, 1], [0.25, 0.75], cost=(0, 1)) == 0.5
    assert choose_threshold([0, 1], [0.75, 0.25], cost=(0, 1)) == 0.125
    assert choose_threshold([0, 1], [0.75, 0.25], cost=(1, 0)) == 0.875
    # A row of weight 0 is no neighbour.
    p = [0.0, 0.25, 0.5]
    assert choose_threshold([0, 1, 1], p, sample_weight=[1, 0, 1]) == 0.25


def test_equally_good_thresholds_by_hand():
    # 0.25 and 0.75 are equally near to 0.5: the higher one.
    y, p = [0, 0, 1, 1], [0.0, 0.5, 0.5, 1.0]
    assert choose_threshold(y, p, metric="accuracy") == 0.75
    # Of the rows of 1 and of 0, 3/3 and 2/3 at 0.25, 2/3 and 3/3 at 0.5: equal as fractions.
    y, p = [0, 0, 1, 0, 1, 1], [0.125, 0.1875, 0.3125, 0.375, 0.625, 0.75]
    assert choose_threshold(y, p, metric="balanced_accuracy") == 0.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_neighbours_in_a_short_dtype_stay_apart(dtype):
    for low, high in [(NEAR, None), (0.2, None), (NEAR, 0.4), (0.0, None)]:
        low = dtype(low)
        high = np.nextafter(low, dtype(1)) if high is None else dtype(high)
        p = np.array([low, high])
        threshold = choose_threshold([0, 1], p)
        assert (p >= threshold).tolist() == [False, True]
        assert (p.astype(float) >= threshold).tolist() == [False, True]
        # The same numbers as float64, as from a file of predictions.
        threshold = choose_threshold([0, 1], p.astype(float))
        assert (p.astype(np.float32) >= threshold).tolist() == [False, True]


def test_calibrated_probabilities_are_cut_at_the_ratio_of_the_costs():
    rng = np.random.default_rng(4)
    p = rng.random(400_000)
    y = rng.random(400_000) < p
    # The excess cost near the best threshold t is (t - 0.2)^2 * 5 / 2 a row, and the noise of
    # a difference over rows within d of it sqrt(d / n): they meet at d of about 0.01.
    assert choose_threshold(y, p, cost=(1, 4)) == pytest.approx(0.2, abs=0.03)
    assert choose_threshold(y, p, metric="accuracy") == pytest.approx(0.5, abs=0.03)


def test_a_model_takes_the_threshold():
    table = {"size": np.linspace(-2, 2, 60)}
    encoder = bcenet.tabular.TabularEncoder().fit(table)
    network = bcenet.Network([encoder.n_features_out, 1], random_state=0)
    network.parameters[:] = 1.0
    model = bcenet.Model(encoder, network, ("no", "yes"))
    y = (table["size"] + np.sin(9 * table["size"]) > 0).astype(int)
    probability = model.predict_proba(table)
    best = max(metrics.f1_score(y, probability >= p) for p in probability)
    model.threshold = choose_threshold(y, probability)
    assert metrics.f1_score(y, model.predict(table) == "yes") == best


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "f2"}, ValueError, "metric must be one of 'f1', 'balanced_accuracy', 'acc"),
        ({"metric": "balanced-accuracy"}, ValueError, "did you mean 'balanced_accuracy'"),
        ({"metric": 1}, ValueError, "metric must be one of .*; got 1"),
        ({"metric": "f1", "cost": (1, 1)}, ValueError, "metric must not be given beside cost"),
        ({"cost": 3}, ValueError, r"cost must be \(false positive, false negative\); got 3"),
        ({"cost": (1, 2, 3)}, ValueError, r"cost must be \(false positive, false negative\)"),
        ({"cost": (1, -2)}, ValueError, r"cost\[1\] must be finite, at least 0; got -2.0"),
        ({"cost": (math.inf, 1)}, ValueError, r"cost\[0\] must be finite, at least 0; got inf"),
        ({"cost": ("1", 1)}, TypeError, r"cost\[0\] must be a number; got '1'"),
        ({"cost": (0, 0)}, ValueError, "cost must not be 0 for both errors"),
        ({"y": [0, 0, 0]}, ValueError, r"y must hold a 1 \(with a positive weight\) for f1"),
        ({"sample_weight": [1, 0, 0]}, ValueError, "y must hold a 1"),
        (
            {"y": [1, 1, 1], "metric": "balanced_accuracy"},
            ValueError,
            r"y must hold both classes \(with positive weights\) for balanced_accuracy; got one",
        ),
        (
            {"sample_weight": [0, 1, 1], "metric": "balanced_accuracy"},
            ValueError,
            "y must hold both classes",
        ),
        ({"y": [0, 1, 2]}, ValueError, "y must be 0 or 1; got 2.0 in row 2"),
        ({"y": [0, 1]}, ValueError, "probability must have one value a row, 2; got 3"),
        ({"y": []}, ValueError, "y must have at least one row"),
        ({"y": ["no", "yes", "no"]}, TypeError, "y must hold real numbers"),
        ({"probability": [0, 1, 1.5]}, ValueError, r"probability must be in \[0, 1\]; got 1.5"),
        ({"probability": [0, 1, math.nan]}, ValueError, "got NaN in row 2"),
        ({"sample_weight": [1, -1, 1]}, ValueError, "sample_weight must be finite and not neg"),
        ({"sample_weight": [0, 0, 0]}, ValueError, "sample_weight must have a positive"),
    ],
)
def test_bad_arguments_of_choose_threshold(options, error, message):
    arguments = {"y": [0, 1, 1], "probability": [0.2, 0.3, 0.9], **options}
    with pytest.raises(error, match=message):
        choose_threshold(**arguments)


# -------------------------------------------------------------------------- temperatures


def exact_temperature(z, y, weight=None):
    """The root of the loss's derivative by 1 / T, to 30 digits."""
    z = [mp.mpf(float(v)) for v in np.ravel(z)]
    y = [mp.mpf(float(v)) for v in np.ravel(y)]
    weight = [1] * len(z) if weight is None else [mp.mpf(float(w)) for w in np.ravel(weight)]

    def slope(b):
        return mp.fsum(
            w * v * (1 / (1 + mp.exp(-b * v)) - t) for w, v, t in zip(weight, z, y, strict=True)
        )

    low, high = mp.mpf(0), mp.mpf(1)
    while slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / high)


@st.composite
def overlapping(draw):
    """Logits, targets (hard, or soft too) and weights whose best temperature is finite."""
    target = draw(st.sampled_from([st.integers(0, 1), st.integers(0, 4).map(lambda k: k / 4)]))
    row = st.tuples(st.integers(-400, 400).map(lambda k: k / 16), target, WEIGHTS)
    some = draw(st.lists(row, max_size=12))
    z, y, weight = np.array(
        # The last two agree with their labels, more than the two before them contradict theirs.
        [*some, (1.0, 0, 1.0), (-1.0, 1, 1.0), (500.0, 1, 2.0), (-500.0, 0, 2.0)]
    ).T
    return z, y, weight if draw(st.booleans()) else None


@given(overlapping())
def test_the_temperature_against_mpmath(data):
    z, y, weight = data
    temperature = fit_temperature(z, y, sample_weight=weight)
    # Where the sum of the slopes is near 0 against its terms the root is that much less certain;
    # the four rows added bound this: 1e3 terms of rounding 1e-16 over a curvature of 0.1.
    assert temperature == pytest.approx(exact_temperature(z, y, weight), rel=1e-12)


@pytest.mark.parametrize("true", [0.05, 0.6, 1.0, 1.7, 30.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_temperature_against_scipy_and_the_true_one(true, dtype):
    optimize = pytest.importorskip("scipy.optimize", reason="it is the oracle")
    rng = np.random.default_rng(5)
    calibrated = rng.normal(0.5, 2, 20_000)
    y = rng.random(20_000) < 1 / (1 + np.exp(-calibrated))
    logits = (true * calibrated).astype(dtype)
    weight = rng.exponential(size=20_000)
    for w in (None, weight):
        temperature = fit_temperature(logits, y, sample_weight=w)

        def loss(log_temperature, w=w):
            z = logits.astype(float) * math.exp(-log_temperature)
            return np.average(np.logaddexp(0, z) - y * z, weights=w)

        found = optimize.minimize_scalar(loss, bounds=(-5, 5), options={"xatol": 1e-12})
        # SciPy sees the loss alone, whose digits end at the square root of the rounding.
        assert temperature == pytest.approx(math.exp(found.x), rel=1e-7)
        # The standard error of 1 / T is 0.015 here, and of weighted rows 0.02.
        assert temperature == pytest.approx(true, rel=0.06)
        before, after = (bcenet.bce_loss(logits / t, y, sample_weight=w) for t in (1, temperature))
        assert after <= before + 1e-7


def test_labels_share_one_temperature():
    rng = np.random.default_rng(6)
    z = rng.normal(size=(500, 3)) * [1, 3, 9]
    y = (z + rng.logistic(size=z.shape) > 0).astype(int)
    weight = rng.integers(0, 4, 500)
    flat = fit_temperature(z.ravel(), y.ravel(), sample_weight=np.repeat(weight, 3))
    assert fit_temperature(z, y, sample_weight=weight) == flat
    assert fit_temperature(z, y, sample_weight=np.repeat(weight[:, None], 3, 1)) == flat
    assert fit_temperature(z.T, y.T, sample_weight=np.tile(weight, (3, 1))) == pytest.approx(
        flat, rel=1e-13
    )
    counted = np.repeat(weight, weight)
    assert len(counted) == weight.sum()
    assert fit_temperature(np.repeat(z, weight, 0), np.repeat(y, weight, 0)) == pytest.approx(
        flat, rel=1e-13
    )


def test_rows_of_weight_0_do_not_count():
    z, y = [2.0, 2.0, 2.0, -1.0, 1e300], [1, 1, 0, 0, 0]
    assert fit_temperature(z, y, sample_weight=[1, 1, 1, 1, 0]) == fit_temperature(z[:4], y[:4])


def test_scaled_logits_scale_the_temperature():
    z, y = np.array([2.0, 2.0, 2.0, -1.0, 0.0]), [1, 1, 0, 0, 1]
    temperature = fit_temperature(z, y)
    for power in (-1000, -30, 7, 1000):
        assert fit_temperature(np.ldexp(z, power), y) == math.ldexp(temperature, power)
    for labels in ([True, True, False, False, True], np.array(y, "f4")):
        assert fit_temperature(z.astype("f4"), labels) == temperature


@pytest.mark.parametrize(
    ("z", "y", "weight"),
    [
        ([5.0, -1e-3], [1, 1], None),  # one class, most of it on the right side
        ([1.0, 1e-9], [1, 0], None),  # the only row on the wrong side hardly is
        ([1.0, 1e-9, 0.5e-9], [1, 1, 0], None),  # scales far apart
        ([1.0, 1e-170, 0.5e-170], [1, 1, 0], None),  # whose squares underflow
        ([1.0, 1e-200], [1, 0], [1e-150, 1.0]),
        ([1e-200, 1e-201, 1.0], [1, 0, 1], [1e10, 1e10, 5e-324]),  # the curvature at 0 underflows
        ([1.0, -1.0 + 1e-9], [1, 1], None),  # hardly rising with y
        ([30.0] * 9 + [25.0], [1] * 9 + [0], None),
    ],
)
def test_temperatures_that_are_hard_to_reach(z, y, weight):
    temperature = fit_temperature(z, y, sample_weight=weight)
    # The slope at 0 of the row that hardly rises is a difference of 1e-9 of its terms.
    assert temperature == pytest.approx(exact_temperature(z, y, weight), rel=1e-7)


def test_a_temperature_inside_the_network():
    rng = np.random.default_rng(7)
    X = rng.normal(size=(200, 3))
    net = bcenet.Network([3, 4, 2], dtype="float64", random_state=0)
    net.parameters[:] = rng.normal(size=net.parameters.shape)
    logits = net.decision_function(X)
    y = rng.random((200, 2)) < bcenet.sigmoid(logits / 2.5)
    temperature = fit_temperature(logits, y)
    for part in (net.coefs[-1], net.intercepts[-1]):
        part /= temperature
    np.testing.assert_allclose(net.decision_function(X), logits / temperature, rtol=1e-13)
    assert fit_temperature(net.decision_function(X), y) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "y", "options", "message"),
    [
        ([0.0, 0.0], [0, 1], {}, "logits must not all be 0"),
        ([0.0, 3.0], [0, 1], {"sample_weight": [1, 0]}, "logits must not all be 0"),
        ([-1.0, 2.0, 0.0], [0, 1, 0], {}, "logits must not separate the classes"),
        ([1.0, 2.0], [1, 1], {}, "logits must not separate the classes"),
        ([1.0, 2.0, 9.0], [1, 1, 0], {"sample_weight": [1, 1, 0]}, "must not separate"),
        ([1.0, -1.0], [0, 1], {}, "logits must rise with y"),
        ([1.0, 1.0], [0, 0], {}, "logits must rise with y"),
        ([0.1, 0.2, -0.3], [1, 1, 1], {}, "logits must rise with y"),  # but for rounding
        ([1.0, 1.0, 0.1, 0.1], [0, 1, 0, 1], {}, "logits must rise with y"),
        ([0.3, 0.1, -0.1, -0.3], [0.5] * 4, {}, "logits must rise with y"),
        ([5e-324] * 9 + [-5e-324], [1] * 10, {}, "temperature that float64 can hold; got 0.0"),
        ([1.7e308, -1.5e308], [1, 1], {}, "temperature that float64 can hold; got inf"),
        ([1.0, math.inf], [0, 1], {}, "logits must be finite; got inf at row 1"),
        ([[1.0, 2.0], [math.nan, 1]], [[0, 1]] * 2, {}, "got nan at row 1, column 0"),
        ([1.0, 2.0], [0, 2], {}, r"y must be in \[0, 1\]; got 2 at row 1"),
        ([1.0, 2.0], [0, math.nan], {}, r"y must be in \[0, 1\]; got nan at row 1"),
        ([1.0, 2.0], [[0], [1]], {}, r"y must have the logits' shape \(2,\); got \(2, 1\)"),
        ([], [], {}, r"logits must have shape \(n,\) or \(n, k\), not empty"),
        (3.0, 1.0, {}, r"logits must have shape \(n,\) or \(n, k\), not empty"),
        ([1.0, -2.0], [0, 1], {"sample_weight": [1, -1]}, "sample_weight must be finite and not"),
        ([1.0, -2.0], [0, 1], {"sample_weight": [0, 0]}, "sample_weight must not sum to 0"),
        ([1.0, -2.0], [0, 1], {"sample_weight": [1]}, r"sample_weight must have shape \(2,\)"),
    ],
)
def test_bad_arguments_of_fit_temperature(logits, y, options, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, y, **options)


def test_what_is_no_number_is_a_type_error():
    with pytest.raises(TypeError, match="y must hold real numbers"):
        fit_temperature([1.0, 2.0], ["no", "yes"])
    with pytest.raises(TypeError, match="logits must hold real numbers"):
        fit_temperature([1j, 2.0], [0, 1])


def test_the_module_is_reached_from_the_package():
    assert bcenet.calibration.choose_threshold is choose_threshold
