"""Databases for the tests of migrations and transfers: many on one server, so that none waits for a start."""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest_asyncio

from app.core.database import Database
from app.core.settings import Settings

MakeDatabase = Callable[[], Awaitable[Database]]


def server_settings(url: str, folder: Path) -> Settings:
    """Settings for a new database on that server."""
    name = f"test_{secrets.token_hex(6)}"
    return Settings.load(
        mongodb_url=url, database_name=name, data_dir=folder, environment="test", secret_key="s" * 40, _env_file=None
    )


@pytest_asyncio.fixture
async def make_database(mongodb_url: str, tmp_path: Path) -> AsyncIterator[MakeDatabase]:
    """Connects to new, empty databases."""
    made: list[Database] = []

    async def make() -> Database:
        made.append(Database(server_settings(mongodb_url, tmp_path)))
        await made[-1].connect()
        return made[-1]

    yield make
    for database in made:
        if "TEST_MONGODB_URL" in os.environ:
            await database.client.drop_database(database.db.name)
        await database.close()
