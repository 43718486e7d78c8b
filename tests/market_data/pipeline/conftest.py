"""A real database for what is stored."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.uri_parser import parse_uri

from app.market_data.models import DOCUMENTS
from tests.market_data.pipeline.kit import Database
from tests.support.mongodb import empty_database
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture
async def db(mongodb_url: str) -> AsyncIterator[Database]:
    """An empty database with the feature's indexes."""
    async with empty_database(mongodb_url, DOCUMENTS) as made:
        yield made


@pytest.fixture
async def proxy(mongodb_url: str) -> AsyncIterator[TcpProxy]:
    """A proxy before the database."""
    port = parse_uri(mongodb_url)["nodelist"][0][1]
    async with TcpProxy(port) as proxy:
        yield proxy


@pytest.fixture
async def far_db(proxy: TcpProxy, db: Database) -> AsyncIterator[Database]:
    """The same database as `db`, through the proxy."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true&serverSelectionTimeoutMS=1000",
        tz_aware=True,
        w="majority",
        journal=True,
        maxPoolSize=4,
        heartbeatFrequencyMS=500,
    )
    yield client[db.name]
    await client.close()
