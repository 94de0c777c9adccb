"""`BCENetClassifier` beside scikit-learn's own estimators, and inside its tools."""

import copy
import io
import pathlib
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from helpers import digest, relative_to_largest
from scipy import sparse
from sklearn import config_context
from sklearn import metrics as sklearn_metrics
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, make_classification, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.estimator_checks import check_param_validation, parametrize_with_checks

import bcenet
from bcenet.sklearn import BCENetClassifier

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

VERSION = tuple(map(int, sklearn.__version__.split(".")[:2]))

# 20 epochs, whatever happens to the loss.
FIXED = {"max_iter": 20, "tol": 0.0, "n_iter_no_change": np.inf}


def binary(n=203, features=10, seed=0):
    """Two classes that overlap, so that no probability saturates."""
    return make_classification(n, features, class_sep=0.5, flip_y=0.2, random_state=seed)


def multilabel(n=203, features=10, labels=4, seed=0):
    X, y = make_multilabel_classification(n, features, n_classes=labels, random_state=seed)
    return StandardScaler().fit_transform(X), y


def multiclass(n=203, features=10, classes=4, seed=0):
    return make_classification(
        n, features, n_classes=classes, n_informative=6, class_sep=0.5, random_state=seed
    )


PROBLEMS = {"binary": binary, "multilabel": multilabel, "multiclass": multiclass}


def weights(n, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 2.0, n)


class Logits:
    """A callback that keeps the logits of rows, epoch by epoch."""

    def __init__(self, X):
        self.X, self.logits = X, []

    def on_epoch_end(self, state):
        self.logits.append(state.network.decision_function(self.X))


def parameters(estimator):
    return estimator.network_.parameters


# ----------------------------------------------------------------- scikit-learn's own checks

SMALL = {"hidden_layer_sizes": (20,), "learning_rate_init": 0.01, "max_iter": 60}

# "auto" is the full batch for up to 200 rows. A batch above the rows of all checks is the full
# batch everywhere, and scikit-learn's warning about it is ignored below.
CONFIGURATIONS = [
    BCENetClassifier(**SMALL),
    BCENetClassifier(**SMALL, alpha=0.0),
    BCENetClassifier(**SMALL, alpha=0.0, batch_size=10_000, shuffle=False),
    BCENetClassifier(**SMALL, batch_size=8),
    BCENetClassifier(**SMALL, solver="sgd", batch_size=10_000),
    BCENetClassifier((20,), solver="lbfgs", alpha=0.1),
]


def expected_failures(estimator):
    if estimator.batch_size != 8:
        return {}
    reason = (
        "a row of weight 2 is in one mini-batch, two rows of weight 1 are in two: the steps differ"
    )
    return {
        "check_sample_weight_equivalence_on_dense_data": reason,
        "check_sample_weight_equivalence_on_sparse_data": reason,
    }


@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=expected_failures)
@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1:UserWarning")
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


def test_parameters_out_of_range_are_refused_as_scikit_learn_words_it():
    check_param_validation("BCENetClassifier", BCENetClassifier(max_iter=1))


def test_parameters_and_defaults_are_those_of_mlp_classifier():
    own, theirs = BCENetClassifier().get_params(), MLPClassifier().get_params()
    assert {name: own[name] for name in theirs} == theirs
    assert list(own)[: len(own)] == sorted(own)


# ------------------------------------------------------------------- equal to MLPClassifier

SOLVERS = {
    "sgd": {"solver": "sgd", "momentum": 0.0},
    "momentum": {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "momentum": 0.9},
    "adam": {"solver": "adam"},
}


def both(X, y, sample_weight=None, **options):
    """MLPClassifier and BCENetClassifier, fitted with the same parameters."""
    options = {"random_state": 3, "shuffle": False, **options}
    weighted = {} if sample_weight is None else {"sample_weight": sample_weight}
    return (
        MLPClassifier(**options).fit(X, y, **weighted),
        BCENetClassifier(**options).fit(X, y, **weighted),
    )


def assert_same_fit(theirs, own, tolerance=1e-9):
    """Weights to `tolerance` of the largest entry of their layer; losses and counts too."""
    assert own.n_iter_ == theirs.n_iter_
    assert own.t_ == theirs.t_
    for name in ("coefs_", "intercepts_"):
        for actual, expected in zip(getattr(own, name), getattr(theirs, name), strict=True):
            assert relative_to_largest(actual, expected) <= tolerance
    np.testing.assert_allclose(own.loss_curve_, theirs.loss_curve_, rtol=0, atol=tolerance)
    assert own.loss_ == own.loss_curve_[-1]
    for name in ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(own, name) == getattr(theirs, name)
    np.testing.assert_array_equal(own.classes_, theirs.classes_)


# The first weights are the same bits: a learning rate of 1e-300 leaves them alone.
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("problem", ["binary", "multilabel"])
@pytest.mark.parametrize("hidden", [(), (7,), (13, 5)])
def test_first_weights_are_mlp_classifier_s(activation, problem, hidden):
    options = {
        "activation": activation,
        "hidden_layer_sizes": hidden,
        "solver": "sgd",
        "momentum": 0.0,
        "learning_rate_init": 1e-300,
        "max_iter": 1,
    }
    theirs, own = both(*PROBLEMS[problem](), **options)
    for name in ("coefs_", "intercepts_"):
        for actual, expected in zip(getattr(own, name), getattr(theirs, name), strict=True):
            assert digest(actual) == digest(expected)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("problem", ["binary", "multilabel"])
def test_steps_are_mlp_classifier_s(problem, solver, learning_rate, weighted):
    """20 epochs of 5 batches, the last one short; tol makes the rates of "adaptive" fall."""
    if weighted and VERSION < (1, 7):
        pytest.skip("MLPClassifier takes sample_weight from scikit-learn 1.7 on")
    X, y = PROBLEMS[problem]()
    theirs, own = both(
        X,
        y,
        *([weights(len(X))] if weighted else []),
        **SOLVERS[solver],
        hidden_layer_sizes=(13, 7),
        activation="tanh",
        alpha=0.3,
        batch_size=50,
        learning_rate=learning_rate,
        learning_rate_init=0.02,
        max_iter=20,
        tol=1e-3 if learning_rate == "adaptive" else 0.0,
        n_iter_no_change=2 if learning_rate == "adaptive" else np.inf,
    )
    assert own.n_iter_ == 20
    assert_same_fit(theirs, own)
    assert own.best_loss_ == pytest.approx(theirs.best_loss_, abs=1e-9)
    np.testing.assert_allclose(own.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(own.predict(X), theirs.predict(X))


# What the engine without penalties can already show: alpha = 0 and one sigmoid.
def test_adam_s_steps_without_penalty_are_mlp_classifier_s():
    theirs, own = both(
        *binary(), alpha=0.0, batch_size=50, hidden_layer_sizes=(13, 7), activation="tanh", **FIXED
    )
    assert_same_fit(theirs, own)


@pytest.mark.parametrize("problem", ["binary", "multilabel"])
@pytest.mark.parametrize("solver", ["nesterov", "adam"])
def test_stopping_is_mlp_classifier_s(problem, solver):
    """The epoch in which tol ends the fit, without a warning."""
    X, y = PROBLEMS[problem]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs, own = both(
            X,
            y,
            **SOLVERS[solver],
            hidden_layer_sizes=(8,),
            alpha=0.01,
            learning_rate_init=0.02,
            tol=1e-2,
            n_iter_no_change=3,
        )
    assert own.n_iter_ < 200
    assert_same_fit(theirs, own)


@pytest.mark.parametrize("learning_rate", ["constant", "adaptive"])
@pytest.mark.parametrize("problem", ["binary", "multilabel"])
def test_early_stopping_is_mlp_classifier_s(problem, learning_rate):
    """The same rows are held out, the same scores found, the same best weights kept."""
    X, y = PROBLEMS[problem]()
    y = y * 4 + 3 if problem == "binary" else y
    theirs, own = both(
        X,
        y,
        solver="sgd",
        learning_rate=learning_rate,
        learning_rate_init=0.05,
        batch_size=50,
        hidden_layer_sizes=(13,),
        early_stopping=True,
        validation_fraction=0.3,
        tol=1e-2,
        n_iter_no_change=3,
        max_iter=60,
    )
    assert_same_fit(theirs, own)
    np.testing.assert_allclose(own.validation_scores_, theirs.validation_scores_, rtol=1e-12)
    assert own.best_validation_score_ == max(own.validation_scores_)
    assert own.best_validation_score_ == pytest.approx(theirs.best_validation_score_, rel=1e-12)
    assert own.best_loss_ is None
    assert len(own.validation_loss_curve_) == own.n_iter_


def test_partial_fit_is_mlp_classifier_s():
    """Chunks of a stream, one of them with a single class."""
    X, y = binary()
    y = np.sort(y)
    chunks = [slice(0, 60), slice(60, 140), slice(140, 203)]
    options = {"alpha": 0.0, "hidden_layer_sizes": (6,), "shuffle": False, "random_state": 1}
    theirs, own = MLPClassifier(**options), BCENetClassifier(**options)
    assert len(set(y[chunks[0]])) == 1
    for chunk in chunks * 2:
        theirs.partial_fit(X[chunk], y[chunk], classes=[0, 1])
        own.partial_fit(X[chunk], y[chunk], classes=[0, 1])
    assert_same_fit(theirs, own)
    assert own.n_iter_ == 1
    assert len(own.loss_curve_) == 6


@pytest.mark.parametrize("verbose", [True, 1])
def test_verbose_prints_what_mlp_classifier_prints(capsys, verbose):
    options = {
        "verbose": verbose,
        "early_stopping": True,
        "tol": 0.05,
        "n_iter_no_change": 1,
        "learning_rate": "adaptive",
        "solver": "sgd",
        "momentum": 0.0,
        "max_iter": 25,
        "alpha": 0.0,
        "random_state": 0,
        "shuffle": False,
    }
    MLPClassifier(**options).fit(*binary())
    expected = capsys.readouterr().out
    BCENetClassifier(**options).fit(*binary())
    assert capsys.readouterr().out == expected
    assert "Setting learning rate to" in expected


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_shown_unless_asked_for(capsys, monkeypatch):
    X, y = binary()
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    BCENetClassifier(alpha=0.0, max_iter=2).fit(X, y)
    assert (screen.getvalue(), capsys.readouterr().out) == ("", "")
    # bcenet.fit itself shows a bar there, and one that is asked for is the only one.
    net = bcenet.Network([10, 1], random_state=0)
    bcenet.fit(net, X, y, epochs=2)
    alone = screen.getvalue().count("2/2")
    assert alone > 0
    bcenet.fit(net, X, y, epochs=2, callbacks=[bcenet.ProgressBar()])
    assert screen.getvalue().count("2/2") == 2 * alone


def test_warnings_are_mlp_classifier_s():
    X, y = binary()
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached and the"):
        BCENetClassifier(alpha=0.0, max_iter=3).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fixed number of epochs was asked for
        BCENetClassifier(alpha=0.0, max_iter=3, n_iter_no_change=np.inf).fit(X, y)
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample"):
        BCENetClassifier(alpha=0.0, max_iter=3, batch_size=204).fit(X, y)


# ------------------------------------------------------------------------------ warm starts

KEPT = {
    "sgd": {"solver": "sgd", "momentum": 0.0},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd"},
    "adam": {"solver": "adam"},
    "adamw": {"solver": "adamw", "weight_decay": 0.1},
    "amsgrad": {"solver": "amsgrad"},
    "rmsprop": {"solver": "rmsprop"},
    "lion": {"solver": "lion", "learning_rate_init": 1e-4},
    "object": {"solver": bcenet.Adam(0.002, beta_1=0.8)},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1},
    "cosine": {"learning_rate": bcenet.schedules.Cosine(epochs=6)},
    "warm-up": {"learning_rate": "warm-up"},
    "penalties": {"alpha": 0.1, "l1": 0.01},
    "dropout": {"dropout": 0.3},
    "clip_norm": {"clip_norm": 0.1},
    "batch": {"normalization": "batch"},
    "feature_scale": {"feature_scale": True},
    "ema": {"averaging": bcenet.EMA(0.9)},
}


def course(estimator):
    """Everything of a fit but the count of its last call, as bytes and numbers."""
    optimizer = estimator._training.optimizer
    return {
        "parameters": digest(parameters(estimator)),
        "state": {name: digest(array) for name, array in optimizer.state.items()},
        "step": optimizer.step,
        "epoch": optimizer.epoch,
        "learning_rate": optimizer.learning_rate,
        "loss_curve": estimator.loss_curve_,
        "best_loss": estimator.best_loss_,
        "t": estimator.t_,
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kept", KEPT)
def test_three_epochs_and_three_more_are_six(kept, dtype):
    X, y = binary()
    X = X.astype(dtype)
    options = {
        "hidden_layer_sizes": (9,),
        "alpha": 0.0,
        "batch_size": 32,
        "random_state": 5,
        "tol": 0.0,
        "n_iter_no_change": np.inf,
        **KEPT[kept],
    }
    six = BCENetClassifier(**options, max_iter=6).fit(X, y)
    warm = BCENetClassifier(**options, max_iter=3, warm_start=True).fit(X, y)
    first = course(warm)
    warm = pickle.loads(pickle.dumps(warm)).fit(X, y)
    partial = BCENetClassifier(**options, max_iter=6)
    for _ in range(6):
        partial.partial_fit(X, y, classes=[0, 1])
    assert course(warm) == course(six)
    assert course(partial) == course(six)
    assert course(six) != first
    assert (warm.n_iter_, six.n_iter_) == (3, 6)
    assert parameters(warm).dtype == dtype


@pytest.mark.parametrize("problem", ["multilabel", "multiclass"])
def test_three_epochs_and_three_more_are_six_with_more_outputs(problem):
    X, y = PROBLEMS[problem]()
    options = {**FIXED, "hidden_layer_sizes": (9,), "random_state": 5}
    six = BCENetClassifier(**{**options, "max_iter": 6}).fit(X, y)
    warm = BCENetClassifier(**{**options, "max_iter": 3}, warm_start=True).fit(X, y).fit(X, y)
    assert course(warm) == course(six)


def test_warm_start_goes_on_from_the_last_weights_not_the_best():
    """With early stopping too k epochs and k more are 2k: the same rows stay held out."""
    options = {
        "alpha": 0.0,
        "early_stopping": True,
        "validation_fraction": 0.3,
        "learning_rate_init": 0.05,
        "tol": 0.0,
        "n_iter_no_change": np.inf,
        "random_state": 2,
    }
    X, y = binary()
    twelve = BCENetClassifier(**options, max_iter=12).fit(X, y)
    warm = BCENetClassifier(**options, max_iter=6, warm_start=True).fit(X, y)
    assert np.argmax(warm.validation_scores_) < 5
    warm.fit(X, y)
    assert course(warm) == course(twelve)
    assert warm.validation_scores_ == twelve.validation_scores_
    assert warm.validation_loss_curve_ == twelve.validation_loss_curve_


def test_a_new_learning_rate_keeps_the_moments():
    """The next step has the same gradient, and so the same moments, at any learning rate."""
    options = {"alpha": 0.0, "batch_size": 203, "warm_start": True, "random_state": 0}
    ends = []
    for rate in (0.001, 0.5):
        warm = BCENetClassifier(**options, max_iter=3).fit(X0, Y0)
        warm.set_params(learning_rate_init=rate, max_iter=1).fit(X0, Y0)
        ends.append(warm._training.optimizer)
    assert [(end.learning_rate, end.step, end.epoch) for end in ends] == [
        (0.001, 4, 4),
        (0.5, 4, 4),
    ]
    assert ends[0].seed == ends[1].seed
    for name, moments in ends[0].state.items():
        assert digest(moments) == digest(ends[1].state[name])


@pytest.mark.parametrize(
    "change", [{"hidden_layer_sizes": (3,)}, {"activation": "tanh"}, {"dtype": "float32"}]
)
def test_warm_start_refuses_another_network(change):
    X, y = binary()
    warm = BCENetClassifier(alpha=0.0, max_iter=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="must be as in the previous fit to go on from it; "):
        warm.set_params(**change).fit(X, y)


def test_without_warm_start_a_fit_starts_anew():
    X, y = binary()
    classifier = BCENetClassifier(alpha=0.0, max_iter=3, random_state=0)
    first = course(classifier.fit(X, y))
    assert course(classifier.fit(X, y)) == first


# ------------------------------------------------------------------------- given weights


def test_coefs_init_and_intercepts_init():
    X, y = binary()
    options = {"alpha": 0.0, "hidden_layer_sizes": (4,), "random_state": 0}
    start = BCENetClassifier(**options, max_iter=2).fit(X, y)
    coefs, intercepts = copy.deepcopy((start.coefs_, start.intercepts_))
    still = BCENetClassifier(
        **options, solver="sgd", momentum=0.0, learning_rate_init=1e-300, max_iter=1
    )
    still.fit(X, y, coefs_init=coefs, intercepts_init=intercepts)
    assert digest(parameters(still)) == digest(parameters(start))
    # One of both alone: the other is drawn as it would have been.
    drawn = digest(parameters(clone(still).fit(X, y)))
    halves = [
        clone(still).fit(X, y, coefs_init=coefs),
        clone(still).fit(X, y, intercepts_init=intercepts),
    ]
    assert digest(halves[0].coefs_[0]) == digest(coefs[0])
    assert digest(halves[1].intercepts_[0]) == digest(intercepts[0])
    assert drawn not in {digest(parameters(half)) for half in halves}
    halves[0].fit(X, y, coefs_init=halves[1].coefs_, intercepts_init=halves[0].intercepts_)
    assert digest(parameters(halves[0])) == drawn


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coefs_init": [np.ones((10, 4))]}, "coefs_init must hold arrays of shapes"),
        ({"coefs_init": [np.ones((10, 4)), np.ones((3, 1))]}, "coefs_init must hold arrays of"),
        ({"intercepts_init": [np.ones(4), np.full(1, np.nan)]}, r"intercepts_init\[1\] must be"),
    ],
)
def test_weights_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        BCENetClassifier((4,), alpha=0.0).fit(*binary(), **given)


# -------------------------------------------------------------------- a fit that fails


def snapshot(estimator):
    """The attributes' identities, and the bytes of all that a fit could have changed in place."""
    names = {name: id(value) for name, value in vars(estimator).items()}
    return names, pickle.dumps(vars(estimator))


class Failing:
    """A callback that raises an error after an epoch, or (0) before the first."""

    def __init__(self, error, epoch=1):
        self.error, self.epoch = error, epoch

    def on_fit_begin(self, state):
        self.on_epoch_end(state)

    def on_epoch_end(self, state):
        if state.epoch == self.epoch:
            raise self.error


X0, Y0 = binary()
NAN = np.where(np.arange(10) == 3, np.nan, X0)
FAILURES = {
    "rows": ({}, (X0, Y0[:-1]), {}, ValueError, "inconsistent numbers of samples"),
    "nan": ({}, (NAN, Y0), {}, ValueError, "Input X contains NaN"),
    "no y": ({}, (X0, None), {}, ValueError, "requires y to be passed, but the target y is None"),
    "continuous": ({}, (X0, X0[:, 0]), {}, ValueError, "Unknown label type: continuous"),
    "multioutput": ({}, (X0, np.c_[Y0, Y0 + 1]), {}, ValueError, "multiclass-multioutput"),
    "one class": ({}, (X0, Y0 * 0), {}, ValueError, "one class: |the same classes"),
    "negative weight": (
        {},
        (X0, Y0, -np.ones(203)),
        {},
        ValueError,
        "Negative values in data passed to `sample_weight`",
    ),
    "zero weights": (
        {},
        (X0, Y0, np.zeros(203)),
        {},
        ValueError,
        "Sample weights must contain at least one non-zero number",
    ),
    "one weighty class": ({}, (X0, Y0, Y0), {}, ValueError, "weight contain only one class: "),
    "parameter": ({"alpha": -1}, (X0, Y0), {}, ValueError, "The 'alpha' parameter of BCENetC"),
    "name": ({"solver": "adan"}, (X0, Y0), {}, ValueError, "The 'solver' parameter of BCENetC"),
    "width": ({"hidden_layer_sizes": (0,)}, (X0, Y0), {}, ValueError, "must be > 0, got"),
    "width type": ({"hidden_layer_sizes": (2.5,)}, (X0, Y0), {}, TypeError, "must be an integer"),
    "class weight": (
        {"class_weight": {0: -1.0, 1: 2.0}},
        (X0, Y0),
        {},
        ValueError,
        "class_weight must hold finite weights that are not negative",
    ),
    "weight decay": (
        {"weight_decay": 0.1},
        (X0, Y0),
        {},
        ValueError,
        "weight_decay must be None or 0 with solver='adam'",
    ),
    "validation": ({}, (X0, Y0), {"X_val": X0}, ValueError, "must be given together"),
    "validation labels": (
        {},
        (X0, Y0),
        {"X_val": X0, "y_val": Y0 + 1},
        ValueError,
        "y_val must hold labels that y has",
    ),
    "validation columns": (
        {},
        (X0, Y0),
        {"X_val": X0[:, 1:], "y_val": Y0},
        ValueError,
        "X has 9 features, but BCENetClassifier is expecting 10",
    ),
    "offset": ({}, (X0, Y0), {"offset": np.ones(3)}, ValueError, "offset must have shape"),
    "threshold": ({"threshold": "f1"}, (X0, Y0), {}, ValueError, "is chosen on validation rows"),
    "metric": ({"early_stopping_metric": "auc"}, (X0, Y0), {}, ValueError, "early_stopping_metric"),
    "callback": (
        {"callbacks": Failing(OSError("disk"))},
        (X0, Y0),
        {},
        OSError,
        "disk",
    ),
    "no callback": ({"callbacks": 3}, (X0, Y0), {}, TypeError, "callbacks must be"),
    "Ctrl-C in the first epoch": (
        {"callbacks": [Logits(X0), Failing(KeyboardInterrupt(), 0)]},
        (X0, Y0),
        {},
        KeyboardInterrupt,
        "^$",
    ),
    "divergence": (
        {"solver": bcenet.SGD(1e300), "activation": "identity"},
        (X0, Y0),
        {},
        ValueError,
        "Solver produced non-finite parameter weights",
    ),
}


@pytest.mark.parametrize("fitted", [False, True, "warm"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(failure, fitted):
    options, arguments, keywords, error, message = FAILURES[failure]
    if failure == "divergence" and fitted == "warm":
        options = {"solver": options["solver"]}
    classifier = BCENetClassifier((5,), alpha=0.0, max_iter=3, warm_start=fitted == "warm")
    if fitted:
        table = pd.DataFrame(X0, columns=[f"c{i}" for i in range(10)])
        classifier.fit(table, Y0)
    classifier.set_params(**options)
    before = snapshot(classifier)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        with pytest.raises(error, match=message):
            classifier.fit(*arguments, **keywords)
    assert snapshot(classifier) == before


def test_a_warning_made_an_error_leaves_the_estimator_as_it_was():
    classifier = BCENetClassifier((5,), alpha=0.0, max_iter=3)
    before = snapshot(classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            classifier.fit(X0, Y0)
    assert snapshot(classifier) == before
    with pytest.raises(NotFittedError):
        classifier.predict(X0)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((X0, Y0), {}, "classes must be passed on the first call to partial_fit"),
        ((X0, Y0), {"classes": [0]}, "contains only one class: "),
        ((X0, Y0 * 2), {"classes": [0, 1]}, r"`y` has classes not in `self.classes_`"),
        ((X0, Y0, [0, 1], -np.ones(203)), {}, "Negative values in data passed to `sample_wei"),
    ],
)
def test_a_first_partial_fit_that_fails(arguments, keywords, message):
    classifier = BCENetClassifier((5,), alpha=0.0)
    before = snapshot(classifier)
    with pytest.raises(ValueError, match=message):
        classifier.partial_fit(*arguments, **keywords)
    assert snapshot(classifier) == before


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((X0, Y0 + 1), {}, r"`self.classes_` has \[0 1\]. 'y' has \[1 2\]"),
        ((X0, Y0), {"classes": [0, 2]}, "is not the same as on last call to partial_fit, was: "),
        ((X0[:, :4], Y0), {}, "X has 4 features, but BCENetClassifier is expecting 10 features"),
        ((X0, np.c_[Y0, 1 - Y0]), {}, "y must be binary as in the previous fit"),
    ],
)
def test_a_later_partial_fit_that_fails(arguments, keywords, message):
    classifier = BCENetClassifier((5,), alpha=0.0).partial_fit(X0, Y0, classes=[0, 1])
    before = snapshot(classifier)
    with pytest.raises(ValueError, match=message):
        classifier.partial_fit(*arguments, **keywords)
    assert snapshot(classifier) == before


def test_warm_start_refuses_other_classes():
    warm = BCENetClassifier((5,), alpha=0.0, max_iter=1, warm_start=True).fit(X0, Y0)
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same cl"):
        warm.fit(X0, Y0 + 1)


def test_partial_fit_knows_its_limits():
    for options, message in [
        ({"early_stopping": True}, "partial_fit does not support early_stopping=True"),
        ({"class_weight": "balanced"}, "'balanced' is not supported for partial_fit"),
    ]:
        with pytest.raises(ValueError, match=message):
            BCENetClassifier(alpha=0.0, **options).partial_fit(X0, Y0, [0, 1])
    assert not hasattr(BCENetClassifier(solver="lbfgs"), "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
        _ = BCENetClassifier(solver="lbfgs").partial_fit


@pytest.mark.parametrize("early", [False, True])
def test_ctrl_c_keeps_what_was_learned(early):
    """As MLPClassifier: a warning, and the estimator of the whole epochs so far."""
    options = {"alpha": 0.0, "random_state": 0, "early_stopping": early}
    interrupted = BCENetClassifier(**options, callbacks=Failing(KeyboardInterrupt(), 4))
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        interrupted.fit(X0, Y0)
    four = BCENetClassifier(**options, max_iter=4).fit(X0, Y0)
    assert course(interrupted) == course(four)
    assert interrupted.n_iter_ == 4
    assert interrupted.validation_scores_ == four.validation_scores_


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

METRICS = {
    "accuracy": lambda y, z: sklearn_metrics.accuracy_score(y, z > 0),
    "balanced_accuracy": lambda y, z: sklearn_metrics.balanced_accuracy_score(y, z > 0),
    "f1": lambda y, z: sklearn_metrics.f1_score(y, z > 0),
    "roc_auc": sklearn_metrics.roc_auc_score,
    "average_precision": sklearn_metrics.average_precision_score,
    "log_loss": lambda y, z: -sklearn_metrics.log_loss(y, 1 / (1 + np.exp(-z))),
    "neg_brier_score": lambda y, z: -sklearn_metrics.brier_score_loss(y, 1 / (1 + np.exp(-z))),
    "scorer": lambda y, z: sklearn_metrics.matthews_corrcoef(y, z > 0),
}


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


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("problem", ["binary", "multilabel"])
def test_lbfgs_finds_mlp_classifier_s_minimum(problem, weighted):
    """A convex loss, one minimum; MLPClassifier stops once the loss falls by less than 2e-9."""
    if weighted and VERSION < (1, 7):
        pytest.skip("MLPClassifier takes sample_weight from scikit-learn 1.7 on")
    X, y = PROBLEMS[problem]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs, own = both(
            X,
            y,
            *([weights(len(X))] if weighted else []),
            solver="lbfgs",
            alpha=1.0,
            hidden_layer_sizes=(),
            tol=1e-8,
            max_iter=500,
        )
    assert own.loss_ <= theirs.loss_ + 1e-12
    assert own.loss_ == pytest.approx(theirs.loss_, rel=1e-7)
    np.testing.assert_allclose(own.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-4)
    assert own.n_iter_ == len(own.loss_curve_)
    assert own.t_ == theirs.t_ == 0


def test_lbfgs_warns_goes_on_and_does_not_stop_early():
    options = {"solver": "lbfgs", "alpha": 0.1, "random_state": 0, "early_stopping": True}
    with pytest.warns(ConvergenceWarning, match=r"lbfgs failed to converge after 4 iteration\(s\)"):
        short = BCENetClassifier((5,), **options, max_iter=4, warm_start=True).fit(X0, Y0)
    assert short.validation_scores_ is None
    before = short.loss_
    assert short.fit(X0, Y0).loss_ < before
    # From the minimum there is nowhere to go.
    end = BCENetClassifier((), **options, tol=1e-6, max_iter=500, warm_start=True).fit(X0, Y0)
    before = end.loss_
    end.set_params(tol=1e-3).fit(X0, Y0)
    assert (end.n_iter_, end.loss_) == (0, before)
    given = BCENetClassifier((), **{**options, "solver": bcenet.LBFGS(1e-6)}, max_iter=500)
    assert digest(parameters(given.fit(X0, Y0))) == digest(parameters(end))


# ------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("make", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_rows_are_dense_ones(make, dtype):
    X = np.where(np.random.default_rng(0).random((203, 10)) < 0.7, 0, X0).astype(dtype)
    options = {"alpha": 0.0, "max_iter": 4, "random_state": 0, "early_stopping": True}
    dense = BCENetClassifier(**options).fit(X, Y0)
    thin = BCENetClassifier(**options).fit(make(X), Y0)
    assert digest(parameters(thin)) == digest(parameters(dense))
    assert parameters(thin).dtype == dtype
    assert digest(thin.decision_function(make(X))) == digest(dense.decision_function(X))
    with_rows = BCENetClassifier(**options).fit(X, Y0, X_val=make(X), y_val=Y0)
    assert (
        with_rows.validation_scores_
        == clone(with_rows).fit(X, Y0, X_val=X, y_val=Y0).validation_scores_
    )


def test_wide_sparse_rows_are_predicted_in_blocks():
    X = sparse.random_array((50, 100_000), density=1e-4, rng=np.random.default_rng(0)).tocsr()
    y = np.resize([0, 1], 50)
    classifier = BCENetClassifier((2,), alpha=0.0, max_iter=1, dtype="float32").fit(X, y)
    dense = classifier.decision_function(X.toarray())
    assert digest(classifier.decision_function(X)) == digest(dense)
    assert len(list(bcenet.sklearn.rows.blocks(X))) == 5


TABLES = {
    "pandas": lambda X, names: pd.DataFrame(X, columns=names),
    "polars": lambda X, names: pl.DataFrame(X, schema=names),
    "arrow": lambda X, names: pa.table(dict(zip(names, X.T, strict=True))),
}


@pytest.mark.parametrize("library", TABLES)
def test_tables(library):
    names = [f"column {i}" for i in range(10)]
    table = TABLES[library](X0, names)
    if not hasattr(StandardScaler().fit(table), "feature_names_in_"):
        pytest.skip(f"scikit-learn {sklearn.__version__} takes no names from this table")
    labels = np.array(["no", "yes"])[Y0]
    series = {"pandas": pd.Series, "polars": pl.Series, "arrow": pa.array}[library](labels)
    options = {"alpha": 0.0, "max_iter": 3, "random_state": 0}
    plain = BCENetClassifier(**options).fit(X0, labels)
    named = BCENetClassifier(**options, early_stopping_metric="roc_auc")
    named.fit(table, series, X_val=table, y_val=series)
    assert named.feature_names_in_.tolist() == names
    assert named.n_features_in_ == 10
    np.testing.assert_array_equal(named.predict(table), plain.predict(X0))
    assert digest(parameters(named)) == digest(parameters(plain))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        named.predict(X0)
    with pytest.raises(ValueError, match="The feature names should match those that were passed"):
        named.predict(TABLES[library](X0, names[::-1]))


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        (np.float32, None, np.float32),
        (np.float64, None, np.float64),
        (np.float16, None, np.float64),
        (np.int8, None, np.float64),
        (np.float64, "float32", np.float32),
        (np.float32, np.float64, np.float64),
    ],
)
def test_the_dtype_is_the_input_s(given, dtype, expected):
    X = (X0 * 8).astype(given)
    classifier = BCENetClassifier(alpha=0.0, max_iter=1, dtype=dtype).fit(X, Y0)
    assert classifier.network_.dtype == expected
    assert classifier.predict_proba(X).dtype == expected
    assert all(w.dtype == expected for w in classifier.coefs_ + classifier.intercepts_)


def test_more_threads_change_nothing():
    options = {"alpha": 0.0, "max_iter": 3, "random_state": 0}
    one, three = (BCENetClassifier(**options, n_threads=n).fit(X0, Y0) for n in (1, 3))
    assert digest(parameters(one)) == digest(parameters(three))


# -------------------------------------------------------------------- inside scikit-learn

CANCER = load_breast_cancer()


def scaled(**options):
    options = {"hidden_layer_sizes": (16,), "alpha": 0.0, "max_iter": 40, **options}
    classifier = BCENetClassifier(learning_rate_init=0.01, random_state=0, **options)
    return make_pipeline(StandardScaler(), classifier)


def test_grid_search_in_a_pipeline():
    grid = {"bcenetclassifier__activation": ["tanh", "relu"], "bcenetclassifier__max_iter": [2, 40]}
    search = GridSearchCV(scaled(), grid, cv=3, scoring="neg_log_loss", n_jobs=2)
    search.fit(CANCER.data, CANCER.target)
    assert search.best_params_["bcenetclassifier__max_iter"] == 40
    # LogisticRegression reaches 0.08 in the same splits.
    assert search.best_score_ > -0.1


def test_cross_val_predict_and_calibration():
    y = CANCER.target
    p = cross_val_predict(scaled(), CANCER.data, y, cv=3, method="predict_proba")[:, 1]
    assert sklearn_metrics.roc_auc_score(y, p) > 0.98
    # Weights spoil the probabilities; calibrating mends them.
    spoilt = scaled(pos_weight=50.0)
    raw = cross_val_predict(spoilt, CANCER.data, y, cv=3, method="predict_proba")[:, 1]
    calibrated = CalibratedClassifierCV(spoilt, cv=3)
    mended = cross_val_predict(calibrated, CANCER.data, y, cv=3, method="predict_proba")[:, 1]
    brier = sklearn_metrics.brier_score_loss
    assert brier(y, mended) < brier(y, raw)
    assert brier(y, p) < 0.04


def test_permutation_importance():
    """A column of noise has none, the columns together have much."""
    rng = np.random.default_rng(0)
    X = np.c_[CANCER.data[:, 20:24], rng.normal(size=569)]
    classifier = scaled().fit(X, CANCER.target)
    found = permutation_importance(classifier, X, CANCER.target, n_repeats=5, random_state=0)
    assert found.importances_mean[:4].max() > 0.05
    assert abs(found.importances_mean[4]) < 0.02


def test_metadata_routing_brings_validation_rows_through_a_pipeline():
    X, y = CANCER.data, CANCER.target
    with config_context(enable_metadata_routing=True):
        classifier = BCENetClassifier(alpha=0.0, max_iter=5, early_stopping=True, random_state=0)
        classifier.set_fit_request(X_val=True, y_val=True, sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, classifier, transform_input=["X_val"])
        pipeline.fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:], sample_weight=weights(400))
        scale = StandardScaler().fit(X[:400])
        by_hand = clone(classifier).fit(
            scale.transform(X[:400]),
            y[:400],
            X_val=scale.transform(X[400:]),
            y_val=y[400:],
            sample_weight=weights(400),
        )
        assert digest(parameters(pipeline[-1])) == digest(parameters(by_hand))
        assert pipeline[-1].validation_scores_ == by_hand.validation_scores_
        scores = cross_validate(
            clone(classifier)
            .set_fit_request(X_val=False, y_val=False)
            .set_score_request(sample_weight=True),
            scale.transform(X),
            y,
            params={"sample_weight": weights(len(y))},
        )
        assert (scores["test_score"] > 0.8).all()
        request = classifier.get_metadata_routing()
        assert request.fit.requests["X_val"] is True
        assert set(request.predict_proba.requests) == {"corrected", "offset"}


def test_without_scikit_learn_an_import_error_names_the_extra():
    code = "import sys; sys.modules['sklearn'] = None; import bcenet.sklearn"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert last == "ImportError: bcenet.sklearn needs scikit-learn: pip install 'bcenet[sklearn]'"


EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "adult_sklearn.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the sources are not here")
def test_the_example_runs():
    code = f"import runpy; runpy.run_path({str(EXAMPLE)!r})['main'](1500)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    losses = re.findall(r"corrected=\w+ *: AUC 0.\d+, log-loss (0.\d+)", result.stdout)
    uncorrected, corrected = map(float, losses)
    assert corrected < uncorrected - 0.02


def test_clones_pickles_and_the_html_repr():
    X, y = multilabel()
    classifier = BCENetClassifier(
        (4, 3), learning_rate=bcenet.schedules.Cosine(), solver=bcenet.AdamW(0.01), max_iter=2
    )
    copied = clone(classifier)
    assert repr(copied) == repr(classifier)
    assert copied.solver is not classifier.solver
    classifier.fit(X, y)
    assert classifier.solver.step == 0
    assert classifier.learning_rate.began is None
    again = pickle.loads(pickle.dumps(classifier))
    assert digest(again.predict_proba(X)) == digest(classifier.predict_proba(X))
    # The weights are the network's, not copies beside it.
    assert np.shares_memory(again.coefs_[0], again.network_.parameters)
    assert again._training.network is again.network_
    assert "BCENetClassifier" in classifier._repr_html_()
    assert not hasattr(copied, "coefs_")
    assert not hasattr(copied, "intercepts_")


def test_the_network_can_be_taken_out(tmp_path):
    classifier = BCENetClassifier(alpha=0.0, max_iter=3).fit(X0, Y0)
    classifier.network_.save(tmp_path / "net.bcenet")
    network = bcenet.load(tmp_path / "net.bcenet")
    assert digest(network.decision_function(X0)) == digest(classifier.decision_function(X0))


def test_a_linear_model_agrees_with_logistic_regression():
    """No hidden layer: LogisticRegression with C = 1 / alpha."""
    X = StandardScaler().fit_transform(CANCER.data)
    own = BCENetClassifier((), solver="lbfgs", alpha=1.0, tol=1e-9, max_iter=10_000)
    own.set_params(random_state=0).fit(X, CANCER.target)
    theirs = LogisticRegression(C=1.0, tol=1e-9, max_iter=10_000).fit(X, CANCER.target)
    np.testing.assert_allclose(own.coefs_[0][:, 0], theirs.coef_[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(own.intercepts_[0], theirs.intercept_, rtol=0, atol=1e-5)


def test_user_callbacks_see_the_fit_and_can_stop_it():
    seen = []

    def stop_at_three(state):
        seen.append((state.epoch, state.validation_loss is not None))
        return state.epoch == 3

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was stopped: no ConvergenceWarning
        classifier = BCENetClassifier(alpha=0.0, callbacks=stop_at_three)
        classifier.fit(X0, Y0, X_val=X0, y_val=Y0)
    assert seen == [(1, True), (2, True), (3, True)]
    assert classifier.n_iter_ == 3


needs_callbacks = pytest.mark.skipif(
    VERSION < (1, 9), reason="scikit-learn has callbacks from 1.9 on"
)


@needs_callbacks
def test_scikit_learn_s_scoring_monitor():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="neg_log_loss")
    seen = Logits(X0)
    classifier = BCENetClassifier(alpha=0.0, max_iter=4, callbacks=seen).set_callbacks(monitor)
    names = [f"c{i}" for i in range(10)]
    classifier.fit(pd.DataFrame(X0, columns=names), Y0)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    expected = [METRICS["log_loss"](Y0, z) for z in seen.logits]
    np.testing.assert_allclose([row["neg_log_loss"] for row in rows], expected, rtol=1e-10)


@needs_callbacks
def test_scikit_learn_s_callbacks_stop_a_fit_and_are_torn_down():
    class Recorder:
        def __init__(self, stop=None, fail=None):
            self.calls, self.stop, self.fail = [], stop, fail

        def setup(self, estimator, context):
            self.calls.append("setup")

        def teardown(self, estimator, context):
            self.calls.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            self.calls.append(f"begin {context.task_name} {context.task_id}")

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            self.calls.append(f"end {context.task_name} {context.task_id}")
            if context.task_name == "epoch":
                assert fitted_estimator.n_iter_ == context.task_id + 1
                assert not hasattr(estimator, "classes_")
                if self.fail == context.task_id:
                    raise OSError("disk")
                return self.stop == context.task_id
            return False

    recorder = Recorder(stop=1)
    classifier = BCENetClassifier(alpha=0.0).set_callbacks(recorder).fit(X0, Y0)
    assert classifier.n_iter_ == 2
    assert recorder.calls == [
        "setup",
        "begin fit 0",
        "begin epoch 0",
        "end epoch 0",
        "begin epoch 1",
        "end epoch 1",
        "end fit 0",
        "teardown",
    ]
    recorder = Recorder(fail=0)
    failing = BCENetClassifier(alpha=0.0).set_callbacks(recorder)
    with pytest.raises(OSError, match="disk"):
        failing.fit(X0, Y0)
    assert recorder.calls[-1] == "teardown"
    assert set(vars(failing)) == set(vars(BCENetClassifier())) | {"_skl_callbacks"}


@needs_callbacks
def test_scikit_learn_s_callbacks_through_a_grid_search():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    classifier = BCENetClassifier(alpha=0.0, max_iter=2).set_callbacks(monitor)
    GridSearchCV(classifier, {"activation": ["relu", "tanh"]}, cv=2).fit(X0, Y0)
    logs = monitor.get_logs(select="all")
    epochs = [row for log in logs for row in log.data if row["task_name"] == "epoch"]
    assert len(epochs) == (2 * 2 + 1) * 2
