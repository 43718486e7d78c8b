"""The embedded database of one process: launched, killed, hung, refused."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from app.core.embedded import (
    EmbeddedDatabaseError,
    EmbeddedDatabaseVersionError,
    installed_version,
)
from app.core.embedded_files import LOG_BYTES, LOG_TAIL_BYTES, EmbeddedFiles
from tests.core import embedded_processes as support
from tests.core.embedded_processes import (
    ROOT,
    Open,
    client_of,
    gone,
    ids,
    running_again,
    running_anew,
    supervised,
    until,
    write,
)

pytestmark = pytest.mark.timeout(180)

data_dir, clean, launch, embedded = support.data_dir, support.clean, support.launch, support.embedded


async def test_starts_quickly_keeps_what_was_written_and_ends(embedded: Open, data_dir: Path) -> None:
    os.environ["ARROW_TEST_SECRET"] = "not for the child"
    try:
        database = embedded()
        began = time.monotonic()
        uri = await database.start()
        assert time.monotonic() - began < 30  # 0.8 s on an idle machine
    finally:
        del os.environ["ARROW_TEST_SECRET"]
    health = database.health()
    assert health == health | {"state": "running", "restarts": 0, "last_error": None, "keeper": True}
    assert 20_000 <= health["port"] < 30_000
    assert uri.startswith(f"mongodb://127.0.0.1:{health['port']}/?directConnection=true&w=majority&journal=true")
    await write(uri, 1, 2)

    child = psutil.Process(health["pid"])
    assert os.getsid(child.pid) != os.getsid(0)  # no Ctrl-C of the terminal for it
    assert "ARROW_TEST_SECRET" not in child.environ()
    assert child.cmdline()[-4:] == ["--cache-size", "256M", "--log-level", "WARNING"]
    for name in ("endpoint.json", "database.log", "keeper.lock"):
        assert stat.S_IMODE((data_dir / "embedded" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((data_dir / "embedded").stat().st_mode) == 0o700

    await database.stop()
    assert gone(child.pid)
    assert not (data_dir / "embedded" / "endpoint.json").exists()
    assert database.health()["state"] == "stopped"
    await database.stop()  # once more is harmless

    assert await database.start() == uri
    assert await ids(uri) == {1, 2}


async def test_a_killed_database_comes_back_on_its_port_with_all_that_was_acknowledged(embedded: Open) -> None:
    database = embedded()
    uri = await database.start()
    acknowledged: set[int] = set()
    enough = asyncio.Event()

    def more_than(count: int) -> bool:
        return len(acknowledged) > count

    async def sender(client: AsyncMongoClient[dict[str, Any]], first: int) -> None:
        for number in range(first, first + 1_000_000):
            with contextlib.suppress(PyMongoError):
                await client.t.rows.insert_one({"_id": number})
                acknowledged.add(number)
            if enough.is_set():
                return

    async with supervised(database), client_of(uri) as client, asyncio.TaskGroup() as senders:
        for task in range(4):
            senders.create_task(sender(client, task * 1_000_000))
        for kills in (1, 2):
            before = len(acknowledged)
            await until(partial(more_than, before + 100))
            killed = database.health()["pid"]
            os.kill(killed, signal.SIGKILL)
            await until(partial(running_anew, database, killed))
            assert database.health()["restarts"] >= kills
        before = len(acknowledged)
        await until(partial(more_than, before + 50))
        enough.set()
    assert database.health()["last_error"] == "the database process ended"
    assert acknowledged <= await ids(uri)


async def test_a_database_that_hangs_is_killed_and_launched_again(embedded: Open) -> None:
    database = embedded(hang_seconds=1.2)
    uri = await database.start()
    await write(uri, 1)
    hung = database.health()["pid"]
    os.kill(hung, signal.SIGSTOP)
    async with supervised(database):
        await until(partial(running_again, database, 1))
    assert gone(hung)
    assert database.health()["last_error"] == "the database did not answer"
    assert await ids(uri) == {1}


async def test_waits_for_its_port_and_says_so(embedded: Open) -> None:
    database = embedded()
    uri = await database.start()
    await write(uri, 1)
    port, pid = database.health()["port"], database.health()["pid"]
    os.kill(pid, signal.SIGKILL)
    await until(lambda: gone(pid))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        async with supervised(database):
            await until(lambda: database.health()["last_error"] == "its port is taken")
            assert database.health()["state"] == "restarting"
            other.close()
            await until(lambda: database.health()["state"] == "running")
    assert await ids(uri) == {1}


async def test_a_start_avoids_a_port_that_is_taken(embedded: Open) -> None:
    database = embedded()
    await database.start()
    port = database.health()["port"]
    await database.stop()
    with socket.create_server(("127.0.0.1", port)):
        await database.start()
        assert database.health()["port"] != port


async def test_files_that_cannot_be_opened_end_the_start_with_the_databases_own_words(
    embedded: Open, data_dir: Path
) -> None:
    database = embedded()
    await database.start()
    await database.stop()
    (data_dir / "embedded" / "files" / "WiredTiger.turtle").write_bytes(b"\0garbage")
    with pytest.raises(EmbeddedDatabaseError, match=r"(?s)ended before it answered.*WiredTiger"):
        await database.start()
    assert not EmbeddedFiles(data_dir).workers()
    assert database.health()["keeper"] is False


async def test_files_of_another_version_are_refused(embedded: Open, data_dir: Path) -> None:
    database = embedded()
    await database.start()
    await database.stop()
    (data_dir / "embedded" / "version").write_text("0.6.0")
    with pytest.raises(EmbeddedDatabaseVersionError) as refusal:
        await database.start()
    for part in ("0.6.0", installed_version(), "scripts/export_data.py", "scripts/import_data.py"):
        assert part in str(refusal.value)


def test_without_the_package_it_asks_for_mongodb_url(tmp_path: Path) -> None:
    """An interpreter with everything but the package: the platform without a wheel."""
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if "secantus" not in package.name.lower():
            (tmp_path / package.name).symlink_to(package)
    code = "from app.core.embedded import installed_version; installed_version()"
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert "EmbeddedDatabaseUnavailableError" in run.stderr
    assert "not every platform has a wheel" in run.stderr
    assert "MONGODB_URL" in run.stderr


def test_the_log_is_bounded(data_dir: Path) -> None:
    files = EmbeddedFiles(data_dir)
    files.prepare(installed_version())
    with files.log.open("ab") as appended:
        appended.write(b"old\n" * (LOG_BYTES // 4) + b"last line\n")
        appended.flush()
        files.bound_log()
        appended.write(b"next line\n")
    assert files.log.read_bytes() == b"next line\n"
    kept = files.log.with_name("database.log.1").read_bytes()
    assert kept.endswith(b"last line")
    assert len(kept) <= LOG_TAIL_BYTES
