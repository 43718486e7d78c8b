"""Trains, judges and uses models. For a process of its own: it imports scikit-learn and JAX when first used."""

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Final, NamedTuple

import numpy as np

from app.predictions.ml.bars import Bars, bars_of
from app.predictions.ml.confidence import Confidence
from app.predictions.ml.errors import StaleModelError
from app.predictions.ml.families import FittedModel, ModelFamily
from app.predictions.ml.features import FEATURES, features, volatility
from app.predictions.ml.intervals import Margins
from app.predictions.ml.judging import Judgement, judge
from app.predictions.ml.lstm import Lstm
from app.predictions.ml.model_file import ModelFile, ModelSeal
from app.predictions.ml.progress import Plan, Progress, unheard
from app.predictions.ml.samples import Fold, Samples, folds_of, samples_of
from app.predictions.ml.sklearn_models import RandomForest, SupportVectors
from app.predictions.ml.training import Trained, train_family
from app.predictions.ml.values import INTERVAL_LEVEL, MEMBERS, Family, Forecast, Prediction, TrainRequest, TrainResult

_KEPT_MODELS: Final = 4
_LIBRARIES: Final = ("numpy", "TA-Lib", "scikit-learn", "skops", "jax", "flax", "optax", "safetensors")


class _Case(NamedTuple):
    """A request, as arrays."""

    request: TrainRequest
    bars: Bars
    samples: Samples
    folds: list[Fold]


class _Member(NamedTuple):
    """A trained family, and itself at rest."""

    trained: Trained
    dumped: bytes
    seconds: float


class _Opened(NamedTuple):
    """A stored model, ready to forecast."""

    file: ModelFile
    members: list[FittedModel]


class PredictionEngine:
    """Trains models and forecasts with them, one request at a time, in one thread.

    `key` signs models (32 bytes or more, the service's own secret); `monotonic` is a `Clock`'s. The process has to be
    started with the environment `ONE_THREAD`.
    """

    def __init__(self, key: bytes, monotonic: Callable[[], float]) -> None:
        self._seal = ModelSeal(key)
        self._monotonic = monotonic
        self._lstm = Lstm()
        self._families: dict[Family, ModelFamily] = {
            "random_forest": RandomForest(),
            "svr": SupportVectors(),
            "lstm": self._lstm,
        }
        self._opened: OrderedDict[bytes, _Opened] = OrderedDict()

    def warm_up(self) -> None:
        """Imports what training needs and compiles the LSTM: some seconds that the first request need not wait."""
        import sklearn.ensemble
        import sklearn.model_selection
        import sklearn.svm
        import skops.io

        del skops, sklearn
        self._lstm.compile()

    def train(self, request: TrainRequest, progress: Progress = unheard) -> list[TrainResult]:
        """Trains `request.model` and judges it by walk-forward; of an ensemble the members come first, it last.

        The same request gives the same numbers again. `progress` is called as each training begins, and within those
        of the LSTM. Raises `InvalidSeriesError`, `TooFewBarsError` or `DeadlineExceededError`.
        """
        deadline = self._monotonic() + request.deadline_seconds
        bars = bars_of(request)
        samples = samples_of(bars, request.horizon_bars)
        case = _Case(request, bars, samples, folds_of(samples))
        families: list[Family] = list(MEMBERS) if request.model == "ensemble" else [request.model]
        plan = Plan(families, len(case.folds) + 1, progress, self._monotonic, deadline)
        members = {family: self._member(case, family, plan) for family in families}
        results = [self._result(case, family, {family: members[family]}) for family in families]
        if request.model == "ensemble":
            results.append(self._result(case, "ensemble", members))
        progress(1.0, "done")
        return results

    def predict(self, blob: bytes, request: TrainRequest) -> Prediction:
        """A forecast from the newest bar of `request` by the model in `blob`, as it was trained.

        Raises `UntrustedModelError` if the signature does not hold, `StaleModelError` if the model is for another
        symbol, timeframe, horizon or family, or was made by other versions of this service or of its libraries; and as
        `train` does for candles that it cannot use.
        """
        began = self._monotonic()
        opened = self._open(blob, request)
        bars = bars_of(request)
        sigma = volatility(bars.close)
        table, newest = features(bars, sigma), np.array([len(bars.close) - 1])
        value = float(np.mean([member.predict(table, newest)[0] for member in opened.members]))
        file = opened.file
        margins = Margins(file.margin_low, file.margin_high)
        confidence = Confidence(file.confidence_slope, file.usual_forecast)
        scale = float(sigma[-1] * np.sqrt(request.horizon_bars))
        return Prediction(
            model=file.model,
            forecast=_forecast(bars, request.horizon_bars, value, scale, margins, confidence),
            evaluation=file.evaluation,
            trained_through=file.trained_through,
            seconds=self._monotonic() - began,
        )

    def _member(self, case: _Case, family: Family, plan: Plan) -> _Member:
        began, learner = self._monotonic(), self._families[family]
        trained = train_family(learner, case.samples, case.folds, case.request.seed, plan.of(family))
        return _Member(trained, trained.model.dump(), self._monotonic() - began)

    def _result(self, case: _Case, family: Family, members: dict[Family, _Member]) -> TrainResult:
        began, samples = self._monotonic(), case.samples
        forecasts = np.mean([member.trained.walk_forward for member in members.values()], axis=0)
        judgement = judge(samples, case.folds, forecasts)
        value = float(np.mean([member.trained.newest for member in members.values()]))
        scale = float(samples.scale[samples.last])
        file = _file(case, family, judgement, {name: member.dumped for name, member in members.items()})
        own = members[family].seconds if family in members else 0.0
        return TrainResult(
            model=family,
            forecast=_forecast(case.bars, samples.horizon, value, scale, judgement.margins, judgement.confidence),
            evaluation=judgement.evaluation,
            blob=self._seal.seal(file),
            trained_through=file.trained_through,
            feature_names=FEATURES,
            versions=versions(),
            seconds=own + self._monotonic() - began,
        )

    def _open(self, blob: bytes, request: TrainRequest) -> _Opened:
        """The model in `blob`: checked every time, but read only once."""
        name = self._seal.check(blob)
        opened = self._opened.pop(name, None)
        if opened is None:
            file = self._seal.open(blob)
            _check_made_by_this(file)
            opened = _Opened(file, [self._families[family].load(dumped) for family, dumped in file.members.items()])
        self._opened[name] = opened
        if len(self._opened) > _KEPT_MODELS:
            self._opened.popitem(last=False)
        _check_made_for(request, opened.file)
        return opened


@cache
def versions() -> dict[str, str]:
    """The libraries that models are made with."""
    return {library: version(library) for library in _LIBRARIES}


def _file(case: _Case, family: Family, judgement: Judgement, members: dict[Family, bytes]) -> ModelFile:
    return ModelFile(
        model=family,
        symbol=case.request.symbol,
        timeframe=case.request.timeframe,
        horizon_bars=case.request.horizon_bars,
        feature_names=FEATURES,
        versions=versions(),
        trained_through=int(case.bars.starts[-1]),
        evaluation=judgement.evaluation,
        margin_low=judgement.margins.low,
        margin_high=judgement.margins.high,
        confidence_slope=judgement.confidence.slope,
        usual_forecast=judgement.confidence.usual,
        members=members,
    )


def _check_made_by_this(file: ModelFile) -> None:
    if (file.feature_names, file.versions) != (FEATURES, versions()):
        raise StaleModelError("The stored model was made by another version; train it anew.")


def _check_made_for(request: TrainRequest, file: ModelFile) -> None:
    asked = (request.symbol, request.timeframe, request.horizon_bars, request.model)
    if asked != (file.symbol, file.timeframe, file.horizon_bars, file.model):
        raise StaleModelError(
            f"The stored model is a {file.model} for {file.symbol} at {file.timeframe} over {file.horizon_bars} bars."
        )


def _forecast(
    bars: Bars, horizon: int, value: float, scale: float, margins: Margins, confidence: Confidence
) -> Forecast:
    """`value` and `margins` are in units of `scale`, the volatility of the log return over the horizon."""
    last = float(bars.close[-1])
    return Forecast(
        last_bar=int(bars.starts[-1]),
        last_close=last,
        horizon_bars=horizon,
        predicted_price=last * float(np.exp(value * scale)),
        predicted_return=value * scale,
        interval_low=last * float(np.exp((value + margins.low) * scale)),
        interval_high=last * float(np.exp((value + margins.high) * scale)),
        interval_level=INTERVAL_LEVEL,
        confidence_score=confidence.of(value),
    )
