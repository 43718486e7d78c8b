"""A database that is killed after it has stored a batch, and before it could say so."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient

from app.core.embedded import EmbeddedDatabase
from app.market_data.models import DOCUMENTS
from app.market_data.sink import SinkBounds
from tests.market_data.pipeline.kit import NIFTY, OPEN_MS, Storage, counts_of, rows_of, tick, until, warm
from tests.support.mongodb import empty_database, server_port, through
from tests.support.tcp_proxy import TcpProxy


async def test_what_it_had_stored_is_not_taken_for_repeats(tmp_path: Path):
    """The embedded database forgets with its process which of the driver's writes it has done already."""
    embedded = EmbeddedDatabase(tmp_path / "database", role="tool")
    url = await embedded.start()
    ticks = [tick(NIFTY, OPEN_MS + n) for n in range(100)]
    try:
        async with (
            TcpProxy(server_port(url)) as proxy,
            empty_database(through(url, proxy.port), DOCUMENTS) as db,
            AsyncMongoClient[dict[str, Any]](url) as beside,
        ):
            one = Storage(db, tmp_path / "spill", bounds=SinkBounds(patience=20, retry=0.1))
            await warm(db)
            proxy.swallow_answers()
            one.store.offer(rows_of(ticks))
            one.start()
            while await beside[db.name]["market_data"].count_documents({"symbol": NIFTY.symbol}) < 100:
                await asyncio.sleep(0.01)
            os.kill(embedded.health()["pid"], signal.SIGKILL)
            await asyncio.sleep(0)
            await beside.admin.command("ping")
            await proxy.cut()
            await proxy.mend()
            await until(lambda: one.counters.stored + one.counters.duplicate >= 100, 30)
            await one.stop()

            assert (one.counters.stored, one.counters.duplicate, one.counters.lost) == (100, 0, 0)
            assert await one.latest.save()
            assert await counts_of(db) == {NIFTY.symbol: 100}
    finally:
        await embedded.stop()
