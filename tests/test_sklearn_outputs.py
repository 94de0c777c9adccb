"""`BCENetClassifier`: labels, probabilities, weights, validation rows, the core's options."""

import warnings

import numpy as np
import pytest
from helpers import digest
from scipy import sparse
from sklearn import metrics as sklearn_metrics
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from sklearn_problems import (
    FIXED,
    METRICS,
    PROBLEMS,
    X0,
    Y0,
    Logits,
    binary,
    multiclass,
    multilabel,
    parameters,
    weights,
)

import bcenet
from bcenet.sklearn import BCENetClassifier

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# ------------------------------------------------------------------------- classes and labels


@pytest.mark.parametrize(
    "names",
    [["no", "yes"], [False, True], [-1, 1], [1.0, 2.0], np.array(["a", "b"], object), [7, 70]],
    ids=str,
)
def test_any_two_labels(names):
    names = np.asarray(names)
    X, y = binary()
    plain = BCENetClassifier(alpha=0.0, max_iter=5, random_state=0).fit(X, y)
    named = clone(plain).fit(X, names[y])
    assert named.classes_.tolist() == names.tolist()
    assert named.classes_.dtype == names.dtype
    assert digest(parameters(named)) == digest(parameters(plain))
    np.testing.assert_array_equal(named.predict(X), names[plain.predict(X)])
    assert named.predict(X).dtype == names.dtype


def test_shapes_of_predictions():
    for problem, columns in [("binary", 2), ("multilabel", 4), ("multiclass", 4)]:
        X, y = PROBLEMS[problem]()
        classifier = BCENetClassifier(max_iter=2).fit(X, y)
        logits = (203,) if problem == "binary" else (203, 4)
        assert classifier.decision_function(X).shape == logits
        assert classifier.predict_proba(X).shape == (203, columns)
        assert classifier.predict_log_proba(X).shape == (203, columns)
        assert classifier.predict(X).shape == y.shape
        assert classifier.predict(X).dtype == y.dtype


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csr_array, np.ndarray.tolist, bool])
def test_indicators_of_any_kind(make):
    X, y = multilabel()
    expected = BCENetClassifier(max_iter=2, random_state=0).fit(X, y)
    given = y.astype(bool) if make is bool else make(y)
    actual = BCENetClassifier(max_iter=2, random_state=0).fit(X, given)
    assert digest(parameters(actual)) == digest(parameters(expected))
    assert actual.classes_.tolist() == [0, 1, 2, 3]


def test_multilabel_partial_fit():
    X, y = multilabel()
    six = BCENetClassifier(**{**FIXED, "max_iter": 3}, random_state=0).fit(X, y)
    partial = BCENetClassifier(random_state=0)
    for _ in range(3):
        partial.partial_fit(X, y)
    assert digest(parameters(partial)) == digest(parameters(six))
    named = BCENetClassifier(random_state=0).partial_fit(X, y, classes=np.arange(4))
    assert named.classes_.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="classes must be the 4 columns of a multi-label y"):
        BCENetClassifier().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"has classes not in `self.classes_`"):
        named.partial_fit(X, np.c_[y, y[:, 0]])


def test_multiclass_is_one_sigmoid_a_class():
    """Each output's fit is the binary one: with no hidden layer they share nothing."""
    X, y = multiclass()
    options = {
        **FIXED,
        "hidden_layer_sizes": (),
        "solver": "sgd",
        "momentum": 0.0,
        "learning_rate_init": 0.5,
        "alpha": 0.0,
        "shuffle": False,
        "random_state": 0,
    }
    together = BCENetClassifier(**options).fit(X, y)
    start = [np.zeros((10, 4)), np.zeros(4)]
    together.fit(X, y, coefs_init=start[:1], intercepts_init=start[1:])
    for k in range(4):
        alone = BCENetClassifier(**options)
        alone.fit(X, y == k, coefs_init=[np.zeros((10, 1))], intercepts_init=[np.zeros(1)])
        np.testing.assert_allclose(
            together.decision_function(X)[:, k], alone.decision_function(X), rtol=0, atol=1e-12
        )
    z = together.decision_function(X).astype(np.longdouble)
    s = 1 / (1 + np.exp(-z))
    expected = s / s.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(together.predict_proba(X), expected.astype(float), rtol=1e-14)
    np.testing.assert_array_equal(together.predict(X), np.argmax(z, axis=1))


# --------------------------------------------------------------------------- probabilities


def with_logits(logits, classes=(0, 1)):
    """A fitted estimator whose logits of the rows np.eye(len(logits)) are the given ones."""
    logits = np.asarray(logits, float)
    y = np.resize(classes, len(logits)) if logits.ndim == 1 else np.arange(len(logits))
    y = y if logits.ndim == 1 else np.resize(np.arange(logits.shape[1]), len(logits))
    classifier = BCENetClassifier((), alpha=0.0, max_iter=1, batch_size=len(logits))
    classifier.fit(np.eye(len(logits)), y)
    classifier.coefs_[0][...] = logits.reshape(len(logits), -1)
    classifier.intercepts_[0][...] = 0
    return classifier, np.eye(len(logits))


TAILS = [-1000.0, -700.0, -40.0, -1.0, 0.0, 2.0, 36.8, 50.0, 720.0, 1000.0]


def test_log_probabilities_are_finite_in_the_tails():
    """log s(z) = -log(1 + e^-z) and log s(-z): against 50 digits."""
    import mpmath

    classifier, X = with_logits(TAILS)
    log_p = classifier.predict_log_proba(X)
    with mpmath.workdps(50):
        for row, z in zip(log_p, TAILS, strict=True):
            exact = [-mpmath.log1p(mpmath.exp(z)), -mpmath.log1p(mpmath.exp(-z))]
            np.testing.assert_allclose(row, [float(value) for value in exact], rtol=1e-15)
    assert np.isfinite(log_p).all()
    # Both columns from their own tail: 1 - p would be 0 from z = 37 on.
    p = classifier.predict_proba(X)
    np.testing.assert_allclose(p, np.exp(log_p), rtol=1e-12)
    assert p[6, 0] == pytest.approx(np.exp(-36.8), rel=1e-12)


def test_probabilities_of_many_classes_are_never_0_over_0():
    import mpmath

    logits = np.array([[-1000.0, -999.0, -1001.0], [-800.0, 3.0, 50.0], [1000.0, 40.0, -1000.0]])
    classifier, X = with_logits(logits)
    p, log_p = classifier.predict_proba(X), classifier.predict_log_proba(X)
    with mpmath.workdps(1000):
        for i, row in enumerate(logits):
            s = [1 / (1 + mpmath.exp(-z)) for z in row]
            exact = [value / sum(s) for value in s]
            np.testing.assert_allclose(p[i], [float(v) for v in exact], rtol=1e-14, atol=1e-320)
            logs = [float(mpmath.log(v)) for v in exact]
            np.testing.assert_allclose(log_p[i], logs, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-15)


def cells(kind, seed=0):
    """Six cells of rows, one-hot in X, with their own rates: a saturated model learns these."""
    rng = np.random.default_rng(seed)
    cell = np.repeat(np.arange(6), 200)
    if kind == "multilabel":
        y = (rng.random((1200, 3)) < rng.uniform(0.1, 0.7, (6, 3))[cell]).astype(int)
        rates = np.array([y[cell == c].mean(axis=0) for c in range(6)])
    else:
        classes = 2 if kind == "binary" else 3
        chances = rng.dirichlet(np.full(classes, 3.0), 6)
        y = np.array([rng.choice(classes, p=chances[c]) for c in cell])
        rates = np.array([np.bincount(y[cell == c], minlength=classes) / 200 for c in range(6)])
    return np.eye(6)[cell], y, rates


@pytest.mark.parametrize("pos_weight", [None, 3.5])
@pytest.mark.parametrize("weighted", [None, "balanced", "given"])
@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass"])
def test_corrected_probabilities_undo_all_weights(kind, weighted, pos_weight):
    """Trained to the optimum, each cell's probability is its rate in the data."""
    X, y, rates = cells(kind)
    given = [{0: 1.0, 1: 4.0}] * 3 if kind == "multilabel" else {0: 0.5, 1: 4.0}
    classifier = BCENetClassifier(
        (),
        alpha=0.0,
        learning_rate_init=0.1,
        learning_rate="cosine",
        batch_size=1200,
        tol=0.0,
        n_iter_no_change=np.inf,
        max_iter=800,
        class_weight=given if weighted == "given" else weighted,
        pos_weight=pos_weight,
        random_state=0,
    ).fit(X, y)
    corners = np.eye(6)
    # As near to the optimum as 800 steps of a falling learning rate come.
    np.testing.assert_allclose(
        classifier.predict_proba(corners, corrected=True), rates, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        classifier.predict_log_proba(corners, corrected=True), np.log(rates), rtol=0, atol=1e-4
    )
    raw = classifier.predict_proba(corners)
    if weighted is None and pos_weight is None:
        np.testing.assert_array_equal(raw, classifier.predict_proba(corners, corrected=True))
    else:
        assert np.abs(raw - rates).max() > 0.02


def test_correction_is_exactly_a_shift_of_the_logits():
    classifier = BCENetClassifier(
        alpha=0.0, class_weight={0: 0.25, 1: 2.0}, pos_weight=4.0, max_iter=3
    ).fit(X0, Y0)
    z = classifier.decision_function(X0) - np.log(32.0)
    np.testing.assert_allclose(
        classifier.predict_proba(X0, corrected=True)[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-14
    )
    # Half the shift by an offset, the other way round.
    shifted = classifier.predict_proba(X0, corrected=True, offset=np.full(203, np.log(32.0)))
    np.testing.assert_allclose(shifted, classifier.predict_proba(X0), rtol=1e-14)
    classifier.set_params(pos_weight=0.0).fit(X0, Y0)
    with pytest.raises(ValueError, match="corrected=True needs class weights and a pos_weight ab"):
        classifier.predict_proba(X0, corrected=True)


def test_offset_of_a_prediction():
    offset = np.linspace(-3, 3, 203)
    classifier = BCENetClassifier(alpha=0.0, max_iter=3).fit(X0, Y0)
    z = classifier.decision_function(X0)
    np.testing.assert_array_equal(classifier.decision_function(X0, offset=offset), z + offset)
    np.testing.assert_array_equal(classifier.predict(X0, offset=offset), (z + offset > 0) * 1)
    with pytest.raises(ValueError, match=r"offset must have shape \(203,\); got \(203, 2\)"):
        classifier.decision_function(X0, offset=np.ones((203, 2)))
    X, y = multilabel()
    classifier = BCENetClassifier(max_iter=3).fit(X, y)
    z = classifier.decision_function(X)
    for given in (offset, np.outer(offset, [1.0, 0.0, -1.0, 2.0])):
        np.testing.assert_array_equal(
            classifier.decision_function(X, offset=given), (z.T + given.T).T
        )


# --------------------------------------------------------------------------------- weights


def test_class_weights_are_sample_weights():
    options = {"alpha": 0.0, "max_iter": 5, "random_state": 0}
    given = {0: 0.5, 1: 3.0}
    rows = np.where(Y0 == 1, 3.0, 0.5)
    by_class = BCENetClassifier(**options, class_weight=given).fit(X0, Y0, weights(203))
    by_row = BCENetClassifier(**options).fit(X0, Y0, rows * weights(203))
    assert digest(parameters(by_class)) == digest(parameters(by_row))
    # Keys are labels; one that is not named weighs 1.
    labels = np.array(["no", "yes"])[Y0]
    named = BCENetClassifier(**options, class_weight={"yes": 3.0}).fit(X0, labels)
    assert named.class_weight_.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("problem", ["binary", "multiclass"])
def test_balanced_class_weights_are_scikit_learn_s(problem):
    X, y = PROBLEMS[problem](seed=1)
    y[:40] = 0
    classes = np.unique(y)
    classifier = BCENetClassifier(max_iter=1, class_weight="balanced").fit(X, y)
    expected = compute_class_weight("balanced", classes=classes, y=y)
    np.testing.assert_allclose(classifier.class_weight_, expected, rtol=1e-15)
    # With weights, as if the rows were repeated.
    repeats = np.random.default_rng(0).integers(0, 4, len(y))
    classifier.fit(X, y, repeats)
    expected = compute_class_weight("balanced", classes=classes, y=np.repeat(y, repeats))
    np.testing.assert_allclose(classifier.class_weight_, expected, rtol=1e-15)


def test_class_weights_of_labels_are_one_by_one():
    X, y = multilabel()
    classifier = BCENetClassifier(max_iter=2, class_weight="balanced").fit(X, y)
    expected = [compute_class_weight("balanced", classes=np.arange(2), y=column) for column in y.T]
    np.testing.assert_allclose(classifier.class_weight_, expected, rtol=1e-15)
    for given, message in [
        ({0: 1.0, 1: 2.0}, "class_weight should be a list of dicts, or the string 'balanced'"),
        ([{0: 1.0, 1: 2.0}], r"Got 1 element\(s\) while having 4 outputs"),
    ]:
        with pytest.raises(ValueError, match=message):
            BCENetClassifier(class_weight=given).fit(X, y)


@pytest.mark.parametrize("full", [True, False])
def test_weights_repeat_rows_in_a_full_batch(full):
    """The equivalence that scikit-learn checks, on real data; it is lost in mini-batches."""
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    repeats = np.random.default_rng(0).integers(0, 3, len(y))
    options = {
        "alpha": 0.0,
        "batch_size": 2000 if full else 100,
        "max_iter": 20,
        "random_state": 0,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got `batch_size`")
        weighted = BCENetClassifier(**options).fit(X, y, repeats)
        repeated = BCENetClassifier(**options).fit(X.repeat(repeats, 0), y.repeat(repeats))
    difference = np.abs(weighted.predict_proba(X) - repeated.predict_proba(X)).max()
    assert (difference < 1e-9) == full


# -------------------------------------------------------------------- validation rows


@pytest.mark.parametrize("metric", METRICS)
def test_early_stopping_metrics(metric):
    """The scores are scikit-learn's of the logits after each epoch; the best weights are kept."""
    X, y = binary(300)
    held = slice(200, 300)
    seen = Logits(X[held])
    scorer = sklearn_metrics.make_scorer(sklearn_metrics.matthews_corrcoef)
    classifier = BCENetClassifier(
        alpha=0.0,
        learning_rate_init=0.02,
        early_stopping=True,
        early_stopping_metric=scorer if metric == "scorer" else metric,
        max_iter=15,
        n_iter_no_change=4,
        tol=0.0,
        callbacks=seen,
        random_state=1,
    )
    labels = np.array(["a", "b"]) if metric not in ("neg_brier_score",) else np.array([0, 1])
    classifier.fit(X[:200], labels[y[:200]], X_val=X[held], y_val=labels[y[held]])
    expected = [METRICS[metric](y[held], z) for z in seen.logits]
    np.testing.assert_allclose(classifier.validation_scores_, expected, rtol=1e-10)
    assert classifier.best_validation_score_ == max(classifier.validation_scores_)
    best = int(np.argmax(classifier.validation_scores_))
    np.testing.assert_array_equal(classifier.decision_function(X[held]), seen.logits[best])
    losses = [bcenet.bce_loss(z, y[held]) for z in seen.logits]
    np.testing.assert_allclose(classifier.validation_loss_curve_, losses, rtol=1e-12)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss"])
@pytest.mark.parametrize("problem", ["multilabel", "multiclass"])
def test_early_stopping_metrics_with_more_outputs(problem, metric):
    X, y = PROBLEMS[problem](300)
    w = weights(100)
    held = slice(200, 300)
    seen = Logits(X[held])
    classifier = BCENetClassifier(
        early_stopping=True, early_stopping_metric=metric, max_iter=3, callbacks=[seen]
    )
    classifier.fit(X[:200], y[:200], X_val=X[held], y_val=y[held], sample_weight_val=w)
    truth, m = y[held], sklearn_metrics
    expected = []
    for z in seen.logits:
        s = 1 / (1 + np.exp(-z))
        if problem == "multilabel":
            by_label = {
                "balanced_accuracy": lambda t, z: m.recall_score(
                    t, z > 0, average="macro", sample_weight=w
                ),
                "f1": lambda t, z: m.f1_score(t, z > 0, sample_weight=w),
                "roc_auc": lambda t, z: m.roc_auc_score(t, z, sample_weight=w),
                "log_loss": lambda t, z: -m.log_loss(t, 1 / (1 + np.exp(-z)), sample_weight=w),
            }
            if metric == "accuracy":
                expected.append(m.accuracy_score(truth, z > 0, sample_weight=w))
            else:
                columns = zip(truth.T, z.T, strict=True)
                expected.append(np.mean([by_label[metric](t, column) for t, column in columns]))
            continue
        p, k = s / s.sum(axis=1, keepdims=True), np.argmax(z, axis=1)
        by_class = {
            "accuracy": m.accuracy_score(truth, k, sample_weight=w),
            "balanced_accuracy": m.balanced_accuracy_score(truth, k, sample_weight=w),
            "f1": m.f1_score(truth, k, average="macro", sample_weight=w),
            "roc_auc": m.roc_auc_score(truth, p, multi_class="ovr", sample_weight=w),
            "log_loss": -m.log_loss(truth, p, sample_weight=w),
        }
        expected.append(by_class[metric])
    np.testing.assert_allclose(classifier.validation_scores_, expected, rtol=1e-10)


def test_validation_rows_without_early_stopping():
    X, y = binary(300)
    seen = Logits(X[200:])
    w = weights(100)
    classifier = BCENetClassifier(
        alpha=0.0, max_iter=4, callbacks=[seen], class_weight={0: 1.0, 1: 5.0}
    )
    classifier.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:], sample_weight_val=w)
    # Measured under the class weights that are trained with.
    weight = w * np.where(y[200:] == 1, 5.0, 1.0)
    expected = [bcenet.bce_loss(z, y[200:], sample_weight=weight) for z in seen.logits]
    np.testing.assert_allclose(classifier.validation_loss_curve_, expected, rtol=1e-12)
    assert classifier.validation_scores_ is None
    assert classifier.best_validation_score_ is None
    np.testing.assert_array_equal(classifier.decision_function(X[200:]), seen.logits[-1])
    assert BCENetClassifier(alpha=0.0, max_iter=1).fit(X, y).validation_loss_curve_ is None


def test_a_score_of_nan_is_no_progress():
    classifier = BCENetClassifier(
        alpha=0.0,
        early_stopping=True,
        early_stopping_metric=lambda estimator, X, y: np.nan,
        n_iter_no_change=2,
    ).fit(X0, Y0)
    assert classifier.n_iter_ == 3
    assert np.isnan(classifier.validation_scores_).all()
    assert classifier.predict(X0).shape == (203,)


def test_ranking_metrics_need_both_classes():
    classifier = BCENetClassifier(alpha=0.0, early_stopping=True, early_stopping_metric="roc_auc")
    with pytest.raises(ValueError, match="must have validation rows of both classes to rank"):
        classifier.fit(X0, Y0, X_val=X0[Y0 == 1], y_val=Y0[Y0 == 1])


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy", "accuracy"])
def test_a_threshold_chosen_for_a_metric(metric):
    """No threshold does better on the validation rows."""
    X, y = make_classification(600, 10, weights=[0.8], flip_y=0.2, random_state=0)
    classifier = BCENetClassifier(alpha=0.0, max_iter=10, threshold=metric, random_state=0)
    classifier.fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    measure = getattr(sklearn_metrics, f"{metric}_score")
    p = classifier.predict_proba(X[300:])[:, 1]
    best = max(measure(y[300:], p >= t) for t in [*p, 1.1])
    assert measure(y[300:], classifier.predict(X[300:])) == pytest.approx(best, rel=1e-12)
    np.testing.assert_array_equal(
        classifier.predict(X), classifier.predict_proba(X)[:, 1] >= classifier.threshold_
    )


def test_a_threshold_for_each_label():
    X, y = multilabel(400)
    classifier = BCENetClassifier(
        max_iter=10, threshold="f1", early_stopping=True, validation_fraction=0.5
    ).fit(X, y)
    assert classifier.threshold_.shape == (4,)
    np.testing.assert_array_equal(
        classifier.predict(X), classifier.predict_proba(X) >= classifier.threshold_
    )


def test_a_threshold_chosen_after_a_scorer_stopped_the_fit():
    """The scorer, which predicts, sees the threshold 0.5."""
    scorer = sklearn_metrics.make_scorer(sklearn_metrics.f1_score)
    options = {"alpha": 0.0, "early_stopping": True, "random_state": 0, "max_iter": 20}
    given = BCENetClassifier(**options, early_stopping_metric=scorer, threshold="f1")
    named = BCENetClassifier(**options, early_stopping_metric="f1").fit(X0, Y0)
    assert given.fit(X0, Y0).validation_scores_ == named.validation_scores_
    assert given.threshold_ != named.threshold_ == 0.5


def test_a_given_threshold():
    classifier = BCENetClassifier(alpha=0.0, max_iter=3, threshold=0.7).fit(X0, Y0)
    np.testing.assert_array_equal(classifier.predict(X0), classifier.predict_proba(X0)[:, 1] >= 0.7)
    assert classifier.threshold_ == 0.7
    with pytest.raises(ValueError, match=r"threshold must be 0.5 for more than two classes"):
        BCENetClassifier(threshold=0.7).fit(*multiclass())


# ------------------------------------------------------------------------ the core's options

ADAM = {"epsilon_inside": True}
PASSED_ON = {
    "label_smoothing": ({"label_smoothing": 0.1}, {"label_smoothing": 0.1}, {}, "adam", ADAM),
    "pos_weight": ({"pos_weight": 3.0}, {"pos_weight": 3.0}, {}, "adam", ADAM),
    "alpha": ({"alpha": 0.2}, {"l2": 0.2}, {}, "adam", ADAM),
    "l1": ({"l1": 0.01}, {"l1": 0.01}, {}, "adam", ADAM),
    "dropout": ({"dropout": 0.2}, {"dropout": 0.2}, {}, "adam", ADAM),
    "dropout a layer": ({"dropout": [0.2, 0.0]}, {"dropout": [0.2, 0.0]}, {}, "adam", ADAM),
    "clip_norm": ({"clip_norm": 0.1}, {"clip_norm": 0.1}, {}, "adam", ADAM),
    "max_norm": ({"max_norm": 0.5}, {"max_norm": 0.5}, {}, "adam", ADAM),
    "focal": ({"loss": "focal"}, {"loss": "focal"}, {}, "adam", ADAM),
    "gamma": (
        {"loss": bcenet.FocalLoss(1.5)},
        {"loss": bcenet.FocalLoss(1.5)},
        {},
        "adam",
        ADAM,
    ),
    "ema": ({"averaging": bcenet.EMA(0.9)}, {"averaging": bcenet.EMA(0.9)}, {}, "adam", ADAM),
    "swa": ({"averaging": bcenet.SWA(0.5)}, {"averaging": bcenet.SWA(0.5)}, {}, "adam", ADAM),
    "schedule": ({"learning_rate": "cosine"}, {"schedule": "cosine"}, {}, "adam", ADAM),
    "one-cycle": ({"learning_rate": "one-cycle"}, {"schedule": "one-cycle"}, {}, "adam", ADAM),
    "coslog4": ({"learning_rate": "coslog4"}, {"schedule": "coslog4"}, {}, "adam", ADAM),
    "normalization": ({"normalization": "layer"}, {}, {"normalization": "layer"}, "adam", ADAM),
    "batch": ({"normalization": "batch"}, {}, {"normalization": "batch"}, "adam", ADAM),
    "feature_scale": ({"feature_scale": True}, {}, {"feature_scale": True}, "adam", ADAM),
    "adamw": (
        {"solver": "adamw", "weight_decay": 0.3},
        {},
        {},
        "adamw",
        {"epsilon_inside": True, "weight_decay": 0.3},
    ),
    "adamw's own": ({"solver": "adamw"}, {}, {}, "adamw", {"epsilon_inside": True}),
    "amsgrad": ({"solver": "amsgrad"}, {}, {}, "amsgrad", {"epsilon_inside": True}),
    "rmsprop": ({"solver": "rmsprop", "epsilon": 1e-5}, {}, {}, "rmsprop", {"epsilon": 1e-5}),
    "lion": ({"solver": "lion"}, {}, {}, "lion", {}),
    "hidden_activations": ({"hidden_activations": ["gelu", "tanh"]}, {}, {}, "adam", ADAM),
}


@pytest.mark.parametrize("option", PASSED_ON)
def test_options_of_the_core_mean_what_they_mean_there(option):
    """The same bits as bcenet.fit with the same options, from the same weights and seed."""
    given, fit_options, network_options, optimizer, hyper = PASSED_ON[option]
    start = BCENetClassifier(
        (8, 6), alpha=0.0, solver="sgd", momentum=0.0, learning_rate_init=1e-300, max_iter=1
    )
    coefs = start.set_params(random_state=4).fit(X0, Y0).coefs_
    activation = given.get("hidden_activations", "relu")
    net = bcenet.Network([10, 8, 6, 1], activation, dtype="float64", **network_options)
    for target, source in zip(net.coefs, coefs, strict=True):
        target[...] = source
    for intercept in net.intercepts:
        intercept[...] = 0.0
    options = {"alpha": 0.0, "random_state": 4, "max_iter": 5, "batch_size": 50, **given}
    classifier = BCENetClassifier((8, 6), **options)
    classifier.fit(X0, Y0, coefs_init=coefs, intercepts_init=[b * 0 for b in start.intercepts_])
    seed = classifier._training.optimizer.seed
    history = bcenet.fit(
        net,
        X0,
        Y0,
        optimizer=bcenet.optimizers.BY_NAME[optimizer](0.001, **hyper),
        epochs=5,
        batch_size=50,
        random_state=seed,
        **fit_options,
    )
    assert digest(parameters(classifier)) == digest(net.parameters)
    total = np.add(history.loss, history.penalty)
    np.testing.assert_allclose(classifier.loss_curve_, total, rtol=1e-14)


def test_offset_of_a_fit():
    """An offset that is a feature times its weight stands for the feature."""
    options = {
        **FIXED,
        "hidden_layer_sizes": (),
        "alpha": 0.0,
        "solver": "sgd",
        "momentum": 0.0,
        "shuffle": False,
    }
    plain = BCENetClassifier(**options)
    zeros = {"coefs_init": [np.zeros((10, 1))], "intercepts_init": [np.zeros(1)]}
    plain.fit(X0, Y0, **zeros, offset=np.full(203, 0.7))
    moved = BCENetClassifier(**options)
    moved.fit(X0, Y0, coefs_init=[np.zeros((10, 1))], intercepts_init=[np.full(1, 0.7)])
    np.testing.assert_allclose(plain.coefs_[0], moved.coefs_[0], rtol=1e-12)
    np.testing.assert_allclose(plain.intercepts_[0] + 0.7, moved.intercepts_[0], rtol=1e-12)


def test_missing_labels_are_left_out():
    """A label that is missing everywhere teaches nothing; the others learn as without it."""
    X, y = multilabel()
    gaps = y.astype(float)
    gaps[np.random.default_rng(0).random(y.shape) < 0.3] = np.nan
    options = {
        **FIXED,
        "hidden_layer_sizes": (),
        "alpha": 0.0,
        "solver": "sgd",
        "momentum": 0.0,
        "batch_size": 203,
        "random_state": 0,
    }
    classifier = BCENetClassifier(**options, missing_labels="ignore").fit(X, gaps)
    weight = ~np.isnan(gaps)
    net = bcenet.Network([10, 4], dtype="float64")
    start = BCENetClassifier(**{**options, "max_iter": 1, "learning_rate_init": 1e-300}).fit(X, y)
    net.parameters[:] = parameters(start)
    bcenet.fit(
        net,
        X,
        np.nan_to_num(gaps),
        sample_weight=weight.astype(float),
        optimizer=bcenet.SGD(0.001),
        batch_size=203,
        epochs=20,
        label_reduction="sum",
        shuffle=False,
    )
    np.testing.assert_allclose(parameters(classifier), net.parameters, rtol=1e-9)
    assert classifier.predict(X).dtype == int
    with pytest.raises(ValueError, match="y must hold a label that is not missing"):
        BCENetClassifier(missing_labels="ignore").fit(X, gaps * np.nan)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        BCENetClassifier().fit(X, gaps)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        BCENetClassifier(missing_labels="ignore").fit(X, gaps[:, 0])


def test_output_bias_starts_at_the_base_rate():
    X, y = make_classification(500, 10, weights=[0.9], random_state=0)
    options = {
        "alpha": 0.0,
        "solver": "sgd",
        "momentum": 0.0,
        "learning_rate_init": 1e-300,
        "max_iter": 1,
    }
    classifier = BCENetClassifier(**options, output_bias="base_rate").fit(X, y)
    rate = y.mean()
    assert classifier.intercepts_[-1][0] == pytest.approx(np.log(rate / (1 - rate)), rel=1e-12)


def test_loss_curve_holds_the_penalty():
    classifier = BCENetClassifier(alpha=2.0, max_iter=1, learning_rate_init=1e-12).fit(X0, Y0)
    plain = BCENetClassifier(alpha=0.0, max_iter=1, learning_rate_init=1e-12)
    plain.set_params(random_state=0).fit(X0, Y0)
    classifier.set_params(random_state=0).fit(X0, Y0)
    squares = sum(float(np.sum(w * w)) for w in plain.coefs_)
    # Batches of 200 and of 3 rows: alpha / 2 * squares / 200 * 200/203 + ... / 3 * 3/203.
    assert classifier.loss_ - plain.loss_ == pytest.approx(squares * 2 / 203, rel=1e-9)
