"""`BCENetClassifier`: scikit-learn's checks, `MLPClassifier`'s steps, warm starts, failing fits."""

import copy
import io
import pickle
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import digest, relative_to_largest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.neural_network import MLPClassifier
from sklearn.utils.estimator_checks import check_param_validation, parametrize_with_checks
from sklearn_problems import (
    FIXED,
    PROBLEMS,
    VERSION,
    X0,
    Y0,
    Logits,
    binary,
    parameters,
    weights,
)

import bcenet
from bcenet.sklearn import BCENetClassifier

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

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
    # Convex, and not to the end: rounding may lead to another minimum, and decides where near one
    # it stops.
    BCENetClassifier((), solver="lbfgs", alpha=0.1, max_iter=20),
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


def lost_disk():
    return OSError("disk")


class Failing:
    """A callback that raises an error after an epoch, or (0) before the first.

    It makes the error then: one that was raised keeps its traceback, which a pickle may hold.
    """

    def __init__(self, error, epoch=1):
        self.error, self.epoch = error, epoch

    def on_fit_begin(self, state):
        self.on_epoch_end(state)

    def on_epoch_end(self, state):
        if state.epoch == self.epoch:
            raise self.error()


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
        {"callbacks": Failing(lost_disk)},
        (X0, Y0),
        {},
        OSError,
        "disk",
    ),
    "no callback": ({"callbacks": 3}, (X0, Y0), {}, TypeError, "callbacks must be"),
    "Ctrl-C in the first epoch": (
        {"callbacks": [Logits(X0), Failing(KeyboardInterrupt, 0)]},
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
    interrupted = BCENetClassifier(**options, callbacks=Failing(KeyboardInterrupt, 4))
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        interrupted.fit(X0, Y0)
    four = BCENetClassifier(**options, max_iter=4).fit(X0, Y0)
    assert course(interrupted) == course(four)
    assert interrupted.n_iter_ == 4
    assert interrupted.validation_scores_ == four.validation_scores_
