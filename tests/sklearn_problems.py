"""What the test files of `bcenet.sklearn` share: problems, and looks into a fit."""

import numpy as np
import sklearn
from sklearn import metrics as sklearn_metrics
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.preprocessing import StandardScaler

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


X0, Y0 = binary()

# name of a metric -> its value for labels 0 and 1 and logits
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
