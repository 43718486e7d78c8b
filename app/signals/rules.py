"""What the rules see in a series: for each bar and rule how much it speaks for buying (1) or selling (-1).

NaN where a rule cannot say anything: too few bars before, or no volume. Needs numpy: not to be imported with the API
process's modules.
"""

from typing import Final, NamedTuple

import numpy as np

from app.core.indicators.compute import Columns, Floats, Values

INDICATORS: Final = (
    *("sma_20", "sma_50", "sma_200", "ema_20", "rsi_14", "macd", "macd_signal", "macd_histogram"),
    *("bollinger_upper", "bollinger_middle", "bollinger_lower", "bollinger_percent_b", "atr_14"),
    *("adx_14", "plus_di_14", "minus_di_14", "momentum_10", "roc_10", "obv", "vwap"),
)
_OVERSOLD, _OVERBOUGHT, _SPAN = 30.0, 70.0, 10.0
_TREND, _STRONG_TREND = 20.0, 40.0
_OBV: Final = 20


class Rule(NamedTuple):
    """One rule."""

    name: str
    weight: float
    """How much it counts beside the others."""


TREND: Final = Rule("trend", 25)
DIRECTION: Final = Rule("direction", 15)
MACD: Final = Rule("macd", 20)
RSI: Final = Rule("rsi", 15)
BOLLINGER: Final = Rule("bollinger", 10)
MOMENTUM: Final = Rule("momentum", 10)
VOLUME: Final = Rule("volume", 5)
VWAP: Final = Rule("vwap", 10)
"""Of intraday bars only."""
RULES: Final = (TREND, DIRECTION, MACD, RSI, BOLLINGER, MOMENTUM, VOLUME, VWAP)


def views(bars: Columns, values: Values) -> dict[Rule, Floats]:
    """What each rule says of each bar, from -1 to 1."""
    close, atr = bars.close, values["atr_14"]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            TREND: _trend(close, values["sma_50"], values["sma_200"]),
            DIRECTION: _direction(values),
            MACD: _macd(values["macd_histogram"]),
            RSI: _reversal(values["rsi_14"]),
            BOLLINGER: _outside(values["bollinger_percent_b"]),
            MOMENTUM: np.clip(_by(values["momentum_10"], 2 * atr), -1, 1),
            VOLUME: _volume(values["obv"]),
        }
        if bars.session is not None:
            found[VWAP] = np.clip(_by(close - values["vwap"], atr), -1, 1)
    return found


def _by(value: Floats, measure: Floats) -> Floats:
    """A share of a measure; none of a measure that is nothing."""
    return np.where(measure > 0, value / measure, np.nan)


def _trend(close: Floats, short: Floats, long: Floats) -> Floats:
    """In order (close, 50, 200) a trend; else half of what the long average says."""
    side = np.sign(close - long)
    in_order = (np.sign(close - short) == side) & (np.sign(short - long) == side)
    return np.where(in_order, side, side * 0.5)


def _direction(values: Values) -> Floats:
    """Which way, and only as far as there is a trend at all."""
    side = np.sign(values["plus_di_14"] - values["minus_di_14"])
    return side * np.clip((values["adx_14"] - _TREND) / (_STRONG_TREND - _TREND), 0, 1)


def _macd(histogram: Floats) -> Floats:
    """Most for a histogram that grows on its own side."""
    change = np.full_like(histogram, np.nan)
    change[1:] = histogram[1:] - histogram[:-1]
    return 0.6 * np.sign(histogram) + 0.4 * np.sign(change)


def _reversal(rsi: Floats) -> Floats:
    return np.clip((_OVERSOLD - rsi) / _SPAN, 0, 1) - np.clip((rsi - _OVERBOUGHT) / _SPAN, 0, 1)


def _outside(place: Floats) -> Floats:
    """Beyond the bands; fully so a quarter of their width away."""
    return np.clip(-place * 4, 0, 1) - np.clip((place - 1) * 4, 0, 1)


def _volume(obv: Floats) -> Floats:
    """On-balance volume against its average."""
    average = np.full_like(obv, np.nan)
    if len(obv) >= _OBV:
        average[_OBV - 1 :] = np.lib.stride_tricks.sliding_window_view(obv, _OBV).mean(axis=1)
    return np.sign(obv - average)


def obv_average(obv: Floats) -> float:
    """What `VOLUME` compares the newest value with; NaN if there is none."""
    return float(obv[-_OBV:].mean()) if len(obv) >= _OBV else float("nan")
