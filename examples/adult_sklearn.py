"""BCENetClassifier in scikit-learn's tools, on the census data: who earns over 50,000 dollars?

    python examples/adult_sklearn.py [--rows N]

It needs the extras `sklearn` and pandas: pip install 'bcenet[sklearn]' pandas

Steps: a pipeline with a ColumnTransformer and early stopping, beside MLPClassifier; bcenet's own
encoder; a grid search; class weights and probabilities corrected for them; calibration; the columns
that matter.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer

from bcenet.sklearn import BCENetClassifier
from bcenet.tabular import TabularEncoder

FOLDER = Path(__file__).parent


def load(name: str, rows: int | None) -> tuple[pd.DataFrame, pd.Series]:
    table = pd.read_csv(FOLDER / name, na_values="?", nrows=rows)
    # fnlwgt is the survey's weight of a row, not a property of the person.
    return table.drop(columns=["income", "fnlwgt"]), table["income"] == ">50K"


def pipeline(classifier):
    """Numbers spread evenly, categories one-hot, missing ones a category of their own."""
    numbers = make_pipeline(
        SimpleImputer(), QuantileTransformer(output_distribution="normal", random_state=0)
    )
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20)
    encode = ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include="number")),
            ("categories", categories, make_column_selector(dtype_exclude="number")),
        ],
        sparse_threshold=0,
    )
    return make_pipeline(encode, classifier)


def measures(y: pd.Series, p: np.ndarray) -> str:
    return f"AUC {roc_auc_score(y, p):.4f}, log-loss {log_loss(y, p):.4f}"


def main(rows: int | None = None) -> None:
    X, y = load("adult.csv.gz", rows)
    X_test, y_test = load("adult-test.csv.gz", rows)
    options = {"hidden_layer_sizes": (64, 32), "early_stopping": True, "random_state": 0}

    print("The same parameters, early stopping on the accuracy:")
    for kind in (MLPClassifier, BCENetClassifier):
        begun = time.perf_counter()
        model = pipeline(kind(**options)).fit(X, y)
        seconds = time.perf_counter() - begun
        found = measures(y_test, model.predict_proba(X_test)[:, 1])
        print(f"  {kind.__name__:16} {found}; {model[-1].n_iter_} epochs, {seconds:.1f} s in all")

    print("What MLPClassifier has not: AdamW, dropout, early stopping on the log-loss:")
    network = BCENetClassifier(
        **options,
        activation="silu",
        solver="adamw",
        weight_decay=0.3,
        alpha=0.0,
        dropout=0.1,
        early_stopping_metric="log_loss",
        tol=0.0,
        dtype="float32",
    )
    model = pipeline(network).fit(X, y)
    print(f"  {measures(y_test, model.predict_proba(X_test)[:, 1])}")

    print("The same network behind bcenet's own encoder of tables:")
    encoder = TabularEncoder().fit(X)
    network = clone(network).fit(encoder.transform(X), y)
    print(f"  {measures(y_test, network.predict_proba(encoder.transform(X_test))[:, 1])}")

    print("A grid search over folds of the training rows:")
    grid = {"bcenetclassifier__learning_rate": ["constant", "one-cycle"]}
    grid["bcenetclassifier__max_iter"] = [5, 15]
    fixed = clone(network).set_params(
        early_stopping=False, n_iter_no_change=np.inf
    )  # all of max_iter
    search = GridSearchCV(pipeline(fixed), grid, cv=3, scoring="neg_log_loss", n_jobs=-1)
    search.fit(X, y)
    print(f"  best log-loss {-search.best_score_:.4f} with {search.best_params_}")

    print("Class weights for balanced decisions, and probabilities without them:")
    fixed.set_params(max_iter=10, class_weight="balanced")
    model = pipeline(fixed).fit(X, y)
    balanced = balanced_accuracy_score(y_test, model.predict(X_test))
    print(f"  balanced accuracy {balanced:.4f}")
    for corrected in (False, True):
        p = model[-1].predict_proba(model[:-1].transform(X_test), corrected=corrected)[:, 1]
        print(f"  corrected={corrected!s:5}: {measures(y_test, p)}")

    print("Calibrated instead, and predicted out of fold:")
    calibrated = CalibratedClassifierCV(pipeline(fixed), method="isotonic", cv=3)
    p = calibrated.fit(X, y).predict_proba(X_test)[:, 1]
    print(f"  {measures(y_test, p)}")
    p = cross_val_predict(model, X, y, cv=3, method="predict_proba")[:, 1]
    print(f"  out of fold, uncorrected: {measures(y, p)}")

    print("The loss of AUC where a column is shuffled:")
    found = permutation_importance(
        model, X_test, y_test, scoring="roc_auc", n_repeats=2, random_state=0, max_samples=0.3
    )
    for i in np.argsort(-found.importances_mean)[:5]:
        print(f"  {X.columns[i]:16} {found.importances_mean[i]:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="of both parts; all without it")
    main(parser.parse_args().rows)
