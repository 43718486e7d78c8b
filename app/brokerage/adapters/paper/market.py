"""The newest prices that the matching knows, and what each of them offers to orders. No I/O."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from app.brokerage.adapters.paper.book import Key
from app.brokerage.adapters.paper.hours import Hours
from app.brokerage.adapters.paper.matching import Quote
from app.brokerage.adapters.paper.rules import PaperRules
from app.brokerage.ports import LastPrice

_MINUTE: Final = timedelta(minutes=1)
MOST_QUOTES: Final = 64
"""Of an instrument that wait to be met; of more the extremes and the newest stay."""


class _Seen(NamedTuple):
    last: LastPrice
    heard_at: datetime


class Market:
    """One for the matching."""

    def __init__(self, rules: PaperRules, hours: Hours) -> None:
        self._rules, self._hours = rules, hours
        self._seen: dict[Key, _Seen] = {}

    def take(self, key: Key, last: LastPrice, now: datetime) -> Quote | None:
        """A price that was heard; None if it is not newer than what is known, or is no price."""
        if not last.price.is_finite() or last.price <= 0:
            return None
        known = self._seen.get(key)
        if known is not None and (last.at < known.last.at or last == known.last):
            # Asked for again: what is known is the newest still.
            self._seen[key] = _Seen(known.last, now)
            return None
        self._seen[key] = _Seen(last, now)
        before = known.last.volume if known is not None and self._same_day(known.last, last) else None
        traded = None
        if last.volume is not None and before is not None:
            traded = self._share(max(0, last.volume - before))
        return Quote(key, last.price, last.at, self._usual(last), traded)

    def newest(self, key: Key) -> Quote | None:
        """The newest price again, for orders that arrive: nothing was traded since."""
        known = self._seen.get(key)
        if known is None:
            return None
        return Quote(key, known.last.price, known.last.at, self._usual(known.last), 0)

    def age(self, key: Key, now: datetime) -> timedelta | None:
        """Since when nothing was heard of it; None: never."""
        known = self._seen.get(key)
        return None if known is None else now - known.heard_at

    def clear(self) -> None:
        """Forget all."""
        self._seen.clear()

    def _same_day(self, one: LastPrice, other: LastPrice) -> bool:
        return self._hours.today(one.at).day == self._hours.today(other.at).day

    def _usual(self, last: LastPrice) -> int | None:
        """The share of what was traded in a minute of the day so far."""
        if last.volume is None:
            return None
        minutes = max(1, (last.at - self._hours.today(last.at).opens) // _MINUTE)
        return self._share(last.volume // minutes)

    def _share(self, volume: int) -> int | None:
        if not self._rules.volume_share:
            return None
        # At least one unit of what was traded: the smallest orders do get on.
        return max(int(volume * self._rules.volume_share), min(volume, 1))


def condensed(quotes: list[Quote]) -> list[Quote]:
    """No more than `MOST_QUOTES` (more only for very many instruments): the extremes of each instrument, and the last.

    What was traded at those that are left out is lost to the orders.
    """
    if len(quotes) <= MOST_QUOTES:
        return quotes
    kept: set[int] = set()
    by_key: dict[Key, list[int]] = {}
    for index, quote in enumerate(quotes):
        by_key.setdefault(quote.key, []).append(index)
    for indexes in by_key.values():
        prices: list[Decimal] = [quotes[index].price for index in indexes]
        kept |= {indexes[0], indexes[-1], indexes[prices.index(min(prices))], indexes[prices.index(max(prices))]}
    return [quotes[index] for index in sorted(kept)]
