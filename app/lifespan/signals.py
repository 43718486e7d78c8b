"""Signals, put together."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Protocol

from app.core.clock import Sequence as Numbers
from app.core.clock import from_micros
from app.core.deps import Registry
from app.core.errors import NotFoundError
from app.core.events import SignalChanged
from app.core.hub import Hub
from app.core.lease_holder import LeaseHolder
from app.core.outbox import Channel
from app.core.settings import Settings
from app.lifespan.accounts import People
from app.lifespan.ground import Ground
from app.market_data.candle_reading import CandleReading
from app.market_data.ports import Instrument, Quality, Tick, Timeframe
from app.market_data.schemas import Span
from app.market_data.watchlist import Watchlist
from app.signals.completion import SignalCompletion
from app.signals.look_back import LookBack
from app.signals.ports import PriceBar
from app.signals.price_names import PriceNames, price_name
from app.signals.user_signals import UserSignals

LEASE_SECONDS = 15.0


class Feed(Protocol):
    """Where live ticks come from."""

    def on_ticks(self, listener: Callable[[Sequence[Tick]], None]) -> None:
        """Hand `listener` the ticks that passed the checks."""


class CandlePrices:
    """Fills the port `PriceHistory` of signals with the candles of market data."""

    def __init__(self, reading: CandleReading, doubt: Callable[[str], str | None]) -> None:
        """`doubt`: what speaks against the prices of a symbol."""
        self._reading, self._doubt = reading, doubt

    async def bars(self, symbol: str, start: datetime, end: datetime) -> list[PriceBar]:
        """See the port."""
        if self._doubt(symbol):  # perhaps another instrument's: its ticks are suspect, and end nothing either
            return []
        try:
            _, rows = await self._reading.stretch(symbol, Timeframe.M1, Span(start=start, end=end), 0)
        except NotFoundError:  # no feed has ever brought it
            return []
        return [
            PriceBar(row["start"], *(Decimal(str(row[name])) for name in ("open", "high", "low")))
            for row in rows
            if start <= row["start"] < end
        ]


def signals(
    registry: Registry, settings: Settings, ground: Ground, people: People, hub: Hub, feed: Feed
) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Make the services and provide what endpoints ask for; gives what `/health` asks."""
    clock, bus = ground.clock, ground.bus
    sequence = Numbers(clock)
    watchlist = registry.get(Watchlist)
    names = price_names(watchlist)
    registry.provide(UserSignals, UserSignals(bus=bus, clock=clock, sequence=sequence, audit=people.audit, names=names))
    bus.subscribe(SignalChanged, partial(_stream, hub))
    past = LookBack(history=CandlePrices(registry.get(CandleReading), watchlist.doubt), clock=clock)
    completion = SignalCompletion(bus=bus, clock=clock, sequence=sequence, audit=people.audit, past=past, names=names)
    if settings.background_tasks_enabled:
        lease = LeaseHolder(ground.database.db, clock, "signal completion", ground.holder, LEASE_SECONDS)
        ground.supervisor.add("signal completion", partial(lease.run, completion.run))
        feed.on_ticks(partial(_complete, completion))

    async def health() -> dict[str, Any]:
        return completion.health() if settings.background_tasks_enabled else {"status": "off"}

    return health


def price_names(watchlist: Watchlist) -> PriceNames:
    """What the feed's ticks call a symbol, by what it follows now."""
    seen: Sequence[Instrument] | None = None
    known: frozenset[str] = frozenset()

    def name(symbol: str) -> str | None:
        nonlocal seen, known
        followed = watchlist.followed()
        if followed is not seen:
            seen, known = followed, frozenset(one.symbol for one in followed)
        return price_name(symbol, known)

    return name


def _complete(completion: SignalCompletion, ticks: Sequence[Tick]) -> None:
    # The process that runs the feed hears of its own ticks here: it puts them on the bus only where others listen.
    for tick in ticks:
        symbol = tick.instrument.symbol
        if completion.follows(symbol) and tick.quality is Quality.GOOD and not tick.after_hours:
            completion.price(symbol, Decimal(tick.price) / tick.divisor, from_micros(tick.received_ms * 1000))


def _stream(hub: Hub, event: SignalChanged) -> None:
    hub.publish(Channel.SIGNALS, event.body, seq=event.seq, owner=event.user_id)
