"""Database servers and empty databases, for parts that are tested without the rest of the service."""

import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from beanie import Document, init_beanie
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.uri_parser import parse_uri

from app.core.embedded import EmbeddedDatabase

Db = AsyncDatabase[dict[str, Any]]
OPTIONS: dict[str, Any] = {"tz_aware": True, "w": "majority", "journal": True, "maxPoolSize": 4}
"""As the service connects."""


@asynccontextmanager
async def mongodb_server(folder: Path) -> AsyncIterator[str]:
    """The address of a server: the real one that `TEST_MONGODB_URL` names, else an embedded one with its files here."""
    if url := os.environ.get("TEST_MONGODB_URL"):
        yield url
        return
    embedded = EmbeddedDatabase(folder, role="tool")
    try:
        yield await embedded.start()
    finally:
        await embedded.stop()


@asynccontextmanager
async def empty_database(url: str, documents: Sequence[type[Document]] = (), **options: Any) -> AsyncIterator[Db]:
    """A new database of the server, with the indexes of `documents`; dropped in the end on a real server.

    The embedded one takes seconds to drop what goes with its folder anyway.
    """
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, **OPTIONS, **options)
    db = client[f"test_{secrets.token_hex(6)}"]
    try:
        if documents:
            await init_beanie(db, document_models=list(documents))
        yield db
    finally:
        if "TEST_MONGODB_URL" in os.environ:
            await client.drop_database(db.name)
        await client.close()


def server_port(url: str) -> int:
    """The port (on loopback) of the server at `url`."""
    host, port = parse_uri(url)["nodelist"][0]
    assert host in {"127.0.0.1", "localhost"}
    return int(port)


def through(url: str, port: int) -> str:
    """The address of the same server through a proxy on `port`."""
    parts = parse_uri(url)
    user = f"{parts['username']}:{parts['password']}@" if parts["username"] else ""
    source = f"&authSource={parts['options'].get('authsource', 'admin')}" if user else ""
    return f"mongodb://{user}127.0.0.1:{port}/?directConnection=true{source}"
