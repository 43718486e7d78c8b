"""Orders as a service of their own, that can be had again in a moment: `python -m tests.brokerage.orders.program`.

Each line of JSON on the standard input (see `Wanted`) forks a process with everything imported, which serves the real
router on real connections and prints `{"port": …, "pid": …}`. A fork costs a tenth of a start.
"""

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import msgspec
import uvicorn
from beanie import PydanticObjectId, init_beanie
from bson import ObjectId
from fastapi import FastAPI
from pymongo import AsyncMongoClient

from app.audit.models import DOCUMENTS as AUDIT_DOCUMENTS
from app.audit.trail import ChainedAuditTrail
from app.brokerage.adapters.zerodha.client import ZerodhaBroker
from app.brokerage.orders.merging import Timing
from app.brokerage.orders.models import DOCUMENTS
from app.brokerage.orders.router import router
from app.brokerage.words import BrokerName
from app.core.bus import Bus, NullTransport
from app.core.client_address import ClientAddressResolver
from app.core.database import Database
from app.core.deps import KnownQuery, Registry
from app.core.errors import UnauthorizedError
from app.core.hub import Hub
from app.core.market_calendar import MarketCalendar
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import Authenticator, Principal, Role
from app.core.settings import Settings
from app.core.supervisor import Supervisor
from app.lifespan.brokerage_orders import Orders, order_reading
from app.lifespan.ground import Ground
from tests.brokerage.orders.parts import FixedListings, FixedSessions, KeptFills, ShiftedClock
from tests.support.http import NO_TLS
from tests.support.mongodb import OPTIONS


class Wanted(msgspec.Struct):
    """One process."""

    database: str
    """The server's address."""
    name: str
    """Of the database."""
    broker: str
    """The simulator's address."""
    token: str
    """A session with it."""
    follows: bool = False
    """Whether it runs the background tasks."""
    timing: Timing = Timing()
    shift: timedelta = timedelta()
    """By which its clock goes after the machine's."""


class _Database(Database):
    """One that is connected already."""

    def __init__(self, settings: Settings, client: AsyncMongoClient[dict[str, object]]) -> None:
        super().__init__(settings)
        self._client = client


class Anybody:
    """A token is the id of whoever has it."""

    async def authenticate(self, access_token: str) -> Principal:
        if not ObjectId.is_valid(access_token):
            raise UnauthorizedError("No.")
        later = datetime.now(UTC) + timedelta(hours=1)
        return Principal(PydanticObjectId(access_token), PydanticObjectId(), Role.USER, later)


async def serve(wanted: Wanted) -> None:
    """Serve until the process is ended."""
    async with AsyncExitStack() as stack:
        app, supervisor = await compose(wanted, stack)
        listener = socket.create_server(("127.0.0.1", 0))
        # Connections inherit it; asyncio sets it only on those of listeners that it made itself.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        supervisor.start()
        stack.push_async_callback(supervisor.stop, 2.0)
        line = msgspec.json.encode({"port": listener.getsockname()[1], "pid": os.getpid()})
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.flush()
        await server.serve(sockets=[listener])


async def compose(wanted: Wanted, stack: AsyncExitStack) -> tuple[FastAPI, Supervisor]:
    """The application, and its background tasks."""
    settings = Settings(
        secret_key=secrets.token_hex(32),
        _env_file=None,
        rate_limit_per_minute=1_000_000,
        user_rate_limit_per_minute=1_000_000,
        database_name=wanted.name,
        background_tasks_enabled=wanted.follows,
    )
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(wanted.database, **OPTIONS)
    stack.push_async_callback(client.close)
    ground = Ground()
    ground.clock, ground.holder, ground.bus = ShiftedClock(wanted.shift), f"{os.getpid()}", Bus(NullTransport())
    await ground.bus.start()
    stack.push_async_callback(ground.bus.stop)
    ground.database = _Database(settings, client)
    ground.supervisor = Supervisor(ground.clock)
    await init_beanie(client[wanted.name], document_models=[*DOCUMENTS, *AUDIT_DOCUMENTS], skip_indexes=True)
    app = FastAPI()
    registry = app.state.registry = Registry()
    registry.provide(Settings, settings)
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, Anybody())  # type: ignore[type-abstract]
    audit = ChainedAuditTrail(ground.database.db, ground.clock)
    broker = ZerodhaBroker(ground.clock, base_url=wanted.broker, tls=NO_TLS)
    stack.push_async_callback(broker.close)
    order_reading(registry, ground, MarketCalendar(ground.clock))
    orders = Orders(
        registry,
        ground,
        audit,
        Hub(ground.clock),
        brokers={BrokerName.ZERODHA: broker},
        sessions=FixedSessions(wanted.broker, wanted.token),
        listings=FixedListings(),
        timing=wanted.timing,
        idle=0.2,
    )
    orders.begin(settings, None, stack, fills=KeptFills())
    add_problem_handlers(app)
    app.include_router(router, dependencies=[KnownQuery])
    return app, ground.supervisor


def main() -> None:
    """Fork for every line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()  # as `app.main` does
    for line in sys.stdin:
        wanted = msgspec.json.decode(line, type=Wanted)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asyncio.run(serve(wanted))
            os._exit(0)


if __name__ == "__main__":
    main()
