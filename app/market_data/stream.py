"""Live prices on their way to clients: to the hub of this process, and over the bus to those of the others.

The process that runs the feed hands in what arrived. Where other processes may listen, all ticks of one turn of the
event loop become one event, encoded once; each process gives what it hears to its own hub, through its own pacer.
Where nobody listens nothing is encoded at all. Candles, which are many, go to others only where these have said that
somebody listens there (`listening`).
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from app.core.bus import Bus
from app.core.clock import Clock
from app.core.clock import Sequence as Numbers
from app.core.events import CandleNotice, CandlesChanged, TickNotice, TicksArrived
from app.core.hub import Hub
from app.core.outbox import Channel
from app.market_data.listening import CandleListening
from app.market_data.pacer import Paced, Pacer
from app.market_data.ports import Tick, Timeframe
from app.market_data.rows import SOURCE, RowMaker
from app.market_data.wire import Wire, candle_of_row, encoded, tick_of_row

EVENT_BYTES: Final = 256 * 1024
"""Of JSON in one event: the bus carries a megabyte, and one event should not hold up the others."""
FORMING_SECONDS: Final = 0.25
"""How often the state of candles is told that are not closed yet."""
SLICE: Final = 100
"""Candles that are encoded in one turn of the event loop: 3 ms or so."""
MOST_SYMBOLS: Final = 10_000
"""Whose newest tick is remembered: more than any feed can subscribe to."""

N = TypeVar("N", TickNotice, CandleNotice)


class TickStream:
    """Fills the port `TickOutlet`, and remembers the newest tick of each symbol that passed by. In one event loop."""

    def __init__(self, *, hub: Hub, bus: Bus, clock: Clock, source: str = SOURCE) -> None:
        """`source`: what the ticks that are handed in name as their source."""
        self._hub, self._bus, self._clock = hub, bus, clock
        self._row_of = RowMaker(source).make
        self._numbers = Numbers(clock)
        self._pacer = Pacer(hub, clock, self._encode)
        self._ticks: list[tuple[Tick, bool]] = []
        self._flushing = False
        self._candles: dict[str, Mapping[str, Any]] = {}
        self._candle_timer: asyncio.TimerHandle | None = None
        self._candles_at = clock.monotonic()
        self._newest: dict[str, tuple[int, Tick | bytes]] = {}
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode
        self._listening = CandleListening(hub=hub, bus=bus, clock=clock, symbols=self.symbols)
        bus.subscribe(TicksArrived, self.on_ticks)
        bus.subscribe(CandlesChanged, self.on_candles)

    # What the feed hands in

    def ticks(self, ticks: Sequence[Tick]) -> None:
        """Take ticks that passed the checks, in the order of their arrival; never waits, never raises."""
        late = [not self._remember(tick.instrument.symbol, tick.received_ms, tick) for tick in ticks]
        if self._bus.has_peers or self._hub.heard(Channel.TICKS):
            self._ticks.extend(zip(ticks, late, strict=True))
            if not self._flushing:
                self._flushing = True
                asyncio.get_running_loop().call_soon(self._flush_ticks)

    def wants_candles(self, symbol: str, _timeframe: Timeframe | None = None) -> bool:
        """Whether anybody may be listening to candles of `symbol`; others need not be handed in."""
        return self._hub.listeners(Channel.CANDLES, symbol) > 0 or self._listening.elsewhere(symbol)

    def candles(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take documents of `candles` that are new or changed; never waits, never raises.

        Closed ones go out at once, the state of others as often as `FORMING_SECONDS` says.
        """
        closed = False
        for row in rows:
            closed = closed or row["closed"]
            self._candles[row["_id"]] = row
        if not self._candles:
            return
        if closed:
            self._flush_candles()
        elif self._candle_timer is None:
            delay = max(self._candles_at + FORMING_SECONDS - self._clock.monotonic(), 0)
            self._candle_timer = asyncio.get_running_loop().call_later(delay, self._flush_candles)

    def close(self) -> None:
        """Forget what waits."""
        self._listening.close()
        self._pacer.close()
        self._ticks.clear()
        self._candles.clear()
        if self._candle_timer is not None:
            self._candle_timer.cancel()
            self._candle_timer = None

    # What is known

    def newest(self, symbol: str) -> tuple[int, Wire] | None:
        """The newest tick of `symbol` that passed by since the start: its `received_at` in ms, and the tick."""
        known = self._newest.get(symbol)
        if known is None:
            return None
        ms, tick = known
        return ms, self._decode(tick) if isinstance(tick, bytes) else self._wire(tick)

    def symbols(self) -> list[str]:
        """The symbols of which a tick has passed by."""
        return list(self._newest)

    def health(self) -> dict[str, Any]:
        """`conflated`: messages that a newer one took the place of; `waiting`: for their turn; `symbols`: seen."""
        return {"conflated": self._pacer.conflated, "waiting": self._pacer.waiting, "symbols": len(self._newest)}

    def _remember(self, symbol: str, ms: int, tick: Tick | bytes) -> bool:
        """Whether it is the newest of its symbol."""
        known = self._newest.get(symbol)
        if known is not None:
            if ms < known[0]:
                return False
            self._newest[symbol] = (ms, tick)
        elif len(self._newest) < MOST_SYMBOLS:
            self._newest[symbol] = (ms, tick)
        return True

    def _wire(self, tick: Tick) -> Wire:
        return tick_of_row(self._row_of(tick), after_hours=tick.after_hours)

    def _encode(self, tick: Tick) -> bytes:
        return encoded(self._wire(tick))

    # From here to everybody

    def _flush_ticks(self) -> None:
        self._flushing = False
        ticks, self._ticks = self._ticks, []
        number = self._numbers.next
        if self._bus.has_peers:
            notices = (
                TickNotice(tick.instrument.symbol, tick.received_ms, number(), self._encode(tick), late)
                for tick, late in ticks
            )
            for some in _portions(notices):
                self._bus.announce(TicksArrived(some))
            return
        for tick, late in ticks:
            symbol = tick.instrument.symbol
            self._pacer.offer(Paced(Channel.TICKS, _key(symbol, late), symbol, number(), tick))

    def _flush_candles(self) -> None:
        if self._candle_timer is not None:
            self._candle_timer.cancel()
            self._candle_timer = None
        self._candles_at = self._clock.monotonic()
        here, elsewhere = list[CandleNotice](), list[CandleNotice]()
        for key in list(islice(self._candles, SLICE)):
            row = self._candles.pop(key)
            symbol = row["symbol"]
            notices = elsewhere if self._listening.elsewhere(symbol) else here
            if notices is elsewhere or self._hub.listeners(Channel.CANDLES, symbol):
                body = encoded(candle_of_row(row))
                notices.append(CandleNotice(symbol, key, row["closed"], self._numbers.next(), body))
        if here:
            self.on_candles(CandlesChanged(here))
        for some in _portions(elsewhere):
            self._bus.announce(CandlesChanged(some))
        if self._candles:  # others get their turn in between
            self._candle_timer = asyncio.get_running_loop().call_later(0, self._flush_candles)

    # From everybody to the clients here

    def on_ticks(self, event: TicksArrived) -> None:
        """Give ticks of whichever process to the clients of this one."""
        self._listening.watch()
        offer = self._pacer.offer
        for symbol, ms, seq, body, late in event.ticks:
            self._remember(symbol, ms, body)
            offer(Paced(Channel.TICKS, _key(symbol, late), symbol, seq, body))

    def on_candles(self, event: CandlesChanged) -> None:
        """Give candles of whichever process to the clients of this one; a closed one is never left out."""
        for symbol, key, closed, seq, body in event.candles:
            self._pacer.offer(Paced(Channel.CANDLES, key, symbol, seq, body), now=closed)


def _key(symbol: str, late: bool) -> str:
    """Of ticks with the same key only the last may be sent: a late one must not take the place of a newer price."""
    return f"{symbol}|late" if late else symbol


def _portions(notices: Iterable[N]) -> Iterator[list[N]]:
    """In order, as many as one event takes."""
    some: list[N] = []
    size = 0
    for notice in notices:
        size += len(notice.body) + len(notice.symbol) + 64
        if some and size > EVENT_BYTES:
            yield some
            some, size = [], len(notice.body)
        some.append(notice)
    if some:
        yield some
