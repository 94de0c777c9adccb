"""What one saves: a network alone, or a model that goes from a table's columns to a label."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bcenet import checks, model_file
from bcenet.errors import ModelFormatError
from bcenet.network import Network
from bcenet.tabular import TabularEncoder

_LOADERS = {
    "network": "bcenet.load",
    "model": "bcenet.load_model",
    "checkpoint": "bcenet.resume",
}


class Model:
    """A fitted encoder, the network behind it, and what its output means.

    ``P(positive) = sigmoid(network(encoder(table)))``; the label is the positive one where that
    probability is at least the threshold.

    Arguments:
        encoder: a fitted `bcenet.tabular.TabularEncoder`.
        network: a `bcenet.Network` with one output and as many inputs as the encoder gives.
        labels: (negative, positive), two different strings or numbers (a boolean is one).
        threshold: the smallest probability, in [0, 1], that is called positive.
        target: the name of the column that is predicted.
        training: how the network was trained; any JSON-able dict, kept for the record.

    Raises:
        ValueError, TypeError: naming the argument, what it must be and what it was.

    >>> import bcenet
    >>> table = {"size": [1.0, 2.0, 3.0, 4.0], "colour": ["red", "red", "blue", "blue"]}
    >>> encoder = bcenet.tabular.TabularEncoder().fit(table)
    >>> network = bcenet.Network([encoder.n_features_out, 1], random_state=0)
    >>> model = Model(encoder, network, ("no", "yes"), threshold=1.0)
    >>> model.predict_proba(table).shape
    (4,)
    >>> model.predict(table).tolist()
    ['no', 'no', 'no', 'no']
    """

    def __init__(
        self,
        encoder: TabularEncoder,
        network: Network,
        labels: tuple[Any, Any],
        *,
        threshold: float = 0.5,
        target: str = "target",
        training: dict[str, Any] | None = None,
    ) -> None:
        if network.layer_sizes[-1] != 1:
            raise ValueError(f"network must have one output; got {network.layer_sizes[-1]}")
        features = encoder.n_features_out
        if network.layer_sizes[0] != features:
            raise ValueError(
                f"network must have the encoder's {features} columns as inputs; "
                f"got {network.layer_sizes[0]}"
            )
        if not isinstance(target, str):
            raise TypeError(f"target must be a string; got {checks.describe(target)}")
        if training is not None and not isinstance(training, dict):
            raise TypeError(f"training must be a dict; got {checks.describe(training)}")
        self.encoder = encoder
        self.network = network
        self.labels = _check_labels(labels)
        self.threshold = checks.number("threshold", threshold, 0.0, 1.0)
        self.target = target
        self.training = dict(training or {})

    def decision_function(self, table: Any, n_threads: int | None = None) -> np.ndarray:
        """The logit of the positive label for each row of ``table``: (n,), the network's dtype.

        ``table`` is what `TabularEncoder.transform` takes: a mapping of column names to
        sequences, a data frame, an Arrow table or an array. Columns that the encoder doesn't know
        are ignored; one that is missing is a ValueError.
        """
        return self.network.decision_function(self.encoder.transform(table), n_threads=n_threads)

    def predict_proba(self, table: Any, n_threads: int | None = None) -> np.ndarray:
        """P(positive) for each row of ``table``: (n,), in [0, 1]; see `decision_function`."""
        return self.network.predict_proba(self.encoder.transform(table), n_threads=n_threads)

    def predict(self, table: Any, n_threads: int | None = None) -> np.ndarray:
        """The label of each row: the positive one where P(positive) >= threshold; (n,)."""
        return self.label_of(self.predict_proba(table, n_threads))

    def label_of(self, probability: np.ndarray) -> np.ndarray:
        """The labels that belong to probabilities of the positive label; the same shape."""
        negative, positive = self.labels
        alike = type(negative) is type(positive)
        labels = np.array([negative, positive], dtype=None if alike else object)
        return labels[(probability >= self.threshold).astype(np.intp)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, whole or not at all; `load_model` reads it.

        Raises OSError if the file cannot be written (the old one is then untouched), and
        ValueError if the model holds numbers that are not finite.

        >>> import bcenet, tempfile
        >>> table = {"size": [1.0, 2.0, 3.0, 4.0]}
        >>> encoder = bcenet.tabular.TabularEncoder().fit(table)
        >>> network = bcenet.Network([encoder.n_features_out, 1], random_state=0)
        >>> model = Model(encoder, network, ("no", "yes"))
        >>> folder = tempfile.TemporaryDirectory()
        >>> model.save(folder.name + "/size.bcenet")
        >>> again = bcenet.load_model(folder.name + "/size.bcenet")
        >>> bool((again.predict_proba(table) == model.predict_proba(table)).all())
        True
        >>> folder.cleanup()
        """
        encoder_config, arrays = self.encoder.state()
        config = {
            "network": self.network.config(),
            "encoder": encoder_config,
            "labels": list(self.labels),
            "threshold": self.threshold,
            "target": self.target,
            "training": self.training,
        }
        tensors = {f"encoder.{name}": array for name, array in arrays.items()}
        tensors |= _tensors(self.network)
        model_file.write(path, tensors, {"kind": "model", "config": config})


def load_model(path: str | os.PathLike[str]) -> Model:
    """Read a `Model` from the file that `Model.save` wrote.

    Nothing in the file is executed; every byte and every number is checked before use.

    Raises:
        ModelFormatError: naming the file and what is wrong with it.
        OSError: if the file cannot be read (FileNotFoundError if there is none).

    Example: see `Model.save`.
    """
    tensors, config = _read(path, "model")
    with model_file.content_of(path):
        network = _network(config["network"], tensors)
        prefix = "encoder."
        if not all(name.startswith(prefix) for name in tensors):
            raise ValueError(f"tensors of unknown use: {sorted(tensors)}")
        arrays = {name[len(prefix) :]: array for name, array in tensors.items()}
        return Model(
            TabularEncoder.from_state(config["encoder"], arrays),
            network,
            config["labels"],
            threshold=config["threshold"],
            target=config["target"],
            training=config["training"],
        )


def save_network(path: str | os.PathLike[str], network: Network) -> None:
    """Write a network to one file, whole or not at all; `load_network` reads it.

    Raises OSError if the file cannot be written, ValueError if a parameter is not finite.
    """
    config = {"network": network.config()}
    model_file.write(path, _tensors(network), {"kind": "network", "config": config})


def load_network(path: str | os.PathLike[str]) -> Network:
    """Read a `bcenet.Network` from the file that `bcenet.Network.save` wrote.

    Also known as ``bcenet.load``.

    Raises:
        ModelFormatError: naming the file and what is wrong with it.
        OSError: if the file cannot be read (FileNotFoundError if there is none).

    >>> import bcenet, tempfile
    >>> network = bcenet.Network([3, 4, 1], random_state=0)
    >>> folder = tempfile.TemporaryDirectory()
    >>> network.save(folder.name + "/small.bcenet")
    >>> again = bcenet.load(folder.name + "/small.bcenet")
    >>> again.layer_sizes, bool((again.parameters == network.parameters).all())
    ((3, 4, 1), True)
    >>> folder.cleanup()
    """
    tensors, config = _read(path, "network")
    with model_file.content_of(path):
        network = _network(config["network"], tensors)
        if tensors:
            raise ValueError(f"tensors of unknown use: {sorted(tensors)}")
        return network


def _read(
    path: str | os.PathLike[str], wanted: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    tensors, metadata = model_file.read(path)
    kind = metadata["kind"]
    if kind != wanted:
        hint = f"; {_LOADERS[kind]} reads it" if kind in _LOADERS else ""
        raise ModelFormatError(f"{os.fspath(path)}: it holds a {kind!r}, not a {wanted!r}{hint}")
    return tensors, metadata["config"]


def _tensors(network: Network) -> dict[str, np.ndarray]:
    """The parameters, and the running statistics where there are any."""
    tensors = {"network.parameters": _finite("parameters", network.parameters)}
    if network.statistics.size:
        tensors["network.statistics"] = _finite("statistics", network.statistics)
    return tensors


def _network(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Network:
    """The network, whose tensors are taken out."""
    parameters = _finite("parameters", tensors.pop("network.parameters"))
    statistics = tensors.pop("network.statistics", None)
    if statistics is not None:
        _finite("statistics", statistics)
    return Network.from_config(config, parameters, statistics)


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"network.{name} must be finite; number {index} is {array[index]}")
    return array


def _check_labels(labels: Any) -> tuple[Any, Any]:
    if not isinstance(labels, (tuple, list)) or len(labels) != 2:
        raise ValueError(f"labels must be (negative, positive); got {checks.describe(labels)}")
    negative, positive = (v.item() if isinstance(v, np.generic) else v for v in labels)
    for value in (negative, positive):
        if not isinstance(value, (str, int, float)):  # a bool is an int
            raise TypeError(f"labels must be strings or numbers; got {checks.describe(value)}")
        if isinstance(value, float):
            checks.number("labels", value)
    if negative == positive:
        raise ValueError(f"labels must be different; got {negative!r} twice")
    return negative, positive
