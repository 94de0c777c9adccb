"""Training health: how gradients, updates and activations of each layer fare, epoch by epoch."""

from __future__ import annotations

import hashlib
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, kernels, sparse
from bcenet.errors import NonFiniteError
from bcenet.records import Record

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from bcenet.callbacks import State
    from bcenet.network import Network

_MOST_DENSE = 2**24  # numbers of a sparse sample, which is made dense to be looked at
# A unit is saturated where its slope is below this part of the activation's largest on nearly all
# rows. The slopes of identity, relu and leaky_relu don't fade: of these units, relu's can be dead.
_FLAT = 0.05
_NEARLY_ALL = 0.95
_LARGEST_SLOPE = {
    "sigmoid": 0.25,
    "tanh": 1.0,
    "elu": 1.0,
    "selu": 1.0,
    "gelu": 1.0,
    "silu": 1.0,
    "softplus": 1.0,
}
_MEASURES = ("gradient_norms", "flow", "update_ratios", "dead", "saturated")


class Finding(Record):
    """Something that is wrong with a layer.

    Attributes:
        kind: "vanishing", "exploding", "dead" or "saturated".
        layer: from 0, that of ``network.coefs[layer]``.
        first_epoch, last_epoch: when it was seen first and last; 0 is before training.
        value: the number that gave it away when it was first seen. message: what it says.
    """

    kind: str
    layer: int
    first_epoch: int
    last_epoch: int
    value: float
    message: str

    def __str__(self) -> str:
        when = f"epoch {self.first_epoch}"
        if self.last_epoch != self.first_epoch:
            when = f"epochs {self.first_epoch} to {self.last_epoch}"
        return f"layer {self.layer}, {self.kind}, {when}: {self.message}"


class TrainingHealth:
    """A callback that looks at every layer before a fit and after each epoch, on a fixed sample.

    With dz_l the derivative of each row's loss by the inputs z_l of layer l's activation, and the
    norm |dz_l| over a row's units, root mean square over rows:

    - ``gradient_norms``: the Euclidean norm of the mean loss's gradient by the layer's weights
      and intercepts.
    - ``flow``: |dz_l| / |dz_L|: what of the last layer's gradient arrives at layer l. It is
      about 1 everywhere in a network that is initialised to keep it, and each layer of sigmoids
      takes a factor of at least 4 off what its weights pass on.
    - ``update_ratios``: |W - W'| / |W'|, W' being the weights an epoch before: the steps of an
      epoch taken together. NaN before training.
    - ``dead``: the part of a hidden layer's units, of relus, that are active on no row: no
      gradient changes their weights.
    - ``saturated``: the part, of activations whose slope fades, with a slope below 5 % of the
      largest (sigmoid 1/4, others 1) on 95 % of the rows. The last layer has no such share: its
      slope cancels, and to be sure is its task.

    What goes wrong is named once a layer in ``findings``:

    - vanishing: the flow is below ``vanishing``; the layer nearest to the outputs is named.
    - exploding: it is above ``exploding``, likewise; or numbers are not finite any more.
    - dead, saturated: the share is above ``dead`` or ``saturated``.

    That gradients should have the same size in all layers is from Glorot and Bengio,
    "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
    section 4.2, for relu from He et al., "Delving deep into rectifiers", ICCV 2015, section 2.2;
    saturated layers from the former, section 3; units that die from Lu et al., "Dying ReLU and
    initialization", 2020. The limits are conventions: a factor of 1000 is what a learning rate
    can't make up for in one layer without being wrong in another.

    An epoch costs a forward and a backward pass of the sample, outside the epoch engine: for
    28-64-32-1 and 1000 rows 1.7 ms on one core. The sample is taken as predictions take rows:
    nothing is dropped, and batch normalisation uses its running statistics, so that networks with
    it are looked at from the first epoch's end on. The loss is binary cross-entropy without
    weights and penalties.

    Arguments:
        X, y: rows to look at, as for `bcenet.fit`, such as those trained on: of more than
            ``rows`` as many are drawn by ``random_state``. Labels must be known. Of a
            `bcenet.data.Dataset` take a block, ``next(iter(dataset.blocks()))``. A sparse sample
            is made dense, and is smaller where that would be more than 2^24 numbers.
        rows: at most so many. vanishing, exploding, dead, saturated: the limits above.

    Attributes:
        epochs: at which it looked, from 0, in a list; the arrays above have a row for each, and a
            column a layer, or a hidden layer for the shares. Where a fit ended because numbers
            were not finite any more, the last is that epoch, at its last whole step.
        findings: a list of `Finding`.

    Raises: ValueError or TypeError for arguments out of range, and before the first epoch for a
    sample that doesn't fit the network.

    Example:
        >>> import bcenet, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(500, 4))
        >>> y = X[:, 0] * X[:, 1] > 0
        >>> deep = bcenet.Network([4, *[16] * 8, 1], activation="sigmoid", random_state=0)
        >>> health = bcenet.TrainingHealth(X, y)
        >>> history = bcenet.fit(deep, X, y, epochs=3, callbacks=[health], random_state=0)
        >>> finding = health.findings[0]
        >>> finding.kind, finding.layer, finding.first_epoch
        ('vanishing', 3, 0)
        >>> health.flow.shape, bool(health.flow[0, 0] < 1e-5)
        ((4, 9), True)
    """

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        rows: int = 1000,
        vanishing: float = 1e-3,
        exploding: float = 1e3,
        dead: float = 0.5,
        saturated: float = 0.5,
        random_state: int = 0,
    ) -> None:
        self.rows = checks.integer("rows", rows, 1)
        self.vanishing = checks.number("vanishing", vanishing, 0.0, 1.0)
        self.exploding = checks.number("exploding", exploding, 1.0)
        self.limits = {
            "dead": checks.number("dead", dead, 0.0, 1.0),
            "saturated": checks.number("saturated", saturated, 0.0, 1.0),
        }
        seed = checks.integer("random_state", random_state, 0, 2**64 - 1)
        self._X, self._y = _sample(X, y, self.rows, seed)
        self._digest: str | None = None
        self._begin()

    def _begin(self) -> None:
        self.epochs: list[int] = []
        self.findings: list[Finding] = []
        self._measured: dict[str, list[list[float]]] = {name: [] for name in _MEASURES}
        self._activations: list[str] = []
        self._before: np.ndarray | None = None

    @property
    def gradient_norms(self) -> np.ndarray:
        """Norms of the mean loss's gradient, (looks, layers)."""
        return self._array("gradient_norms")

    @property
    def flow(self) -> np.ndarray:
        """|dz_l| / |dz_L|, (looks, layers); 1 in the last column."""
        return self._array("flow")

    @property
    def update_ratios(self) -> np.ndarray:
        """|W - W'| / |W'| over an epoch, (looks, layers)."""
        return self._array("update_ratios")

    @property
    def dead(self) -> np.ndarray:
        """Shares of relu units that are never active, (looks, hidden layers)."""
        return self._array("dead")

    @property
    def saturated(self) -> np.ndarray:
        """Shares of units with hardly any slope, (looks, hidden layers)."""
        return self._array("saturated")

    def _array(self, name: str) -> np.ndarray:
        return np.array(self._measured[name], np.float64)

    # ---- a fit's hooks --------------------------------------------------------------------

    def on_fit_begin(self, state: State) -> None:
        self._begin()
        network = state.network
        self._activations = list(network.activations)
        # Running statistics are not the data's before they have moved.
        if "batch" in network.shape.normalization:
            network.trace(self._X, self._y)  # the checks are the same
            self._before = network.parameters.copy()
        else:
            self._look(network, 0)

    def on_epoch_end(self, state: State) -> None:
        self._look(state.network, state.epoch)

    def on_fit_end(self, state: State) -> None:
        # The network then holds the last whole step of an epoch that does not end.
        if isinstance(sys.exc_info()[1], NonFiniteError):
            self._look(state.network, state.epoch + 1)

    def checkpoint_state(self) -> dict[str, Any]:
        arrays = {name: self._array(name) for name in _MEASURES}
        return arrays | {
            "settings": self._settings(),
            "activations": self._activations,
            "epochs": list(self.epochs),
            "findings": [dict(finding.__dict__) for finding in self.findings],
            "before": self._before,
        }

    def on_fit_resume(self, state: State, saved: dict[str, Any]) -> None:
        for name, value in self._settings().items():
            there = saved["settings"].get(name)
            if there != value:
                raise ValueError(
                    f"TrainingHealth must have {name}={there!r}, as in the checkpoint's fit; "
                    f"got {value!r}"
                )
        self._begin()
        self._activations = saved["activations"]
        self.epochs = list(saved["epochs"])
        self.findings = [Finding(**finding) for finding in saved["findings"]]
        self._measured = {name: saved[name].tolist() for name in _MEASURES}
        self._before = saved["before"]

    def _settings(self) -> dict[str, Any]:
        if self._digest is None:  # only a checkpoint needs it
            digest = hashlib.sha256(sparse.dense(self._X, np.dtype(np.float64)).data)
            digest.update(self._y.astype(np.float64).tobytes())
            self._digest = digest.hexdigest()
        return {
            "rows": self.rows,
            "vanishing": self.vanishing,
            "exploding": self.exploding,
            **self.limits,
            "sample": self._digest,
        }

    # ---- looking --------------------------------------------------------------------------

    def _look(self, network: Network, epoch: int) -> None:
        """Measure every layer, and note what is wrong."""
        with np.errstate(all="ignore"):  # of a network that is out of bounds
            trace = network.trace(self._X, self._y)
            outputs = network.layer_sizes[-1]
            deltas = [_row_norm(layer.dz) for layer in trace.layers]
            gradients = [
                math.hypot(_norm(layer.dw), _norm(layer.db)) / outputs for layer in trace.layers
            ]
            flow = [float(np.float64(delta) / deltas[-1]) for delta in deltas]
            shares = [
                _shares(name, layer.y)
                for name, layer in zip(network.activations[:-1], trace.layers[:-1], strict=True)
            ]
            updates = self._updates(network)
        measured = (gradients, flow, updates, [d for d, _ in shares], [s for _, s in shares])
        for name, values in zip(_MEASURES, measured, strict=True):
            self._measured[name].append(values)
        self.epochs.append(epoch)
        self._before = network.parameters.copy()
        unbounded = [not np.isfinite(layer.z).all() for layer in trace.layers]
        self._judge_flow(epoch, flow, unbounded)
        for kind, share in [("dead", measured[3]), ("saturated", measured[4])]:
            for layer, part in enumerate(share):
                if part > self.limits[kind]:
                    self._note(kind, layer, epoch, part, _message(kind, part))

    def _updates(self, network: Network) -> list[float]:
        if self._before is None:
            return [math.nan] * len(network.coefs)
        before, _ = network.shape.split(self._before)
        return [
            float(np.float64(_norm(now.astype(np.float64) - then)) / _norm(then))
            for now, then in zip(network.coefs, before, strict=True)
        ]

    def _judge_flow(self, epoch: int, flow: list[float], unbounded: list[bool]) -> None:
        if any(unbounded):
            layer = unbounded.index(True)
            self._note("exploding", layer, epoch, math.inf, "z is not finite any more")
            return
        for layer in range(len(flow) - 2, -1, -1):
            if not math.isfinite(flow[layer]):
                if flow[-1] == 1:  # else the last gradient is 0 and nothing can be said
                    self._note("exploding", layer, epoch, math.inf, "dz is not finite any more")
                break
            kind = "vanishing" if flow[layer] < self.vanishing else "exploding"
            if kind == "vanishing" or flow[layer] > self.exploding:
                text = f"dz is {flow[layer]:.2g} of the last layer's"
                if layer > 0:
                    text += f", and {flow[0]:.2g} in layer 0"
                self._note(kind, layer, epoch, flow[layer], text)
                break

    def _note(self, kind: str, layer: int, epoch: int, value: float, message: str) -> None:
        for finding in self.findings:
            if (finding.kind, finding.layer) == (kind, layer):
                finding.last_epoch = epoch
                return
        self.findings.append(Finding(kind, layer, epoch, epoch, value, message))

    # ---- showing --------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """All that was measured, as lists and numbers, ready for JSON: None stands for NaN and
        infinity."""
        result: dict[str, Any] = {"activations": list(self._activations), "epochs": self.epochs[:]}
        for name in _MEASURES:
            result[name] = [[_plain(value) for value in row] for row in self._measured[name]]
        result["findings"] = [
            finding.__dict__ | {"value": _plain(finding.value)} for finding in self.findings
        ]
        return result

    def __str__(self) -> str:
        if not self.epochs:
            return "nothing was measured yet"
        lines = [
            f"after epoch {self.epochs[-1]}",
            "layer  activation  gradient      flow    update   dead  saturated",
        ]
        last = {name: self._measured[name][-1] for name in _MEASURES}
        for layer, name in enumerate(self._activations):
            line = f"{layer:5d}  {name:10s}"
            for measure in ("gradient_norms", "flow", "update_ratios"):
                line += f"  {last[measure][layer]:8.2g}"
            if layer < len(last["dead"]):
                line += f"  {last['dead'][layer]:5.0%}  {last['saturated'][layer]:9.0%}"
            lines.append(line)
        return "\n".join(lines + [str(finding) for finding in self.findings])

    def plot(self) -> Any:
        """Gradients, flow, updates and shares of units against the epochs, a line a layer.

        Returns: a matplotlib Figure; ``figure.savefig(path)`` writes it.

        Raises: ImportError without matplotlib (``pip install 'bcenet[plot]'``); ValueError before
        anything was measured.
        """
        if not self.epochs:
            raise ValueError("plot needs a fit that was looked at; got none yet")
        try:
            from matplotlib import colormaps
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plots need matplotlib: pip install 'bcenet[plot]'") from error
        figure = Figure(figsize=(9, 6), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True).ravel()
        layers = len(self._activations)
        for panel, name, title in zip(
            panels,
            ("gradient_norms", "flow", "update_ratios", "dead"),
            ("norm of the gradient", "flow: |dz| / |dz of the last layer|",
             "update / weights, an epoch", "dead (dashed: saturated) units"),
            strict=True,
        ):  # fmt: skip
            values = self._array(name)
            for layer in range(values.shape[1]):
                color = colormaps["viridis"](layer / max(layers - 1, 1) * 0.9)
                style: dict[str, Any] = {"color": color, "marker": ".", "label": f"layer {layer}"}
                panel.plot(self.epochs, values[:, layer], **style)
                if name == "dead":
                    style |= {"linestyle": "--", "label": None}
                    panel.plot(self.epochs, self.saturated[:, layer], **style)
            panel.set_title(title, fontsize="medium")
            if name == "dead":
                panel.set_ylim(-0.02, 1.02)
            elif np.any(values > 0):
                panel.set_yscale("log")
        panels[1].axhspan(self.vanishing, self.exploding, color="gray", alpha=0.12, zorder=0)
        lines = panels[0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside upper center", ncols=min(layers, 8), fontsize="small")
        for panel in panels[2:]:
            panel.set_xlabel("epoch")
        return figure


def _sample(X: Any, y: Any, rows: int, seed: int) -> tuple[Any, np.ndarray]:
    """At most so many rows and their targets, copied."""
    array = sparse.check("X", X) if sparse.is_sparse(X) else checks.real_array("X", X)
    targets = checks.real_array("y", y)
    if array.ndim != 2:
        raise ValueError(f"X must have two dimensions; got shape {array.shape}")
    n, inputs = array.shape
    if targets.shape[:1] != (n,):
        raise ValueError(f"y must have {n} rows, as X; got shape {targets.shape}")
    if sparse.is_sparse(array):
        rows = min(rows, max(_MOST_DENSE // max(inputs, 1), 1))
    chosen = np.arange(n)
    if n > rows:
        chosen = np.sort(np.random.default_rng(seed).choice(n, rows, replace=False))
    return array[chosen], targets[chosen]


def _norm(array: np.ndarray) -> float:
    # Not `np.linalg.norm`: BLAS would start its threads for it.
    return math.sqrt(np.square(array, dtype=np.float64).sum())


def _row_norm(array: np.ndarray) -> float:
    """The rows' Euclidean norms, root mean square."""
    return _norm(array) / math.sqrt(len(array))


def _shares(activation: str, y: np.ndarray) -> tuple[float, float]:
    """(dead, saturated) parts of a hidden layer's units."""
    slope = np.abs(kernels.activate(activation, y)[1])
    if activation not in _LARGEST_SLOPE:
        return float(np.mean(np.all(slope == 0, axis=0))), 0.0
    flat = slope < _FLAT * _LARGEST_SLOPE[activation]
    return 0.0, float(np.mean(np.mean(flat, axis=0) >= _NEARLY_ALL))


def _message(kind: str, part: float) -> str:
    if kind == "dead":
        return f"{part:.0%} of the units are active on no row"
    return f"{part:.0%} of the units have hardly any slope on nearly all rows"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
