"""Newest prices of derivatives that the live feed does not follow: their newest minute, from Angel One."""

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec
import structlog

from app.brokerage.ports import LastPrice, Listings
from app.brokerage.words import BrokerName, Exchange
from app.core.cache import Cache
from app.core.clock import Clock
from app.core.errors import DomainError
from app.core.market_calendar import IST
from app.integrations.angel_one.candles import RawBar
from app.integrations.angel_one.errors import AngelOneError
from app.integrations.angel_one.session import AngelOneSession

log = structlog.get_logger(__name__)

GROUP: Final = "contract-prices"
FRESH_SECONDS: Final = 15
WANTED_SECONDS: Final = 300.0
"""How long a contract takes a place after somebody asked for it. Open orders and positions ask again and again."""
_BACK: Final = timedelta(days=5)
"""How far the newest minute is looked for: a weekend and holidays."""
_MINUTE: Final = timedelta(minutes=1)


class _Known(msgspec.Struct, array_like=True):
    price: Decimal
    at: datetime


_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], _Known | None] = msgspec.msgpack.Decoder(_Known | None).decode


class ContractPrices:
    """Asks for as many contracts as are allowed, each four times a minute at most, however many ask."""

    def __init__(self, *, session: AngelOneSession, listings: Listings, cache: Cache, clock: Clock, most: int) -> None:
        """`session` stays its owner's. `most`: contracts that are asked for in five minutes."""
        self._session, self._listings, self._cache, self._clock = session, listings, cache, clock
        self._most = most
        self._wanted: dict[tuple[Exchange, str], float] = {}

    async def last(self, exchange: Exchange, symbol: str) -> LastPrice | None:
        """The close of the newest minute; None where there is none, or no place for another contract."""
        if not self._has_place(exchange, symbol):
            return None

        async def make() -> bytes:
            return _encode(await self._newest(exchange, symbol))

        known = _decode(await self._cache.get_or_make(GROUP, f"{exchange}:{symbol}", FRESH_SECONDS, make))
        return None if known is None else LastPrice(known.price, known.at, None, live=False)

    def _has_place(self, exchange: Exchange, symbol: str) -> bool:
        now = self._clock.monotonic()
        self._wanted = {key: at for key, at in self._wanted.items() if now - at < WANTED_SECONDS}
        if (exchange, symbol) not in self._wanted and len(self._wanted) >= self._most:
            return False
        self._wanted[exchange, symbol] = now
        return True

    async def _newest(self, exchange: Exchange, symbol: str) -> _Known | None:
        try:
            # Paper's list is Angel One's where that is configured: its keys have the exchange's number.
            listing = await self._listings.find(BrokerName.PAPER, exchange, symbol)
            token = listing.key.partition("|")[2] if listing is not None else ""
            bars = await self._minutes(exchange, token) if token else []
        except (AngelOneError, DomainError) as error:
            log.info("a contract's price cannot be had", symbol=symbol, error=type(error).__name__)
            return None
        if not bars:
            return None
        newest = bars[-1]
        return _Known(newest.close, min(newest.start.astimezone(UTC) + _MINUTE, self._clock.now()))

    async def _minutes(self, exchange: Exchange, token: str) -> list[RawBar]:
        """Today's, else those of the days before."""
        now = self._clock.now()
        today = datetime.combine(now.astimezone(IST).date(), time(), IST)
        found: list[Any] = await self._session.candles(exchange.value, token, "ONE_MINUTE", today, now)
        return found or await self._session.candles(exchange.value, token, "ONE_MINUTE", today - _BACK, today)
