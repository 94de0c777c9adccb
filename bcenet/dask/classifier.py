"""`DaskBCENetClassifier`: an estimator over Dask collections."""

from __future__ import annotations

from typing import Any

import dask.array as da
import distributed
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from bcenet.dask import collections, fitting
from bcenet.network import Network
from bcenet.sklearn.labels import Labels


class DaskBCENetClassifier(ClassifierMixin, BaseEstimator):
    """A feed-forward network with sigmoid outputs, trained over a Dask cluster.

    Labels as `bcenet.sklearn.BCENetClassifier` has them: one sigmoid for two classes, one a class
    for more, one a label for an indicator matrix. The loss is the mean over rows of the sum over a
    row's sigmoids, plus alpha / 2 times the sum of the squared weights, divided by the rows. The
    cluster is that of Dask's current client: the one made last, or of ``client.as_current()``.

    Arguments:
        hidden_layer_sizes, activation: of the hidden layers.
        solver: an optimizer's name. learning_rate_init: None is the solver's own.
        alpha: L2 penalty. batch_size, local_steps, outer_learning_rate, outer_momentum, mode,
        shuffle, pos_weight, label_smoothing, dropout, schedule, callbacks: as `bcenet.dask.fit`
        takes them. max_iter: its epochs. random_state: of the first weights, the shuffling and
        dropout. dtype: of the network.

    Attributes:
        classes_: the labels, sorted. network_: the bcenet.Network. loss_curve_: of every epoch.
        n_features_in_: columns of X. n_iter_: epochs.

    Example:
        >>> import numpy as np
        >>> import dask.array as da
        >>> from distributed import Client
        >>> from bcenet.dask import DaskBCENetClassifier
        >>> X = da.from_array(np.array([[0.0], [3.0], [1.0], [2.0]]), chunks=(2, 1))
        >>> y = da.from_array(np.array(["no", "yes", "no", "yes"]), chunks=2)
        >>> classifier = DaskBCENetClassifier((8,), alpha=0.0, max_iter=100, random_state=0)
        >>> with Client(processes=False, dashboard_address=":0"):
        ...     classifier.set_params(learning_rate_init=0.1).fit(X, y).predict(X).compute()
        array(['no', 'yes', 'no', 'yes'], dtype='<U3')
    """

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size=None,
        learning_rate_init=None,
        max_iter=20,
        mode="local",
        local_steps="auto",
        outer_learning_rate=1.0,
        outer_momentum=None,
        shuffle=True,
        random_state=None,
        pos_weight=None,
        label_smoothing=0.0,
        dropout=0.0,
        schedule=None,
        dtype="float32",
        callbacks=(),
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.mode = mode
        self.local_steps = local_steps
        self.outer_learning_rate = outer_learning_rate
        self.outer_momentum = outer_momentum
        self.shuffle = shuffle
        self.random_state = random_state
        self.pos_weight = pos_weight
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.schedule = schedule
        self.dtype = dtype
        self.callbacks = callbacks

    def fit(self, X, y, sample_weight=None):
        """Train the network.

        Arguments:
            X: a Dask array (n, features), or a Dask DataFrame with the target among its columns.
            y: a Dask array of labels (n,) or an indicator (n, k) of 0 and 1; the name of the
                target's column beside a DataFrame.
            sample_weight: a Dask array (n,), or a column's name; not negative.

        Returns: the estimator.

        Raises: as `bcenet.dask.fit`; ValueError for a single class, or where there is no client.
        """
        client = distributed.get_client()
        if collections.is_frame(X):
            X, y, sample_weight = _columns(X, y, sample_weight)
        rows = collections.rows_of(X)
        targets = collections.aligned("y", y, rows)
        labels = _labels_of(targets, fitting.Cluster(client))
        network = Network(
            [rows.shape[1], *_sizes(self.hidden_layer_sizes), labels.outputs],
            "sigmoid" if self.activation == "logistic" else self.activation,
            dtype=self.dtype,
            random_state=self.random_state,
        )
        history = fitting.fit(
            client,
            network,
            rows,
            targets.map_blocks(_targets, labels, **_shape_of(targets, labels)),
            mode=self.mode,
            optimizer=self.solver,
            learning_rate=self.learning_rate_init,
            batch_size=self.batch_size,
            epochs=self.max_iter,
            local_steps=self.local_steps,
            outer_learning_rate=self.outer_learning_rate,
            outer_momentum=self.outer_momentum,
            sample_weight=sample_weight,
            pos_weight=self.pos_weight,
            label_smoothing=self.label_smoothing,
            callbacks=self.callbacks,
            shuffle=self.shuffle,
            random_state=self.random_state,
            label_reduction="sum",
            schedule=self.schedule,
            dropout=self.dropout,
            l2=self.alpha,
        )
        self.network_, self._labels, self.classes_ = network, labels, labels.classes
        self.loss_curve_ = history.loss
        self.n_iter_, self.n_features_in_ = len(history.loss), rows.shape[1]
        return self

    def decision_function(self, X):
        """The logits, lazy: (n,) for two classes, else (n, classes or labels)."""
        check_is_fitted(self)
        return fitting.decision_function(self.network_, X)

    def predict_proba(self, X):
        """Probabilities, lazy: (n, classes), or (n, k) that each label is there."""
        check_is_fitted(self)
        columns = len(self.classes_)
        state = (self.network_, self._labels)
        return fitting.outputs(state, X, _proba, columns, self.network_.dtype)

    def predict(self, X):
        """Labels, lazy: (n,), or an indicator (n, k) of 0 and 1."""
        check_is_fitted(self)
        multilabel = self._labels.kind == "multilabel"
        columns = len(self.classes_) if multilabel else 1
        dtype = np.dtype(int) if multilabel else self.classes_.dtype
        return fitting.outputs((self.network_, self._labels), X, _predict, columns, dtype)

    def score(self, X, y, sample_weight=None):
        """The accuracy of `predict` on Dask arrays (of whole rows for several labels): a float."""
        right = self.predict(X) == y
        if right.ndim == 2:
            right = right.all(axis=1)
        return float(da.average(right, weights=sample_weight).compute())


def _sizes(value: Any) -> list[Any]:
    return list(value) if hasattr(value, "__iter__") else [value]


def _columns(X: Any, y: Any, sample_weight: Any) -> tuple[da.Array, da.Array, da.Array | None]:
    """A DataFrame's inputs, its target and its weights as arrays."""
    collections.check_names(X, y, sample_weight)
    named = [*(y if isinstance(y, list) else [y]), sample_weight]
    inputs = X[[name for name in X.columns if name not in named]]
    weight = None if sample_weight is None else collections.values_of(X[sample_weight])
    return inputs, collections.values_of(X[y]), weight


def _labels_of(y: da.Array, cluster: fitting.Cluster) -> Labels:
    if y.ndim == 2:
        return Labels("multilabel", np.arange(y.shape[1]))
    return Labels.of(cluster.compute(da.unique(y)))


def _shape_of(y: da.Array, labels: Labels) -> dict[str, Any]:
    if labels.kind == "multiclass":
        return {"new_axis": 1, "chunks": (y.chunks[0], (labels.outputs,)), "dtype": bool}
    return {"dtype": bool}


def _targets(y: np.ndarray, labels: Labels) -> np.ndarray:
    return labels.targets(labels.codes(np.asarray(y)))


def _proba(X: np.ndarray, state: tuple[Network, Labels]) -> np.ndarray:
    network, labels = state
    return labels.proba(network.decision_function(np.asarray(X), n_threads=1))


def _predict(X: np.ndarray, state: tuple[Network, Labels]) -> np.ndarray:
    network, labels = state
    return labels.predict(network.decision_function(np.asarray(X), n_threads=1), 0.5)
