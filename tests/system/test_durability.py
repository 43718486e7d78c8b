"""What was acknowledged survives kill -9 of anything, and is there once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from tests.support.people import Person, somebody
from tests.support.senders import Senders, check_kept
from tests.support.service import ServiceProcess
from tests.support.workers import one_client_each

pytestmark = pytest.mark.slow

BEFORE, AFTER = 150, 100
"""Alerts acknowledged before the blow, and after it."""

MakeService = Callable[..., ServiceProcess]


@asynccontextmanager
async def user_of(service: ServiceProcess) -> AsyncIterator[tuple[Person, str]]:
    """Somebody with a key, at a service that is started for them."""
    await asyncio.to_thread(service.start)
    async with somebody(service.url) as person:
        yield person, await person.bind()


async def start_again(service: ServiceProcess) -> None:
    await asyncio.to_thread(service.start)


async def until_gone(pid: int, seconds: float = 30) -> None:
    for _ in range(int(seconds / 0.05)):
        if not psutil.pid_exists(pid):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")


async def test_kill_of_everything(make_service: MakeService):
    service = make_service()
    async with user_of(service) as (person, key):
        async with Senders(service.url, key) as senders:
            await senders.until_acknowledged(BEFORE)
            await asyncio.to_thread(service.kill_all)
        await start_again(service)

        await check_kept(person, senders)
        async with Senders(service.url, await person.bind(), count=2) as later:
            await later.until_acknowledged(10)


@pytest.mark.embedded
async def test_kill_of_the_database_alone(make_service: MakeService):
    service = make_service()
    async with user_of(service) as (person, key):
        database = await asyncio.to_thread(service.database_pid)

        async with Senders(service.url, key, retries=3) as senders:
            await senders.until_acknowledged(BEFORE)
            os.kill(database, signal.SIGKILL)
            await senders.until_acknowledged(AFTER)

        unacknowledged = [sent for sent in senders.sent if not sent.acknowledged]
        assert not unacknowledged, f"not taken in spite of 3 retries: {unacknowledged[:5]}"
        await check_kept(person, senders)
        health = await asyncio.to_thread(service.health)
        assert health["status"] == "ok"
        assert health["database"]["embedded"]["restarts"] >= 1
        assert health["database"]["embedded"]["pid"] != database


async def test_sigterm_answers_what_was_accepted(make_service: MakeService):
    service = make_service()
    async with user_of(service) as (person, key):
        async with Senders(service.url, key) as senders:
            await senders.until_acknowledged(BEFORE)
            # `stop` fails if any process is left behind.
            status = await asyncio.to_thread(service.stop)

        # uvicorn ends by the signal that it was sent, once everything is closed.
        assert status in {0, -signal.SIGTERM}
        # Only connections end: nothing that was read goes unanswered or is answered with an error.
        assert set(senders.answers) <= {201, "ConnectError", "ReadError", "RemoteProtocolError", "WriteError"}
        assert "Traceback" not in service.log_text()
        await start_again(service)
        await check_kept(person, senders)


@pytest.mark.embedded
async def test_kill_of_the_service_alone(make_service: MakeService):
    """The database it leaves behind is adopted by the next start."""
    service = make_service()
    async with user_of(service) as (person, key):
        database = await asyncio.to_thread(service.database_pid)
        assert service.process

        async with Senders(service.url, key) as senders:
            await senders.until_acknowledged(BEFORE)
            service.process.kill()
            await asyncio.to_thread(service.process.wait, 30)
        assert psutil.pid_exists(database)
        await start_again(service)

        assert await asyncio.to_thread(service.database_pid) == database
        await check_kept(person, senders)
        assert await asyncio.to_thread(service.stop) in {0, -signal.SIGTERM}
        await until_gone(database)


async def keeper_of(service: ServiceProcess) -> int:
    """The worker that keeps the embedded database and owns the bus, so that the most is lost with it."""
    async with one_client_each(service) as clients:
        for pid, client in clients.items():
            health = (await client.get("/health")).json()
            if health["database"].get("embedded", {}).get("keeper", health["bus"]["role"] == "owner"):
                return pid
    raise AssertionError("no worker keeps the database")


async def until_replaced(service: ServiceProcess, victim: int) -> None:
    for _ in range(400):
        pids = service.worker_pids()
        if victim not in pids and len(pids) == service.workers:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"nobody came in place of the worker {victim}: {service.worker_pids()}")


async def test_kill_of_one_worker_after_the_other(make_service: MakeService):
    """Each time the other one goes on, and another comes in place of the one that was killed."""
    service = make_service(workers=2)
    async with user_of(service) as (person, key):
        async with Senders(service.url, key, retries=3, wait=0.3) as senders:
            for _ in range(2):
                await senders.until_acknowledged(BEFORE)
                victim = await keeper_of(service)
                os.kill(victim, signal.SIGKILL)
                await senders.until_acknowledged(AFTER)
                await until_replaced(service, victim)

        unacknowledged = [sent for sent in senders.sent if not sent.acknowledged]
        assert not unacknowledged, f"not taken in spite of 3 retries: {unacknowledged[:5]}"
        await check_kept(person, senders)
        await until_both_serve(service)
        assert await asyncio.to_thread(service.stop) == 0


async def until_both_serve(service: ServiceProcess) -> None:
    """Wait for the new worker, and let both say that they are well."""
    await asyncio.to_thread(service.wait_ready)
    healths: list[dict[str, Any]] = []
    for _ in range(100):
        async with one_client_each(service) as clients:
            healths = [(await client.get("/health")).json() for client in clients.values()]
        if all(health["status"] == "ok" and health["bus"]["peers"] == 1 for health in healths):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the workers did not recover: {healths}")
