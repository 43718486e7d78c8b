"""The indicators once more, in plain Python, by their definitions; None where there is no value yet."""

import itertools
import math
from collections.abc import Sequence

Series = list[float | None]


def sma(values: Sequence[float], length: int) -> Series:
    return [
        None if end + 1 < length else math.fsum(values[end + 1 - length : end + 1]) / length
        for end in range(len(values))
    ]


def ema(values: Sequence[float], length: int) -> list[float]:
    """From the first value on: whatever it begins with is forgotten."""
    made = [values[0]]
    for value in values[1:]:
        made.append(made[-1] + (value - made[-1]) * 2 / (length + 1))
    return made


def wilder(values: Sequence[float], length: int) -> list[float]:
    made = [values[0]]
    for value in values[1:]:
        made.append(made[-1] + (value - made[-1]) / length)
    return made


def rsi(close: Sequence[float], length: int) -> Series:
    changes = [after - before for before, after in itertools.pairwise(close)]
    gains = wilder([max(change, 0.0) for change in changes], length)
    losses = wilder([max(-change, 0.0) for change in changes], length)
    made: Series = [None]
    for place in range(len(changes)):
        if not any(changes[max(0, place + 1 - length) : place + 1]):
            made.append(None)
        else:
            made.append(100 * gains[place] / (gains[place] + losses[place]))
    return made


def macd(close: Sequence[float]) -> tuple[list[float], list[float], list[float]]:
    line = [fast - slow for fast, slow in zip(ema(close, 12), ema(close, 26), strict=True)]
    signal = ema(line, 9)
    return line, signal, [one - other for one, other in zip(line, signal, strict=True)]


def bollinger(close: Sequence[float], length: int, wide: float) -> tuple[Series, Series, Series]:
    upper: Series = []
    lower: Series = []
    middle = sma(close, length)
    for end, mean in enumerate(middle):
        if mean is None:
            upper.append(None)
            lower.append(None)
            continue
        window = close[end + 1 - length : end + 1]
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in window) / length)
        upper.append(mean + wide * deviation)
        lower.append(mean - wide * deviation)
    return upper, middle, lower


def true_ranges(high: Sequence[float], low: Sequence[float], close: Sequence[float]) -> list[float]:
    return [max(high[place], close[place - 1]) - min(low[place], close[place - 1]) for place in range(1, len(close))]


def atr(high: Sequence[float], low: Sequence[float], close: Sequence[float], length: int) -> Series:
    return [None, *wilder(true_ranges(high, low, close), length)]


def direction(
    high: Sequence[float], low: Sequence[float], close: Sequence[float], length: int
) -> tuple[Series, Series, Series]:
    """ADX, +DI and -DI."""
    ups, downs = [], []
    for place in range(1, len(close)):
        up, down = high[place] - high[place - 1], low[place - 1] - low[place]
        ups.append(up if up > down and up > 0 else 0.0)
        downs.append(down if down > up and down > 0 else 0.0)
    ranges = wilder(true_ranges(high, low, close), length)
    plus = [100 * one / whole for one, whole in zip(wilder(ups, length), ranges, strict=True)]
    minus = [100 * one / whole for one, whole in zip(wilder(downs, length), ranges, strict=True)]
    spread = [
        100 * abs(one - other) / (one + other) if one + other else 0.0 for one, other in zip(plus, minus, strict=True)
    ]
    return [None, *wilder(spread, length)], [None, *plus], [None, *minus]


def obv(close: Sequence[float], volume: Sequence[float]) -> list[float]:
    made = [volume[0]]
    for place in range(1, len(close)):
        change = close[place] - close[place - 1]
        made.append(made[-1] + (volume[place] if change > 0 else -volume[place] if change < 0 else 0.0))
    return made


def vwap(
    high: Sequence[float],
    low: Sequence[float],
    close: Sequence[float],
    volume: Sequence[float],
    session: Sequence[int] | None,
) -> Series:
    made: Series = []
    for end in range(len(close)):
        if session is None:
            first = end - 19
        elif session[end] == session[0]:
            first = -1
        else:
            first = list(session).index(session[end])
        places = range(first, end + 1) if first >= 0 else ()
        traded = math.fsum(volume[place] for place in places)
        if not traded:
            made.append(None)
            continue
        weighted = math.fsum((high[place] + low[place] + close[place]) / 3 * volume[place] for place in places)
        made.append(weighted / traded)
    return made
