"""Several processes around one embedded database: workers of a service, other services, tools."""

import asyncio
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from app.core.embedded import (
    EmbeddedDatabaseInUseError,
    service_stamp,
)
from app.core.embedded_files import EmbeddedFiles
from app.core.embedded_process import Stamp, port_is_free
from tests.core import embedded_processes as support
from tests.core.embedded_processes import (
    ROOT,
    Launch,
    Open,
    client_of,
    gone,
    ids,
    running_again,
    until,
    write,
)

pytestmark = pytest.mark.timeout(180)

data_dir, clean, launch, embedded = support.data_dir, support.clean, support.launch, support.embedded


async def test_when_the_keeper_is_killed_another_worker_keeps_the_same_database(launch: Launch) -> None:
    service = await launch(workers=2)
    workers = await service.up(2)
    keeper = await until(lambda: service.keeper(workers))
    (other,) = set(workers) - {keeper}
    running = service.health(keeper)["pid"]
    async with client_of(service.uri) as client:
        await client.t.rows.insert_one({"_id": 1})
        os.kill(keeper, signal.SIGKILL)
        await client.t.rows.insert_one({"_id": 2})
        await until(lambda: service.health(other)["keeper"])
        await until(lambda: service.health(other)["state"] == "running")
        assert service.health(other)["pid"] == running
        os.kill(running, signal.SIGKILL)  # and it does keep it
        await until(lambda: service.restarted(other))
        assert await ids(service.uri) == {1, 2}
    os.kill(other, signal.SIGTERM)
    await until(lambda: service.told("left"))
    assert gone(service.health(other)["pid"])


async def test_keeper_and_database_killed_together(launch: Launch) -> None:
    service = await launch(workers=2)
    workers = await service.up(2)
    keeper = await until(lambda: service.keeper(workers))
    (other,) = set(workers) - {keeper}
    port, running = service.health(keeper)["port"], service.health(keeper)["pid"]
    await write(service.uri, 1)
    os.kill(keeper, signal.SIGKILL)
    os.kill(running, signal.SIGKILL)
    await until(lambda: service.restarted(other))
    health = service.health(other)
    assert health == health | {"port": port, "state": "running", "keeper": True}
    assert health["pid"] != running
    assert await ids(service.uri) == {1}


async def test_the_last_one_out_ends_the_database(launch: Launch) -> None:
    service = await launch(workers=3)
    workers = await service.up(3)
    keeper = await until(lambda: service.keeper(workers))
    running = service.health(keeper)["pid"]
    os.kill(keeper, signal.SIGTERM)
    await until(lambda: service.told("left"))
    assert not gone(running)
    rest = [pid for pid in workers if pid != keeper]
    await until(lambda: service.keeper(rest))
    assert await ids(service.uri, "flushed") == {keeper}
    for pid in rest:  # at the same moment, as a service ends
        os.kill(pid, signal.SIGTERM)
    await until(lambda: len(service.told("left")) == 3)  # each could write before it left
    assert gone(running)
    assert await asyncio.wait_for(service.process.wait(), 30) == 0


async def test_the_database_outlives_a_worker_that_flushes(embedded: Open) -> None:
    """Many leave at once, each right after a write: none finds the database gone."""
    workers = [embedded() for _ in range(6)]
    uris = {await worker.start() for worker in workers}
    assert len(uris) == 1
    (uri,) = uris
    pid = workers[0].health()["pid"]

    async def leave(number: int) -> None:
        await asyncio.sleep(number % 3 * 0.02)
        await write(uri, number)
        await workers[number].stop()

    await asyncio.gather(*(leave(number) for number in range(6)))
    assert gone(pid)
    assert await ids(await workers[0].start()) == set(range(6))


async def test_another_live_service_is_refused(launch: Launch, embedded: Open, data_dir: Path) -> None:
    service = await launch(workers=2, options="--linger")
    workers = await service.up(2)
    database = embedded()

    async def refusal() -> str:
        with pytest.raises(EmbeddedDatabaseInUseError) as refused:
            await database.start()
        return str(refused.value)

    message = await refusal()
    assert f"process {service.process.pid}" in message
    assert str(data_dir / "embedded") in message
    assert "stop it first" in message
    assert "MONGODB_URL" in message
    assert "\n" not in message
    for pid in workers:  # the service lives and will start workers again
        os.kill(pid, signal.SIGKILL)
    await until(lambda: all(gone(pid) for pid in workers))
    assert await refusal() == message
    os.kill(service.process.pid, signal.SIGKILL)
    await service.process.wait()
    await database.start()


async def test_a_keeper_that_cannot_be_seen_is_refused(embedded: Open, data_dir: Path) -> None:
    """Two containers on one volume do not see each other's processes, yet the lock holds."""
    (data_dir / "embedded").mkdir(parents=True)
    lock = FileLock(data_dir / "embedded" / "keeper.lock")
    with lock:
        for role in ("service", "tool"):
            with pytest.raises(EmbeddedDatabaseInUseError, match="another container or machine"):
                await embedded(role=role).start()
    assert not EmbeddedFiles(data_dir).workers()


def test_a_service_is_what_started_its_workers() -> None:
    assert service_stamp() == Stamp.own()
    code = "from app.core.embedded import service_stamp; print(service_stamp().pid)"
    for software, expected in (("gunicorn/23.0.0", os.getpid()), ("", None)):
        environment = {**os.environ, "SERVER_SOFTWARE": software, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as child:
            assert int(child.communicate(timeout=30)[0]) == (expected or child.pid)


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tool_uses_the_database_of_a_live_service(launch: Launch, embedded: Open) -> None:
    service = await launch()
    (pid,) = await service.up()
    await write(service.uri, 1)
    tool = embedded(role="tool")
    assert await tool.start() == service.uri
    assert tool.health()["keeper"] is False
    assert await ids(service.uri) == {1}
    await tool.stop()
    await write(service.uri, 2)  # goes on
    assert service.health(pid)["state"] == "running"

    # A tool that outlasts the service keeps what it uses, until it leaves.
    await tool.start()
    os.kill(pid, signal.SIGTERM)
    await until(lambda: service.told("left"))
    assert await ids(service.uri) == {1, 2}
    await until(lambda: tool.health()["keeper"])
    await tool.stop()
    assert port_is_free(service.health(pid)["port"])


async def test_a_tool_alone_starts_the_database_and_a_service_may_join_it(launch: Launch, embedded: Open) -> None:
    tool = embedded(role="tool")
    uri = await tool.start()
    await write(uri, 1)
    killed = tool.health()["pid"]
    os.kill(killed, signal.SIGKILL)  # it watches over the database without being asked to
    await until(partial(running_again, tool, 1))
    service = await launch()
    (pid,) = await service.up()
    assert service.uri == uri
    with pytest.raises(EmbeddedDatabaseInUseError):  # the service counts, though the tool is the keeper
        await embedded().start()
    await tool.stop()
    await until(lambda: service.health(pid)["keeper"])
    assert await ids(uri) == {1}
