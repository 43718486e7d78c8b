"""One database for this room, emptied for each test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from beanie import init_beanie

from app.brokerage.orders.models import DOCUMENTS
from tests.brokerage.orders.kit import Desk, desk_of
from tests.support.mongodb import Db, empty_database, mongodb_server


@pytest_asyncio.fixture(scope="package")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with mongodb_server(tmp_path_factory.mktemp("orders")) as made:
        yield made


@pytest_asyncio.fixture(scope="package")
async def whole(url: str) -> AsyncIterator[Db]:
    async with empty_database(url, DOCUMENTS) as made:
        yield made


@pytest_asyncio.fixture
async def db(whole: Db) -> Db:
    # Quicker than another one with all its indexes; and Beanie may know another by now.
    await init_beanie(whole, document_models=DOCUMENTS, skip_indexes=True)
    for document in DOCUMENTS:
        await document.get_pymongo_collection().delete_many({})
    return whole


@pytest_asyncio.fixture
async def desk(db: Db) -> AsyncIterator[Desk]:
    async with desk_of(db) as made:
        yield made
