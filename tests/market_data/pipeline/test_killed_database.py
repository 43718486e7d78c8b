"""A database that is killed after it has stored a batch, and before it could say so."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from app.core.embedded import EmbeddedDatabase
from app.market_data.models import DOCUMENTS
from tests.market_data.pipeline.kit import (
    NIFTY,
    OPEN_MS,
    PATIENT,
    Storage,
    counts_of,
    rows_of,
    saved,
    tick,
    until,
    warm,
)
from tests.support.mongodb import Db, empty_database, server_port, through
from tests.support.tcp_proxy import TcpProxy


class Silent:
    """A database whose answers do not arrive, until it is killed and another runs in its place.

    The embedded database forgets with its process which of the driver's writes it has done already: what the driver
    sends again by itself is done again.
    """

    def __init__(self, embedded: EmbeddedDatabase, proxy: TcpProxy, db: Db, beside: Db) -> None:
        self.embedded, self.proxy, self.db, self._beside = embedded, proxy, db, beside

    async def replaced(self, collection: str, match: dict[str, Any], count: int) -> None:
        """Wait until so many rows have been written, and kill it."""
        while await self._beside[collection].count_documents(match) < count:
            await asyncio.sleep(0.01)
        os.kill(self.embedded.health()["pid"], signal.SIGKILL)
        await until(lambda: self.embedded.health()["restarts"] and self.embedded.health()["state"] == "running")
        await self.proxy.cut()
        await self.proxy.mend()


@pytest.fixture
async def silent(tmp_path: Path) -> AsyncIterator[Silent]:
    embedded = EmbeddedDatabase(tmp_path / "database", role="tool")
    url = await embedded.start()
    try:
        async with (
            TcpProxy(server_port(url)) as proxy,
            empty_database(through(url, proxy.port), DOCUMENTS) as db,
            AsyncMongoClient[dict[str, Any]](url) as beside,
        ):
            await warm(db)
            yield Silent(embedded, proxy, db, beside[db.name])
    finally:
        await embedded.stop()


async def test_what_it_had_stored_is_not_taken_for_repeats(silent: Silent, tmp_path: Path):
    one = Storage(silent.db, tmp_path / "spill", bounds=PATIENT)
    silent.proxy.swallow_answers()
    one.store.offer(rows_of([tick(NIFTY, OPEN_MS + n) for n in range(100)]))
    one.start()
    await silent.replaced("market_data", {"symbol": NIFTY.symbol}, 100)
    await until(lambda: one.counters.stored + one.counters.duplicate >= 100)
    await one.stop()

    assert (one.counters.stored, one.counters.duplicate, one.counters.lost) == (100, 0, 0)
    await saved(one.latest)
    assert await counts_of(silent.db) == {NIFTY.symbol: 100}


async def test_what_it_had_counted_is_not_counted_twice(silent: Silent, tmp_path: Path):
    one = Storage(silent.db, tmp_path / "spill")
    for first in (0, 50):
        one.store.offer(rows_of([tick(NIFTY, OPEN_MS + n) for n in range(first, first + 50)]))
        if first:
            await one.stop()
            silent.proxy.swallow_answers()
            saving = asyncio.create_task(one.latest.save())
            await silent.replaced("market_latest", {"_id": NIFTY.symbol, "stored": 100}, 1)
            await saving
        else:
            one.start()
            await until(lambda: one.counters.stored == 50)
            await saved(one.latest)
    await saved(one.latest)

    assert one.counters.stored == 100
    assert await counts_of(silent.db) == {NIFTY.symbol: 100}
