"""A database for all, an empty one with a desk for each."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.signals.generated_models import DOCUMENTS
from tests.signals.generated.kit import Desk, desk_of
from tests.support.mongodb import Db, empty_database, mongodb_server


@pytest_asyncio.fixture(scope="package")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with mongodb_server(tmp_path_factory.mktemp("generated")) as made:
        yield made


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[Db]:
    async with empty_database(url, DOCUMENTS) as made:
        yield made


@pytest_asyncio.fixture
async def desk(db: Db) -> AsyncIterator[Desk]:
    async with desk_of(db) as made:
        yield made
