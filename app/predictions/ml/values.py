"""What the engine takes and gives: plain values that cross a process boundary as MessagePack."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

Family = Literal["lstm", "random_forest", "svr", "ensemble"]
"""A kind of model. `ensemble` is the mean of the three others."""
Verdict = Literal["skill", "no demonstrated skill"]

MEMBERS: Final[tuple[Family, ...]] = ("random_forest", "svr", "lstm")
"""The families that an ensemble is the mean of."""
ONE_THREAD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NPROC": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
)
"""The environment to start a process with that trains: more threads only get into one another's way, and take the
cores from the API. Read when the libraries are imported, so too late from inside."""
SIGNIFICANCE: Final = 0.05
"""A model has skill if its p-value is below this."""
INTERVAL_LEVEL: Final = 0.8
"""The share of outcomes that intervals are to hold."""
WARM_UP_BARS: Final = 250
"""Bars before the first that is learnt from: what recursive indicators need to forget where they began."""
WINDOW_BARS: Final = 20
"""Bars that the LSTM looks back."""
MINIMUM_SAMPLES: Final = 240
MAXIMUM_BARS: Final = 2520
"""Older ones are left out: ten years of days. Keeps training bounded, and the LSTM's compiled shapes the same."""
MAXIMUM_HORIZON: Final = 60


def minimum_bars(horizon: int) -> int:
    """The closed candles without which a forecast over `horizon` bars is refused."""
    return WARM_UP_BARS + WINDOW_BARS - 1 + max(MINIMUM_SAMPLES, 12 * horizon) + horizon


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Candles, and what to forecast from them. All candles are closed ones, oldest first, their prices adjusted."""

    symbol: str
    timeframe: str
    horizon_bars: int
    """How many bars ahead, 1 to `MAXIMUM_HORIZON`."""
    model: Family
    """`ensemble` trains its members too, and gives all four results."""
    starts: list[int]
    """When each bar begins, in seconds since the epoch; strictly increasing."""
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]
    """May be 0 throughout, as that of an index is."""
    seed: int = 0
    """The same seed and candles give the same numbers on the same machine."""
    deadline_seconds: float = 60.0
    """After which training gives up with `DeadlineExceededError`, at the next point where it can."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says of the close `horizon_bars` after the last bar."""

    last_bar: int
    """When the bar that it is made from begins, in seconds since the epoch."""
    last_close: float
    horizon_bars: int
    predicted_price: float
    predicted_return: float
    """The logarithm of `predicted_price / last_close`."""
    interval_low: float
    interval_high: float
    """Prices between which the close is to lie with the probability `interval_level`."""
    interval_level: float
    confidence_score: float
    """The calibrated probability that the direction is right: 0.5 knows nothing, and 0.50–0.55 is normal."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """How the model did on bars that it had not seen: purged walk-forward, each fold trained on what came before."""

    skill_vs_naive: float
    """1 − MSE / MSE of "the price stays as it is"; of log returns over the horizon. Below 0: worse than that."""
    p_value: float
    """One-sided Diebold–Mariano: how often luck alone would look this good."""
    hit_rate: float
    """The share of directions it had right."""
    observed_coverage: float
    """The share of outcomes that its intervals held."""
    rmse: float
    naive_rmse: float
    """Root mean squared errors of the log return over the horizon."""
    folds: int
    samples: int
    """Forecasts judged. Neighbours of a horizon of several bars overlap, so they tell less than their number."""
    verdict: Verdict
    summary: str
    """The verdict in a sentence."""


class TrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """A trained model, its forecast, and what it is worth."""

    model: Family
    forecast: Forecast
    evaluation: Evaluation
    blob: bytes
    """The signed model, for `PredictionEngine.predict`."""
    trained_through: int
    """The last bar it was trained with."""
    feature_names: tuple[str, ...]
    versions: dict[str, str]
    """Of the libraries it was made with."""
    seconds: float
    """What training and judging this model took; an ensemble's own part is small."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A forecast by a model that was trained before, with the evaluation it got then."""

    model: Family
    forecast: Forecast
    evaluation: Evaluation
    trained_through: int
    seconds: float
