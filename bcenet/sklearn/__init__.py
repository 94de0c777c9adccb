"""An estimator that scikit-learn accepts as its own: `BCENetClassifier`.

It needs scikit-learn 1.6 or later: ``pip install 'bcenet[sklearn]'``.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("bcenet.sklearn needs scikit-learn: pip install 'bcenet[sklearn]'") from error

from bcenet.sklearn.classifier import BCENetClassifier

__all__ = ["BCENetClassifier"]
