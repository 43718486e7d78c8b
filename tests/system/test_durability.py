"""What was acknowledged survives kill -9 of anything, and is there once."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from tests.support.people import Person, somebody
from tests.support.senders import Senders, check_kept
from tests.support.service import ServiceProcess
from tests.support.workers import one_client_each

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

BEFORE, AFTER = 150, 100
"""Alerts acknowledged before the blow, and after it."""
STUBBORN = 30
"""Retries. TradingView's three are over before a slow machine has a database or a worker again."""
PATIENCE = 60.0
"""Seconds."""

MakeService = Callable[..., ServiceProcess]


@asynccontextmanager
async def user_of(service: ServiceProcess) -> AsyncIterator[tuple[Person, str]]:
    """Somebody with a key, at a service that is started for them."""
    await asyncio.to_thread(service.start)
    async with somebody(service.url) as person:
        yield person, await person.bind()


async def start_again(service: ServiceProcess) -> None:
    await asyncio.to_thread(service.start)


async def until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        await asyncio.sleep(0.05)


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

        async with Senders(service.url, key, retries=STUBBORN) as senders:
            await senders.until_acknowledged(BEFORE)
            os.kill(database, signal.SIGKILL)
            await senders.until_acknowledged(AFTER)

        all_taken(senders)
        await check_kept(person, senders)
        deadline = time.monotonic() + PATIENCE
        while (health := await asyncio.to_thread(service.health))["status"] != "ok":
            assert time.monotonic() < deadline, health
            await asyncio.sleep(0.1)
        assert health["database"]["embedded"]["restarts"] >= 1
        assert health["database"]["embedded"]["pid"] != database


def all_taken(senders: Senders) -> None:
    unacknowledged = [sent for sent in senders.sent if not sent.acknowledged]
    assert not unacknowledged, f"not taken in spite of {STUBBORN} retries: {unacknowledged[:5]}"


async def test_sigterm_answers_what_was_accepted(make_service: MakeService):
    service = make_service()
    async with user_of(service) as (person, key):
        async with Senders(service.url, key) as senders:
            await senders.until_acknowledged(BEFORE)
            # `stop` fails if any process is left behind.
            status = await asyncio.to_thread(service.stop, wait=PATIENCE)

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
    deadline = time.monotonic() + PATIENCE
    while True:  # for a moment there is none, while the other takes over from one that was killed
        async with one_client_each(service) as clients:
            for pid, client in clients.items():
                health = (await client.get("/health")).json()
                if health["database"].get("embedded", {}).get("keeper", health["bus"]["role"] == "owner"):
                    return pid
        assert time.monotonic() < deadline, "no worker keeps the database"
        await asyncio.sleep(0.1)


async def until_replaced(service: ServiceProcess, victim: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while victim in (pids := service.worker_pids()) or len(pids) != service.workers:
        assert time.monotonic() < deadline, f"nobody came in place of the worker {victim}: {pids}"
        await asyncio.sleep(0.05)


async def test_kill_of_one_worker_after_the_other(make_service: MakeService):
    """Each time the other one goes on, and another comes in place of the one that was killed."""
    service = make_service(workers=2)
    async with user_of(service) as (person, key):
        async with Senders(service.url, key, retries=3 * STUBBORN, wait=0.3) as senders:
            for _ in range(2):
                await senders.until_acknowledged(BEFORE)
                victim = await keeper_of(service)
                os.kill(victim, signal.SIGKILL)
                await senders.until_acknowledged(AFTER)
                await until_replaced(service, victim)

        all_taken(senders)
        await check_kept(person, senders)
        await until_both_serve(service)
        assert await asyncio.to_thread(service.stop, wait=PATIENCE) == 0


async def until_both_serve(service: ServiceProcess) -> None:
    """Wait for the new worker, and let both say that they are well."""
    await asyncio.to_thread(service.wait_ready)
    deadline = time.monotonic() + PATIENCE
    while True:
        async with one_client_each(service) as clients:
            healths: list[dict[str, Any]] = [(await client.get("/health")).json() for client in clients.values()]
        if all(health["status"] == "ok" and health["bus"]["peers"] == 1 for health in healths):
            return
        assert time.monotonic() < deadline, f"the workers did not recover: {healths}"
        await asyncio.sleep(0.1)
