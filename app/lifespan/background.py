"""Periodic jobs, supervised tasks, and what `/health` says of each part."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from app import __version__
from app.alerts.ingest import AlertIngest
from app.alerts.keys import KeyDirectory
from app.alerts.rejected import RejectedDeliveries
from app.alerts.service import AlertService
from app.auth.passwords import Passwords
from app.auth.second_factor import SecondFactors
from app.core.deps import Registry
from app.core.scheduler import Job, Scheduler, without_run
from app.core.settings import Settings
from app.lifespan.accounts import People
from app.lifespan.ground import Ground
from app.lifespan.market import Market
from app.stream.service import StreamService
from app.system.health import HealthService, Probe

SHUTDOWN_SECONDS = 8.0
"""What background tasks get to store what they hold: the feed's parts need up to four seconds."""


def background(
    registry: Registry,
    settings: Settings,
    ground: Ground,
    people: People,
    market: Market,
    jobs: Scheduler,
    feature_probes: Mapping[str, Probe],
    stack: AsyncExitStack,
) -> None:
    """Start the background tasks; `stack` ends them."""
    supervisor = ground.supervisor
    directory, rejected = registry.get(KeyDirectory), registry.get(RejectedDeliveries)
    ingest, streams = registry.get(AlertIngest), registry.get(StreamService)
    hourly = {
        "alerts.expire": registry.get(AlertService).expire,
        "audit.expire": people.retention.expire,
        "accounts.reseal": registry.get(SecondFactors).reseal_all,
    }
    for name, work in hourly.items():
        jobs.add(Job(name, without_run(work), every=timedelta(hours=1), timeout=timedelta(hours=1)))
    feed_health = market.start(jobs, stack)
    supervisor.add("key use", directory.run)
    supervisor.add("refused deliveries", rejected.run)
    supervisor.add("stream", streams.run)
    supervisor.add("credential use", people.uses.run)
    if settings.background_tasks_enabled:
        supervisor.add("jobs", jobs.run)
        if people.mails.available:
            supervisor.add("mail", people.mails.run)

    async def cache_health() -> dict[str, Any]:
        return ground.redis.health() if ground.redis else {"status": "ok", "backend": "memory"}

    async def bus_health() -> dict[str, Any]:
        return {"status": "ok" if ground.bus.connected else "degraded", **ground.bus.health()}

    async def jobs_health() -> dict[str, Any]:
        return jobs.health() if settings.background_tasks_enabled else {**jobs.health(), "status": "off"}

    async def tasks_health() -> dict[str, Any]:
        return {"status": "ok" if supervisor.healthy else "degraded", **supervisor.health()}

    async def stream_health() -> dict[str, Any]:
        return {"status": "ok", **streams.health()}

    async def database_health() -> dict[str, Any]:
        line = await ground.database.health()
        if settings.production and "embedded" in line:  # /health is public, and that database has no password
            line["embedded"] = {name: value for name, value in line["embedded"].items() if name not in {"port", "pid"}}
        return line

    probes = {
        "database": database_health,
        "cache": cache_health,
        "bus": bus_health,
        "feed": feed_health,
        "jobs": jobs_health,
        "tasks": tasks_health,
        "mail": people.mails.health,
        "audit": people.audit.health,
        "stream": stream_health,
        **feature_probes,
    }
    registry.provide(HealthService, HealthService(__version__, probes))

    # Closed in reverse: clients first, then what is accepted is stored, then the tasks.
    stack.callback(registry.get(Passwords).close)
    stack.push_async_callback(people.audit.drain)
    stack.push_async_callback(jobs.close)
    stack.push_async_callback(supervisor.stop, SHUTDOWN_SECONDS)
    stack.push_async_callback(directory.save_last_used)
    stack.push_async_callback(people.uses.save)
    stack.push_async_callback(rejected.drain)
    stack.push_async_callback(ingest.drain)
    stack.push_async_callback(streams.close)
    supervisor.start()
