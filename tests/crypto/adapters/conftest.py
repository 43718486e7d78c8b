"""A database of its own for each test, both simulators, and what asks them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.crypto.adapters.kit import Both, both_providers
from tests.support.mongodb import Db, empty_database, mongodb_server


@pytest_asyncio.fixture(scope="package")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with mongodb_server(tmp_path_factory.mktemp("providers")) as made:
        yield made


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[Db]:
    async with empty_database(url) as made:
        yield made


@pytest_asyncio.fixture
async def both(db: Db, tmp_path: Path) -> AsyncIterator[Both]:
    async with both_providers(db, tmp_path) as made:
        yield made
