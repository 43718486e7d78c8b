"""The version of stored data, and the migrations between versions, on a real database."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import pytest_asyncio
from beanie import Document, init_beanie
from beanie.migrations.models import MigrationLog
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.core.clock import SystemClock
from app.core.database import Database
from app.core.lease_holder import Lease
from app.core.maintenance import MaintenanceError, exclusive
from app.core.migrations import (
    LOG,
    STATE,
    MigrationError,
    MigrationsPendingError,
    Migrator,
    NewerDataError,
    check_migrations,
    convert,
    known_migrations,
    schema_versions,
)
from app.core.settings import Settings
from app.lifespan import DOCUMENTS
from tests.core.databases import MakeDatabase, make_database
from tests.support.mongodb import OPTIONS
from tests.support.service import ROOT

__all__ = ["make_database"]

CLOCK = SystemClock()
FIRST, SECOND = "20270105_1200_first.py", "20270106_0900_second.py"


class Thing(Document):
    """What the code of today stores."""

    schema_version: int = 3

    class Settings:
        name = "things"


class OlderThing(Document):
    """What the code before the migrations stored."""

    schema_version: int = 1

    class Settings:
        name = "things"


HEAD = """
from beanie import Document
from beanie.migrations.controllers.free_fall import free_fall_migration
from app.core.migrations import convert


class Things(Document):
    class Settings:
        name = "things"

"""


def source(forward: str, backward: str | None) -> str:
    """A migration that converts the things by these calls."""
    text = HEAD
    for name, call in (("Forward", forward), ("Backward", backward)):
        if call:
            text += f"""
class {name}:
    @free_fall_migration(document_models=[Things])
    async def change(self, session):
{indent(dedent(call), " " * 8)}
"""
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two migrations: `name` becomes `title` in capitals, then `n` is doubled."""
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "__init__.py").write_text("raise RuntimeError('not a migration')")
    (made / FIRST).write_text(
        source(
            "await convert(Things, session, old=1, new=2, change=lambda t: {'title': t['name'].upper(), 'n': t['n']})",
            "await convert(Things, session, old=2, new=1, change=lambda t: {'name': t['title'].lower(), 'n': t['n']})",
        )
    )
    (made / SECOND).write_text(
        source(
            "await convert(Things, session, old=2, new=3, change=lambda t: t | {'n': t['n'] * 2})",
            "await convert(Things, session, old=3, new=2, change=lambda t: t | {'n': t['n'] // 2})",
        )
    )
    return made


@pytest_asyncio.fixture
async def old(make_database: MakeDatabase, tmp_path: Path) -> Database:
    """A database that the code before the migrations has used."""
    database = await make_database()
    (tmp_path / "none").mkdir()
    await check_migrations(database.db, [OlderThing], folder=tmp_path / "none")
    await database.db["things"].insert_many(
        [{"_id": n, "name": f"thing {n}", "n": n, "schema_version": 1} for n in range(600)]
    )
    return database


async def things(database: Database) -> dict[Any, dict[str, Any]]:
    return {row.pop("_id"): row async for row in database.db["things"].find({})}


async def test_a_new_database_needs_no_migration(make_database: MakeDatabase, folder: Path) -> None:
    database = await make_database()
    for _ in range(2):
        await check_migrations(database.db, [Thing], folder=folder)
    assert await database.db[STATE].find_one({"_id": "schema"}) == {"_id": "schema", "versions": {"things": 3}}
    assert sorted([row["name"] async for row in database.db[LOG].find({})]) == [FIRST, SECOND]
    assert await Migrator(database.db, [Thing], folder=folder).forward() == []


class Asked(CommandListener):
    """What the database was asked."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(event.command_name)

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


async def test_the_check_is_quick(make_database: MakeDatabase, mongodb_url: str) -> None:
    database, asked = await make_database(), Asked()
    await check_migrations(database.db, DOCUMENTS)
    async with AsyncMongoClient[dict[str, Any]](mongodb_url, **OPTIONS, event_listeners=[asked]) as client:
        await check_migrations(client[database.db.name], DOCUMENTS)
    assert asked.commands[:3] == ["find"] * 3
    assert set(asked.commands[3:]) <= {"endSessions"}


def test_the_codes_own_versions() -> None:
    assert known_migrations() == []
    assert set(schema_versions(DOCUMENTS)) >= {"users", "alerts", "strategies", "strategy_keys"}
    assert schema_versions([Thing]) == {"things": 3}


async def test_forward_and_backward(old: Database, folder: Path) -> None:
    migrator = Migrator(old.db, [Thing], folder=folder)
    with pytest.raises(MigrationsPendingError, match=f"2 migrations .*{FIRST}, {SECOND}.*scripts/migrate"):
        await check_migrations(old.db, [Thing], folder=folder)
    before = await things(old)
    assert await migrator.status() == [f"{FIRST}  pending", f"{SECOND}  pending"]

    assert await migrator.forward() == [FIRST, SECOND]
    after = await things(old)
    assert len(after) == 600
    assert after[7] == {"title": "THING 7", "n": 14, "schema_version": 3}
    await check_migrations(old.db, [Thing], folder=folder)
    assert await migrator.forward() == []
    # Beanie reads it as its own.
    await init_beanie(database=old.db, document_models=[MigrationLog])
    current = await MigrationLog.find({"is_current": True}).to_list()
    assert [row.name for row in current] == [SECOND]

    assert await migrator.backward(1) == [SECOND]
    assert (await things(old))[7] == {"title": "THING 7", "n": 7, "schema_version": 2}
    assert [row.name for row in await MigrationLog.find({"is_current": True}).to_list()] == [FIRST]
    with pytest.raises(MigrationsPendingError, match=f"1 migration .*{SECOND}"):
        await check_migrations(old.db, [Thing], folder=folder)
    assert await migrator.backward(5) == [FIRST]
    assert await things(old) == before
    # And the code of before starts again.
    await check_migrations(old.db, [OlderThing], folder=folder.parent / "none")


async def test_newer_data_is_refused(old: Database, folder: Path) -> None:
    await Migrator(old.db, [Thing], folder=folder).forward()
    with pytest.raises(NewerDataError, match=f"{SECOND}.*--backward 2"):
        await check_migrations(old.db, [OlderThing], folder=folder.parent / "none")
    with pytest.raises(NewerDataError, match="things has schema version 3, this Arrow knows 1"):
        await check_migrations(old.db, [OlderThing], folder=folder)
    (folder / SECOND).unlink()
    with pytest.raises(NewerDataError):
        await Migrator(old.db, [Thing], folder=folder).backward(1)


async def test_a_raised_version_without_a_migration_only_keeps_older_code_away(old: Database, tmp_path: Path) -> None:
    nothing = tmp_path / "none"
    await check_migrations(old.db, [Thing], folder=nothing)
    await check_migrations(old.db, [Thing], folder=nothing)
    with pytest.raises(NewerDataError):
        await check_migrations(old.db, [OlderThing], folder=nothing)


async def test_a_migration_that_failed_half_way_is_run_again(old: Database, folder: Path) -> None:
    whole = (folder / FIRST).read_text()
    broken = whole.replace("{'title': t['name'].upper()", "{'title': t['name'].upper(), 'x': 1 / (t['n'] - 555)")
    (folder / FIRST).write_text(broken)
    migrator = Migrator(old.db, [Thing], folder=folder)
    with pytest.raises(MigrationError, match=rf"{FIRST} failed \(ZeroDivisionError") as failure:
        await migrator.forward()
    assert isinstance(failure.value.__cause__, ZeroDivisionError)
    done = sum(row["schema_version"] == 2 for row in (await things(old)).values())
    assert 0 < done < 600
    with pytest.raises(MigrationsPendingError):
        await check_migrations(old.db, [Thing], folder=folder)

    (folder / FIRST).write_text(whole)
    assert await migrator.forward() == [FIRST, SECOND]
    rows = await things(old)
    assert all(row["title"] == f"THING {n}" and row["n"] == 2 * n for n, row in rows.items())


async def test_converting_again_changes_nothing(old: Database) -> None:
    await init_beanie(database=old.db, document_models=[Thing])
    async with old.client.start_session() as session:
        assert await convert(Thing, session, old=1, new=2, change=lambda row: row) == 600
        assert await convert(Thing, session, old=1, new=2, change=lambda row: row) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEAD, "does nothing: it has no class Forward"),
        ("import nowhere_to_be_found", "cannot be read"),
    ],
)
async def test_a_migration_that_is_none(old: Database, folder: Path, text: str, complaint: str) -> None:
    (folder / FIRST).write_text(text)
    with pytest.raises(MigrationError, match=complaint):
        await Migrator(old.db, [Thing], folder=folder).forward()


async def test_without_a_way_back_nothing_is_undone(old: Database, folder: Path) -> None:
    (folder / SECOND).write_text(source("pass", None))
    migrator = Migrator(old.db, [Thing], folder=folder)
    await migrator.forward()
    with pytest.raises(MigrationError, match=f"{SECOND} cannot be undone"):
        await migrator.backward(2)
    assert all("in effect since" in line for line in await migrator.status())


async def test_functions_run_in_the_order_they_are_written(old: Database, folder: Path) -> None:
    step = """
    @free_fall_migration(document_models=[Things])
    async def {0}(self, session):
        await Things.get_pymongo_collection().update_one({{"_id": 0}}, {{"$push": {{"ran": "{0}"}}}})
"""
    (folder / FIRST).write_text(HEAD + "class Forward:" + "".join(step.format(name) for name in ("z", "m", "a")))
    (folder / SECOND).unlink()
    await Migrator(old.db, [Thing], folder=folder).forward()
    assert (await things(old))[0]["ran"] == ["z", "m", "a"]


async def test_beanies_iterative_migration(make_database: MakeDatabase, folder: Path) -> None:
    (folder / SECOND).unlink()
    (folder / FIRST).write_text("""
from beanie import Document
from beanie.migrations.controllers.iterative import iterative_migration


class Before(Document):
    name: str

    class Settings:
        name = "things"


class After(Document):
    title: str
    schema_version: int

    class Settings:
        name = "things"


class Forward:
    @iterative_migration()
    async def rename(self, input_document: Before, output_document: After) -> None:
        output_document.title = input_document.name.upper()
        output_document.schema_version = 2
""")
    database = await make_database()
    await check_migrations(database.db, [OlderThing], folder=folder.parent)
    await database.db["things"].insert_many([{"name": f"t{n}", "schema_version": 1} for n in range(20)])
    await Migrator(database.db, [Thing], folder=folder).forward()
    rows = (await things(database)).values()
    assert sorted(row["title"] for row in rows) == sorted(f"T{n}" for n in range(20))
    assert {row["schema_version"] for row in rows} == {2}


# ── keeping out of one another's way ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def settings(mongodb_url: str, tmp_path: Path) -> Settings:
    return Settings.load(
        mongodb_url=mongodb_url, data_dir=tmp_path, environment="test", secret_key="s" * 40, _env_file=None
    )


async def test_one_program_at_a_time_and_no_service_meanwhile(old: Database, settings: Settings) -> None:
    async with exclusive(old, settings, CLOCK, "scripts/migrate"):
        with pytest.raises(MaintenanceError, match=rf"scripts/migrate \(.*process {os.getpid()}\) is at work"):
            async with exclusive(old, settings, CLOCK, "scripts/import_data.py"):
                pass
        with pytest.raises(MaintenanceError, match="wait until it has finished"):
            await check_migrations(old.db, [OlderThing])
    await check_migrations(old.db, [OlderThing])
    async with exclusive(old, settings, CLOCK, "scripts/import_data.py"):
        pass


async def test_not_beside_a_service(old: Database, settings: Settings) -> None:
    lease = Lease(old.db, CLOCK, "jobs", "somewhere:1:ab", 30)
    assert await lease.acquire()
    with pytest.raises(MaintenanceError, match=r"a running service \(somewhere:1:ab\) uses this database"):
        async with exclusive(old, settings, CLOCK, "scripts/migrate"):
            pass
    await lease.release()
    async with exclusive(old, settings, CLOCK, "scripts/migrate"):
        pass


async def test_whoever_loses_the_lease_stops(old: Database, settings: Settings) -> None:
    async def work_too_long() -> None:
        async with exclusive(old, settings, CLOCK, "scripts/migrate", seconds=0.8):
            row = {"$set": {"holder": "another", "expires_at": CLOCK.now().replace(year=2099)}}
            await old.db["leases"].update_one({"_id": "maintenance"}, row)
            await asyncio.sleep(50)

    with pytest.raises(MaintenanceError, match="lost"):
        await work_too_long()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


# ── the script ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def house(tmp_path: Path, folder: Path) -> Path:
    """A copy of the repository's programs with two migrations, and an environment that is in step with its lock."""
    root = tmp_path / "house"
    shutil.copytree(ROOT / "app", root / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (FIRST, SECOND):
        shutil.copy(folder / name, root / "app" / "migrations" / name)
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (root / "requirements.txt").write_text("nothing==1\n")
    identity = ["import sys; print(sys.implementation.cache_tag, sys.version.replace('\\n', ' '))"]
    told = subprocess.run([sys.executable, "-c", *identity], capture_output=True, text=True, check=True).stdout
    (root / ".venv" / "arrow-lock.txt").write_text(f"{told}nothing==1\n")
    return root


@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
async def test_the_script(old: Database, house: Path, mongodb_url: str, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "ENVIRONMENT": "test", "DATA_DIR": str(tmp_path / "data")}
    env |= {"MONGODB_URL": mongodb_url, "DATABASE_NAME": old.db.name}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(house / "scripts" / "migrate"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=40, check=False)

    told = run("--status")
    assert (told.returncode, told.stdout) == (0, f"{FIRST}  pending\n{SECOND}  pending\n"), told.stderr
    told = run()
    assert told.returncode == 0, told.stderr
    assert told.stdout.endswith("Migrations run: 2\n")
    assert (await things(old))[5] == {"title": "THING 5", "n": 10, "schema_version": 3}
    told = run("--backward", "1")
    assert (told.returncode, told.stdout.splitlines()[-1]) == (0, "Migrations undone: 1"), told.stderr
    (house / "app" / "migrations" / FIRST).unlink()
    told = run()
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.count("\n") == 1
    assert f"the data is of a newer version of Arrow (migration {FIRST})" in told.stderr
