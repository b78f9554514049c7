"""The engine as scikit-learn estimators: :class:`RBMTransformer` and :class:`DBNClassifier`.

They run on one rank, or over a communicator: then ``fit``, ``transform`` and the others are collective.  Needs
scikit-learn: ``pip install 'modelpar[sklearn]'``.
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401 - for a clear message where it is missing
except ModuleNotFoundError as error:
    if error.name != "sklearn":
        raise
    raise ImportError(
        "modelpar.sklearn needs scikit-learn, which is not installed; install it with: pip install 'modelpar[sklearn]'"
    ) from None

from modelpar.sklearn.classifier import DBNClassifier
from modelpar.sklearn.transformer import RBMTransformer

__all__ = ["DBNClassifier", "RBMTransformer"]
