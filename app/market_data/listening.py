"""Which candles clients of the other processes listen to.

Nobody knows how many other processes there are, so nobody has to say that it does not listen. Who listens says so, at
once and then every few seconds; it holds for `KEEP_SECONDS`, and a process that ends just stops saying it. As long as
something may not have been heard yet, all candles are taken to be wanted.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from app.core.bus import Bus
from app.core.clock import Clock
from app.core.events import CandlesWanted, PeersChanged
from app.core.hub import Hub
from app.core.outbox import Channel

LOOK_SECONDS: Final = 0.25
"""How soon a process notices that a client listens."""
SAY_SECONDS: Final = 4.0
KEEP_SECONDS: Final = 15.0
"""Longer than three announcements are apart: one that is lost does no harm."""
MOST_NAMED: Final = 500
"""Symbols in an announcement; who listens to more is sent all."""


class CandleListening:
    """Says what is listened to here, and knows what is elsewhere. In one event loop."""

    def __init__(
        self, *, hub: Hub, bus: Bus, clock: Clock, symbols: Callable[[], Iterable[str]], keep: float = KEEP_SECONDS
    ) -> None:
        """`symbols`: those that have candles; `keep`: see `KEEP_SECONDS`."""
        self._hub, self._bus, self._clock, self._symbols, self._keep = hub, bus, clock, symbols, keep
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._said: frozenset[str] | None = frozenset()
        self._say_at = 0.0
        self._all_until = self._doubt_until = clock.monotonic() + keep
        self._until: dict[str, float] = {}
        bus.subscribe(CandlesWanted, self.on_wanted)
        bus.subscribe(PeersChanged, self.on_peers)

    def elsewhere(self, symbol: str) -> bool:
        """Whether candles of `symbol` may be listened to in another process."""
        if not self._bus.has_peers:
            return False
        now = self._clock.monotonic()
        return now < self._all_until or now < self._until.get(symbol, 0.0)

    def watch(self) -> None:
        """Begin to look who listens here; in the event loop."""
        if self._timer is None and not self._closed:
            self._look()

    def close(self) -> None:
        """Say nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def on_peers(self, _: PeersChanged) -> None:
        """Something may have been missed, here and by others."""
        self._all_until = self._doubt_until = self._clock.monotonic() + self._keep
        self._say_at = 0.0
        self.watch()

    def on_wanted(self, event: CandlesWanted) -> None:
        """Another process says what its clients listen to."""
        self.watch()
        if event.origin == self._bus.origin:
            return
        now = self._clock.monotonic()
        if event.symbols is None:
            self._all_until = max(self._all_until, now + self._keep)
            return
        for symbol in [symbol for symbol, until in self._until.items() if until <= now]:
            del self._until[symbol]
        self._until.update(dict.fromkeys(event.symbols, now + self._keep))

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        if not self._bus.has_peers or not self._hub.heard(Channel.CANDLES):
            self._said = frozenset()
            return
        now, heard = self._clock.monotonic(), self._heard()
        is_new = heard is None or (self._said is not None and not heard <= self._said)
        if now >= self._say_at or (is_new and heard != self._said):
            self._said, self._say_at = heard, now + SAY_SECONDS
            self._bus.announce(CandlesWanted(self._bus.origin, None if heard is None else sorted(heard)))

    def _heard(self) -> frozenset[str] | None:
        """What is listened to here; None: everything, or nobody knows what."""
        if self._clock.monotonic() < self._doubt_until:
            return None  # which symbols there are is not known yet
        listeners = self._hub.listeners
        heard = frozenset(symbol for symbol in self._symbols() if listeners(Channel.CANDLES, symbol))
        return heard if 0 < len(heard) <= MOST_NAMED else None
