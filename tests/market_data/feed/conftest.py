"""A database of its own for each test, and the parts around candles."""

from collections.abc import AsyncIterator

import pytest_asyncio

from app.market_data.models import DOCUMENTS
from tests.support.mongodb import Db, empty_database


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    """With all indexes."""
    async with empty_database(mongodb_url, DOCUMENTS) as made:
        yield made


@pytest_asyncio.fixture
async def bare_db(mongodb_url: str) -> AsyncIterator[Db]:
    """Without indexes, which take a while."""
    async with empty_database(mongodb_url) as made:
        yield made
