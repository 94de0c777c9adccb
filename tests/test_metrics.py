"""Measures of predicted probabilities, against scikit-learn and by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcenet import metrics

sklearn_metrics = pytest.importorskip(
    "sklearn.metrics", reason="the measures are compared with scikit-learn's"
)

# Scores on a coarse grid, so that ties between and within the classes are common.
SCORES = st.integers(0, 8).map(lambda k: k / 8)
WEIGHTS = st.integers(0, 6).map(lambda k: k / 2)
ROWS = st.lists(st.tuples(st.integers(0, 1), SCORES, WEIGHTS), min_size=2, max_size=40)


def columns(rows):
    """Targets, scores and weights, with a row of each class added so that both are there."""
    y, score, weight = zip(*rows, (0, 0.5, 1.0), (1, 0.5, 1.0), strict=True)
    return np.array(y), np.array(score), np.array(weight)


def close(ours, theirs):
    return ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


@given(ROWS, st.booleans())
def test_ranking_measures_equal_sklearn_with_ties_and_weights(rows, weighted):
    y, score, weight = columns(rows)
    w = weight if weighted else None
    for name in ("roc_auc_score", "average_precision_score"):
        ours = getattr(metrics, name)(y, score, sample_weight=w)
        assert close(ours, getattr(sklearn_metrics, name)(y, score, sample_weight=w)), name


@given(ROWS, st.booleans())
def test_probability_measures_equal_sklearn(rows, weighted):
    y, score, weight = columns(rows)
    w = weight if weighted else None
    probability = 0.01 + 0.98 * score  # inside (0, 1), where scikit-learn doesn't clip
    for name in ("log_loss", "brier_score_loss"):
        ours = getattr(metrics, name)(y, probability, sample_weight=w)
        assert close(ours, getattr(sklearn_metrics, name)(y, probability, sample_weight=w)), name


@given(ROWS, st.booleans())
def test_measures_of_predictions_equal_sklearn(rows, weighted):
    y, score, weight = columns(rows)
    w = weight if weighted else None
    predicted = (score >= 0.5).astype(int)
    ours = metrics.confusion_matrix(y, predicted, sample_weight=w)
    theirs = sklearn_metrics.confusion_matrix(y, predicted, sample_weight=w)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)
    accuracy = metrics.accuracy_score(y, predicted, sample_weight=w)
    assert close(accuracy, sklearn_metrics.accuracy_score(y, predicted, sample_weight=w))
    for name in ("balanced_accuracy_score", "f1_score"):
        ours = getattr(metrics, name)(y, predicted, sample_weight=w)
        assert close(ours, getattr(sklearn_metrics, name)(y, predicted, sample_weight=w)), name


@pytest.mark.parametrize("y", [0, 1])
@pytest.mark.parametrize("predicted", [0, 1])
def test_measures_of_one_class_are_sklearn_s_without_its_warnings(y, predicted):
    y, predicted = [y] * 3, [predicted] * 3
    f1 = sklearn_metrics.f1_score(y, predicted, zero_division=0)
    assert metrics.f1_score(y, predicted) == f1
    balanced = float(y == predicted)
    if y != predicted:
        with pytest.warns(UserWarning, match="classes not in y_true"):
            assert sklearn_metrics.balanced_accuracy_score(y, predicted) == balanced
    assert metrics.balanced_accuracy_score(y, predicted) == balanced
    # A row of the other class counts nothing if its weight is 0.
    y, predicted, weight = [*y, 1 - y[0]], [*predicted, 0], [2, 1, 1, 0]
    assert metrics.balanced_accuracy_score(y, predicted, sample_weight=weight) == balanced
    assert metrics.f1_score(y, predicted, sample_weight=weight) == f1


def bins_of(probability, weight, bins, strategy):
    """The bin of every row, one by one, as the definition says it."""
    if strategy == "uniform":
        edges = [k / bins for k in range(1, bins)]
    else:
        edges = []
        for k in range(1, bins):
            enough = [
                p
                for p in probability
                if bins * sum(weight[probability <= p]) >= k * sum(weight)  # exact: halves
            ]
            edges.append(min(enough))
    return np.array([sum(edge < p for edge in edges) for p in probability])


@given(ROWS, st.booleans(), st.integers(1, 9), st.sampled_from(["uniform", "quantile"]))
def test_calibration_error_is_its_definition(rows, weighted, bins, strategy):
    y, probability, weight = columns(rows)
    weight = weight if weighted else np.ones(len(y))
    places = bins_of(probability, weight, bins, strategy)
    expected = 0.0
    for place in set(places[weight > 0].tolist()):
        inside = places == place
        observed = np.average(y[inside], weights=weight[inside])
        predicted = np.average(probability[inside], weights=weight[inside])
        expected += weight[inside].sum() / weight.sum() * abs(observed - predicted)
    ours = metrics.expected_calibration_error(
        y,
        probability,
        bins=bins,
        strategy=strategy,
        sample_weight=weight if weighted else None,
    )
    assert close(ours, expected)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_from_sklearn_s_curve(bins):
    calibration = pytest.importorskip("sklearn.calibration", reason="it is the oracle")
    rng = np.random.default_rng(1)
    probability = rng.beta(0.7, 1.3, 5000)  # no value on an edge
    y = rng.random(5000) < probability**1.5
    observed, predicted = calibration.calibration_curve(y, probability, n_bins=bins)
    counts, _ = np.histogram(probability, bins, (0, 1))
    expected = np.sum(counts[counts > 0] / 5000 * np.abs(observed - predicted))
    assert metrics.expected_calibration_error(y, probability, bins=bins) == pytest.approx(
        expected, rel=1e-12
    )


def test_calibration_error_by_hand():
    error = metrics.expected_calibration_error
    # An edge belongs to the bin below: 0.5 to the first of two, with 0.25.
    assert error([1, 0, 1], [0.25, 0.5, 0.75], bins=2) == pytest.approx((0.25 + 0.25) / 3)
    above = math.nextafter(0.5, 1)
    assert error([1, 0, 1], [0.25, above, 0.75], bins=2) == pytest.approx((0.75 + 0.25) / 3)
    # 1 and 0 are in the last and the first bin.
    assert error([1, 0], [1.0, 0.0]) == 0.0
    assert error([0, 1], [1.0, 0.0]) == 1.0
    # A fifth of the rows a bin; but equal probabilities stay together, whatever their order.
    y, p = [0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5]
    assert error(y, p, bins=5, strategy="quantile") == pytest.approx(
        (0.1 + 0.8 + 0.3 + 0.6 + 0.5) / 5
    )
    assert error([0, 1, 1, 0], [0.5] * 4, bins=4, strategy="quantile") == 0.0
    assert error([1, 1, 0, 0], [0.5] * 4, bins=4, strategy="quantile") == 0.0


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("scale", [1e-300, 1e307])
def test_calibration_error_does_not_depend_on_the_size_of_the_weights(strategy, scale):
    y, p, weight = [0, 1, 0, 1], [0.1, 0.3, 0.6, 0.7], np.array([1.0, 3.0, 2.0, 1.5])
    options = {"bins": 9, "strategy": strategy}
    ours = metrics.expected_calibration_error(y, p, **options, sample_weight=weight * scale)
    expected = metrics.expected_calibration_error(y, p, **options, sample_weight=weight)
    assert ours == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", ["roc_auc_score", "average_precision_score", "log_loss"])
def test_large_data_equal_sklearn(name):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 50_000)
    score = np.clip(rng.normal(0.4 + 0.2 * y, 0.2).round(3), 0.001, 0.999)
    weight = rng.exponential(size=len(y))
    ours = getattr(metrics, name)(y, score, sample_weight=weight)
    assert close(ours, getattr(sklearn_metrics, name)(y, score, sample_weight=weight))


def test_auc_by_hand():
    # Pairs (positive, negative): 3 > 1, 3 > 2, 2 > 1, 2 = 2: 3.5 of 4.
    assert metrics.roc_auc_score([0, 0, 1, 1], [1, 2, 2, 3]) == 0.875
    # The tied positive row with three times the weight: (2 + 3 * 1.5) / (4 * 2).
    assert metrics.roc_auc_score([0, 0, 1, 1], [1, 2, 2, 3], sample_weight=[1, 1, 3, 1]) == 0.8125
    assert metrics.roc_auc_score([0, 1], [-math.inf, math.inf]) == 1.0
    assert metrics.roc_auc_score([True, False], [0.5, 0.5]) == 0.5


def test_weights_of_any_size_do_not_underflow():
    weights = [1e-200, 1e-200, 3e-200, 1e-200]
    assert metrics.roc_auc_score(
        [0, 0, 1, 1], [1, 2, 2, 3], sample_weight=weights
    ) == pytest.approx(0.8125, rel=1e-14)


def test_log_loss_is_exact_where_libraries_clip():
    assert metrics.log_loss([1, 0], [1.0, 0.0]) == 0.0
    assert math.copysign(1.0, metrics.log_loss([1, 0], [1.0, 0.0])) == 1.0
    assert metrics.log_loss([1], [0.0]) == math.inf
    assert metrics.log_loss([0], [1.0]) == math.inf
    assert metrics.log_loss([1], [1e-300]) == -math.log(1e-300)
    assert metrics.log_loss([0], [1e-20]) == 1e-20
    assert metrics.log_loss([1, 1], [0.0, 0.5], sample_weight=[0, 2]) == math.log(2)
    assert metrics.log_loss([1], np.array([0.25], dtype=np.float32)) == math.log(4)


def test_report_has_every_measure_and_the_base_rate():
    y = np.array([0, 0, 1, 1, 0])
    p = np.array([0.1, 0.4, 0.35, 0.8, 0.5])
    report = metrics.binary_report(y, p)
    assert report["rows"] == 5
    assert report["positive_rate"] == 0.4
    assert report["threshold"] == 0.5
    assert report["confusion_matrix"] == [[2, 1], [1, 1]]
    assert report["accuracy"] == 0.6
    assert report["log_loss"] == metrics.log_loss(y, p)
    assert report["brier_score"] == metrics.brier_score_loss(y, p)
    assert report["average_precision"] == metrics.average_precision_score(y, p)
    assert report["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2, rel=1e-15)
    assert report["f1"] == 0.5
    assert report["expected_calibration_error"] == metrics.expected_calibration_error(y, p)
    base = report["base_rate"]
    assert set(base) == set(report) - {"rows", "positive_rate", "threshold", "base_rate"}
    assert base["roc_auc"] == 0.5
    assert base["average_precision"] == pytest.approx(0.4, rel=1e-15)
    assert base["brier_score"] == pytest.approx(0.24, rel=1e-15)
    entropy = -(0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    assert base["log_loss"] == pytest.approx(entropy, rel=1e-15)
    assert base["confusion_matrix"] == [[3, 0], [2, 0]]
    assert base["balanced_accuracy"] == 0.5
    assert base["f1"] == 0.0
    assert base["expected_calibration_error"] == pytest.approx(0.0, abs=1e-16)
    assert json.loads(json.dumps(report)) == report


def test_report_of_weights_equals_repeated_rows():
    y = np.array([0, 0, 1, 1, 0])
    p = np.array([0.1, 0.4, 0.35, 0.8, 0.5])
    counts = np.array([2, 1, 3, 1, 0])
    weighted = metrics.binary_report(y, p, sample_weight=counts)
    repeated = metrics.binary_report(np.repeat(y, counts), np.repeat(p, counts))
    for key in set(weighted) - {"rows", "threshold", "base_rate", "confusion_matrix"}:
        assert close(weighted[key], repeated[key]), key
        if key != "positive_rate":
            assert close(weighted["base_rate"][key], repeated["base_rate"][key]), key
    assert weighted["confusion_matrix"] == repeated["confusion_matrix"]


def test_report_threshold_is_inclusive():
    assert metrics.binary_report([0, 1], [0.3, 0.3], threshold=0.3)["confusion_matrix"] == [
        [0, 1],
        [0, 1],
    ]


def test_report_of_one_class_leaves_out_what_is_not_defined():
    zeros = metrics.binary_report([0, 0], [0.1, 0.2])
    assert zeros["roc_auc"] is None
    assert zeros["average_precision"] is None
    assert zeros["base_rate"]["log_loss"] == 0.0
    ones = metrics.binary_report([1, 1], [0.1, 0.2])
    assert ones["roc_auc"] is None
    assert ones["average_precision"] == 1.0
    assert ones["balanced_accuracy"] == zeros["f1"] == 0.0
    weightless = metrics.binary_report([0, 1], [0.1, 0.2], sample_weight=[1, 0])
    assert weightless["roc_auc"] is None


def calibration_error(y=(0, 1), probability=(0.1, 0.5), **options):
    return metrics.expected_calibration_error(y, probability, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.roc_auc_score([1, 1], [0.1, 0.2]), "y must hold both classes"),
        (lambda: metrics.roc_auc_score([0, 1, 0], [0.1, 0.2]), "one value a row, 3; got 2"),
        (lambda: metrics.roc_auc_score([0, 1], [0.1, math.nan]), "got NaN in row 1"),
        (lambda: metrics.roc_auc_score([0, 2], [0.1, 0.2]), "y must be 0 or 1; got 2.0 in row 1"),
        (lambda: metrics.roc_auc_score([0, math.nan], [0.1, 0.2]), "y must be 0 or 1; got nan"),
        (lambda: metrics.average_precision_score([0, 0], [0.1, 0.2]), "y must hold a 1"),
        (lambda: metrics.log_loss([0, 1], [0.1, 1.5]), r"in \[0, 1\]; got 1.5 in row 1"),
        (lambda: metrics.log_loss([[0], [1]], [0.1, 0.5]), r"y must be 1-D; .* shape \(2, 1\)"),
        (lambda: metrics.log_loss([0, 1], [[0.1], [0.5]]), "probability must be 1-D"),
        (lambda: metrics.log_loss([], []), "y must have at least one row"),
        (
            lambda: metrics.log_loss([0, 1], [0.1, 0.5], sample_weight=[1, -1]),
            "sample_weight must be finite and not negative; got -1.0 in row 1",
        ),
        (
            lambda: metrics.log_loss([0, 1], [0.1, 0.5], sample_weight=[0, 0]),
            "sample_weight must have a positive, finite sum; got 0.0",
        ),
        (
            lambda: metrics.log_loss([0, 1], [0.1, 0.5], sample_weight=[1e308, 1e308]),
            "sample_weight must have a positive, finite sum; got inf",
        ),
        (lambda: metrics.accuracy_score([0, 1], [0, 0.5]), "predicted must be 0 or 1; got 0.5"),
        (lambda: metrics.f1_score([0, 1], [0, 2]), "predicted must be 0 or 1; got 2.0 in row 1"),
        (lambda: metrics.balanced_accuracy_score([0, 1], [0]), "one value a row, 2; got 1"),
        (lambda: calibration_error(probability=[0.1, -0.5]), r"in \[0, 1\]; got -0.5 in row 1"),
        (lambda: calibration_error(bins=0), "bins must be at least 1; got 0"),
        (lambda: calibration_error(strategy="quantiles"), "did you mean 'quantile'"),
        (lambda: metrics.binary_report([0, 1], [0.1, 0.5], threshold=1.5), "threshold must be"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("y", [["no", "yes"], [None, 1], np.ma.array([0, 1], mask=[0, 1])])
def test_what_is_no_number_is_a_type_error(y):
    with pytest.raises(TypeError, match="y must"):
        metrics.log_loss(y, [0.1, 0.5])


def test_a_number_of_bins_is_an_integer():
    with pytest.raises(TypeError, match=r"bins must be an integer; got 2\.0"):
        calibration_error(bins=2.0)
