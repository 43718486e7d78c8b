"""A database for all, an empty one with a desk for each."""

from collections.abc import AsyncIterator

import pytest_asyncio

from app.brokerage.portfolio.models import DOCUMENTS
from tests.brokerage.portfolio.kit import Desk, desk_of
from tests.support.mongodb import Db, empty_database


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, DOCUMENTS) as made:
        yield made


@pytest_asyncio.fixture
async def desk(db: Db) -> AsyncIterator[Desk]:
    async with desk_of(db) as made:
        yield made
