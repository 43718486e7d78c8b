"""A real uvicorn with nothing but `WS /ws` in it, and the other features' ports filled with small fakes."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import uvicorn
import websockets
from beanie import PydanticObjectId
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection

from app.core.client_address import ClientAddressResolver
from app.core.clock import SystemClock
from app.core.deps import Registry
from app.core.errors import UnauthorizedError, UnavailableError
from app.core.hub import Hub
from app.core.outbox import Bounds, Channel
from app.core.security import ALL_SCOPES, Principal, Role, Scope
from app.stream.conversation import Limits
from app.stream.router import router
from app.stream.service import RECHECK_SECONDS, StreamService
from app.stream.wire import TransportMiddleware

T = TypeVar("T")
PATIENCE = 30.0


class Accounts:
    """Fills the `Authenticator` port: tokens are names that were given out here."""

    def __init__(self) -> None:
        self.principals: dict[str, Principal] = {}
        self.away = False
        self.checking = threading.Event()
        self.gate: asyncio.Event | None = None

    def token(self, user: str = "ann", seconds: float = 3600, scopes: Collection[Scope] | None = None) -> str:
        """A token of a new session of `user`, or with `scopes` an API token."""
        known = [principal for name, principal in self.principals.items() if name.startswith(f"{user}-")]
        user_id = known[0].user_id if known else PydanticObjectId()
        name = f"{user}-{len(self.principals)}"
        expires = SystemClock().now() + timedelta(seconds=seconds)
        allowed = ALL_SCOPES if scopes is None else frozenset(scopes)
        self.principals[name] = Principal(
            user_id, PydanticObjectId(), Role.USER, expires, allowed, api_token=scopes is not None
        )
        return name

    def user_id(self, token: str) -> str:
        return str(self.principals[token].user_id)

    def session_id(self, token: str) -> str:
        return str(self.principals[token].session_id)

    async def authenticate(self, access_token: str) -> Principal:
        if self.away:
            raise UnavailableError("away")
        principal = self.principals.get(access_token)
        self.checking.set()
        if self.gate is not None:
            await self.gate.wait()
        if principal is None:
            raise UnauthorizedError("The access token is not valid.")
        return principal


class Stored:
    """Fills the `Replay` port: what is stored of one channel."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[int, bytes]]] = {}
        self.asked: list[tuple[str, int, int]] = []
        self.asking = threading.Event()
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def since(self, user_id: str, seq: int, limit: int) -> list[tuple[int, bytes]]:
        self.asked.append((user_id, seq, limit))
        self.asking.set()
        found = [row for row in self.rows.get(user_id, ()) if row[0] > seq][:limit]
        if self.gate is not None:
            await self.gate.wait()
        if self.error:
            raise self.error
        return found


class Known:
    """Fills the `Snapshot` port: what is known of one channel now."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.asking = threading.Event()
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def newest(self, symbols: Sequence[str] | None) -> list[bytes]:
        self.asking.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error:
            raise self.error
        wanted = list(self.rows) if symbols is None else symbols
        return [json.dumps(self.rows[symbol]).encode() for symbol in wanted if symbol in self.rows]


class Server:
    """uvicorn on a free port, in a thread with an event loop of its own."""

    def __init__(
        self,
        limits: Limits | None = None,
        bounds: Bounds | None = None,
        loop: Any = "auto",
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self.accounts, self.stored, self.known, self.connected = Accounts(), Stored(), Known(), True
        clock = SystemClock()
        self.hub = Hub(clock, bounds=bounds)
        self.service = StreamService(
            hub=self.hub,
            authenticator=self.accounts,
            replays={Channel.ALERTS: self.stored},
            snapshots={Channel.TICKS: self.known},
            clock=clock,
            limits=limits,
            connected=lambda: self.connected,
            recheck_seconds=recheck_seconds,
        )
        app = FastAPI()
        registry = app.state.registry = Registry()
        registry.provide(StreamService, self.service)
        registry.provide(ClientAddressResolver, ClientAddressResolver([]))
        app.include_router(router)
        app.add_middleware(TransportMiddleware)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/ws"
        config = uvicorn.Config(app, loop=loop, log_config=None, lifespan="off", ws_per_message_deflate=False)
        self.uvicorn = uvicorn.Server(config)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            await self.uvicorn.serve(sockets=[self.listener])

        with asyncio.Runner(loop_factory=self.uvicorn.config.get_loop_factory()) as runner:
            runner.run(serve())

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + PATIENCE
        while not self.uvicorn.started:
            assert time.monotonic() < deadline, "uvicorn did not start"
            time.sleep(0.005)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Shut down as a signal would; nobody may hold that up."""
        self.uvicorn.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the shutdown is held up"

    async def do(self, work: Callable[[], T]) -> T:
        """Call `work` in the server's event loop."""

        async def run() -> T:
            return work()

        return await self.run(run())

    async def run(self, work: Coroutine[Any, Any, T], seconds: float = PATIENCE) -> T:
        """Run a coroutine in the server's event loop."""
        assert self.loop is not None
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)

    async def publish(self, channel: str, data: Any, **options: Any) -> int:
        return await self.do(lambda: self.hub.publish(channel, json.dumps(data).encode(), **options))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds in the server."""
        async with asyncio.timeout(PATIENCE):
            while not await self.do(condition):
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def connect(self, query: str = "", **options: Any) -> AsyncIterator["Client"]:
        patient = {"open_timeout": PATIENCE, "ping_timeout": PATIENCE} | options
        async with websockets.connect(f"{self.url}{query}", proxy=None, compression=None, **patient) as connection:
            yield Client(connection)

    @asynccontextmanager
    async def connect_as(self, user: str, *channels: str) -> AsyncIterator["Client"]:
        """A client signed in as `user` and subscribed to `channels`."""
        async with self.connect() as client:
            await client.sign_in(self.accounts.token(user))
            for channel in channels:
                await client.subscribe(channel)
            yield client

    @asynccontextmanager
    async def connect_without_reading(self) -> AsyncIterator["Client"]:
        """A client with the smallest buffers: it takes from its socket only what is asked for."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        connection = await websockets.connect(
            self.url,
            sock=raw,
            proxy=None,
            compression=None,
            max_queue=1,
            open_timeout=PATIENCE,
            ping_interval=None,
            close_timeout=0.2,
        )
        try:
            yield Client(connection)
        finally:
            connection.transport.abort()


class Client:
    """Speaks JSON and never waits longer than `PATIENCE`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: Any) -> None:
        await self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def receive(self, seconds: float = PATIENCE) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await asyncio.wait_for(self.connection.recv(), seconds))
        return message

    async def ask(self, message: Any) -> dict[str, Any]:
        """Send, and the next message that arrives."""
        await self.send(message)
        return await self.receive()

    async def subscribe(self, channel: str, **options: Any) -> dict[str, Any]:
        answer = await self.ask({"action": "subscribe", "channel": channel, **options})
        assert answer["type"] == "subscribed", answer
        return answer

    async def sign_in(self, token: str) -> dict[str, Any]:
        answer = await self.ask({"action": "auth", "token": token})
        assert answer["type"] == "authenticated", answer
        return answer

    async def nothing_more(self) -> None:
        """Everything that was on its way has been received: the next message answers a ping."""
        answer = await self.ask({"action": "ping", "id": "last"})
        assert (answer["type"], answer.get("id")) == ("pong", "last"), answer


def parse_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    assert moment.utcoffset() == timedelta(0)
    return moment
