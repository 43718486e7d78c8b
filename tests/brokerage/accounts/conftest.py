"""A database for all, an empty one with a desk for each."""

from collections.abc import AsyncIterator

import pytest_asyncio

from app.brokerage.accounts.models import DOCUMENTS
from app.brokerage.push.models import DOCUMENTS as PUSH_DOCUMENTS
from tests.brokerage.accounts.kit import Desk, desk_of
from tests.support.mongodb import Db, empty_database


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, [*DOCUMENTS, *PUSH_DOCUMENTS]) as made:
        yield made


@pytest_asyncio.fixture
async def desk(db: Db) -> AsyncIterator[Desk]:
    async with desk_of(db) as made:
        yield made
