"""Angel One on this machine: REST, instrument file and feed on real sockets, for one account."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from ssl import SSLContext
from types import TracebackType
from typing import Self

from tests.simulators.angel_one.account import Account, Sessions
from tests.simulators.angel_one.faults import CONTROL, control
from tests.simulators.angel_one.feed import Feed
from tests.simulators.angel_one.http import Answer, HttpRequest, HttpServer
from tests.simulators.angel_one.instruments import InstrumentFile
from tests.simulators.angel_one.market import INDICES, Listing, Market
from tests.simulators.angel_one.rest import INSTRUMENTS, RATES, Rates, Rest


class AngelOneSimulator:
    """Use as an asynchronous context manager; then give the service `environment()`."""

    def __init__(
        self,
        account: Account | None = None,
        *,
        market: Market | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        token_lifetime: timedelta = timedelta(hours=24),
        rates: Rates = RATES,
        instrument_rows: int = 0,
        rest_port: int = 0,
        feed_port: int = 0,
        tls: SSLContext | None = None,
    ) -> None:
        """`now` is the vendor's clock: of TOTP codes, expiries and ticks. `rates={}` lifts the limits."""
        self.account = account or Account()
        self.market = market or Market()
        self.now = now
        self.sessions = Sessions(self.account, now, token_lifetime)
        self.instruments = InstrumentFile(self.market.listings.values(), rows=instrument_rows)
        """The file of instruments: what it holds, and what it lacks."""
        rest = Rest(self.account, self.sessions, self.market, now, rates=rates, instruments=self.instruments)
        self._answer = rest.handle
        self.rest = HttpServer(self._handle, rest_port)
        self.feed = Feed(self.account, self.sessions, self.market, port=feed_port, tls=tls)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.rest)
        await self._stack.enter_async_context(self.feed)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _handle(self, request: HttpRequest) -> Answer:
        return control(self, request) if request.path == CONTROL else await self._answer(request)

    @property
    def rest_url(self) -> str:
        """The base of all REST paths."""
        return f"http://127.0.0.1:{self.rest.port}"

    @property
    def instruments_url(self) -> str:
        """The file of instruments."""
        return f"{self.rest_url}{INSTRUMENTS}"

    def environment(self) -> dict[str, str]:
        """The settings of a service that uses this simulator."""
        return {
            "ANGEL_ONE_BASE_URL": self.rest_url,
            "ANGEL_ONE_WS_URL": self.feed.url,
            "ANGEL_ONE_INSTRUMENTS_URL": self.instruments_url,
            "ANGEL_ONE_API_KEY": self.account.api_key,
            "ANGEL_ONE_CLIENT_ID": self.account.client_code,
            "ANGEL_ONE_PASSWORD": self.account.pin,
            "ANGEL_ONE_TOTP_KEY": self.account.totp_secret,
        }

    async def tick(self, listing: Listing = INDICES[0], **values: float) -> int:
        """One step of the walk of `listing`, with the fields that `values` sets; how many frames left."""
        return await self.feed.publish(
            listing.exchange, listing.token, {**self.market.walk(listing, self.now()), **values}
        )

    async def stream(self, listings: Iterable[Listing] = INDICES, *, every: float = 0.25) -> None:
        """Ticks of all `listings`, every `every` seconds, until it is cancelled."""
        listings = tuple(listings)
        while True:
            for listing in listings:
                await self.tick(listing)
            await asyncio.sleep(every)
