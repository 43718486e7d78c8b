"""Programs that a person runs on all of the data, and how they and the service keep out of one another's way."""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

from pydantic import ValidationError
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.core.database import Database
from app.core.embedded import EmbeddedDatabase
from app.core.embedded_files import EmbeddedFiles
from app.core.errors import DomainError, StartupError
from app.core.lease_holder import Lease
from app.core.logging import configure_logging
from app.core.settings import Settings, SettingsError
from app.core.transfer_file import TransferError

_HOSTS = re.compile(r"[\w.-]+(:\d{1,5})?(,[\w.-]+(:\d{1,5})?)*|\[[0-9A-Fa-f:.]+\](:\d{1,5})?").fullmatch
LEASE = "maintenance"
LEASE_SECONDS = 60.0
"""How long the database stays closed to the service after a program was killed at its work."""


class MaintenanceError(StartupError):
    """Somebody else uses the database in a way that excludes this; the message says who and what to do."""


def run_program(work: Callable[[Settings], Coroutine[Any, Any, int]]) -> NoReturn:
    """Run a script's `work` with the service's settings and exit with its status; with 1 and a line if it cannot be."""
    try:
        settings = Settings.load()
        configure_logging(settings.model_copy(update={"log_level": "ERROR", "log_file": None}))
        raise SystemExit(asyncio.run(work(settings)))
    except (SettingsError, StartupError, TransferError) as error:
        raise SystemExit(str(error)) from None
    except DomainError as error:
        raise SystemExit(error.detail) from None
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc'])) or 'input'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise SystemExit("\n".join(faults)) from None
    except PyMongoError as error:
        code = getattr(error, "code", None)
        what = f"{type(error).__name__}, code {code}" if code else type(error).__name__
        raise SystemExit(f"The database failed ({what}); start this again when it is in order.") from None
    except OSError as error:  # a full disk, above all
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("Interrupted.") from None


def place_of(settings: Settings) -> str:
    """Which database the settings lead to, in words for whoever runs a program; no credentials."""
    if settings.mongodb_url:
        hosts = _hosts_of(settings.mongodb_url.get_secret_value())
        return f"the database {settings.database_name} on {hosts or 'the server that MONGODB_URL names'}"
    return f"{'the' if _has_embedded(settings) else 'a new'} embedded database in {settings.data_dir.absolute()}"


def _hosts_of(url: str) -> str | None:
    """The hosts in a connection string; None where parts of a password may be taken for them.

    A `/`, `?` or `#` in a password that nobody escaped ends what looks like the hosts' place, with an `@` to come.
    """
    place, *rest = re.split(r"(?=[/?#])", url.partition("://")[2], maxsplit=1)
    hosts = place.rpartition("@")[2]
    return hosts if _HOSTS(hosts) and "@" not in "".join(rest) else None


def _has_embedded(settings: Settings) -> bool:
    storage = EmbeddedFiles(settings.data_dir).storage
    return storage.is_dir() and any(storage.iterdir())


@asynccontextmanager
async def tool_database(settings: Settings, *, must_exist: bool = False) -> AsyncIterator[Database]:
    """The service's database, connected; the embedded one is shared with a service that runs, else started for this.

    `must_exist`: raise `StartupError` instead of making an embedded database where there is none.
    """
    if must_exist and not settings.mongodb_url and not _has_embedded(settings):
        where = EmbeddedFiles(settings.data_dir).root
        raise StartupError(f"there is no embedded database in {where}: check DATA_DIR and MONGODB_URL")
    embedded = None if settings.mongodb_url else EmbeddedDatabase(settings.data_dir, role="tool")
    database = Database(settings, embedded)
    try:
        await database.connect()
        yield database
    finally:
        await database.close()


async def running_service(database: Database, settings: Settings, clock: Clock) -> str | None:
    """Which service uses the database now, in words; None if none does.

    The embedded database knows who is attached. On a server it is the holder of the lease for periodic jobs: one that
    was killed counts as running for 30 s more, and one whose processes all have `BACKGROUND_TASKS_ENABLED=false` is
    not seen.
    """
    if not settings.mongodb_url:
        workers = EmbeddedFiles(settings.data_dir).workers()
        return next((f"process {worker.service.pid}" for worker in workers if worker.role == "service"), None)
    return await _holder(database.db, clock, "jobs")


async def _holder(db: AsyncDatabase[dict[str, Any]], clock: Clock, lease: str) -> str | None:
    row = await db["leases"].find_one({"_id": lease})
    return str(row["holder"]) if row and row["expires_at"] > clock.now() else None


async def refuse_during_maintenance(db: AsyncDatabase[dict[str, Any]], clock: Clock) -> None:
    """Raise `MaintenanceError` while a migration or an import is at work."""
    if holder := await _holder(db, clock, LEASE):
        raise MaintenanceError(
            f"{holder} is at work on this database: wait until it has finished "
            f"(if it was killed: {LEASE_SECONDS:.0f} s)"
        )


@asynccontextmanager
async def exclusive(
    database: Database, settings: Settings, clock: Clock, name: str, *, seconds: float = LEASE_SECONDS
) -> AsyncIterator[None]:
    """Be the only one at work on the data for the length of the block; a service does not start meanwhile.

    `name`: the program's, for the messages that others get. Raises `MaintenanceError` when a service or another such
    program is at work, and out of the block if the right to it is lost.
    """
    if service := await running_service(database, settings, clock):
        hint = "" if database.embedded else " (one that was killed is forgotten after 30 s)"
        raise MaintenanceError(f"a running service ({service}) uses this database: stop it first{hint}")
    await refuse_during_maintenance(database.db, clock)
    holder = f"{name} ({socket.gethostname()}, process {os.getpid()})"
    lease = Lease(database.db, clock, LEASE, holder, seconds)
    if not await lease.acquire():
        raise MaintenanceError("another program has just begun to work on this database")
    owner = asyncio.current_task()
    assert owner is not None  # noqa: S101 (a coroutine runs in a task)
    keeper = asyncio.create_task(_renew(lease, clock, seconds, owner), name="maintenance lease")
    try:
        yield
    except asyncio.CancelledError:
        if not keeper.done():
            raise
        owner.uncancel()
        raise MaintenanceError("the right to work on this database alone was lost; stopped") from None
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        with suppress(PyMongoError):
            await lease.release()


async def _renew(lease: Lease, clock: Clock, seconds: float, owner: asyncio.Task[Any]) -> None:
    """Hold `lease`; cancel `owner` when that was not possible for `seconds`."""
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        await asyncio.sleep(seconds / 4)
        with suppress(PyMongoError):  # the database may be restarting
            if not await lease.acquire():
                break
            until = clock.monotonic() + seconds
    owner.cancel()
