"""A database of its own for each test, both simulators, and what asks them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.crypto.adapters.kit import Both, both_providers
from tests.support.mongodb import Db, empty_database


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url) as made:
        yield made


@pytest_asyncio.fixture
async def both(db: Db, tmp_path: Path) -> AsyncIterator[Both]:
    async with both_providers(db, tmp_path) as made:
        yield made
