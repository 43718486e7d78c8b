"""The connection to MongoDB, or to the embedded database where no address is set."""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import structlog
from beanie import Document, init_beanie
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError

from app.core.embedded import EmbeddedDatabase
from app.core.errors import StartupError
from app.core.settings import Settings, SettingsError

log = structlog.get_logger(__name__)


DUPLICATE_KEY = 11000
_INDEX_OF = re.compile(r"collection: \S*?\.(?P<collection>\S+) index: (?P<index>\S+)").search


class DatabaseUnreachableError(StartupError):
    """The database did not answer in time at the start; the message is for the person who starts the service."""


class Database:
    """One client for the process; every write is acknowledged by a majority and journalled."""

    def __init__(self, settings: Settings, embedded: EmbeddedDatabase | None = None) -> None:
        self._settings = settings
        self.embedded = embedded
        self._client: AsyncMongoClient[dict[str, Any]] | None = None
        self._last_error: str | None = None

    @property
    def mode(self) -> str:
        """`embedded` or `server`."""
        return "server" if self._settings.mongodb_url else "embedded"

    @property
    def client(self) -> AsyncMongoClient[dict[str, Any]]:
        """The connected client."""
        if self._client is None:
            raise RuntimeError("the database is not connected")
        return self._client

    @property
    def db(self) -> AsyncDatabase[dict[str, Any]]:
        """The service's database."""
        return self.client[self._settings.database_name]

    async def connect(self) -> None:
        """Connect and wait for an answer.

        Raises `DatabaseUnreachableError` when none comes within `DATABASE_CONNECT_TIMEOUT_SECONDS`, `SettingsError` for
        an address that is no address, and what `EmbeddedDatabase.start` raises.
        """
        options: dict[str, Any] = {
            "appname": "arrow",
            "tz_aware": True,
            "w": "majority",
            "journal": True,
            "retryWrites": True,
            "retryReads": True,
            # A lagging secondary would bring revoked keys back to life.
            "readPreference": "primary",
            "connectTimeoutMS": 3000,
            "serverSelectionTimeoutMS": 2500,
            "socketTimeoutMS": 20_000,
        }
        if self._settings.mongodb_url:
            uri = self._settings.mongodb_url.get_secret_value()
            options |= {"maxPoolSize": self._settings.database_max_pool_size, "minPoolSize": 1}
        else:
            assert self.embedded is not None  # noqa: S101 (the composition root gives one exactly then)
            uri = await self.embedded.start()
            # More connections are slower there: a thread each, behind one interpreter lock.
            # Its restart takes a second or two, which a request waits for rather than fails.
            options |= {"maxPoolSize": 4, "serverSelectionTimeoutMS": 5000}
        try:
            self._client = AsyncMongoClient(uri, **options)
        except (InvalidURI, ConfigurationError, ValueError) as error:
            raise SettingsError(f"MONGODB_URL: is not a usable address ({type(error).__name__})") from None
        await self._wait_until_reachable()

    async def _wait_until_reachable(self) -> None:
        deadline = time.monotonic() + self._settings.database_connect_timeout_seconds
        while True:
            try:
                await self.client.admin.command("ping")
                return
            except OperationFailure as error:
                raise DatabaseUnreachableError(f"The database refused the connection (code {error.code}).") from None
            except PyMongoError as error:
                if time.monotonic() > deadline:
                    raise DatabaseUnreachableError(
                        f"The database did not answer within {self._settings.database_connect_timeout_seconds:g} s "
                        f"({type(error).__name__}); check MONGODB_URL and the server."
                    ) from None
                log.warning("waiting for the database", error=type(error).__name__)
                await asyncio.sleep(0.5)

    async def register(self, models: Sequence[type[Document]]) -> None:
        """Bind Beanie's documents to this database and build their indexes.

        Raises `StartupError` where stored rows stand against a unique index.
        """
        try:
            await init_beanie(database=self.db, document_models=list(models))
        except OperationFailure as error:
            if error.code != DUPLICATE_KEY:
                raise
            # Its words show the values, too.
            found = _INDEX_OF(str(error))
            where = f"{found['index']} of {found['collection']}" if found else "one of them"
            raise StartupError(
                f"A unique index ({where}) cannot be built: stored rows repeat. For market_data "
                "scripts/create_market_data_unique_index.py resolves that; export the data first."
            ) from None

    async def ping(self) -> float:
        """Milliseconds that a round trip took; raises `PyMongoError`, or `TimeoutError` after 2 s."""
        began = time.perf_counter()
        async with asyncio.timeout(2):
            await self.client.admin.command("ping")
        return (time.perf_counter() - began) * 1000

    async def health(self) -> dict[str, Any]:
        """The line for `/health`; never raises."""
        line: dict[str, Any] = {"status": "ok", "mode": self.mode}
        try:
            line["ping_ms"] = round(await self.ping(), 2)
        except (PyMongoError, TimeoutError) as error:
            line |= {"status": "unavailable", "error": type(error).__name__}
        if self.embedded:
            line["embedded"] = self.embedded.health()
        return line

    async def close(self) -> None:
        """Close the client, and end the embedded database when this was its last worker."""
        if self._client is not None:
            await self._client.close()
        if self.embedded is not None:
            await self.embedded.stop()
