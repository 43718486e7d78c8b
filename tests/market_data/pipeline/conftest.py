"""A real database for what is stored."""

import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from beanie import init_beanie
from pymongo import AsyncMongoClient
from pymongo.uri_parser import parse_uri

from app.core.embedded import EmbeddedDatabase
from app.market_data.models import DOCUMENTS
from tests.market_data.pipeline.kit import Database
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture(scope="session")
async def mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A database server: the real one that `TEST_MONGODB_URL` names, else an embedded one."""
    if url := os.environ.get("TEST_MONGODB_URL"):
        yield url
        return
    embedded = EmbeddedDatabase(tmp_path_factory.mktemp("ticks"), role="tool")
    yield await embedded.start()
    await embedded.stop()


@pytest.fixture
async def db(mongodb_url: str) -> AsyncIterator[Database]:
    """An empty database with the feature's indexes."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        mongodb_url, tz_aware=True, w="majority", journal=True, maxPoolSize=4
    )
    name = f"test_ticks_{secrets.token_hex(4)}"
    await init_beanie(client[name], document_models=DOCUMENTS)
    yield client[name]
    if "TEST_MONGODB_URL" in os.environ:
        await client.drop_database(name)  # an embedded one goes as a whole, which is quicker
    await client.close()


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
