"""`BCENetClassifier`: kinds of data, scikit-learn's tools and callbacks."""

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
from helpers import digest
from scipy import sparse
from sklearn import config_context
from sklearn import metrics as sklearn_metrics
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn_problems import METRICS, VERSION, X0, Y0, Logits, multilabel, parameters, weights

import bcenet
from bcenet.sklearn import BCENetClassifier

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

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


def test_wide_sparse_rows():
    X = sparse.random_array((50, 100_000), density=1e-4, rng=np.random.default_rng(0)).tocsr()
    y = np.resize([0, 1], 50)
    classifier = BCENetClassifier((2,), alpha=0.0, max_iter=1, dtype="float32").fit(X, y)
    dense = classifier.decision_function(X.toarray())
    assert digest(classifier.decision_function(X)) == digest(dense)


def thin_rows():
    X = sparse.random_array((203, 400), density=0.01, rng=np.random.default_rng(0)).tocsr()
    assert 0 < (X.count_nonzero(axis=0) == 0).sum() < 100
    return X


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
def test_lazy_steps_are_those_of_the_core(solver):
    X = thin_rows()
    options = {"alpha": 0.1, "max_iter": 3, "batch_size": 20, "learning_rate_init": 0.01}
    classifier = BCENetClassifier((6,), solver=solver, lazy=True, random_state=0, **options)
    start = clone(classifier).set_params(solver="sgd", learning_rate_init=1e-300, max_iter=1)
    start.set_params(alpha=0.0, momentum=0.0).fit(X, Y0)
    classifier.fit(X, Y0, coefs_init=start.coefs_, intercepts_init=start.intercepts_)
    net = bcenet.Network([400, 6, 1], dtype="float64", random_state=0)
    net.parameters[:] = parameters(start)
    optimizer = {
        "sgd": lambda: bcenet.SGD(0.01, 0.9, True, rate_inside=True),
        "adam": lambda: bcenet.Adam(0.01, epsilon_inside=True),
        "adamw": lambda: bcenet.AdamW(0.01, epsilon_inside=True),
    }[solver]()
    seed = classifier._training.optimizer.seed
    bcenet.fit(
        net, X, Y0, optimizer=optimizer, lazy=True, l2=0.1, epochs=3, batch_size=20,
        random_state=seed, label_reduction="sum",
    )  # fmt: skip
    assert digest(parameters(classifier)) == digest(net.parameters)
    absent = X.count_nonzero(axis=0) == 0
    assert np.array_equal(classifier.coefs_[0][absent], start.coefs_[0][absent])
    exact = clone(classifier).set_params(lazy=False)
    exact.fit(X, Y0, coefs_init=start.coefs_, intercepts_init=start.intercepts_)
    assert not np.array_equal(exact.coefs_[0][absent], start.coefs_[0][absent])


def test_lazy_steps_of_a_warm_start_and_of_partial_fit():
    X = thin_rows()
    options = {"lazy": True, "batch_size": 20, "random_state": 0, "tol": 0.0}
    expected = BCENetClassifier((6,), max_iter=4, **options).fit(X, Y0)
    warm = BCENetClassifier((6,), max_iter=2, warm_start=True, **options).fit(X, Y0).fit(X, Y0)
    part = BCENetClassifier((6,), **options)
    for _ in range(4):
        part.partial_fit(X, Y0, classes=[0, 1])
    for classifier in (warm, part):
        assert digest(parameters(classifier)) == digest(parameters(expected))
    with_rows = BCENetClassifier((6,), max_iter=4, early_stopping=True, **options)
    with_rows.fit(X, Y0, X_val=X.toarray(), y_val=Y0)  # which may be dense
    assert len(with_rows.validation_scores_) == 4


LAZY_REFUSED = {
    "a dense X": {},
    "optimizer 'lbfgs'": {"solver": "lbfgs"},
    "averaging": {"averaging": bcenet.EMA(0.9)},
    "clip_norm, max_norm or feature_scale": {"feature_scale": True},
}


@pytest.mark.parametrize("what", LAZY_REFUSED)
def test_lazy_is_refused(what):
    X = thin_rows()
    classifier = BCENetClassifier(lazy=True, **LAZY_REFUSED[what])
    dense = what == "a dense X"
    with pytest.raises(ValueError, match=f"lazy must be False with {what}; got True"):
        classifier.fit(X.toarray() if dense else X, Y0)
    assert not hasattr(classifier, "network_")
    if dense:
        classifier.partial_fit(X, Y0, classes=[0, 1])
        before = parameters(classifier).copy()
        with pytest.raises(ValueError, match="lazy must be False with a dense X; got True"):
            classifier.partial_fit(X.toarray(), Y0)
        assert np.array_equal(parameters(classifier), before)
    with pytest.raises(ValueError, match="The 'lazy' parameter of BCENetClassifier must be"):
        BCENetClassifier(lazy="yes").fit(X, Y0)


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
