"""The parts of `bench_feed.py` about the database: how fast ticks get into it, and how fast they are found."""

import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from beanie import init_beanie
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from app.core.clock import SystemClock
from app.core.embedded import EmbeddedDatabase
from app.integrations.angel_one.frames import FrameParser
from app.market_data.adapters.angel_one import AngelOneTicks
from app.market_data.candle_store import CandleStore
from app.market_data.candle_task import CandleTask
from app.market_data.latest import LatestPrices
from app.market_data.leading import Past
from app.market_data.models import DOCUMENTS
from app.market_data.ports import DEFAULT_INSTRUMENTS, Tick
from app.market_data.rows import Row, RowMaker, encode, from_ms
from app.market_data.sink import TickStore
from app.market_data.spill import Spill
from scripts.bench_feed_pipeline import Frames, Line, Rig, instruments, running
from tests.simulators.angel_one.calendar import write_calendar
from tests.support.service import ServiceProcess

BATCH = 250
FEW, MANY = 6, 50
"""Symbols: as many as are followed by default, and a watchlist."""
_TURN = 128


class FromMemory:
    """In the place of the connection: frames that are there, as fast as they can be parsed."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self._frames = frames

    async def run(
        self, wanted: Callable[[], Any], deliver: Callable[[Any, bytes, int], None], _lost: Any = None
    ) -> None:
        """Deliver all of them, with turns for others."""
        wanted()
        parse = FrameParser().parse
        for number, raw in enumerate(self._frames):
            deliver(parse(raw), raw, round(time.time() * 1000))
            if number % _TURN == 0:
                await asyncio.sleep(0)


async def through_everything(
    db: AsyncDatabase[Row], folder: Path, frames: Sequence[bytes], symbols: int
) -> tuple[float, int]:
    """Frames through all stages into the database, newest rows and candles too: seconds, and rows that are missing."""
    await init_beanie(db, document_models=DOCUMENTS)
    clock, line = SystemClock(), Rig.make(folder)
    latest, counters, followed = LatestPrices(db, clock), line.counters, instruments(symbols)
    store = TickStore(
        db["market_data"],
        clock=clock,
        counters=counters,
        spill=Spill(folder / f"spill-{db.name}", clock=clock),
        on_stored=lambda rows, new: latest.note_stored(rows, counted=new),
        on_drained=latest.save,
    )
    candles = CandleTask(
        db=db,
        clock=clock,
        calendar=line.calendar,
        builder=line.builder,
        store=CandleStore(db),
        outlet=line.stream,
        wanted=lambda: followed,
    )
    await candles.begin(Past())
    stages = line.pipeline(latest, store)
    source = AngelOneTicks(FromMemory(frames), None)  # type: ignore[arg-type]  # of both only `run` is needed
    began = time.monotonic()
    async with running(store.run(), latest.run(), candles.run()):
        await source.run(lambda: followed, stages.accept)
        while counters.stored + counters.duplicate + counters.lost < len(frames):  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)
        elapsed = time.monotonic() - began
    await store.drain(1.0)
    found = [await db["market_data"].count_documents({"symbol": one.symbol}) for one in followed]
    return elapsed, len(frames) - sum(found)


async def raw_inserts(db: AsyncDatabase[Row], frames: Sequence[bytes], symbols: int) -> float:
    """The same documents with the same indexes by `insert_many`, batches of the same size: seconds."""
    await init_beanie(db, document_models=DOCUMENTS)
    rows = await rows_of(frames, symbols)
    began = time.monotonic()
    for start in range(0, len(rows), BATCH):
        await db["market_data"].insert_many(rows[start : start + BATCH], ordered=False)
    return time.monotonic() - began


async def rows_of(frames: Sequence[bytes], symbols: int) -> list[Row]:
    """The documents that the pipeline makes of them."""
    made: list[Tick] = []
    followed = instruments(symbols)
    await AngelOneTicks(FromMemory(frames), None).run(lambda: followed, made.extend)  # type: ignore[arg-type]
    maker = RowMaker()
    for tick in made:
        tick.received_ms = tick.exchange_ms
    return [maker.make(tick) for tick in made]


@contextlib.asynccontextmanager
async def database(folder: Path) -> AsyncIterator[AsyncMongoClient[Row]]:
    """A client of the database of MONGODB_URL, else of an embedded one, with the guarantees of the service."""
    embedded = None if "MONGODB_URL" in os.environ else EmbeddedDatabase(folder, role="tool")
    url = await embedded.start() if embedded else os.environ["MONGODB_URL"]
    client: AsyncMongoClient[Row] = AsyncMongoClient(url, w="majority", journal=True, tz_aware=True, maxPoolSize=4)
    try:
        yield client
    finally:
        await client.close()
        if embedded:
            await embedded.stop()


async def store(count: int, rounds: int) -> list[Line]:
    """The whole pipeline and raw `insert_many`, in turn, with few symbols and with many.

    Each symbol has a newest row and eight candles that are written beside its ticks, so more of them cost more.
    """
    lines: list[Line] = []
    for symbols in (FEW, MANY):
        ratios, ours, missing = [], [], 0
        with tempfile.TemporaryDirectory() as folder:
            async with database(Path(folder)) as client:
                for number in range(rounds):
                    frames = Frames(instruments(symbols)).many(count)
                    raw = await raw_inserts(client[f"bench_raw_{number}"], frames, symbols)
                    db = client[f"bench_through_{number}"]
                    through, lost = await through_everything(db, Path(folder), frames, symbols)
                    missing += lost
                    ratios.append(raw / through)
                    ours.append(count / through)
        what = f"whole pipeline / raw insert_many, {symbols} symbols ({statistics.median(ours):,.0f}/s)"
        lines.append((what, f"{statistics.median(ratios):.0%}", "80 %"))
        lines.append(("  rows that are missing", f"{missing:,}", "0"))
    return lines


async def burst(count: int) -> list[Line]:
    """Many more at once than the database takes."""
    with tempfile.TemporaryDirectory() as folder:
        async with database(Path(folder)) as client:
            frames = Frames(instruments(MANY)).many(count)
            elapsed, missing = await through_everything(client["bench_burst"], Path(folder), frames, MANY)
    return [(f"a burst of {count:,} drained in {elapsed:.1f} s; rows missing", f"{missing:,}", "0")]


# ── What is asked ────────────────────────────────────────────────────────────────────────────────────────────────────

ASKED = 150
"""Times that each question is asked."""
STEP_MS = 150
"""Between two ticks, of whatever symbol."""
BASE = "/api/v1/market-data"


async def queries(most: int) -> list[Line]:
    """Each question at a thirtieth, a third and all of `most` ticks: the newest are there first, older ones join."""
    times: dict[str, list[float]] = {}
    counts = [max(most // 30, 1), max(most // 3, 1), most]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_calendar(folder / "calendar.json")
        service = ServiceProcess(folder, MARKET_CALENDAR_FILE=str(folder / "calendar.json"))
        try:
            await asyncio.to_thread(service.start)
            port = (await asyncio.to_thread(service.health))["database"]["embedded"]["port"]
            url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
            now = round(time.time() * 1000)
            async with AsyncMongoClient[Row](url, w="majority", journal=True, tz_aware=True) as client:
                there = 0
                for count in counts:
                    await _fill(client["arrow"], now, there, count)
                    there = count
                    await asyncio.sleep(1.5)  # what is kept for a second is read anew
                    for question, path in _questions(now).items():
                        times.setdefault(question, []).append(await _quick(service.port, path))
        finally:
            await asyncio.to_thread(service.close)
    shown = " / ".join(f"{count:,}" for count in counts)
    return [
        (
            f"{question} at {shown} ticks: {' / '.join(f'{one * 1e3:.1f}' for one in some)} ms",
            f"{some[-1] / some[0]:.2f} ×",
            "1.5 ×",
        )
        for question, some in times.items()
    ]


def _questions(now: int) -> dict[str, str]:
    minute = datetime.fromtimestamp(now / 1000, UTC).replace(tzinfo=None)
    early = f"{minute - timedelta(minutes=10):%Y-%m-%dT%H:%M:%S}Z"
    start, end = f"{minute - timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}Z", f"{minute:%Y-%m-%dT%H:%M:%S}Z"
    nifty = "NIFTY%2050"
    return {
        "latest": f"{BASE}/latest",
        "symbol, 100 rows": f"{BASE}/symbol/{nifty}?limit=100",
        "filter by symbol and price": f"{BASE}/filter?symbol={nifty}&data_quality=good&min_price=1&limit=100",
        "filter by a minute": f"{BASE}/filter?start={start}&end={end}&limit=100",
        "statistics": f"{BASE}/statistics",
        "candles of ten minutes": f"{BASE}/candles/{nifty}?timeframe=1m&start={early}",
    }


async def _quick(port: int, path: str) -> float:
    """Seconds of the quickest tenth of the answers: what else runs here can only make them slower.

    Over one connection, by bytes on a socket, so that asking costs little.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times: list[float] = []
    for _ in range(ASKED):
        began = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        times.append(time.perf_counter() - began)
        if head[9:12] != b"200" or not json.loads(body):
            raise SystemExit(f"{path}: {head[:12]!r} {body[:300]!r}")
    writer.close()
    return sorted(times)[len(times) // 10]


async def _fill(db: AsyncDatabase[Row], now: int, there: int, count: int) -> None:
    """Ticks number `there` to `count`, counted back from `now`; the newest rows and the candles that go with them."""
    maker, symbols = RowMaker(), len(DEFAULT_INSTRUMENTS)
    latest = LatestPrices(db, SystemClock())
    await latest.load()
    minutes: dict[str, Row] = {}
    for start in range(there, count, BATCH):
        rows: list[Row] = []
        for number in range(start, min(start + BATCH, count)):
            instrument, ms = DEFAULT_INSTRUMENTS[number % symbols], now - number * STEP_MS
            tick = Tick(instrument, ms, ms + 5, 2_400_000 + number % 997, number * 0x9E37_79B9 + 1, volume=number)
            tick.received_ms, tick.has_day = ms, True
            rows.append(maker.make(tick))
            bar = _minute(instrument.symbol, ms, tick.price / 100)
            minutes[bar["_id"]] = bar
        await db["market_data"].insert_many(rows, ordered=False)
        latest.note_stored([encode(row) for row in rows])
    await latest.save()
    known = {row["_id"] async for row in db["candles"].find({}, {"_id": 1})}
    await db["candles"].insert_many([bar for name, bar in minutes.items() if name not in known] or [_minute("X", 0, 1)])


def _minute(symbol: str, ms: int, price: float) -> Row:
    begins = ms // 60_000 * 60_000
    return {
        "_id": f"{symbol}|1m|{begins}",
        "schema_version": 1,
        "symbol": symbol,
        "timeframe": "1m",
        "start": from_ms(begins),
        "end": from_ms(begins + 60_000),
        **dict.fromkeys(("open", "high", "low", "close"), price),
        "volume": 1,
        "ticks": 1,
        "revision": 0,
        "source": "ticks",
        "closed": True,
    }
