"""The composition root: everything is made here, in order, handed to whoever needs it, and closed in reverse."""

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import structlog
from fastapi import FastAPI

from app import __version__
from app.alerts.chart_service import AlertCharts
from app.alerts.deliveries import Deliveries
from app.alerts.ingest import AlertIngest
from app.alerts.keys import KeyDirectory, KeyService
from app.alerts.models import DOCUMENTS as ALERT_DOCUMENTS
from app.alerts.rejected import RejectedDeliveries
from app.alerts.service import AlertService
from app.auth.accounts import Accounts
from app.auth.authenticator import SessionAuthenticator
from app.auth.models import DOCUMENTS as AUTH_DOCUMENTS
from app.auth.passwords import Passwords
from app.auth.service import AuthService
from app.auth.sessions import Sessions
from app.auth.tokens import AccessTokens
from app.core.bus import Bus, Transport
from app.core.bus_loopback import LoopbackTransport
from app.core.bus_redis import RedisTransport
from app.core.cache import Cache
from app.core.clock import Clock, Sequence, SystemClock
from app.core.database import Database
from app.core.deps import Registry
from app.core.embedded import EmbeddedDatabase
from app.core.errors import StartupError
from app.core.events import AlertStored, PeersChanged, SessionRevoked
from app.core.figures import FigureImages
from app.core.hub import Hub
from app.core.jobs import Jobs
from app.core.metrics import Metrics
from app.core.migrations import check_migrations
from app.core.outbox import Channel
from app.core.rate_limit import RateLimiter
from app.core.redis_link import RedisLink
from app.core.security import Authenticator
from app.core.settings import Settings
from app.core.supervisor import Supervisor
from app.stream.conversation import Limits
from app.stream.service import StreamService
from app.system.health import HealthService

log = structlog.get_logger("arrow")

DOCUMENTS = [*AUTH_DOCUMENTS, *ALERT_DOCUMENTS]
"""Every document of every feature."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the services, run the background tasks, and close all in reverse; see `Registry` for what endpoints get."""
    registry: Registry = app.state.registry
    settings = registry.get(Settings)
    for doubt in settings.doubts():
        log.warning("doubtful setting", about=doubt)
    async with AsyncExitStack() as stack:
        ground = await _ground_floor(settings, stack)
        _features(registry, settings, ground)
        _background(registry, settings, ground, stack)
        log.info("started", version=__version__, environment=settings.environment, database=ground.database.mode)
        yield
        log.info("stopping")


class _Ground:
    """What every feature stands on."""

    clock: Clock
    database: Database
    bus: Bus
    redis: RedisLink | None
    limiter: RateLimiter
    cache: Cache
    supervisor: Supervisor


async def _ground_floor(settings: Settings, stack: AsyncExitStack) -> _Ground:
    ground = _Ground()
    ground.clock = SystemClock()
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"DATA_DIR: cannot be used ({error.strerror}: {error.filename})") from None
    embedded = None if settings.mongodb_url else EmbeddedDatabase(settings.data_dir)
    ground.database = Database(settings, embedded)
    stack.push_async_callback(ground.database.close)
    await ground.database.connect()
    # Before any index is built on rows of another version.
    await check_migrations(ground.database.db, DOCUMENTS)
    await ground.database.register(DOCUMENTS)

    ground.redis = RedisLink(settings.redis_url.get_secret_value()) if settings.redis_url else None
    if ground.redis:
        stack.push_async_callback(ground.redis.close)
        await ground.redis.probe()
    shared = f"arrow:{settings.database_name}"  # begins all keys: deployments may share one Redis
    ground.limiter = RateLimiter(ground.redis, shared)
    ground.cache = Cache(ground.redis, shared)
    ground.bus = Bus(_transport(settings))
    await ground.bus.start()
    stack.push_async_callback(ground.bus.stop)

    ground.supervisor = Supervisor(ground.clock)
    if embedded:
        ground.supervisor.add("embedded database", embedded.run)
    if ground.redis:
        ground.supervisor.add("redis", ground.redis.run)
    return ground


def _transport(settings: Settings) -> Transport:
    if settings.redis_url:
        return RedisTransport(settings.redis_url.get_secret_value(), channel=f"arrow:{settings.database_name}:bus")
    return LoopbackTransport(settings.data_dir)


def _features(registry: Registry, settings: Settings, ground: _Ground) -> None:
    clock, bus = ground.clock, ground.bus
    registry.provide(RateLimiter, ground.limiter)

    tokens = AccessTokens(
        secret_key=settings.secret_key.get_secret_value(),
        previous_keys=[key.get_secret_value() for key in settings.secret_key_previous],
        algorithm=settings.algorithm,
        lifetime=timedelta(minutes=settings.access_token_expire_minutes),
        clock=clock,
    )
    passwords = registry.provide(Passwords, Passwords())
    sessions = Sessions(
        clock=clock, bus=bus, tokens=tokens, lifetime=timedelta(days=settings.refresh_token_expire_days)
    )
    accounts = Accounts(clock=clock, passwords=passwords)
    registry.provide(
        AuthService, AuthService(settings=settings, accounts=accounts, sessions=sessions, limiter=ground.limiter)
    )
    authenticator: Authenticator = SessionAuthenticator(tokens=tokens, clock=clock, bus=bus)
    registry.provide(Authenticator, authenticator)  # type: ignore[type-abstract]  # provided under its port

    metrics = registry.get(Metrics)
    sequence = Sequence(clock)
    keys = registry.provide(KeyService, KeyService(bus, clock, sequence))
    directory = registry.provide(KeyDirectory, KeyDirectory(bus, clock))
    rejected = registry.provide(RejectedDeliveries, RejectedDeliveries(settings, clock, sequence))
    ingest = registry.provide(AlertIngest, AlertIngest(settings, bus, sequence, metrics))
    registry.provide(Deliveries, Deliveries(settings, directory, ingest, rejected, ground.limiter, metrics))
    alerts = registry.provide(AlertService, AlertService(settings, keys, ingest, bus, clock))
    registry.provide(AlertCharts, AlertCharts(alerts, ground.cache, FigureImages(), bus))

    hub = Hub(clock)
    limits = Limits(
        max_connections=settings.ws_max_connections, max_connections_per_address=settings.ws_max_connections_per_address
    )
    streams = StreamService(
        hub=hub,
        authenticator=authenticator,
        replays={Channel.ALERTS: alerts},
        clock=clock,
        limits=limits,
        connected=lambda: bus.connected,
    )
    registry.provide(StreamService, streams)
    bus.subscribe(AlertStored, lambda event: _stream_alert(hub, event))
    bus.subscribe(SessionRevoked, streams.on_session_revoked)
    bus.subscribe(PeersChanged, streams.on_peers_changed)


def _stream_alert(hub: Hub, event: AlertStored) -> None:
    hub.publish(Channel.ALERTS, event.body, seq=event.seq, owner=event.user_id)


def _background(registry: Registry, settings: Settings, ground: _Ground, stack: AsyncExitStack) -> None:
    supervisor = ground.supervisor
    directory, rejected = registry.get(KeyDirectory), registry.get(RejectedDeliveries)
    ingest, streams = registry.get(AlertIngest), registry.get(StreamService)
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    jobs = Jobs(lambda: ground.database.db, ground.clock, holder)
    jobs.add("alert retention", timedelta(hours=1), registry.get(AlertService).expire)
    supervisor.add("key use", directory.run)
    supervisor.add("refused deliveries", rejected.run)
    supervisor.add("stream", streams.run)
    if settings.background_tasks_enabled:
        supervisor.add("jobs", jobs.run)

    async def cache_health() -> dict[str, Any]:
        return ground.redis.health() if ground.redis else {"status": "ok", "backend": "memory"}

    async def bus_health() -> dict[str, Any]:
        return {"status": "ok" if ground.bus.connected else "degraded", **ground.bus.health()}

    async def feed_health() -> dict[str, Any]:
        return {"status": "off"}

    async def jobs_health() -> dict[str, Any]:
        return {"status": "ok", **jobs.health()} if settings.background_tasks_enabled else {"status": "off"}

    async def tasks_health() -> dict[str, Any]:
        return {"status": "ok" if supervisor.healthy else "degraded", **supervisor.health()}

    async def stream_health() -> dict[str, Any]:
        return {"status": "ok", **streams.health()}

    probes = {
        "database": ground.database.health,
        "cache": cache_health,
        "bus": bus_health,
        "feed": feed_health,
        "jobs": jobs_health,
        "tasks": tasks_health,
        "stream": stream_health,
    }
    registry.provide(HealthService, HealthService(__version__, probes))

    # Closed in reverse: clients first, then what is accepted is stored, then the tasks.
    stack.callback(registry.get(Passwords).close)
    stack.push_async_callback(supervisor.stop)
    stack.push_async_callback(directory.save_last_used)
    stack.push_async_callback(rejected.drain)
    stack.push_async_callback(ingest.drain)
    stack.push_async_callback(streams.close)
    supervisor.start()
