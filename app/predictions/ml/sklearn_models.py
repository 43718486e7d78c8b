"""Random forest and support vector regression, by scikit-learn; kept as skops files."""

import zlib
from typing import Any, Final

from app.predictions.ml.bars import Floats
from app.predictions.ml.errors import UntrustedModelError
from app.predictions.ml.families import Checkpoint
from app.predictions.ml.samples import Rows

TREES: Final = 300
_REVIEWED_TYPES: Final = frozenset({"sklearn.tree._tree.Tree"})
"""skops builds these only when told that the file can be trusted (a forged tree crashes the process). It can: its
signature was checked."""


class SklearnModel:
    """A fitted estimator, or pipeline of them."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator

    def predict(self, features: Floats, rows: Rows) -> Floats:
        """See `FittedModel.predict`."""
        forecasts: Floats = self._estimator.predict(features[rows])
        return forecasts

    def dump(self) -> bytes:
        """See `FittedModel.dump`. Compressed as a whole: a forest is 900 small files, one by one larger and slower."""
        import skops.io

        return zlib.compress(skops.io.dumps(self._estimator), level=1)


class _SklearnFamily:
    def load(self, dumped: bytes) -> SklearnModel:
        """See `ModelFamily.load`."""
        import skops.io

        plain = zlib.decompress(dumped)
        unknown = frozenset(skops.io.get_untrusted_types(data=plain))
        if not unknown <= _REVIEWED_TYPES:
            raise UntrustedModelError("The stored model holds types that no model of this service has.")
        return SklearnModel(skops.io.loads(plain, trusted=sorted(unknown)))


class RandomForest(_SklearnFamily):
    """300 trees of leaves of five bars or more; each split looks at a third of the features. Nothing to scale."""

    def __init__(self, trees: int = TREES) -> None:
        self._trees = trees

    def fit(self, features: Floats, rows: Rows, targets: Floats, seed: int, checkpoint: Checkpoint) -> SklearnModel:
        """See `ModelFamily.fit`."""
        from sklearn.ensemble import RandomForestRegressor

        checkpoint(0.0)
        forest = RandomForestRegressor(self._trees, min_samples_leaf=5, max_features=1 / 3, n_jobs=1, random_state=seed)
        return SklearnModel(forest.fit(features[rows], targets))


class SupportVectors(_SklearnFamily):
    """Support vector regression with a radial kernel, on scaled features. Knows no chance, so takes no seed.

    A small C and a wide tube: returns are nearly all noise, and what fits it closely forecasts worse than nothing.
    """

    def fit(self, features: Floats, rows: Rows, targets: Floats, seed: int, checkpoint: Checkpoint) -> SklearnModel:
        """See `ModelFamily.fit`."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR

        del seed
        checkpoint(0.0)
        return SklearnModel(make_pipeline(StandardScaler(), SVR(C=0.05, epsilon=0.3)).fit(features[rows], targets))
