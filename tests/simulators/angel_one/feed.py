"""The WebSocket feed: handshake, subscriptions, heartbeat, frames, and what can go wrong with them."""

import asyncio
import json
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from ssl import SSLContext
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.simulators.angel_one.account import Account, Sessions
from tests.simulators.angel_one.layout import DEPTH, SNAP_QUOTE, encode
from tests.simulators.angel_one.market import Market

PATH: Final = "/smart-stream"
EXCHANGES: Final = {1, 2, 3, 4, 5, 7, 13}
MAX_CONNECTIONS, MAX_SUBSCRIPTIONS, MAX_DEPTH = 3, 1000, 50

Key = tuple[int, int, str]
"""Mode, exchange type, token."""


@dataclass(slots=True)
class FeedFaults:
    """What goes wrong with every frame while it is set; a share is between 0 and 1."""

    duplicates: int = 0
    """So many more copies of each frame."""
    out_of_order: bool = False
    """Frames leave in pairs, the later one first."""
    malformed: float = 0.0
    """Share of frames before which one leaves that is none."""
    truncated: float = 0.0
    """Share of frames that lose their end."""
    delay: float = 0.0
    """Seconds that each frame is late."""
    refuse: int | None = None
    """The HTTP status that handshakes get."""
    mute_pong: bool = False
    """Heartbeats are not answered."""


@dataclass(eq=False, slots=True)
class FeedConnection:
    """One client's connection."""

    socket: ServerConnection
    subscriptions: set[Key] = field(default_factory=set)
    requests: list[dict[str, Any]] = field(default_factory=list)
    pings: int = 0
    silent: bool = False
    held: bytes | None = None

    def go_silent(self) -> None:
        """Half-open: the TCP connection stays, and nothing comes through it any more, in either direction."""
        self.silent = True
        self.socket.transport.pause_reading()

    async def close(self, code: int = 1011, reason: str = "") -> None:
        """Close it in good order."""
        await self.socket.close(code, reason)

    def abort(self) -> None:
        """Break it, without a close frame."""
        self.socket.transport.abort()

    async def send(self, message: bytes | str) -> None:
        """Send anything, unless the connection is silent or gone."""
        if not self.silent:
            with suppress(ConnectionClosed):
                await self.socket.send(message)


class Feed:
    """The server of the feed."""

    def __init__(
        self,
        account: Account,
        sessions: Sessions,
        market: Market,
        *,
        port: int = 0,
        tls: SSLContext | None = None,
        garbage: Callable[[], bytes] | None = None,
    ) -> None:
        self._account, self._sessions, self._market = account, sessions, market
        self._server: Server | None = None
        self._tls = tls
        self._random = random.Random(7)  # noqa: S311 (garbage, not a secret)
        self._garbage = garbage or (lambda: self._random.randbytes(self._random.randrange(0, 500)))
        self._changed = asyncio.Event()
        self.port = port
        self.faults = FeedFaults()
        self._late: set[asyncio.Task[None]] = set()
        self.connections: list[FeedConnection] = []
        self.handshakes = 0
        """Attempts to connect, those refused too."""
        self.handshake_times: list[float] = []
        """When each came, by the clock of the loop."""

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self.port,
            process_request=self._authorize,
            ping_interval=None,
            compression=None,
            ssl=self._tls,
            close_timeout=0.2,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        for task in self._late:
            task.cancel()
        for connection in self.connections:
            if connection.silent:  # it would wait for a close frame that it does not read
                connection.abort()
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}{PATH}"

    # Handshake

    def _authorize(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes += 1
        self.handshake_times.append(asyncio.get_running_loop().time())
        if self.faults.refuse is not None:
            return self._refusal(connection, self.faults.refuse, "Refused")
        parts = urlsplit(request.path)
        if parts.path != PATH:
            return self._refusal(connection, 404, "Not found")
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if query:  # what browsers, which cannot set headers, use
            sent = (query.get("clientCode"), query.get("apiKey"), query.get("feedToken"))
            bearer_fault = None
        else:
            headers = request.headers
            sent = (headers.get("x-client-code"), headers.get("x-api-key"), headers.get("x-feed-token"))
            bearer_fault = self._bearer_fault(headers.get("Authorization", ""))
        if sent[:2] != (self._account.client_code, self._account.api_key):
            return self._refusal(connection, 401, "Invalid Client Code or API Key")
        if bearer_fault or not self._sessions.holds_feed(sent[2]):
            return self._refusal(connection, 401, bearer_fault or "Invalid Feed Token")
        if len(self.connections) >= MAX_CONNECTIONS:
            return self._refusal(connection, 429, "Connection Limit Exceeded")
        return None

    def _bearer_fault(self, header: str) -> str | None:
        scheme, _, token = header.partition(" ")
        fault = self._sessions.jwt_fault(token if scheme == "Bearer" else None)
        return fault[1] if fault else None

    @staticmethod
    def _refusal(connection: ServerConnection, status: int, message: str) -> Response:
        response = connection.respond(HTTPStatus(status), "")
        response.headers["x-error-message"] = message
        return response

    # Conversation

    async def _serve(self, socket: ServerConnection) -> None:
        connection = FeedConnection(socket)
        self.connections.append(connection)
        self._wake()
        try:
            async for message in socket:
                await self._hear(connection, message)
                self._wake()
        except ConnectionClosed:
            pass
        finally:
            self.connections.remove(connection)
            self._wake()

    async def _hear(self, connection: FeedConnection, message: str | bytes) -> None:
        if message == "ping":
            connection.pings += 1
            if not self.faults.mute_pong:
                await connection.send("pong")
            return
        try:
            request = json.loads(message)
            keys = {
                (int(request["params"]["mode"]), int(group["exchangeType"]), str(token))
                for group in request["params"]["tokenList"]
                for token in group["tokens"]
            }
            action = int(request["action"])
        except (ValueError, KeyError, TypeError):
            await self._refuse(connection, None, "E1001", "Invalid Request Payload.")
            return
        connection.requests.append(request)
        tag = request.get("correlationID")
        error = self._fault_of(connection, action, keys, tag)
        if error is not None:
            await self._refuse(connection, tag, *error)
        elif action == 1:
            connection.subscriptions |= keys
        else:
            connection.subscriptions -= keys

    def _fault_of(self, connection: FeedConnection, action: int, keys: set[Key], tag: object) -> tuple[str, str] | None:
        if action not in (0, 1) or not keys or (tag is not None and (not isinstance(tag, str) or len(tag) > 10)):
            return "E1001", "Invalid Request Payload."
        if any(mode not in (1, 2, 3, 4) or exchange not in EXCHANGES for mode, exchange, _ in keys):
            return "E1002", "Invalid Request. Subscription mode or exchange type not supported."
        if any(mode == DEPTH and exchange != 1 for mode, exchange, _ in keys):
            return "E1002", "Invalid Request. Depth is for NSE cash only."
        after = connection.subscriptions | keys if action == 1 else set()
        if len(after) > MAX_SUBSCRIPTIONS or sum(mode == DEPTH for mode, _, _ in after) > MAX_DEPTH:
            return "E1002", "Subscription limit exceeded."
        return None

    @staticmethod
    async def _refuse(connection: FeedConnection, tag: object, code: str, message: str) -> None:
        await connection.send(json.dumps({"correlationID": tag, "errorCode": code, "errorMessage": message}))

    # Frames

    async def publish(self, exchange: int, token: str, values: Mapping[str, float]) -> int:
        """Send one tick to every connection that listens, in its modes; how many frames left (faults not counted)."""
        count = 0
        for connection in tuple(self.connections):
            for mode in (1, 2, 3, 4):
                if (mode, exchange, token) in connection.subscriptions:
                    steps = {SNAP_QUOTE: 5, DEPTH: 20}.get(mode, 0)
                    buys, sells = Market.book(int(values.get("last_price", 0)), steps)
                    frame = encode(mode, exchange, token, values, buys=buys, sells=sells)
                    await self.send_frame(connection, frame)
                    count += 1
        return count

    async def send_frame(self, connection: FeedConnection, frame: bytes) -> None:
        """Send an encoded frame, with what faults are set."""
        if self.faults.delay:
            # Beside the others: late, and as many as before.
            task = asyncio.create_task(self._send_late(connection, frame))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            return
        await self._send(connection, frame)

    async def _send_late(self, connection: FeedConnection, frame: bytes) -> None:
        await asyncio.sleep(self.faults.delay)
        await self._send(connection, frame)

    async def _send(self, connection: FeedConnection, frame: bytes) -> None:
        faults = self.faults
        if faults.malformed and self._random.random() < faults.malformed:
            await connection.send(self._garbage())
        if faults.truncated and self._random.random() < faults.truncated:
            frame = frame[: self._random.randrange(len(frame))]
        frames = [frame] * (1 + faults.duplicates)
        if faults.out_of_order:
            if connection.held is None:
                connection.held = frame
                return
            frames, connection.held = [*frames, connection.held], None
        for each in frames:
            await connection.send(each)

    # For those who wait

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, happened: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until `happened`, looking whenever a client connects, leaves, or says something."""
        async with asyncio.timeout(seconds):
            while not happened():
                await self._changed.wait()

    async def subscribed(self, keys: Iterable[Key], seconds: float = 30.0) -> None:
        """Wait until these subscriptions are there, whichever connections have them."""
        wanted = set(keys)

        def there() -> bool:
            return wanted <= {key for connection in self.connections for key in connection.subscriptions}

        await self.until(there, seconds)
