"""The ground floor: clock, database, Redis, limits, cache, bus and supervisor."""

import os
import secrets
import socket
from contextlib import AsyncExitStack

from beanie import Document

from app.core.bus import Bus, Transport
from app.core.bus_loopback import LoopbackTransport
from app.core.bus_redis import RedisTransport
from app.core.cache import Cache
from app.core.clock import Clock, SystemClock
from app.core.database import Database
from app.core.embedded import EmbeddedDatabase
from app.core.embedded_files import Role
from app.core.errors import StartupError
from app.core.migrations import check_migrations
from app.core.rate_limit import RateLimiter
from app.core.redis_link import RedisLink
from app.core.settings import Settings
from app.core.supervisor import Supervisor


class Ground:
    """What every feature stands on."""

    clock: Clock
    holder: str
    """Names this process in leases."""
    database: Database
    bus: Bus
    redis: RedisLink | None
    limiter: RateLimiter
    cache: Cache
    supervisor: Supervisor


async def ground_floor(
    settings: Settings, documents: list[type[Document]], stack: AsyncExitStack, *, guest: bool = False
) -> Ground:
    """Connect everything; `stack` closes it. `guest`: beside the service, which keeps the embedded database."""
    ground = Ground()
    ground.clock = SystemClock()
    ground.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"DATA_DIR: cannot be used ({error.strerror}: {error.filename})") from None
    role: Role = "tool" if guest else "service"
    embedded = None if settings.mongodb_url else EmbeddedDatabase(settings.data_dir, role=role)
    ground.database = Database(settings, embedded)
    stack.push_async_callback(ground.database.close)
    await ground.database.connect()
    # Before any index is built on rows of another version.
    await check_migrations(ground.database.db, documents)
    await ground.database.register(documents)

    ground.redis = RedisLink(settings.redis_url.get_secret_value()) if settings.redis_url else None
    if ground.redis:
        stack.push_async_callback(ground.redis.close)
        await ground.redis.probe()
    shared = f"arrow:{settings.database_name}"  # begins all keys: deployments may share one Redis
    ground.limiter = RateLimiter(ground.redis, shared)
    ground.cache = Cache(ground.redis, shared)
    ground.bus = Bus(transport_of(settings))
    await ground.bus.start()
    stack.push_async_callback(ground.bus.stop)

    ground.supervisor = Supervisor(ground.clock)
    if embedded and not guest:
        ground.supervisor.add("embedded database", embedded.run)
    if ground.redis:
        ground.supervisor.add("redis", ground.redis.run)
    return ground


def transport_of(settings: Settings) -> Transport:
    """How the service's processes reach one another, and a program that wants them to hear of what it did."""
    if settings.redis_url:
        return RedisTransport(settings.redis_url.get_secret_value(), channel=f"arrow:{settings.database_name}:bus")
    return LoopbackTransport(settings.data_dir)
