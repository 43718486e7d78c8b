"""Newest prices for brokerage: those of the live feed, in whichever process it runs, else quotes and newest minutes."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec
from cachetools import LRUCache

from app.brokerage.adapters.angel_one.words import plain_symbol
from app.brokerage.ports import LastPrice
from app.brokerage.words import Exchange
from app.core.bus import Bus
from app.core.clock import Clock, from_micros
from app.core.errors import DomainError
from app.core.events import TickNotice, TicksArrived
from app.market_data.ports import Quality, Tick
from app.quotes.newest import Quotes

FRESH: Final = timedelta(seconds=30)
"""How long a live price stands while the market is open; an older one is compared with a quote."""
_ENDINGS: Final = {Exchange.NSE: ".NS", Exchange.BSE: ".BO"}
_INDEX_QUOTES: Final = {"NIFTY 50": "^NSEI", "BANKNIFTY": "^NSEBANK", "SENSEX": "^BSESN"}
"""What quotes call the indices of which there are options: by the symbol of the feed."""
_SERIES: Final = ("", "-EQ", "-BE", "-BZ", "-SM", "-ST")
_MOST_NAMES: Final = 16_384
"""Of the feed's: more than it can subscribe to."""

Listener = Callable[[Exchange, str, LastPrice], None]
Wants = Callable[[Exchange, str], bool]
Contracts = Callable[[Exchange, str], Awaitable[LastPrice | None]]
"""The newest price of a derivative, without the feed. Never raises a `DomainError`."""
Newest = Callable[[str], tuple[int, dict[str, Any]] | None]
"""The newest tick of a symbol that passed by, as clients get it, and its time in milliseconds."""


class _Heard(msgspec.Struct):
    """What of a tick's JSON is needed."""

    exchange: str
    ltpc: Decimal
    data_quality: str
    after_hours: bool = False
    volume: int | None = None


_decode = msgspec.json.Decoder(_Heard).decode


@lru_cache(_MOST_NAMES)
def _called(written: str) -> Mapping[str, str]:
    """The exchanges' symbol of what the feed, with its vendor, calls `written`: by exchange."""
    return {exchange: plain_symbol(written, exchange) for exchange in Exchange}


class ServicePrices:
    """Fills the port `Prices`.

    Ticks reach every process: in the one that runs the feed as they are, in the others over the bus. Where others
    listen, the feed's process hears its own again over the bus; a price that is known already changes nothing.
    """

    def __init__(self, *, newest: Newest, quotes: Quotes, bus: Bus, clock: Clock) -> None:
        self._newest, self._quotes, self._clock = newest, quotes, clock
        self._listeners: list[tuple[Listener, Wants]] = []
        self._written: LRUCache[tuple[str, str], str] = LRUCache(_MOST_NAMES)
        """What the feed calls contracts (`NIFTY29DEC2624500CE`), by exchange and the exchange's symbol."""
        self._contracts: Contracts | None = None
        bus.subscribe(TicksArrived, self._on_notices)

    def ask_for_contracts(self, contracts: Contracts) -> None:
        """Whom to ask for those that the feed does not follow."""
        self._contracts = contracts

    def on_price(self, listener: Listener, wants: Wants) -> None:
        """See the port."""
        self._listeners.append((listener, wants))

    async def last(self, exchange: Exchange, symbol: str) -> LastPrice | None:
        """See the port."""
        live = self.known(exchange, symbol)
        if live is not None and self._clock.now() - live.at < FRESH:
            return live
        quoted = await self._quoted(exchange, symbol)
        known = [price for price in (quoted, live) if price is not None]
        return max(known, key=lambda price: price.at, default=None)

    def known(self, exchange: Exchange, symbol: str) -> LastPrice | None:
        """The newest of the live feed, however old; asks nobody."""
        if exchange in _ENDINGS:
            names = [f"{symbol}{series}" for series in _SERIES]
        else:
            names = [self._written.get((exchange, symbol), symbol)]
        for name in names:
            found = self._newest(name)
            if found is None:
                continue
            ms, tick = found
            if tick["exchange"] == exchange and tick["data_quality"] == Quality.GOOD and tick["ltpc"] > 0:
                return LastPrice(Decimal(str(tick["ltpc"])), from_micros(ms * 1000), tick.get("volume") or None)
        return None

    async def _quoted(self, exchange: Exchange, symbol: str) -> LastPrice | None:
        ending = _ENDINGS.get(exchange)
        if ending is None:  # the providers of quotes have no contracts
            return await self._contracts(exchange, symbol) if self._contracts else None
        try:
            quote = await self._quotes.quote(_INDEX_QUOTES.get(symbol) or f"{symbol}{ending}")
        except DomainError:
            return None
        if quote.currency not in {None, "INR"}:
            return None
        # Providers send binary numbers; rupees have paise.
        price = Decimal(str(quote.price)).quantize(Decimal("0.01"))
        at = quote.at or quote.fetched_at
        return LastPrice(price, at.astimezone(UTC), None, live=False) if price > 0 else None

    # What passes by; quick, and never raises

    def on_ticks(self, ticks: Sequence[Tick]) -> None:
        """Hear of ticks in the process that runs the feed."""
        for tick in ticks:
            instrument = tick.instrument
            symbol = _called(instrument.symbol).get(instrument.exchange)
            if symbol is None or tick.quality is not Quality.GOOD or tick.price <= 0:
                continue
            exchange = Exchange(instrument.exchange)
            self._learn(exchange, symbol, instrument.symbol)
            for listener, wants in self._listeners:
                if wants(exchange, symbol):
                    at = from_micros(tick.received_ms * 1000)
                    listener(exchange, symbol, LastPrice(Decimal(tick.price) / tick.divisor, at, tick.volume or None))

    def _on_notices(self, event: TicksArrived) -> None:
        for notice in event.ticks:
            # Its exchange stands in its body, which is read only for whom it concerns.
            wanted = False
            for name, symbol in _called(notice.symbol).items():
                exchange = Exchange(name)
                self._learn(exchange, symbol, notice.symbol)
                wanted = wanted or any(wants(exchange, symbol) for _, wants in self._listeners)
            if wanted:
                self._on_notice(notice)

    def _learn(self, exchange: Exchange, symbol: str, written: str) -> None:
        if symbol != written and exchange not in _ENDINGS:
            self._written[exchange, symbol] = written

    def _on_notice(self, notice: TickNotice) -> None:
        try:
            tick = _decode(notice.body)
        except msgspec.DecodeError:  # of another version of this service
            return
        symbol = _called(notice.symbol).get(tick.exchange)
        if symbol is None or tick.data_quality != Quality.GOOD or tick.ltpc <= 0:
            return
        exchange, at = Exchange(tick.exchange), from_micros(notice.received_ms * 1000)
        last = LastPrice(tick.ltpc, at, tick.volume or None)
        for listener, wants in self._listeners:
            if wants(exchange, symbol):
                listener(exchange, symbol, last)
