"""What a killed service leaves behind, and what the next one makes of it."""

import asyncio
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import msgspec
import pytest

from app.core.embedded_files import EmbeddedFiles, Worker
from app.core.embedded_process import DatabaseProcess, Stamp
from tests.core import embedded_processes as support
from tests.core.embedded_processes import (
    Launch,
    Open,
    gone,
    ids,
    running_again,
    supervised,
    until,
    write,
)

pytestmark = pytest.mark.timeout(180)

data_dir, clean, launch, embedded = support.data_dir, support.clean, support.launch, support.embedded


async def test_a_killed_services_database_is_adopted(launch: Launch, embedded: Open) -> None:
    service = await launch()
    (pid,) = await service.up()
    await write(service.uri, 1)
    running = service.health(pid)["pid"]
    await service.close()
    assert not gone(running)

    database = embedded()
    assert await database.start() == service.uri
    assert database.health()["pid"] == running
    assert await ids(service.uri) == {1}
    await database.stop()
    assert gone(running)


async def test_everything_killed_is_started_anew(launch: Launch, embedded: Open) -> None:
    service = await launch()
    (pid,) = await service.up()
    await write(service.uri, 1)
    os.kill(service.health(pid)["pid"], signal.SIGKILL)
    await service.close()
    database = embedded()
    assert await ids(await database.start()) == {1}


async def test_a_hung_database_of_a_killed_service_is_ended(launch: Launch, embedded: Open) -> None:
    service = await launch()
    (pid,) = await service.up()
    await write(service.uri, 1)
    hung = service.health(pid)["pid"]
    os.kill(hung, signal.SIGSTOP)
    await service.close()
    database = embedded()
    assert await ids(await database.start()) == {1}
    assert gone(hung)


async def test_a_service_killed_while_it_started_leaves_nothing_in_the_way(launch: Launch, embedded: Open) -> None:
    for delay in (0.0, 0.1, 0.3):
        service = await launch()
        await until(partial(service.told, "starting"))
        await asyncio.sleep(delay)
        await service.close()
    database = embedded()
    await write(await database.start(), 1)
    # One that was launched in the moment of the kill, and that nobody knows of, may still be finding out that it is one
    # too many.
    async with asyncio.timeout(30):
        while [found.pid for found in await DatabaseProcess.search(database._files.storage)] != [
            database.health()["pid"]
        ]:
            await asyncio.sleep(0.05)
    assert await ids(database.uri) == {1}


@pytest.mark.parametrize("content", [None, b"", b"\x00\xffgarbage", b'{"port": "no"}', b"[]"])
async def test_a_lost_endpoint_file_does_no_harm(
    launch: Launch, embedded: Open, data_dir: Path, content: bytes | None
) -> None:
    service = await launch()
    await service.up()
    await write(service.uri, 1)
    await service.close()
    endpoint = data_dir / "embedded" / "endpoint.json"
    if content is None:
        endpoint.unlink()
    else:
        endpoint.write_bytes(content)
    database = embedded()
    assert await ids(await database.start()) == {1}
    assert len(await DatabaseProcess.search(database._files.storage)) == 1


async def test_a_stranger_with_the_old_process_id_is_left_alone(embedded: Open, data_dir: Path) -> None:
    """After a reboot, the ids in the files belong to other programs: neither counted as attached nor ended."""
    database = embedded()
    await database.start()
    await database.stop()
    with subprocess.Popen(["sleep", "300"]) as stranger:  # noqa: ASYNC220 (returns at once)
        files = EmbeddedFiles(data_dir)
        stamp = Stamp.of(stranger.pid)
        assert stamp
        earlier = msgspec.structs.replace(stamp, born=stamp.born - 100)
        other_boot = msgspec.structs.replace(stamp, boot="another")
        assert [earlier.alive, other_boot.alive, stamp.alive] == [False, False, True]
        files.enter(Worker(earlier, earlier, "service"))
        files.enter(Worker(other_boot, other_boot, "service"))
        await database.start()
        pid = database.health()["pid"]
        # The endpoint file names the living stranger as the database: its command line says that it is not.
        seen = files.endpoint()
        assert seen
        os.kill(pid, signal.SIGKILL)
        files.write_endpoint(msgspec.structs.replace(seen, database=stamp))
        async with supervised(database):
            await until(partial(running_again, database, 1))
        await database.stop()
        assert stranger.poll() is None
        stranger.kill()
