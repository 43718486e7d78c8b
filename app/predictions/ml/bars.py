"""Candles as arrays, checked: whatever comes after can rely on them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.predictions.ml.errors import InvalidSeriesError, TooFewBarsError
from app.predictions.ml.values import MAXIMUM_BARS, MAXIMUM_HORIZON, TrainRequest, minimum_bars

Floats = NDArray[np.float64]


class Bars(NamedTuple):
    """Closed candles, oldest first; float64 throughout (TA-Lib takes nothing else)."""

    starts: NDArray[np.int64]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


def bars_of(request: TrainRequest) -> Bars:
    """The newest `MAXIMUM_BARS` candles of `request`.

    Raises `InvalidSeriesError` for a hole or nonsense in them (TA-Lib would count on after a NaN, with wrong values)
    and for a horizon out of range, `TooFewBarsError` where they do not suffice to judge a model.
    """
    horizon = request.horizon_bars
    if not 1 <= horizon <= MAXIMUM_HORIZON:
        raise InvalidSeriesError(f"The horizon has to be 1 to {MAXIMUM_HORIZON} bars, not {horizon}.")
    _check_lengths(request)
    columns = (request.open, request.high, request.low, request.close, request.volume)
    opened, high, low, close, volume = (np.array(column[-MAXIMUM_BARS:], dtype=np.float64) for column in columns)
    bars = Bars(np.array(request.starts[-MAXIMUM_BARS:], dtype=np.int64), opened, high, low, close, volume)
    _check(bars)
    return bars


def _check_lengths(request: TrainRequest) -> None:
    columns = (request.open, request.high, request.low, request.close, request.volume)
    count, needed = len(request.starts), minimum_bars(request.horizon_bars)
    if any(len(column) != count for column in columns):
        raise InvalidSeriesError("The columns of the candles differ in length.")
    if count < needed:
        raise TooFewBarsError(
            f"{request.symbol} has {count} closed candles of {request.timeframe}; a forecast over "
            f"{request.horizon_bars} bars that can be judged needs {needed}."
        )


def _check(bars: Bars) -> None:
    prices = np.stack((bars.open, bars.high, bars.low, bars.close))
    if not (np.isfinite(prices).all() and (prices > 0).all()):
        raise InvalidSeriesError("A price of the candles is missing or not positive.")
    if not (np.isfinite(bars.volume).all() and (bars.volume >= 0).all()):
        raise InvalidSeriesError("A volume of the candles is missing or negative.")
    if (np.diff(bars.starts) <= 0).any():
        raise InvalidSeriesError("The candles are not in the order of their times.")
    if np.count_nonzero(np.diff(bars.close)) < len(bars.close) // 2:
        raise InvalidSeriesError("The price did not change in most of the candles: there is nothing to learn from.")
