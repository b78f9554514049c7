"""The engine as scikit-learn estimators: :class:`RBMTransformer` and :class:`DBNClassifier`.

On one rank unless a communicator is given; then ``fit``, ``transform`` and the others are collective over it.  Needs
scikit-learn: ``pip install 'modelpar[sklearn]'``.
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401 - only to say what is missing
except ModuleNotFoundError as error:
    if error.name != "sklearn":
        raise
    raise ImportError(
        "modelpar.sklearn needs scikit-learn, which is not installed; install it with: pip install 'modelpar[sklearn]'"
    ) from None

from modelpar.sklearn.classifier import DBNClassifier
from modelpar.sklearn.transformer import RBMTransformer

__all__ = ["DBNClassifier", "RBMTransformer"]
