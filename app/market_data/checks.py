"""Which ticks are taken at all, and what the others are worth.

A tick is rejected only when it cannot be right; what merely contradicts the day's limits, or what came before it, is
kept and marked `suspect`, and so is all of an instrument whose token is said to be another's. No tick is compared with
one that is newer than it.
"""

from typing import Final

import msgspec

from app.market_data.counters import Counters
from app.market_data.ports import Quality, Tick

EARLIEST_MS: Final = 1_577_836_800_000
"""The start of 2020: the feed is younger, so an earlier time is garbage."""
MOST_AHEAD_MS: Final = 60_000
"""How far the exchange's clock may be ahead of ours."""
STALE_AFTER_MS: Final = 15_000
HIGHEST_RUPEES: Final = 1_000_000_000

PRICE, TOO_OLD, IN_FUTURE, FAULTY, UNENCODABLE = "price", "too_old", "in_future", "faulty", "unencodable"
"""Reasons of rejections. `faulty`: it made a part of the pipeline fail, which is logged."""

JUMP, OPTION_JUMP = 0.20, 2.0
"""The largest share of the last good price by which the next may differ. Premiums of options move by multiples."""
LEAST_JUMP, LEAST_OPTION_JUMP = 0.01, 0.25
"""A smaller one is never suspect: an index that stood still for a minute has next to no deviation."""
DEVIATIONS: Final = 10
CERTAIN_AFTER: Final = 100
"""Ticks until the deviation is trusted."""
REBASE_AFTER: Final = 5
"""Suspect ticks in a row that agree with each other: the market has moved, and they are the new reference."""

_WEIGHT: Final = 1 / 64
_IST_MS: Final = 19_800_000
_DAY_MS: Final = 86_400_000
_MOST: Final = 1e18


class _Past(msgspec.Struct):
    """What is known of a symbol: the last good tick, and the ticks that disagree with it."""

    limit: float
    floor: float
    day: int = -1
    ms: int = 0
    price: float = 0.0
    """Rupees; 0 when there is none to compare with."""
    volume: int = 0
    variance: float = 0.0
    """Of the steps between good ticks, each a share of the price; the last 64 or so count most."""
    steps: int = 0
    odd_price: float = 0.0
    odd: int = 0


class Checks:
    """Judges ticks; remembers a few numbers of each symbol."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._past: dict[str, _Past] = {}

    def judge(self, tick: Tick) -> str | None:
        """Mark the quality of `tick`, clear what is nonsense beside its price; gives the reason to reject it, or None.

        The clock is that of its arrival.
        """
        top = HIGHEST_RUPEES * tick.divisor
        if not 0 < tick.price <= top:
            return PRICE
        if tick.exchange_ms < EARLIEST_MS:
            return TOO_OLD
        if tick.exchange_ms > tick.arrival_ms + MOST_AHEAD_MS:
            return IN_FUTURE
        odd = False
        if tick.has_day:
            self._counters.dropped_fields += _clean(tick, top)
            price, low, high = tick.price, tick.low, tick.high
            # Each of these is 0 where it is not known.
            odd = (
                (low and price < low)
                or (high and price > high)
                or (tick.lower_circuit and price < tick.lower_circuit)
                or (tick.upper_circuit and price > tick.upper_circuit)
            ) != 0
        if self._contradicts(tick, odd) or tick.instrument.doubtful:
            tick.quality = Quality.SUSPECT
        elif tick.arrival_ms - tick.exchange_ms > STALE_AFTER_MS:
            tick.quality = Quality.STALE
        else:
            tick.quality = Quality.GOOD
        return None

    def _contradicts(self, tick: Tick, odd: bool) -> bool:
        """Whether `tick` is suspect; `odd`: its own figures say so already."""
        past = self._past.get(tick.instrument.symbol)
        if past is None:
            past = self._learn(tick)
        if tick.exchange_ms < past.ms:
            return odd
        price = tick.price / tick.divisor
        day = (tick.exchange_ms + _IST_MS) // _DAY_MS
        if day != past.day:
            self._new_day(past, day, tick)
        step = price / past.price - 1 if past.price else 0.0
        jumped = _is_jump(past, step)
        if odd or jumped or (tick.has_day and tick.volume < past.volume):
            if not odd:
                _note_odd(past, price, tick)
            return True
        past.ms, past.price, past.odd = tick.exchange_ms, price, 0
        past.variance += (step * step - past.variance) * _WEIGHT
        past.steps += 1
        if tick.has_day:
            past.volume = tick.volume
        return False

    def _learn(self, tick: Tick) -> _Past:
        option = tick.instrument.kind.startswith("OPT")
        past = _Past(OPTION_JUMP, LEAST_OPTION_JUMP) if option else _Past(JUMP, LEAST_JUMP)
        self._past[tick.instrument.symbol] = past
        return past

    @staticmethod
    def _new_day(past: _Past, day: int, tick: Tick) -> None:
        """Compare with the close that the exchange names: it knows of splits and dividends, the last price does not."""
        past.day, past.volume, past.odd, past.steps, past.variance = day, 0, 0, 0, 0.0
        past.price = tick.close / tick.divisor


def _is_jump(past: _Past, step: float) -> bool:
    """Whether a step, a share of the last price, is larger than a price makes."""
    size = abs(step)
    if size > past.limit:
        return True
    return size > past.floor and past.steps >= CERTAIN_AFTER and size * size > DEVIATIONS**2 * past.variance


def _note_odd(past: _Past, price: float, tick: Tick) -> None:
    """A tick disagrees with the last good one; after some that agree with each other, they are believed."""
    agrees = past.odd and abs(price / past.odd_price - 1) <= past.floor
    past.odd = past.odd + 1 if agrees else 1
    past.odd_price = price
    if past.odd >= REBASE_AFTER:
        past.ms, past.price, past.volume = tick.exchange_ms, price, tick.volume
        past.odd, past.steps, past.variance = 0, 0, 0.0


_PRICES: Final = (
    "open",
    "high",
    "low",
    "close",
    "average_price",
    "upper_circuit",
    "lower_circuit",
    "year_high",
    "year_low",
)
_QUANTITIES: Final = ("volume", "last_quantity", "open_interest", "total_buy_quantity", "total_sell_quantity")


def _clean(tick: Tick, top: int) -> int:
    """Set to nothing the figures that cannot be; gives how many."""
    # The usual case first, in few steps: comparisons with NaN are False, so it fails them.
    if (
        tick.open >= 0 <= tick.high <= top
        and tick.low >= 0 <= tick.close <= top
        and 0 <= tick.volume < _MOST
        and 0.0 <= tick.total_buy_quantity < _MOST
        and 0.0 <= tick.total_sell_quantity < _MOST
        and tick.open <= top
        and tick.low <= top
        and 0 <= tick.average_price <= top
        and tick.last_quantity >= 0 <= tick.open_interest
        and tick.upper_circuit >= 0 <= tick.lower_circuit
        and tick.year_high >= 0 <= tick.year_low
        and tick.upper_circuit <= top >= tick.lower_circuit
        and tick.year_high <= top >= tick.year_low
        and tick.last_quantity < _MOST > tick.open_interest
    ):
        return 0
    wrong = [name for name in _PRICES if not 0 <= getattr(tick, name) <= top]
    wrong += [name for name in _QUANTITIES if not 0 <= getattr(tick, name) < _MOST]
    for name in wrong:
        setattr(tick, name, 0.0 if name.startswith("total_") else 0)
    return len(wrong)
