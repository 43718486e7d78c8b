"""One account's order stream at Angel One: a WebSocket that tells of every change of an order, kept alive.

`wss://tns.angelone.in/smart-order-update` with the headers of the feed; each message is JSON with `order-status`
(`AB00` when connected, then the state) and `orderData`, which has the fields of the order book. Pings are those of the
protocol, every ten seconds, as the vendor's SDK sends them. What is said while there is no connection is lost: whenever
there is one again, the book is looked at.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from app.brokerage.errors import BrokerSessionError
from app.brokerage.ports import BrokerAccount, BrokerSession, OrderNews, Sessions
from app.brokerage.unsaid import unsaid
from app.brokerage.words import BookedOrder
from app.core.clock import Clock
from app.core.errors import DomainError, NotFoundError

log = structlog.get_logger(__name__)

_SILENT: Final = logging.Logger("angel-one-orders", logging.CRITICAL + 1)  # noqa: LOG001 (no configuration reaches it)
"""The library would log the handshake's headers, in which the tokens stand."""
_LARGEST: Final = 64 << 10
_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode

ReadOrder = Callable[[dict[str, Any]], BookedOrder | None]


class Timing(NamedTuple):
    """Seconds."""

    beat_every: float = 10.0
    dead_after: float = 15.0
    """Without an answer to a ping."""
    first_wait: float = 1.0
    last_wait: float = 60.0
    """Between tries: doubled, less up to half of it by chance."""
    refused_wait: float = 30.0
    """After a handshake that was refused."""
    open_timeout: float = 10.0


class Counts:
    """What the streams of a process count together."""

    def __init__(self) -> None:
        self.messages = self.unreadable = self.reconnects = 0


class _Connect(connect):
    """Follows no redirect: the headers that identify us are for one server only."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class AngelOrderStream:
    """The stream of one account; ends when its session does, and whoever keeps it begins anew with the next."""

    def __init__(
        self,
        account_id: str,
        *,
        url: str,
        sessions: Sessions,
        news: OrderNews,
        read: ReadOrder,
        clock: Clock,
        counts: Counts,
        timing: Timing = Timing(),  # noqa: B008 (a constant)
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`read` reads the `orderData` of a message. `tls` goes with `wss` addresses."""
        self._account_id, self._url, self._sessions, self._news = account_id, url, sessions, news
        self._read_order, self._clock, self._counts, self._timing, self._tls = read, clock, counts, timing, tls
        self._failures = 0
        self.live = False

    async def run(self) -> None:
        """Listen, and connect again, until the session is over. Raises nothing that it can wait out."""
        while True:
            try:
                account, session = await self._sessions.open(self._account_id)
                wait = await self._listen(account, session)
            except (BrokerSessionError, NotFoundError):
                return
            except DomainError:  # the broker, or our own database, is away
                wait = 0.0
            doubled = min(self._timing.first_wait * 2.0 ** min(self._failures, 20), self._timing.last_wait)
            self._failures += 1
            self._counts.reconnects += 1
            await asyncio.sleep(max(wait, doubled * random.uniform(0.5, 1.0)))  # noqa: S311 (jitter, not a secret)

    async def _listen(self, account: BrokerAccount, session: BrokerSession) -> float:
        """Seconds to wait before the next try, at the least."""
        began = self._clock.monotonic()
        try:
            async with self._connection(account, session) as socket:
                self.live = True
                self._news.look(self._account_id)  # what was said before is lost
                await self._hear(socket, account)
        except InvalidStatus as error:
            return await self._handshake_refused(session, error.response.status_code)
        except (OSError, EOFError, WebSocketException) as error:
            log.info("no order stream", account=self._account_id, error=type(error).__name__)
            return 0.0
        finally:
            self.live = False
        if self._clock.monotonic() - began > self._timing.last_wait:
            self._failures = 0
        return 0.0

    async def _handshake_refused(self, session: BrokerSession, status: int) -> float:
        log.warning("the order stream was refused", account=self._account_id, status=status)
        if status == 401:
            await self._sessions.expired(self._account_id, session)
        return self._timing.refused_wait

    def _connection(self, account: BrokerAccount, session: BrokerSession) -> _Connect:
        timing = self._timing
        return _Connect(
            self._url,
            additional_headers=_headers(account, session),
            ssl=(self._tls or ssl.create_default_context()) if self._url.startswith("wss:") else None,
            compression=None,
            ping_interval=timing.beat_every,
            ping_timeout=timing.dead_after,
            max_size=_LARGEST,
            open_timeout=timing.open_timeout,
            close_timeout=1.0,
            logger=_SILENT,
        )

    async def _hear(self, socket: ClientConnection, account: BrokerAccount) -> None:
        try:
            async for message in socket:
                self._counts.messages += 1
                await self._take(message, account)
        except ConnectionClosed:
            return

    async def _take(self, message: str | bytes, account: BrokerAccount) -> None:
        try:
            said = _decode(message)
            inner = said.get("orderData") if isinstance(said, dict) else None
            # The greeting has an empty order.
            if not isinstance(inner, dict) or not inner.get("orderid"):
                return
            order = self._read_order(inner)
        except (msgspec.DecodeError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            self._counts.unreadable += 1
            order = None
        if order is not None:
            self._failures = 0
            try:
                await self._news.observe(self._account_id, [unsaid(order, account)], [])
            except DomainError as error:
                log.warning("an order's news was not stored", account=self._account_id, error=type(error).__name__)
            else:
                if not order.filled_quantity:
                    return
        # For the fills, which no message has, and where it could not be read or stored.
        self._news.look(self._account_id)


def _headers(account: BrokerAccount, session: BrokerSession) -> Mapping[str, str]:
    """As the vendor's SDK sends them."""
    known = {name: secret.get_secret_value() for name, secret in account.secrets.items()}
    return {
        "Authorization": f"Bearer {session.access_token.get_secret_value().removeprefix('Bearer ')}",
        "x-api-key": known.get("api_key", ""),
        "x-client-code": known.get("client_id", ""),
        "x-feed-token": session.feed_token.get_secret_value() if session.feed_token else "",
    }
