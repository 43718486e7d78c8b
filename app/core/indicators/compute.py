"""The indicators' values. To be imported where numpy and TA-Lib may be loaded: not with the API process's modules.

What TA-Lib is guarded against:
- A missing price gives finite values after it (a relative strength of 0), or none ever again: the series is cut at
  every bar that has no usable numbers, and each piece is computed by itself.
- The relative strength of a price that stands still is 0, as after a crash: it is NaN here.
- Recursive averages depend on their beginning: their first `WARM_UP` values are NaN.
- Only float64 is taken, and an empty or very short input ends in exceptions of several kinds.
- Volume is 0 where nobody reports one (indices): what is made of it is NaN then.

Every value is made of the bars up to its own: a longer history changes nothing before its end.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.core.indicators.catalog import NAMES, WARM_UP
from app.core.indicators.library import talib

Floats = NDArray[np.float64]
Values = dict[str, Floats]

_SHORT: Final = 20
_WILDER: Final = 14
_MOMENTUM: Final = 10
_AVERAGES: Final = (20, 50, 200)
_EXPONENTIAL: Final = (20, 50)
_RECURSIVE: Final = frozenset(
    {
        *("ema_20", "ema_50", "rsi_14", "macd", "macd_signal", "macd_histogram"),
        *("atr_14", "adx_14", "plus_di_14", "minus_di_14"),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Bars, oldest first: columns of equal length."""

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    session: NDArray[np.int64] | None
    """Numbers of the sessions (`sessions_of`); None: a bar is a session or more."""

    def __len__(self) -> int:
        return len(self.close)

    def part(self, start: int, end: int) -> "Columns":
        """The bars from `start` to before `end`."""
        cut = slice(start, end)
        session = None if self.session is None else self.session[cut]
        return Columns(self.open[cut], self.high[cut], self.low[cut], self.close[cut], self.volume[cut], session)


def columns(
    open_: Sequence[float] | Floats,
    high: Sequence[float] | Floats,
    low: Sequence[float] | Floats,
    close: Sequence[float] | Floats,
    volume: Sequence[float] | Floats,
    session: Sequence[int] | None = None,
) -> Columns:
    """Columns of whatever holds the numbers; raises `ValueError` where they are not equally long."""
    parts: list[Floats] = [np.ascontiguousarray(part, dtype=np.float64) for part in (open_, high, low, close, volume)]
    numbers = None if session is None else np.ascontiguousarray(session, dtype=np.int64)
    if len({*map(len, parts), *([] if numbers is None else [len(numbers)])}) != 1:
        raise ValueError("columns are equally long")
    opens, highs, lows, closes, volumes = parts
    return Columns(opens, highs, lows, closes, volumes, numbers)


def compute(bars: Columns, names: Collection[str] = NAMES, *, warm_up: int = WARM_UP) -> Values:
    """The indicators called `names`, a value for each bar, NaN where there is none. Raises `KeyError` for others."""
    for name in names:
        if name not in _MADE_BY:
            raise KeyError(name)
    makers = dict.fromkeys(_MADE_BY[name] for name in names)
    if _whole(bars):
        return _piece(bars, makers, names, warm_up)
    made = {name: np.full(len(bars), np.nan) for name in names}
    for start, end in _stretches(bars):
        for name, values in _piece(bars.part(start, end), makers, names, warm_up).items():
            made[name][start:end] = values
    return made


def _whole(bars: Columns) -> bool:
    """Whether every bar is usable; quicker than to ask where."""
    if not len(bars):
        return True
    total = bars.open + bars.high + bars.low + bars.close + bars.volume
    sane = math.isfinite(total.sum()) and bars.low.min() > 0 and bars.volume.min() >= 0
    return bool(sane and (bars.high >= bars.low).all())


def _usable(bars: Columns) -> NDArray[np.bool_]:
    """Whether each bar has numbers; a sum is finite if all its parts are."""
    total = bars.open + bars.high + bars.low + bars.close + bars.volume
    return np.isfinite(total) & (bars.low > 0) & (bars.high >= bars.low) & (bars.volume >= 0)


def _stretches(bars: Columns) -> list[tuple[int, int]]:
    """Where usable bars begin, and before which bar they end."""
    usable = np.zeros(len(bars) + 2, dtype=np.int8)
    usable[1:-1] = _usable(bars)
    edges = np.flatnonzero(np.diff(usable)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _piece(bars: Columns, makers: Collection[str], names: Collection[str], warm_up: int) -> Values:
    found: Values = {}
    if len(bars) > 1:  # TA-Lib's own lookback takes care of the rest
        for maker in makers:
            found |= _MAKERS[maker](bars)
    made = {}
    for name in names:
        values = found.get(name)
        if values is None:
            values = np.full(len(bars), np.nan)
        elif name in _RECURSIVE:
            values[:warm_up] = np.nan
        made[name] = values
    return made


# One maker for each call of TA-Lib, or a few that belong together


def _averages(bars: Columns) -> Values:
    return {f"sma_{length}": talib.SMA(bars.close, length) for length in _AVERAGES}


def _exponential(bars: Columns) -> Values:
    return {f"ema_{length}": talib.EMA(bars.close, length) for length in _EXPONENTIAL}


def _rsi(bars: Columns) -> Values:
    values = talib.RSI(bars.close, _WILDER)
    same = bars.close[1:] == bars.close[:-1]
    if np.count_nonzero(same) >= _WILDER:
        values[_still(same, _WILDER)] = np.nan
    return {"rsi_14": values}


def _still(same: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Whether the last `length` closes are all the `same` as those before them."""
    changes = np.zeros(len(same) + 1, dtype=np.int64)
    np.cumsum(~same, out=changes[1:])
    still = np.zeros(len(changes), dtype=np.bool_)
    still[length:] = changes[length:] == changes[:-length]
    return still


def _macd(bars: Columns) -> Values:
    macd, signal, histogram = talib.MACD(bars.close, 12, 26, 9)
    return {"macd": macd, "macd_signal": signal, "macd_histogram": histogram}


def _bollinger(bars: Columns) -> Values:
    upper, middle, lower = talib.BBANDS(bars.close, _SHORT, 2.0, 2.0)
    width = upper - lower
    place = np.full(len(width), np.nan)
    np.divide(bars.close - lower, width, out=place, where=width > 0)
    return {
        "bollinger_upper": upper,
        "bollinger_middle": middle,
        "bollinger_lower": lower,
        "bollinger_percent_b": place,
    }


def _range(bars: Columns) -> Values:
    return {"atr_14": talib.ATR(bars.high, bars.low, bars.close, _WILDER)}


def _direction(bars: Columns) -> Values:
    prices = (bars.high, bars.low, bars.close)
    return {
        "adx_14": talib.ADX(*prices, _WILDER),
        "plus_di_14": talib.PLUS_DI(*prices, _WILDER),
        "minus_di_14": talib.MINUS_DI(*prices, _WILDER),
    }


def _momentum(bars: Columns) -> Values:
    return {"momentum_10": talib.MOM(bars.close, _MOMENTUM), "roc_10": talib.ROC(bars.close, _MOMENTUM)}


def _obv(bars: Columns) -> Values:
    values = talib.OBV(bars.close, bars.volume)
    if not bars.volume[0]:
        values[np.maximum.accumulate(bars.volume) <= 0] = np.nan
    return {"obv": values}


def _vwap(bars: Columns) -> Values:
    weighted = talib.TYPPRICE(bars.high, bars.low, bars.close) * bars.volume
    if bars.session is None:
        if len(bars) < _SHORT:
            return {}
        price, volume = talib.SUM(weighted, _SHORT), talib.SUM(bars.volume, _SHORT)
    else:
        first = np.flatnonzero(np.diff(bars.session, prepend=bars.session[0] - 1))
        lengths = np.diff(np.append(first, len(bars)))
        price, volume = (_since(np.cumsum(part), first, lengths) for part in (weighted, bars.volume))
        # Where the first session began is not known: what came before it is missing.
        volume[: lengths[0]] = np.nan
    traded = volume > 0
    values = np.divide(price, volume, out=np.full(len(bars), np.nan), where=traded)
    return {"vwap": values}


def _since(total: Floats, first: NDArray[np.int64], lengths: NDArray[np.int64]) -> Floats:
    """The parts of a running total that came since the beginnings `first`."""
    before = np.where(first > 0, total[first - 1], 0.0)
    since: Floats = total - np.repeat(before, lengths)
    return since


_MAKERS: Final = {
    "averages": _averages,
    "exponential": _exponential,
    "rsi": _rsi,
    "macd": _macd,
    "bollinger": _bollinger,
    "range": _range,
    "direction": _direction,
    "momentum": _momentum,
    "obv": _obv,
    "vwap": _vwap,
}
_MADE_BY: Final = {
    **{f"sma_{length}": "averages" for length in _AVERAGES},
    **{f"ema_{length}": "exponential" for length in _EXPONENTIAL},
    "rsi_14": "rsi",
    **dict.fromkeys(("macd", "macd_signal", "macd_histogram"), "macd"),
    **dict.fromkeys(
        ("bollinger_upper", "bollinger_middle", "bollinger_lower", "bollinger_percent_b"),
        "bollinger",
    ),
    "atr_14": "range",
    **dict.fromkeys(("adx_14", "plus_di_14", "minus_di_14"), "direction"),
    **dict.fromkeys(("momentum_10", "roc_10"), "momentum"),
    "obv": "obv",
    "vwap": "vwap",
}
