"""Which version the stored data has, and the migrations that bring it to the code's; see `app/migrations`.

`migrations_log` is Beanie's collection, with one row for each migration that is in effect. `service_state` has the
`schema_version` of every kind of document that was ever written, and notes an import that has not finished.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pymongo
from beanie import Document, init_beanie
from beanie.migrations.controllers.base import BaseMigrationController
from bson import ObjectId
from pymongo import ReplaceOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from app.core.clock import Clock, SystemClock
from app.core.errors import StartupError
from app.core.maintenance import refuse_during_maintenance

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"
LOG, STATE = "migrations_log", "service_state"
EPHEMERAL = frozenset({"leases"})
"""Collections that mean something only to the processes that run now."""
NOT_DATA = frozenset({LOG, STATE}) | EPHEMERAL

PATIENCE_SECONDS = 120
"""How long one command may take: the embedded database answers to a scan when it is through, 1 s for 30,000 rows."""
_BATCH = 500

Db = AsyncDatabase[dict[str, Any]]
Row = dict[str, Any]


class MigrationsPendingError(StartupError):
    """The data is of an older version than the code: scripts/migrate has to run first."""


class NewerDataError(StartupError):
    """The data is of a newer version than the code, which would damage it."""


class UnfinishedImportError(StartupError):
    """An import into this database was broken off: some of the data is missing."""


class MigrationError(StartupError):
    """A migration failed, or cannot be run; `__cause__` is what it raised."""


def known_migrations(folder: Path = MIGRATIONS) -> list[str]:
    """The file names of the code's migrations, in the order they run in."""
    return sorted(path.name for path in folder.glob("[!_]*.py"))


def schema_versions(documents: Iterable[type[Document]]) -> dict[str, int]:
    """The code's `schema_version` for each collection."""
    versions: dict[str, int] = {}
    for document in documents:
        field = document.model_fields.get("schema_version")
        name = getattr(getattr(document, "Settings", None), "name", document.__name__)
        versions[name] = field.default if field else 1
    return versions


@dataclass(frozen=True)
class DataState:
    """What a database says about the version of its data."""

    log: tuple[Row, ...]
    versions: Mapping[str, int] | None
    """None: nobody has noted it yet; the database is new."""
    unfinished_import: str | None

    @property
    def applied(self) -> list[str]:
        """The migrations in effect, in order."""
        return sorted(row["name"] for row in self.log)

    @classmethod
    async def read(cls, db: Db) -> "DataState":
        """Two small reads, about a millisecond."""
        log = [row async for row in db[LOG].find({})]
        notes = {row["_id"]: row async for row in db[STATE].find({})}
        unfinished = notes.get("import")
        schema = notes.get("schema")
        return cls(tuple(log), schema["versions"] if schema else None, unfinished["file"] if unfinished else None)

    def refuse_newer(self, known: Sequence[str], versions: Mapping[str, int], what: str = "the data") -> None:
        """Raise `NewerDataError` if the code does not know all of this."""
        if unknown := [name for name in self.applied if name not in known]:
            raise NewerDataError(
                f"{what} is of a newer version of Arrow (migration {unknown[-1]}): update Arrow, or undo it with that "
                f"newer version: scripts/migrate --backward {len(unknown)}"
            )
        for name, version in (self.versions or {}).items():
            if version > versions.get(name, version):
                raise NewerDataError(
                    f"{what} is of a newer version of Arrow ({name} has schema version {version}, this Arrow knows "
                    f"{versions[name]}): update Arrow"
                )

    def pending(self, known: Sequence[str]) -> list[str]:
        """The code's migrations that are not in effect, in order."""
        applied = set(self.applied)
        return [name for name in known if name not in applied]


async def data_collections(db: Db) -> list[str]:
    """The collections that hold data, also those that no document of the code describes; views are left out."""
    found = await db.list_collections(filter={"type": "collection"})
    names = [str(info["name"]) async for info in found]
    return sorted(name for name in names if name not in NOT_DATA and not name.startswith("system."))


async def filled(db: Db, names: Iterable[str]) -> list[str]:
    """Those of the collections that have a document. A scan of each on the embedded database."""
    with pymongo.timeout(PATIENCE_SECONDS):
        return [name for name in names if await db[name].find_one({}, {"_id": 1})]


async def check_migrations(
    db: Db, documents: Sequence[type[Document]], *, folder: Path = MIGRATIONS, clock: Clock | None = None
) -> None:
    """Refuse to start on data that this code would read wrongly; note the code's versions in a database that is new.

    Call it after connecting and before the documents are registered, so that no index is built on rows of an older
    version. Three reads of single rows. Raises `MigrationsPendingError`, `NewerDataError`, `UnfinishedImportError` or
    `MaintenanceError`, all of them `StartupError`.
    """
    clock = clock or SystemClock()
    known, versions = known_migrations(folder), schema_versions(documents)
    await refuse_during_maintenance(db, clock)
    state = await DataState.read(db)
    if state.unfinished_import:
        raise UnfinishedImportError(
            f"an import of {state.unfinished_import} into this database did not finish, so data is missing: "
            "run scripts/import_data.py with --replace and that file"
        )
    state.refuse_newer(known, versions)
    pending = state.pending(known)
    if pending and not await is_new(db, state):
        raise MigrationsPendingError(
            f"{len(pending)} migration{'s' if len(pending) > 1 else ''} of the data must run before this version of "
            f"Arrow starts ({', '.join(pending)}): export the data, then run scripts/migrate"
        )
    await _settle(db, clock, state, pending, versions)


async def is_new(db: Db, state: DataState) -> bool:
    """Whether nobody has ever stored anything in this database."""
    return state.versions is None and not state.log and not await filled(db, await data_collections(db))


async def _settle(db: Db, clock: Clock, state: DataState, names: Sequence[str], versions: Mapping[str, int]) -> None:
    """Note that `names` are in effect, for there is no data that they could change, and the versions written now."""
    for name in names:
        await _note(db, clock, name, versions)
    await _note_versions(db, state, versions)


async def _note_versions(db: Db, state: DataState, versions: Mapping[str, int]) -> None:
    """Note that documents of these versions are written from now on, if that is not what is noted already."""
    wanted = {**(state.versions or {}), **versions}
    if wanted != state.versions:
        with suppress(DuplicateKeyError):  # another process of this service has just noted the same
            await db[STATE].replace_one({"_id": "schema"}, {"versions": wanted}, upsert=True)


def _row_id(name: str) -> ObjectId:
    """The same id for the same migration in every database, so that two processes cannot note it twice."""
    return ObjectId(hashlib.sha256(name.encode()).digest()[:12])


async def _note(db: Db, clock: Clock, name: str, versions: Mapping[str, int]) -> None:
    """Note that `name` is in effect; `versions` are what its reversal goes back to. `is_current` is for Beanie."""
    row = {"name": name, "ts": clock.now(), "is_current": True, "versions_before": dict(versions)}
    try:
        await db[LOG].replace_one({"_id": _row_id(name)}, row, upsert=True)
    except DuplicateKeyError:
        return
    await db[LOG].update_many({"is_current": True, "name": {"$ne": name}}, {"$set": {"is_current": False}})


class Migrator:
    """Runs migrations on a database that nobody else uses meanwhile (`maintenance.exclusive`).

    Beanie's decorators describe them. Its runner is replaced: it marks the old position as past before it notes the
    new one, so that a crash between makes it begin anew; it reruns everything from an unknown position; it takes a
    missing `Backward` for a successful one; it runs the functions of a class by alphabet, on a client of its own.
    """

    def __init__(
        self,
        db: Db,
        documents: Sequence[type[Document]],
        *,
        folder: Path = MIGRATIONS,
        clock: Clock | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._db = db
        self._folder = folder
        self._known = known_migrations(folder)
        self._versions = schema_versions(documents)
        self._clock = clock or SystemClock()
        self._tell = tell

    async def status(self) -> list[str]:
        """A line for each migration, those included that this code does not know."""
        log = {row["name"]: row for row in (await DataState.read(self._db)).log}
        lines = []
        for name in sorted({*self._known, *log}):
            what = f"in effect since {log[name]['ts']:%Y-%m-%d %H:%M} UTC" if name in log else "pending"
            lines.append(f"{name}  {what}" + ("" if name in self._known else ", unknown to this version of Arrow"))
        return lines

    async def forward(self) -> list[str]:
        """Run all that are pending, and return their names. Raises `StartupError`."""
        state = await self._state()
        pending = state.pending(self._known)
        if not pending or await is_new(self._db, state):
            await _settle(self._db, self._clock, state, pending, self._versions)
            return []
        for name in pending:
            began = self._clock.monotonic()
            await self._run(name, "Forward")
            await _note(self._db, self._clock, name, state.versions or {})
            self._tell(f"{name}: done in {self._clock.monotonic() - began:.1f} s")
        await _note_versions(self._db, state, self._versions)
        return pending

    async def backward(self, count: int) -> list[str]:
        """Undo the last `count`, newest first, and return their names. Raises `StartupError`."""
        state = await self._state()
        undone: list[str] = []
        for name in state.applied[::-1][:count]:
            began = self._clock.monotonic()
            await self._run(name, "Backward")
            row = next(row for row in state.log if row["name"] == name)
            before = {**(state.versions or {}), **row.get("versions_before", {})}
            await self._db[STATE].replace_one({"_id": "schema"}, {"versions": before}, upsert=True)
            await self._db[LOG].delete_one({"_id": row["_id"]})
            undone.append(name)
            self._tell(f"{name}: undone in {self._clock.monotonic() - began:.1f} s")
        left = [row["_id"] for row in sorted(state.log, key=lambda row: str(row["name"])) if row["name"] not in undone]
        if undone and left:
            await self._db[LOG].update_one({"_id": left[-1]}, {"$set": {"is_current": True}})
        return undone

    async def _state(self) -> DataState:
        state = await DataState.read(self._db)
        if state.unfinished_import:
            raise UnfinishedImportError(
                f"the import of {state.unfinished_import} did not finish: import it again first"
            )
        state.refuse_newer(self._known, {})
        return state

    async def _run(self, name: str, direction: str) -> None:
        """Run one migration's class. Raises `MigrationError`; the migration then counts as not run."""
        steps = self._steps(name, direction)
        try:
            async with self._db.client.start_session() as session:
                for step in steps:
                    await init_beanie(database=self._db, document_models=step.models)
                    await step.run(session=session)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise MigrationError(
                f"the migration {name} failed ({type(error).__name__}: {error}); it can be run again, "
                "and Arrow does not start before it has succeeded"
            ) from error

    def _steps(self, name: str, direction: str) -> list[BaseMigrationController]:
        described = getattr(_load(self._folder / name), direction, None)
        if described is None:
            what = "cannot be undone" if direction == "Backward" else "does nothing"
            raise MigrationError(f"the migration {name} {what}: it has no class {direction}")
        return [step for step in vars(described).values() if isinstance(step, BaseMigrationController)]


def _load(path: Path) -> ModuleType:
    """The migration in a file, fresh. It is listed among the modules: pydantic looks up annotations there."""
    name = f"arrow_migration_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 (the name ends in .py)
    assert spec.loader is not None  # noqa: S101 (so there is a loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MigrationError(f"the migration {path.name} cannot be read ({type(error).__name__}: {error})") from error
    return module


async def convert(
    document: type[Document], session: AsyncClientSession, *, old: int, new: int, change: Callable[[Row], Row]
) -> int:
    """Rewrite every row at schema version `old` as `change` says, to version `new`, and return how many there were.

    In batches, so memory stays small whatever the collection's size; a row is replaced only while it is still at
    `old`, so it may be broken off and run again at any point.
    """
    collection = document.get_pymongo_collection()
    cursor = collection.find({"schema_version": old}, batch_size=_BATCH, session=session)
    converted = 0
    while True:
        with pymongo.timeout(PATIENCE_SECONDS):
            rows = await cursor.to_list(_BATCH)
            if not rows:
                return converted
            changes = [
                ReplaceOne({"_id": row["_id"], "schema_version": old}, change(dict(row)) | {"schema_version": new})
                for row in rows
            ]
            result = await collection.bulk_write(changes, ordered=False, session=session)
        converted += result.modified_count
