"""A database for all, an empty one with a desk for each."""

from collections.abc import AsyncIterator

import pytest_asyncio

from app.brokerage.accounts.models import DOCUMENTS
from app.brokerage.adapters.angel_one import mapping as angel_one
from app.brokerage.adapters.zerodha import mapping as zerodha
from app.brokerage.push.models import DOCUMENTS as PUSH_DOCUMENTS
from app.brokerage.words import BrokerName
from tests.brokerage.accounts.kit import Desk, desk_of
from tests.support.mongodb import empty_database

READERS = {BrokerName.ZERODHA: zerodha.order_of, BrokerName.ANGEL_ONE: angel_one.order_of}


@pytest_asyncio.fixture
async def desk(mongodb_url: str) -> AsyncIterator[Desk]:
    async with empty_database(mongodb_url, [*DOCUMENTS, *PUSH_DOCUMENTS]) as db, desk_of(db, READERS) as made:
        yield made
