"""A database for the listing's tests, and the room on it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from beanie import init_beanie
from pymongo.asynchronous.database import AsyncDatabase

from app.crypto.models import DOCUMENTS
from app.job_runs.models import DOCUMENTS as RUN_DOCUMENTS
from tests.crypto.listing.kit import COINS, Room, room_of
from tests.support.mongodb import empty_database

Database = AsyncDatabase[dict[str, Any]]


@pytest.fixture(scope="package")
async def listing_server(mongodb_url: str) -> AsyncIterator[Database]:
    """A database with the feature's indexes."""
    async with empty_database(mongodb_url, [*DOCUMENTS, *RUN_DOCUMENTS]) as db:
        yield db


@pytest.fixture
async def listing_db(listing_server: Database) -> Database:
    """The database, emptied; Beanie's documents belong to it."""
    await init_beanie(listing_server, document_models=[*DOCUMENTS, *RUN_DOCUMENTS], skip_indexes=True)
    for document in [*DOCUMENTS, *RUN_DOCUMENTS]:
        await document.get_pymongo_collection().delete_many({})
    return listing_server


@pytest.fixture
async def room(listing_db: Database) -> AsyncIterator[Room]:
    """The room, with nothing listed."""
    assert listing_db.name
    async with room_of() as made:
        yield made


@pytest.fixture
async def listed(room: Room) -> Room:
    """The room with `COINS` listed."""
    await room.synced(COINS)
    return room


@pytest.fixture(scope="package")
async def shelf(listing_server: Database) -> AsyncIterator[Room]:
    """The room with `COINS` listed, for tests that only read the newest listing: that is in its memory."""
    assert listing_server.name
    async with room_of() as made:
        await made.synced(COINS)
        await made.listings.refresh()
        yield made
