"""Training and predictions over a Dask cluster: ``pip install 'bcenet[dask]'``.

`fit` trains a `bcenet.Network` on Dask arrays or a Dask DataFrame, `predict_proba` is lazy, and
`DaskBCENetClassifier` is both as an estimator.
"""

try:
    import dask.array  # noqa: F401
    import distributed  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "bcenet.dask needs Dask and scikit-learn: pip install 'bcenet[dask]'"
    ) from error

from bcenet.dask.classifier import DaskBCENetClassifier
from bcenet.dask.fitting import decision_function, fit, predict_proba

__all__ = ["DaskBCENetClassifier", "decision_function", "fit", "predict_proba"]
