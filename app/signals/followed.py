"""The active signals of which prices are followed, by symbol: what every tick is held against. No I/O.

A tick costs one look-up and two comparisons, however many signals there are on its symbol: for each the nearest levels
above and below the price are known.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from app.signals.price_names import PriceNames, as_written
from app.signals.status import SignalType, Status
from app.signals.touches import Levels, Outcome, touched_by_price
from app.signals.user_schemas import followed_live


class Followed(NamedTuple):
    """An active signal."""

    id: str
    """24 hex digits."""
    symbol: str
    """As its prices call it."""
    revision: int
    levels: Levels
    since: datetime
    """What prices did before does not count."""


class Touch(NamedTuple):
    """A signal that a price has ended; it is not stored yet."""

    signal: Followed
    outcome: Outcome


def followed(row: Mapping[str, Any], names: PriceNames = as_written) -> Followed | None:
    """The signal of a stored row; None if it is closed, or its price is not that of its symbol.

    What no feed brings stays under its own name: the next look knows better.
    """
    if row["status"] != Status.ACTIVE or not followed_live(row["symbol"], row.get("option_type")):
        return None
    levels = Levels.of(SignalType(row["signal_type"]), row["target_price"], row["stop_loss"])
    symbol = names(row["symbol"]) or row["symbol"]
    return Followed(str(row["_id"]), symbol, row["revision"], levels, row["levels_at"])


class _Lot:
    """The signals of one symbol, and the levels nearest to its price."""

    __slots__ = ("ceiling", "floor", "signals")

    def __init__(self) -> None:
        self.signals: dict[str, Followed] = {}
        self.floor = self.ceiling = Decimal(0)

    def measure(self) -> None:
        self.floor = max(signal.levels.lower for signal in self.signals.values())
        self.ceiling = min(signal.levels.upper for signal in self.signals.values())


class FollowedSignals:
    """What is followed now."""

    def __init__(self) -> None:
        self._lots: dict[str, _Lot] = {}
        self._symbols: dict[str, str] = {}

    def __len__(self) -> int:
        """How many signals."""
        return len(self._symbols)

    def __contains__(self, symbol: object) -> bool:
        """Whether there are signals on `symbol`."""
        return symbol in self._lots

    @property
    def symbols(self) -> list[str]:
        """That have signals."""
        return list(self._lots)

    def on(self, symbol: str) -> list[Followed]:
        """The signals on `symbol`."""
        lot = self._lots.get(symbol)
        return list(lot.signals.values()) if lot else []

    def put(self, signals: Iterable[Followed]) -> None:
        """Add, or take the place of what has the same id and is no newer."""
        changed: dict[str, _Lot] = {}
        for signal in signals:
            if self._symbols.get(signal.id, signal.symbol) != signal.symbol:
                changed.pop(self._symbols[signal.id], None)
                self.drop(signal.id)
            lot = self._lots.setdefault(signal.symbol, _Lot())
            known = lot.signals.get(signal.id)
            if known is None or known.revision <= signal.revision:
                lot.signals[signal.id] = signal
                self._symbols[signal.id] = signal.symbol
                changed[signal.symbol] = lot
        for lot in changed.values():
            lot.measure()

    def drop(self, signal_id: str) -> None:
        """Follow it no more."""
        symbol = self._symbols.pop(signal_id, None)
        if symbol is None:
            return
        lot = self._lots[symbol]
        del lot.signals[signal_id]
        if lot.signals:
            lot.measure()
        else:
            del self._lots[symbol]

    def clear(self) -> None:
        """Follow nothing."""
        self._lots.clear()
        self._symbols.clear()

    def touched(self, symbol: str, price: Decimal, at: datetime) -> list[Touch]:
        """The signals that a tick ends; they are not followed any more."""
        lot = self._lots.get(symbol)
        if lot is None or lot.floor < price < lot.ceiling:
            return []
        found = []
        for signal in lot.signals.values():
            outcome = touched_by_price(signal.levels, price, at)
            if outcome is not None and at >= signal.since:
                found.append(Touch(signal, outcome))
        for touch in found:
            self.drop(touch.signal.id)
        return found
