"""A database of its own for each test, and the parts around candles."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.market_data.models import DOCUMENTS
from tests.support.mongodb import Db, empty_database, mongodb_server


@pytest_asyncio.fixture(scope="package")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with mongodb_server(tmp_path_factory.mktemp("feed")) as made:
        yield made


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[Db]:
    """With all indexes."""
    async with empty_database(url, DOCUMENTS) as made:
        yield made


@pytest_asyncio.fixture
async def bare_db(url: str) -> AsyncIterator[Db]:
    """Without indexes, which take a while."""
    async with empty_database(url) as made:
        yield made
