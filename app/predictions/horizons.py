"""How far ahead a prediction looks: from what people write (`5`, `5d`, `1w`, `4h`) to candles, and back. Pure."""

import re
from typing import Final, NamedTuple

from app.core.candles import Timeframe
from app.core.errors import FieldError, InvalidInputError
from app.predictions.ml.values import MAXIMUM_HORIZON

USUAL: Final = "5"
FORM: Final = r"^\s*[1-9][0-9]{0,3}\s*([A-Za-z]{1,8})?\s*$"
_FORM = re.compile(r"([1-9][0-9]{0,3})\s*([a-z]{0,8})").fullmatch
_UNITS: Final = {
    **dict.fromkeys(("", "b", "bar", "bars", "candle", "candles"), "bar"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "minute"),
    **dict.fromkeys(("h", "hour", "hours"), "hour"),
    **dict.fromkeys(("d", "day", "days"), "day"),
    **dict.fromkeys(("w", "week", "weeks"), "week"),
}
_MINUTES: Final = {"minute": 1, "hour": 60}
_DAYS: Final = {"day": 1, "week": 5}
_SHOWN: Final = {Timeframe.D1: (1, "d"), Timeframe.W1: (1, "w"), Timeframe.H1: (1, "h")}


class Horizon(NamedTuple):
    """How far, in a unit: `bar`, `minute`, `hour`, `day` or `week`."""

    number: int
    unit: str


def horizon_of(text: str) -> Horizon:
    """What `text` says; a number alone counts candles. Raises `InvalidInputError`."""
    found = _FORM(text.strip().lower())
    unit = _UNITS.get(found[2]) if found else None
    if found is None or unit is None:
        raise refused("This is no time: a number of candles (5), or minutes, hours, days or weeks (30m, 4h, 5d, 1w)")
    return Horizon(int(found[1]), unit)


def candles_of(horizon: Horizon, timeframe: Timeframe, a_day: int) -> int:
    """How many candles of `timeframe` that is, of which a trading day has `a_day`. A week is five trading days.

    Raises `InvalidInputError` for what is no whole number of them, and for more than `MAXIMUM_HORIZON`.
    """
    count, told = _counted(horizon, timeframe, a_day), f"{horizon.number} {horizon.unit}s"
    if count is None:
        raise refused(f"{told} are no whole number of candles of {timeframe}; {_hint(timeframe)}")
    if count > MAXIMUM_HORIZON:
        many = f"{told} are {count:,} candles of {timeframe}"
        raise refused(f"{many}; 1 to {MAXIMUM_HORIZON} are possible, {_hint(timeframe)}")
    return count


def _counted(horizon: Horizon, timeframe: Timeframe, a_day: int) -> int | None:
    count, unit = horizon
    if unit == "bar":
        return count
    if unit in _DAYS:
        days = count * _DAYS[unit]
        if timeframe is Timeframe.W1:
            return None if days % 5 else days // 5
        return days * (a_day if timeframe.intraday else 1)
    if not timeframe.intraday:
        return None
    minutes, length = count * _MINUTES[unit], int(timeframe.length.total_seconds() // 60)
    return None if minutes % length else minutes // length


def _hint(timeframe: Timeframe) -> str:
    return f"for instance 5 or {horizon_text(5, timeframe)}"


def horizon_text(bars: int, timeframe: Timeframe) -> str:
    """The one way in which a horizon of `bars` candles is written: `5d`, `5w`, `5h`, `75m`."""
    each, unit = _SHOWN.get(timeframe) or (int(timeframe.length.total_seconds() // 60), "m")
    return f"{bars * each}{unit}"


def refused(message: str) -> InvalidInputError:
    """The error for a horizon that is none, or not possible."""
    problem = FieldError(("body", "time_horizon"), message, "time_horizon_invalid")
    return InvalidInputError(f"body.time_horizon: {message}.", [problem])
