"""Carries everything the service stores from one database to another, by way of a file (`core.transfer_file`).

Leases are left out: they mean something to running processes only. Indexes are not in the file: they belong to the code
and are built by it before the documents are written.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import pymongo
from beanie import Document
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    CursorNotFound,
    ExecutionTimeout,
    OperationFailure,
)

from app import __version__
from app.core.clock import Clock
from app.core.database import Database
from app.core.maintenance import refuse_during_maintenance
from app.core.migrations import (
    LOG,
    MIGRATIONS,
    PATIENCE_SECONDS,
    STATE,
    DataState,
    Db,
    data_collections,
    filled,
    is_new,
    known_migrations,
    schema_versions,
)
from app.core.transfer_file import RAW, ExportFile, ExportWriter, TransferError

BATCH = 500
"""Documents that are read or written at a time: small enough for others' requests to get in between."""
TRIES = 3
_SNAPSHOT_LOST = frozenset({239, 246})  # SnapshotTooOld, SnapshotUnavailable

Progress = Callable[[str, int], None]
"""Is told the collection and how many of its documents are through."""


def _silent(_: str, __: int) -> None:
    pass


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    counts: dict[str, int]
    size: int
    snapshot: bool
    """Whether all of it is of one moment."""


async def export_database(
    database: Database,
    path: Path,
    clock: Clock,
    *,
    collections: Sequence[str] = (),
    snapshot: bool = True,
    progress: Progress = _silent,
) -> Exported:
    """Write the database, or some `collections` of it, to the new file `path`.

    Each collection is one scan in natural order, in small batches. Where the server is a replica set, all are read as
    of one moment unless `snapshot` is false; elsewhere documents that change meanwhile may be in the file as they were
    before or after. Raises `TransferError`; nothing is left of the file then.
    """
    db = database.db
    await refuse_during_maintenance(db, clock)
    state = await DataState.read(db)
    if state.unfinished_import:
        raise TransferError(
            f"an import of {state.unfinished_import} into this database did not finish: data is missing"
        )
    present = await data_collections(db)
    if not present:
        raise TransferError(f"the database {db.name} is empty: check DATABASE_NAME, DATA_DIR and MONGODB_URL")
    if unknown := sorted(set(collections) - set(present)):
        raise TransferError(f"no such collection: {', '.join(unknown)}; there are {', '.join(present)}")
    names = [name for name in present if not collections or name in collections]
    header = {
        "service_version": __version__,
        "created_at": clock.now(),
        "database_mode": database.mode,
        "database_name": db.name,
        "collections": names,
        "complete": names == present,
        "schema_versions": dict(state.versions) if state.versions is not None else None,
        "migrations": list(state.log),
    }
    async with AsyncExitStack() as stack:
        session = None
        if snapshot and await _has_snapshots(database):
            session = await stack.enter_async_context(database.client.start_session(snapshot=True))
        writer = stack.enter_context(ExportWriter(path, header))
        for name in names:
            await _export_collection(db, name, writer, session, progress)
        size = writer.finish()
    return Exported(dict(writer.counts), size, session is not None)


async def _has_snapshots(database: Database) -> bool:
    if database.embedded:
        return False
    hello = await database.client.admin.command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


async def _export_collection(
    db: Db, name: str, writer: ExportWriter, session: AsyncClientSession | None, progress: Progress
) -> None:
    """Copy one collection; from its start again if the connection or the cursor is lost (a restart, a failover)."""
    collection: AsyncCollection[RawBSONDocument] = db[name].with_options(codec_options=RAW)
    writer.begin(name)
    for tries_left in reversed(range(TRIES)):
        try:
            cursor = collection.find({}, batch_size=BATCH, session=session)
            while True:
                with pymongo.timeout(PATIENCE_SECONDS):
                    documents = await cursor.to_list(BATCH)
                if not documents:
                    return
                for document in documents:
                    writer.add(document)
                progress(name, writer.counts[name])
        except (AutoReconnect, CursorNotFound):
            if not tries_left:
                raise
            writer.rewind()
        except ConfigurationError as error:
            raise TransferError(f"this server reads no snapshots ({error}): use --no-snapshot") from error
        except OperationFailure as error:
            if session is None or error.code not in _SNAPSHOT_LOST:
                raise
            raise TransferError(
                "the export took longer than the server keeps its history (minSnapshotHistoryWindowInSeconds, "
                "5 minutes by default): stop the service and use --no-snapshot"
            ) from error


# ── import ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Mode(StrEnum):
    """What to do about data that is in the target already."""

    EMPTY = "empty"  # refuse
    MERGE = "merge"  # leave it, and add what is missing
    REPLACE = "replace"  # delete it first


@dataclass(frozen=True)
class Conflict:
    """A document that was not written because another one holds a value that has to be unique."""

    collection: str
    id: str
    index: str


@dataclass
class Imported:
    """What an import did, counted by collection."""

    inserted: Counter[str] = field(default_factory=Counter)
    present: Counter[str] = field(default_factory=Counter)
    """Left out, for the `_id` was there: in the target, or twice in a file that was exported from a running service."""
    conflicts: list[Conflict] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    """Collections of the target that are neither in the file nor Arrow's."""
    left_out: list[str] = field(default_factory=list)
    """Collections that are whole or not at all (a chain), of which the target has its own: nothing was merged in."""
    migrate: bool = False
    """Whether scripts/migrate has to run before the service starts."""


class Importer:
    """Writes an export into a database.

    `EMPTY` and `REPLACE` need the database for themselves (`maintenance.exclusive`) and note their beginning in it: the
    service refuses to start on half of an import. `MERGE` only adds documents, each an atomic insert under the unique
    indexes, and may run beside the service.
    """

    def __init__(
        self,
        database: Database,
        documents: Sequence[type[Document]],
        clock: Clock,
        *,
        migrations: Path = MIGRATIONS,
        progress: Progress = _silent,
    ) -> None:
        self._database = database
        self._documents = documents
        self._tomorrow = clock.now() + timedelta(days=1)
        self._known = known_migrations(migrations)
        self._versions = schema_versions(documents)
        settings = [getattr(document, "Settings", None) for document in documents]
        self._indivisible = [str(one.name) for one in settings if one and getattr(one, "indivisible", False)]
        self._progress = progress
        self._result = Imported()
        self._expiring: Counter[str] = Counter()

    async def run(self, file: ExportFile, mode: Mode) -> Imported:
        """Import a file that `check` has passed. Raises `TransferError` or `StartupError`."""
        db = self._database.db
        theirs = DataState(tuple(file.header["migrations"]), file.header["schema_versions"] or {}, None)
        theirs.refuse_newer(self._known, self._versions, file.path.name)
        ours = await DataState.read(db)
        fresh = await is_new(db, ours)
        if mode is Mode.EMPTY:
            await self._refuse_filled(db)
        replaces_all = mode is Mode.EMPTY or (mode is Mode.REPLACE and file.header["complete"])
        if ours.unfinished_import and not replaces_all:
            raise TransferError(f"an import of {ours.unfinished_import} did not finish here: --replace with that first")
        if not replaces_all and not fresh:
            self._refuse_mixture(file, theirs, ours)
        self._result.migrate = bool(theirs.pending(self._known))
        if mode is not Mode.MERGE:
            await db[STATE].replace_one({"_id": "import"}, {"file": file.path.name}, upsert=True)
            await self._clear(db, file)
        elif await filled(db, self._indivisible):
            self._result.left_out = [name for name in self._indivisible if name in file.counts]
        if replaces_all or fresh:
            await self._adopt(db, theirs)
        if not self._result.migrate:  # else the indexes of this code are for rows that scripts/migrate has yet to make
            await self._database.register(self._documents)
        await self._copy(db, file)
        if mode is not Mode.MERGE:
            await self._verify(db, file)
            await db[STATE].delete_one({"_id": "import"})
        return self._result

    async def _refuse_filled(self, db: Db) -> None:
        if names := await filled(db, await data_collections(db)):
            raise TransferError(
                f"the database {db.name} has data already (in {', '.join(names)}): --merge adds what is missing and "
                "leaves that as it is, --replace deletes it first; nothing was written"
            )

    def _refuse_mixture(self, file: ExportFile, theirs: DataState, ours: DataState) -> None:
        """Rows of two versions must not come together: the migrations in effect are noted for all of a database."""
        versions = {name: version for name, version in (ours.versions or {}).items() if name in file.counts}
        mine = {name: version for name, version in (theirs.versions or {}).items() if name in versions}
        if theirs.applied != ours.applied or any(versions[name] != version for name, version in mine.items()):
            raise TransferError(
                f"{file.path.name} and the database hold data of different versions of Arrow: import the file into an "
                "empty database, run scripts/migrate there, and export it again; nothing was written"
            )

    async def _clear(self, db: Db, file: ExportFile) -> None:
        """Remove what the file replaces, with the indexes: they may be for another version of the rows."""
        ours = set(self._versions) if file.header["complete"] else set()
        present = await data_collections(db)
        self._result.untouched = [name for name in present if name not in ours and name not in file.counts]
        for name in present:
            if name in self._result.untouched:
                continue
            with pymongo.timeout(PATIENCE_SECONDS):
                if self._database.embedded:
                    await db[name].delete_many({})  # drop takes quadratic time there: 30 s for 10,000 rows
                await db[name].drop()

    async def _adopt(self, db: Db, theirs: DataState) -> None:
        """The file's rows are all there is, so the database is of the file's version."""
        await db[LOG].delete_many({})
        if theirs.log:
            await db[LOG].insert_many([dict(row) for row in theirs.log])
        await db[STATE].replace_one({"_id": "schema"}, {"versions": dict(theirs.versions or {})}, upsert=True)

    async def _copy(self, db: Db, file: ExportFile) -> None:
        expiries: dict[str, list[tuple[str, int]]] = {}
        for name, batch in _batches(file.documents()):
            if name in self._result.left_out:
                continue
            collection: AsyncCollection[RawBSONDocument] = db[name].with_options(codec_options=RAW)
            if name not in expiries:
                expiries[name] = await _expiries(collection)
            self._expiring[name] += sum(self._may_expire(document, expiries[name]) for document in batch)
            await self._write(collection, batch)
            self._progress(name, self._result.inserted[name] + self._result.present[name])

    def _may_expire(self, document: RawBSONDocument, expiries: Sequence[tuple[str, int]]) -> bool:
        """Whether the database may remove the document while this runs (a day at most)."""
        for name, seconds in expiries:
            moment = document.get(name)
            if isinstance(moment, datetime) and moment < self._tomorrow - timedelta(seconds=seconds):
                return True
        return False

    async def _write(self, collection: AsyncCollection[RawBSONDocument], batch: list[RawBSONDocument]) -> None:
        name = collection.name
        try:
            with pymongo.timeout(PATIENCE_SECONDS):
                await collection.insert_many(batch, ordered=False)
            self._result.inserted[name] += len(batch)
        except BulkWriteError as error:
            details = error.details or {}
            self._result.inserted[name] += details["nInserted"]
            if details["writeConcernErrors"]:
                raise TransferError(f"the database did not confirm that {name} is stored durably") from error
            for problem in details["writeErrors"]:
                await self._judge(collection, batch[problem["index"]], problem)
        except ExecutionTimeout:
            raise
        except OperationFailure as error:  # the whole command: find the document that it is about
            if len(batch) == 1:
                why = str((error.details or {}).get("errmsg", "")).split("\n")[0][:200]
                raise TransferError(f"{name} {batch[0]['_id']} was refused by the database: {why}") from error
            middle = len(batch) // 2
            await self._write(collection, batch[:middle])
            await self._write(collection, batch[middle:])

    async def _judge(
        self, collection: AsyncCollection[RawBSONDocument], document: RawBSONDocument, problem: Mapping[str, Any]
    ) -> None:
        """A document was refused: it is there already, or something else holds one of its unique values."""
        name, identity = collection.name, document["_id"]
        if problem["code"] != 11000:
            raise TransferError(f"{name} {identity} was refused by the database (code {problem['code']})")
        key = dict(problem.get("keyPattern") or {})
        if set(key) == {"_id"} or await collection.find_one({"_id": identity}, {"_id": 1}):
            self._result.present[name] += 1
        else:
            self._result.conflicts.append(Conflict(name, str(identity), ", ".join(key) or "a unique index"))

    async def _verify(self, db: Db, file: ExportFile) -> None:
        """Count what is there now. Documents past their time may be gone: the database removes them by itself."""
        conflicts = Counter(conflict.collection for conflict in self._result.conflicts)
        for name, count in file.counts.items():
            most = count - conflicts[name]
            # A batch that was sent twice, for the database restarted, has "present" documents that are new.
            least = most - self._result.present[name] - self._expiring[name]
            with pymongo.timeout(PATIENCE_SECONDS):
                found = await db[name].count_documents({})
            if not least <= found <= most:
                raise TransferError(
                    f"{name} should have {most} documents now and has {found}: use --replace to try again"
                )


def _batches(documents: Iterable[tuple[str, RawBSONDocument]]) -> Iterator[tuple[str, list[RawBSONDocument]]]:
    """Runs of documents of one collection, each at most `BATCH` long."""
    source = iter(documents)
    while some := list(islice(source, BATCH)):
        for name in dict.fromkeys(name for name, _ in some):
            yield name, [document for of, document in some if of == name]


async def _expiries(collection: AsyncCollection[RawBSONDocument]) -> list[tuple[str, int]]:
    """The fields by which the database removes documents, and how many seconds after the time in them."""
    with_ttl = [index async for index in await collection.list_indexes() if "expireAfterSeconds" in index]
    return [(next(iter(index["key"])), int(index["expireAfterSeconds"])) for index in with_ttl]
