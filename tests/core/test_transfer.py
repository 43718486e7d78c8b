"""Export and import between real databases: exact, complete, and refused before anything is written otherwise."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection

from app.core.clock import SystemClock
from app.core.database import Database
from app.core.embedded import EmbeddedDatabase
from app.core.errors import StartupError
from app.core.migrations import LOG, STATE, NewerDataError, UnfinishedImportError, check_migrations
from app.core.transfer import Conflict, Imported, Importer, Mode, export_database
from app.core.transfer_file import RAW, ExportFile, TransferError
from app.lifespan import DOCUMENTS
from tests.core.databases import MakeDatabase, make_database, server_settings
from tests.core.exports import NOW, checked, documents, raw, user, write

__all__ = ["make_database"]

CLOCK = SystemClock()


@pytest_asyncio.fixture
async def two(make_database: MakeDatabase) -> tuple[Database, Database]:
    """Two empty databases."""
    return await make_database(), await make_database()


async def contents(database: Database, name: str = "things") -> dict[Any, bytes]:
    """Every document of a collection as the bytes that the database gives."""
    collection = database.db[name].with_options(codec_options=RAW)
    return {row["_id"]: bytes(row.raw) async for row in collection.find({})}


async def filled(make_database: MakeDatabase, *users: dict[str, Any], count: int = 0) -> Database:
    """A database as the service leaves it, with these users and `count` strategies."""
    database = await make_database()
    await check_migrations(database.db, DOCUMENTS)
    await database.register(DOCUMENTS)
    if users:
        await database.db["users"].insert_many([dict(row) for row in users])
    owner = ObjectId()
    rows = [{"user_id": owner, "name": f"s{n}", "schema_version": 1, "created_at": NOW} for n in range(count)]
    if rows:
        await database.db["strategies"].insert_many(rows)
    await database.db["leases"].insert_one({"_id": "jobs", "holder": "x", "expires_at": NOW - timedelta(minutes=5)})
    return database


async def exported(database: Database, path: Path) -> ExportFile:
    await export_database(database, path, CLOCK)
    return checked(path)


@given(rows=st.lists(documents, min_size=1, max_size=12))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_databases_get_every_byte(
    two: tuple[Database, Database], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    source, target = two
    await source.db["things"].delete_many({})
    await source.db["things"].insert_many([raw({"_id": number, **row}) for number, row in enumerate(rows)])
    path = tmp_path / f"{ObjectId()}.gz"
    await export_database(source, path, CLOCK, collections=["things"])
    done = await Importer(target, [], CLOCK).run(checked(path), Mode.REPLACE)
    assert done.inserted == {"things": len(rows)}
    assert await contents(target) == await contents(source)


# ── import into what is there ────────────────────────────────────────────────────────────────────────────────────────


async def test_all_of_a_database_with_its_indexes_and_without_leases(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    source = await filled(make_database, user("a", username="a"), user("b"), count=1201)
    await source.db["of_an_older_version"].insert_one({"_id": 1, "kept": True})
    file = await exported(source, tmp_path / "x.gz")
    assert file.counts["strategies"] == 1201
    assert "leases" not in file.counts
    target = await make_database()
    done = await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.EMPTY)
    assert (done.conflicts, done.present, done.migrate) == ([], {}, False)
    for name in ("users", "strategies", "of_an_older_version"):
        assert await contents(target, name) == await contents(source, name)
    assert set(await target.db["users"].index_information()) >= {"_id_", "email_1", "username_1"}
    assert await target.db["leases"].find_one({"_id": "jobs"}) is None
    await check_migrations(target.db, DOCUMENTS)
    assert await target.db[STATE].find_one({"_id": "schema"}) == await source.db[STATE].find_one({"_id": "schema"})


async def test_data_that_is_there_is_refused(make_database: MakeDatabase, tmp_path: Path) -> None:
    file = await exported(await filled(make_database, user("a")), tmp_path / "x.gz")
    target = await filled(make_database, user("b"), count=3)
    before = await contents(target, "users")
    with pytest.raises(TransferError, match=r"has data already \(in strategies, users\).*nothing was written"):
        await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.EMPTY)
    assert await contents(target, "users") == before
    await check_migrations(target.db, DOCUMENTS)


async def test_merge_adds_what_is_missing_and_changes_nothing(make_database: MakeDatabase, tmp_path: Path) -> None:
    ann, bob, cleo = user("ann", name="old"), user("bob"), user("cleo")
    file = await exported(await filled(make_database, ann, bob, cleo, count=700), tmp_path / "x.gz")
    other_bob = user("bob")
    target = await filled(make_database, ann | {"name": "new"}, other_bob)
    done = await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.MERGE)
    assert (done.inserted["users"], done.present["users"], done.inserted["strategies"]) == (1, 1, 700)
    assert done.conflicts == [Conflict("users", str(bob["_id"]), "email")]
    assert {row["_id"]: row.get("name") async for row in target.db["users"].find({})} == {
        ann["_id"]: "new",
        other_bob["_id"]: None,
        cleo["_id"]: None,
    }
    again = await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.MERGE)
    assert (sum(again.inserted.values()), again.present) == (0, {"users": 2, "strategies": 700})


async def test_replace_leaves_only_the_file(make_database: MakeDatabase, tmp_path: Path) -> None:
    source = await filled(make_database, user("a"), count=3)
    file = await exported(source, tmp_path / "x.gz")
    target = await filled(make_database, user("a"), user("b"), count=8)
    await target.db["somebody_elses"].insert_one({"_id": 1})
    done = await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.REPLACE)
    assert done.untouched == ["somebody_elses"]
    for name in ("users", "strategies"):
        assert await contents(target, name) == await contents(source, name)
    assert "user_id_1_name_1" in await target.db["strategies"].index_information()


async def test_a_part_replaces_a_part(make_database: MakeDatabase, tmp_path: Path) -> None:
    source = await filled(make_database, user("a"), count=3)
    await export_database(source, tmp_path / "x.gz", CLOCK, collections=["strategies"])
    target = await filled(make_database, user("b"), count=8)
    users = await contents(target, "users")
    done = await Importer(target, DOCUMENTS, CLOCK).run(checked(tmp_path / "x.gz"), Mode.REPLACE)
    assert done.inserted == {"strategies": 3}
    assert await contents(target, "users") == users
    assert await contents(target, "strategies") == await contents(source, "strategies")


async def test_conflicts_in_a_file_of_a_running_service(make_database: MakeDatabase, tmp_path: Path) -> None:
    """A user who was deleted and made again while the export ran, and a document that was read twice."""
    first, again = user("a"), user("a")
    rows = [raw(first), raw(again), raw(first)]
    file = write(tmp_path / "x.gz", {"users": rows}, collections=["users"], schema_versions={"users": 1})
    target = await make_database()
    done = await Importer(target, DOCUMENTS, CLOCK).run(checked(file.path), Mode.EMPTY)
    assert done.conflicts == [Conflict("users", str(again["_id"]), "email")]
    assert (done.inserted["users"], done.present["users"]) == (1, 1)
    await check_migrations(target.db, DOCUMENTS)


async def test_half_of_an_import_is_never_served(make_database: MakeDatabase, tmp_path: Path) -> None:
    file = await exported(await filled(make_database, user("a"), count=600), tmp_path / "x.gz")
    target = await make_database()

    def break_off(collection: str, count: int) -> None:
        if (collection, count) == ("strategies", 500):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await Importer(target, DOCUMENTS, CLOCK, progress=break_off).run(file, Mode.EMPTY)
    with pytest.raises(UnfinishedImportError, match=r"import of x\.gz .*--replace"):
        await check_migrations(target.db, DOCUMENTS)
    with pytest.raises(TransferError, match="did not finish"):
        await export_database(target, tmp_path / "y.gz", CLOCK)
    for mode in (Mode.EMPTY, Mode.MERGE):
        with pytest.raises(TransferError):
            await Importer(target, DOCUMENTS, CLOCK).run(file, mode)
    await Importer(target, DOCUMENTS, CLOCK).run(file, Mode.REPLACE)
    await check_migrations(target.db, DOCUMENTS)
    assert len(await contents(target, "strategies")) == 600


async def test_what_expires_meanwhile_is_not_missed_and_everything_else_is(
    make_database: MakeDatabase, mongodb_url: str, tmp_path: Path
) -> None:
    source = await filled(make_database, user("a"), count=5)
    gone, stays = ObjectId(), ObjectId()
    rows = [
        {"_id": gone, "expires_at": NOW - timedelta(hours=1)},
        {"_id": stays, "expires_at": NOW + timedelta(days=9)},
    ]
    await source.db["sessions"].insert_many([row | {"schema_version": 1, "user_id": ObjectId()} for row in rows])
    file = await exported(source, tmp_path / "x.gz")

    async def import_losing(collection: str, *identities: Any) -> Imported:
        """An import during which these documents are removed after they were written."""
        target = await make_database()

        def lose(name: str, _: int) -> None:
            if name == collection:
                client: MongoClient[dict[str, Any]]
                with MongoClient(mongodb_url) as client:
                    for identity in identities:
                        client[target.db.name][name].delete_one({"_id": identity})

        return await Importer(target, DOCUMENTS, CLOCK, progress=lose).run(file, Mode.EMPTY)

    assert (await import_losing("sessions", gone)).inserted["sessions"] == 2
    with pytest.raises(TransferError, match="sessions should have 2 documents now and has 0"):
        await import_losing("sessions", gone, stays)
    strategy = next(iter(await contents(source, "strategies")))
    with pytest.raises(TransferError, match="strategies should have 5 documents now and has 4"):
        await import_losing("strategies", strategy)


@pytest.mark.skipif("TEST_MONGODB_URL" in os.environ, reason="MongoDB takes such dates")
async def test_a_document_that_the_target_cannot_hold_is_named(make_database: MakeDatabase, tmp_path: Path) -> None:
    rows = [raw({"_id": n, "at": DatetimeMS(2**60) if n == 77 else NOW}) for n in range(200)]
    file = write(tmp_path / "x.gz", {"things": rows})
    with pytest.raises(TransferError, match=r"^things 77 was refused by the database: .*out of range"):
        await Importer(await make_database(), [], CLOCK).run(checked(file.path), Mode.EMPTY)


# ── versions of the data ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_migrations_in_effect_travel_along(make_database: MakeDatabase, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "1_one.py").touch()
    old = await exported(await filled(make_database, user("a")), tmp_path / "old.gz")
    migrated = await filled(make_database, user("b"))
    await migrated.db[LOG].insert_one({"name": "1_one.py", "ts": NOW, "is_current": True})
    new = await exported(migrated, tmp_path / "new.gz")

    target = await make_database()
    with pytest.raises(NewerDataError, match=r"new\.gz is of a newer version"):
        await Importer(target, DOCUMENTS, CLOCK).run(new, Mode.EMPTY)
    assert await target.db.list_collection_names() == []
    done = await Importer(target, DOCUMENTS, CLOCK, migrations=folder).run(old, Mode.EMPTY)
    assert done.migrate
    assert set(await target.db["users"].index_information()) == {"_id_"}
    with pytest.raises(StartupError, match="run scripts/migrate"):
        await check_migrations(target.db, DOCUMENTS, folder=folder)

    for mode in (Mode.MERGE, Mode.EMPTY):
        with pytest.raises(TransferError, match="different versions of Arrow" if mode is Mode.MERGE else "has data"):
            await Importer(target, DOCUMENTS, CLOCK, migrations=folder).run(new, mode)
    await Importer(target, DOCUMENTS, CLOCK, migrations=folder).run(new, Mode.REPLACE)
    await check_migrations(target.db, DOCUMENTS, folder=folder)


async def test_data_of_a_newer_schema_is_refused(make_database: MakeDatabase, tmp_path: Path) -> None:
    source = await filled(make_database, user("a"))
    await source.db[STATE].update_one({"_id": "schema"}, {"$set": {"versions.users": 2}})
    file = await exported(source, tmp_path / "x.gz")
    with pytest.raises(NewerDataError, match="users has schema version 2"):
        await Importer(await make_database(), DOCUMENTS, CLOCK).run(file, Mode.EMPTY)


async def test_a_replica_set_is_read_as_of_one_moment(
    make_database: MakeDatabase, mongodb_url: str, tmp_path: Path
) -> None:
    source = await filled(make_database, count=1100)
    can = "setName" in await source.client.admin.command("hello")
    changed: list[int] = []

    def change_some(collection: str, count: int) -> None:
        """After the first batch: remove what was read, add what was not."""
        if collection == "strategies" and not changed:
            changed.append(count)
            client: MongoClient[dict[str, Any]]
            with MongoClient(mongodb_url) as client:
                there: Collection[dict[str, Any]] = client[source.db.name]["strategies"]
                there.insert_many([{"user_id": n, "name": "late"} for n in range(50)])
                there.delete_many({"name": {"$in": [f"s{n}" for n in range(1000, 1100)]}})

    done = await export_database(source, tmp_path / "x.gz", CLOCK, progress=change_some)
    assert changed == [500]
    assert done.snapshot == can
    if can:
        names = {document["name"] for name, document in checked(tmp_path / "x.gz").documents() if name == "strategies"}
        assert names == {f"s{n}" for n in range(1100)}
    assert not (await export_database(source, tmp_path / "y.gz", CLOCK, snapshot=False)).snapshot


async def test_what_cannot_be_exported(make_database: MakeDatabase, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="is empty: check DATABASE_NAME"):
        await export_database(await make_database(), tmp_path / "x.gz", CLOCK)
    database = await filled(make_database)
    with pytest.raises(TransferError, match="no such collection: user; there are alerts, "):
        await export_database(database, tmp_path / "x.gz", CLOCK, collections=["user"])
    assert set(os.listdir(tmp_path)) <= {"secrets"}  # noqa: PTH208 (an async function)


async def test_a_collection_is_read_again_when_the_database_restarts(tmp_path: Path) -> None:
    embedded = EmbeddedDatabase(tmp_path / "data", role="tool")
    database = Database(server_settings(await embedded.start(), tmp_path))
    try:
        await database.connect()
        await database.db["a"].insert_one({"_id": 1})
        await database.db["b"].insert_many([{"_id": n} for n in range(3000)])
        killed: list[int] = []

        def kill_once(collection: str, count: int) -> None:
            if collection == "b" and not killed:
                killed.append(count)
                psutil.Process(embedded.health()["pid"]).kill()

        done = await export_database(database, tmp_path / "x.gz", CLOCK, progress=kill_once)
        assert killed == [500]
        assert done.counts == {"a": 1, "b": 3000}
        assert [row["_id"] for _, row in checked(tmp_path / "x.gz").documents()] == [1, *range(3000)]
    finally:
        await database.close()
        await embedded.stop()
