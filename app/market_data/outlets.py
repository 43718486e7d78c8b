"""Ticks that passed the checks, to everybody in this process who wants them."""

from collections.abc import Callable, Sequence

from app.market_data.ports import Tick, TickOutlet


class Outlets:
    """A `TickOutlet` before others."""

    def __init__(self, first: TickOutlet) -> None:
        self._first = first
        self._others: list[Callable[[Sequence[Tick]], None]] = []

    def add(self, listener: Callable[[Sequence[Tick]], None]) -> None:
        """Hand ticks to `listener`, too; it never waits and never raises."""
        self._others.append(listener)

    def ticks(self, ticks: Sequence[Tick]) -> None:
        """See the port."""
        self._first.ticks(ticks)
        for listener in self._others:
            listener(ticks)
