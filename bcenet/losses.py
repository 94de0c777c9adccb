"""Binary cross-entropy on logits, and the sigmoid: fused kernels, right at every logit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, kernels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

REDUCTIONS = ("mean", "sum", "none")


class FocalLoss:
    """The binary focal loss, for ``bcenet.fit(..., loss=bcenet.FocalLoss(gamma))``.

    l = (1 - t) s(z)^gamma log(1 + e^z) + w t s(-z)^gamma log(1 + e^-z), s the sigmoid and w the
    ``pos_weight``: binary cross-entropy times a power of the error, so that rows that are right
    already count less. Its minimum is not at the true probabilities: it suits rankings and
    labels, or probabilities that are calibrated afterwards.

    Arguments:
        gamma: above 0; 2 is the paper's. (0 would be binary cross-entropy.)

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017.

    Example:
        >>> import bcenet
        >>> bcenet.FocalLoss(1.5)
        FocalLoss(gamma=1.5)
    """

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = checks.number("gamma", gamma, 0.0, open_minimum=True)

    def __repr__(self) -> str:
        return f"FocalLoss(gamma={self.gamma!r})"


def resolve(loss: Any) -> tuple[str, float]:
    """(native name, gamma) of a loss given by name or object."""
    if isinstance(loss, FocalLoss):
        return "focal", loss.gamma
    if not isinstance(loss, str):
        known = ", ".join(map(repr, kernels.loss_names()))
        raise TypeError(
            f"loss must be one of {known} or a bcenet.FocalLoss(); got {checks.describe(loss)}"
        )
    name = checks.choice("loss", loss, kernels.loss_names())
    return name, FocalLoss().gamma if name == "focal" else 0.0


def sigmoid(logits: ArrayLike, out: np.ndarray | None = None) -> Any:
    """The sigmoid s(z) = 1 / (1 + e^-z) of every logit, within 1.5 units in the last place.

    Arguments:
        logits: array of any shape and strides. float32 is computed as float32 (float16 too),
            everything else as float64.
        out: array of the same shape and of the computed dtype for the result.

    Returns: the probabilities, an array (a scalar for a scalar). The limits at infinite logits
    are 0 and 1; a NaN comes only from a NaN.

    Raises: TypeError for a dtype that is not real; ValueError for an ``out`` that does not fit.

    Example:
        >>> import bcenet
        >>> bcenet.sigmoid([-40.0, 0.0, 40.0]).tolist()
        [4.248354255291589e-18, 0.5, 1.0]
    """
    z = checks.real_array("logits", logits)
    dtype = kernels.kernel_dtype(z.dtype)
    if out is None:
        result = np.empty(z.shape, dtype)
        kernels.sigmoid(result, z)
        return result[()]
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array; got {checks.describe(out)}")
    if out.shape != z.shape or out.dtype != dtype or not out.flags.writeable:
        raise ValueError(
            f"out must be a writable array of shape {z.shape} and dtype {dtype}; "
            f"got {checks.describe(out)}{'' if out.flags.writeable else ', read-only'}"
        )
    same = out.ctypes.data == z.ctypes.data and z.flags.c_contiguous and z.dtype == dtype
    if out.flags.c_contiguous and (same or not np.may_share_memory(out, z)):
        kernels.sigmoid(out, z)
    else:
        result = np.empty(z.shape, dtype)
        kernels.sigmoid(result, z)
        out[...] = result
    return out


def pos_weight_array(pos_weight: Any, columns: int) -> np.ndarray | None:
    """``pos_weight`` as float64 (columns,), or None; a scalar serves every column."""
    if pos_weight is None:
        return None
    array = checks.real_array("pos_weight", pos_weight)
    if array.shape not in ((), (columns,)):
        raise ValueError(
            f"pos_weight must be a number or one a column, shape ({columns},); "
            f"got shape {array.shape}"
        )
    array = np.array(np.broadcast_to(array, (columns,)), np.float64)
    kernels.check_values("pos_weight", array, array.dtype, "finite and not negative")
    return array


def check_sample_weight(sample_weight: Any, shape: tuple[int, ...]) -> np.ndarray:
    """``sample_weight`` as an array of shape (n,) or of the logits' shape."""
    weight = checks.real_array("sample_weight", sample_weight)
    if weight.shape != shape and weight.shape != shape[:1]:
        wanted = f"{shape[:1]} or {shape}" if len(shape) > 1 else f"{shape}"
        raise ValueError(f"sample_weight must have shape {wanted}; got {weight.shape}")
    return weight


def sum_weights(weight: np.ndarray, dtype: np.dtype, name: str = "sample_weight") -> float:
    """The sum of checked weights, finite; ValueError for a weight or a sum that is not."""
    total = kernels.check_values(name, weight, dtype, "finite and not negative")
    if not math.isfinite(total):
        raise ValueError(f"{name} must have a finite sum; got {total}")
    return total


def _apply(
    logits: Any,
    targets: Any,
    sample_weight: Any,
    pos_weight: Any,
    label_smoothing: Any,
    reduction: Any,
    want_loss: bool,
    want_gradient: bool,
) -> tuple[Any, Any]:
    z = checks.real_array("logits", logits)
    t = checks.real_array("targets", targets)
    checks.choice("reduction", reduction, REDUCTIONS)
    smoothing = checks.number("label_smoothing", label_smoothing, 0.0, 1.0)
    if t.shape != z.shape:
        raise ValueError(f"targets must have the logits' shape {z.shape}; got {t.shape}")
    dtype = kernels.kernel_dtype(z.dtype)
    weight = None
    divisor = float(z.size)
    if sample_weight is not None:
        weight = check_sample_weight(sample_weight, z.shape)
        extra = (1,) * (z.ndim - weight.ndim)
        weight = np.broadcast_to(weight.reshape(weight.shape + extra), z.shape)
        divisor = sum_weights(weight, dtype)
    pos = pos_weight_array(pos_weight, z.shape[-1] if z.ndim > 1 else 1)
    if pos is not None:
        pos = np.broadcast_to(pos, z.shape)
    if reduction != "mean":
        divisor = 1.0
    elif divisor == 0:
        what = "logits must not be empty" if z.size == 0 else "sample_weight must not sum to 0"
        raise ValueError(f'{what} for reduction="mean"')
    losses = np.empty(z.shape, dtype) if want_loss and reduction == "none" else None
    gradient = np.empty(z.shape, dtype) if want_gradient else None
    total = kernels.bce(z, t, weight, pos, smoothing, divisor, losses, gradient)
    loss = total / divisor if losses is None else losses[()]
    return loss, None if gradient is None else gradient[()]


def bce_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Binary cross-entropy of logits, within 2 units in the last place at every finite logit.

    l = (1 - t) log(1 + e^z) + w t log(1 + e^-z), computed without cancellation as
    ((1 - t) + w t) log(1 + e^-|z|) + (z > 0 ? (1 - t) z : -w t z).

    Arguments:
        logits: z, an array of any shape and strides. float32 is computed as float32 (float16
            too), everything else as float64.
        targets: t, the same shape, in [0, 1]: labels, or probabilities ("soft" targets).
        sample_weight: not negative, of the logits' shape, or (n,): one a row.
        pos_weight: w, which multiplies the term of the positive class: a number, or (k,) for
            logits of (…, k). It does not count in the divisor of the mean.
        label_smoothing: e in [0, 1]; targets become t (1 - e) + e / 2.
        reduction: "mean" is sum(weight * l) / sum(weight) over all elements; "sum"; "none".

    Returns: a float (summed in float64), or with "none" the weighted losses in the computed
    dtype. A zero weight times an infinite loss is 0.

    Raises: ValueError for shapes that differ (nothing is broadcast but the weights), targets
    outside [0, 1], negative weights, or a mean over nothing; TypeError for other dtypes.

    Example:
        >>> import bcenet
        >>> bcenet.bce_loss([40.0, -3.0], [1, 0], reduction="none").tolist()
        [4.248354255291589e-18, 0.04858735157374206]
    """
    return _apply(
        logits, targets, sample_weight, pos_weight, label_smoothing, reduction, True, False
    )[0]


def bce_gradient(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """The derivative of the reduced loss by each logit: the fused form of p - y.

    dz = weight * ((1 - t) s(z) - w t s(-z)) / divisor, with s the sigmoid and the divisor
    sum(weight) for "mean", 1 for "sum" and "none".

    Arguments and errors as for `bce_loss`.

    Returns: an array of the logits' shape, in the computed dtype.

    Example:
        The literal p - y is 0 here, because p rounds to 1; the truth is -e^-40.

        >>> import bcenet
        >>> bcenet.bce_gradient([40.0], [1], reduction="sum").tolist()
        [-4.248354255291589e-18]
    """
    return _apply(
        logits, targets, sample_weight, pos_weight, label_smoothing, reduction, False, True
    )[1]


def bce_loss_gradient(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Any, Any]:
    """(loss, gradient) in one pass: `bce_loss` and `bce_gradient` share their exponential.

    Arguments and errors as for `bce_loss`.

    Example:
        >>> import bcenet
        >>> loss, gradient = bcenet.bce_loss_gradient([0.0, 0.0], [1, 0])
        >>> round(loss, 6), gradient.tolist()
        (0.693147, [-0.25, 0.25])
    """
    return _apply(
        logits, targets, sample_weight, pos_weight, label_smoothing, reduction, True, True
    )
