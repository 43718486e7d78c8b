"""What models see of each bar. Every value is made of that bar and earlier ones, and free of the price's level."""

from typing import Final

import numpy as np

from app.core.indicators.library import talib
from app.predictions.ml.bars import Bars, Floats

VOLATILITY_BARS: Final = 32
"""Span of the exponential mean of squared returns: a decay of 0.94 a bar, as RiskMetrics has it for days (J.P. Morgan,
RiskMetrics Technical Document, 4th edition, 1996, section 5.3)."""
LEAST_VOLATILITY: Final = 1e-5
"""Of a bar's log return; keeps a stretch without trades from being divided by nothing."""
_LIMIT: Final = 8.0
_RETURN_SPANS: Final = (1, 2, 5, 10, 20, 60)

FEATURES: Final = (
    *(f"return_{span}" for span in _RETURN_SPANS),
    "above_sma_50",
    "above_sma_200",
    "rsi_14",
    "macd_histogram",
    "bollinger_position",
    "volatility_change",
    "range_to_volatility",
    "adx_14",
    "directional_balance",
    "body",
    "close_in_range",
    "gap",
    "relative_volume",
    "volume_balance_20",
)
"""The columns of `features`. Changing them, or what they mean, makes stored models stale."""


def volatility(close: Floats) -> Floats:
    """The standard deviation of a bar's log return as known at each bar: an exponential mean, from the past alone.

    NaN in the first `VOLATILITY_BARS` bars.
    """
    squared = np.zeros_like(close)
    squared[1:] = np.diff(np.log(close)) ** 2
    means = np.full_like(close, np.nan)
    means[1:] = talib.EMA(squared[1:], timeperiod=VOLATILITY_BARS)
    return np.maximum(np.sqrt(np.maximum(means, 0.0)), LEAST_VOLATILITY)


def features(bars: Bars, sigma: Floats) -> Floats:
    """A row for each bar, a column for each of `FEATURES`, cut to ±8; NaN in the first 200 bars.

    `sigma` is `volatility(bars.close)`. Prices enter as ratios in units of volatility or of the true range, so that a
    row means the same at any price and in any year. Where a market stands still and an indicator has no meaning
    (TA-Lib says an RSI of 0), it is neutral.
    """
    true_range: Floats = talib.ATR(bars.high, bars.low, bars.close, timeperiod=14)
    columns = [
        *_trend(bars, sigma),
        *_oscillators(bars, true_range),
        *_ranges(bars, sigma, true_range),
        *_volumes(bars),
    ]
    table: Floats = np.column_stack(columns)
    return np.clip(table, -_LIMIT, _LIMIT)


def _trend(bars: Bars, sigma: Floats) -> list[Floats]:
    """How far the price has come, in standard deviations of that many bars."""
    logs = np.log(bars.close)
    moved = []
    for span in _RETURN_SPANS:
        change = np.full_like(logs, np.nan)
        change[span:] = logs[span:] - logs[:-span]
        moved.append(change / (sigma * np.sqrt(span)))
    above = [
        (logs - np.log(talib.SMA(bars.close, timeperiod=span))) / (sigma * np.sqrt(span / 2)) for span in (50, 200)
    ]
    return [*moved, *above]


def _oscillators(bars: Bars, true_range: Floats) -> list[Floats]:
    close = bars.close
    moved = (np.diff(close, prepend=close[0]) != 0).astype(np.float64)
    still = talib.SUM(moved, timeperiod=14) == 0
    rsi = np.where(still, 0.0, (talib.RSI(close, timeperiod=14) - 50) / 25)
    histogram = talib.MACD(close)[2]
    upper, middle, _ = talib.BBANDS(close, timeperiod=20)
    return [rsi, _ratio(histogram * 4, true_range), _ratio(close - middle, upper - middle)]


def _ranges(bars: Bars, sigma: Floats, true_range: Floats) -> list[Floats]:
    high, low, close = bars.high, bars.low, bars.close
    slow = _mean_of_known(sigma, 60)
    directional = talib.PLUS_DI(high, low, close, timeperiod=14) - talib.MINUS_DI(high, low, close, timeperiod=14)
    previous = np.concatenate((bars.open[:1], close[:-1]))
    return [
        np.log(sigma / slow) * 2,
        np.log(np.maximum(true_range / close, LEAST_VOLATILITY) / sigma) * 2,
        (talib.ADX(high, low, close, timeperiod=14) - 25) / 15,
        directional / 20,
        _ratio(close - bars.open, true_range),
        _ratio(2 * close - high - low, high - low),
        _ratio(bars.open - previous, true_range),
    ]


def _volumes(bars: Bars) -> list[Floats]:
    volume = bars.volume
    average = talib.SMA(volume, timeperiod=20)
    signs = np.sign(np.diff(bars.close, prepend=bars.close[0]))
    relative = np.log(np.maximum(_ratio(volume, average), 0.05))
    relative = np.where(average > 0, relative, np.where(np.isnan(average), np.nan, 0.0))
    return [relative, _ratio(talib.SMA(signs * volume, timeperiod=20), average) * 2]


def _mean_of_known(values: Floats, span: int) -> Floats:
    """The mean of `span` values, where all of them are known. TA-Lib's own would be finite after a NaN, and wrong."""
    first = int(np.argmax(~np.isnan(values)))
    means = np.full_like(values, np.nan)
    means[first:] = talib.SMA(values[first:], timeperiod=span)
    return means


def _ratio(part: Floats, whole: Floats) -> Floats:
    """`part / whole`; 0 where `whole` is nothing, and NaN where either is not known."""
    result = np.zeros_like(part)
    np.divide(part, whole, out=result, where=~(whole <= 0))
    return result
