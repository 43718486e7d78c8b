"""The parts of `bench_feed.py` that need neither a service nor a database: the parser, and the pipeline."""

import asyncio
import contextlib
import json
import math
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr
from pymongo import AsyncMongoClient

from app.core.bus import Bus, NullTransport
from app.core.clock import SystemClock
from app.core.hub import Hub
from app.core.market_calendar import MarketCalendar
from app.core.market_days import load_calendar
from app.core.outbox import Channel
from app.integrations.angel_one.credentials import Credentials
from app.integrations.angel_one.feed import FeedClient
from app.integrations.angel_one.frames import FrameParser
from app.integrations.angel_one.session import AngelOneSession
from app.market_data.adapters.angel_one import AngelOneTicks
from app.market_data.candles import CandleBuilder
from app.market_data.counters import Counters
from app.market_data.latest import LatestPrices
from app.market_data.pipeline import Pipeline
from app.market_data.ports import Instrument
from app.market_data.rows import Row
from app.market_data.stream import TickStream
from tests.simulators.angel_one import AngelOneSimulator
from tests.simulators.angel_one.calendar import write_calendar
from tests.simulators.angel_one.layout import QUOTE, SIZES, SNAP_QUOTE, encode
from tests.simulators.angel_one.market import Market

Line = tuple[str, str, str]
"""What was measured, how much it is, what is aimed at."""

LISTENERS = 10


def instruments(count: int) -> list[Instrument]:
    """Shares of a made-up exchange."""
    return [Instrument(f"SHARE{number:04d}", str(100_000 + number), "NSE", 1, "EQ") for number in range(count)]


class Frames:
    """Quote frames of some instruments in turn, whose prices walk and whose times go on."""

    def __init__(self, followed: Sequence[Instrument]) -> None:
        walk, listing = Market(), next(iter(Market().listings.values()))
        values = walk.walk(listing, SystemClock().now())
        self._frames = [bytearray(encode(QUOTE, one.exchange_type, one.token, values)) for one in followed]
        self._price, self._volume = values["last_price"], values["volume"]
        self._number = 0

    def next(self, ms: int) -> bytes:
        """The next frame, of the time `ms`."""
        number = self._number
        self._number += 1
        frame = self._frames[number % len(self._frames)]
        price = self._price + 5 * round(40 * math.sin(number / 997))
        struct.pack_into("<qqq", frame, 27, number, ms, price)
        struct.pack_into("<q", frame, 67, self._volume + number)
        struct.pack_into("<qq", frame, 99, self._price + 300, self._price - 300)
        return bytes(frame)

    def many(self, count: int) -> list[bytes]:
        """So many, of the last ten seconds or so, none at the time of another of its instrument."""
        rounds = count // len(self._frames)
        step_ms = max(1, 10_000 // max(rounds, 1))
        start = round(time.time() * 1000) - rounds * step_ms
        return [self.next(start + number // len(self._frames) * step_ms) for number in range(count)]


# ── The parser beside the vendor's ───────────────────────────────────────────────────────────────────────────────────


def parser(rounds: int = 7, count: int = 20_000) -> list[Line]:
    """Frames a second of both, in turn, and the medians of their ratios."""
    from tests.integrations.angel_one.sdk import Sdk

    values = Market().walk(next(iter(Market().listings.values())), SystemClock().now())
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        sdk = Sdk(Path(folder))
        try:
            for name, mode in (("LTP", 1), ("Quote", QUOTE), ("SnapQuote", SNAP_QUOTE)):
                steps = 5 if mode == SNAP_QUOTE else 0
                buys, sells = Market.book(values["last_price"], steps)
                raw = encode(mode, 1, "99926000", values, buys=buys, sells=sells)
                pairs = [(_parsed(raw, count), sdk.ask("bench", raw.hex(), count // 4)) for _ in range(rounds)]
                ours = statistics.median(mine for mine, _ in pairs)
                ratio = statistics.median(mine / theirs for mine, theirs in pairs)
                lines.append((f"parser / the SDK's, {name} ({ours:,.0f} frames/s)", f"{ratio:.1f} ×", "15 ×"))
        finally:
            sdk.close()
    return lines


def _parsed(raw: bytes, count: int) -> float:
    parse = FrameParser().parse
    began = time.perf_counter()
    for _ in range(count):
        parse(raw)
    return count / (time.perf_counter() - began)


# ── The pipeline, put together as the lifespan does it ───────────────────────────────────────────────────────────────


class CountingSink:
    """In the place of the database."""

    def __init__(self) -> None:
        self.rows = 0

    def offer(self, rows: Sequence[Row]) -> None:
        """Count them."""
        self.rows += len(rows)


@dataclass
class Rig:
    """All that a process has for live prices."""

    calendar: MarketCalendar
    hub: Hub
    stream: TickStream
    builder: CandleBuilder
    counters: Counters = field(default_factory=Counters)

    @classmethod
    def make(cls, folder: Path) -> "Rig":
        """With a calendar that is always open, and nobody else on the bus."""
        clock = SystemClock()
        write_calendar(folder / "calendar.json")
        calendar = MarketCalendar(clock, load_calendar(folder / "calendar.json"))
        hub = Hub(clock)
        return cls(calendar, hub, TickStream(hub=hub, bus=Bus(NullTransport()), clock=clock), CandleBuilder(calendar))

    def pipeline(self, latest: LatestPrices, sink: Any) -> Pipeline:
        """The stages, down to `sink`."""
        return Pipeline(
            calendar=self.calendar,
            clock=SystemClock(),
            latest=latest,
            candles=self.builder,
            outlet=self.stream,
            sink=sink,
            store_after_hours=False,
            counters=self.counters,
        )

    async def listen(self) -> None:
        """One who takes every message at once."""
        subscriber = self.hub.attach(lambda: None)
        self.hub.subscribe(subscriber, Channel.TICKS)
        while True:
            await subscriber.wait()
            while subscriber.take():
                pass

    async def candles(self) -> None:
        """What the task of candles does, without a database."""
        while True:
            self.builder.restore([], self.builder.unknown())
            now = round(time.time() * 1000)
            self.stream.candles([row.document() for row in self.builder.live(now, self.stream.wants_candles)])
            self.builder.due(now)
            await asyncio.sleep(0.25)


@contextlib.asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    """Coroutines that run meanwhile."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Watch:
    """The memory of this process and the lateness of its event loop, while something runs."""

    memory: list[tuple[float, float]] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    async def memory_look(self) -> None:
        """Twice a second."""
        process = psutil.Process()
        while True:
            self.memory.append((time.monotonic(), process.memory_info().rss / 2**20))
            await asyncio.sleep(0.5)

    async def late_look(self) -> None:
        """Every 10 ms: how much later than that?"""
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            self.late.append(max(time.monotonic() - due, 0.0))

    def slope(self) -> float:
        """MB a minute, of the later half: what is remembered of each symbol is full by then."""
        some = self.memory[len(self.memory) // 2 :]
        return 60 * statistics.linear_regression(*zip(*some, strict=True)).slope if len(some) > 3 else 0.0


async def pipeline(rate: int, seconds: float, symbols: int = 100) -> list[Line]:
    """`rate` ticks a second over a socket, from another process, through every stage into a counter."""
    with tempfile.TemporaryDirectory() as folder:
        line, sink, watch = Rig.make(Path(folder)), CountingSink(), Watch()
        followed, counters = instruments(symbols), line.counters
        client: AsyncMongoClient[Row] = AsyncMongoClient("mongodb://127.0.0.1:9", connect=False)
        stages = line.pipeline(LatestPrices(client["none"], SystemClock()), sink)
        command = [sys.executable, str(Path(__file__).with_name("bench_feed.py"))]
        command += ["--flood", str(rate), "--seconds", str(seconds), "--symbols", str(symbols)]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=dict(os.environ))
        assert child.stdout is not None  # noqa: S101 (it is a pipe)
        told: dict[str, str] = json.loads(await child.stdout.readline())
        credentials = Credentials(*(SecretStr(told[name]) for name in ("api_key", "client_id", "password", "totp_key")))
        session = AngelOneSession(credentials, clock=SystemClock(), base_url=told["rest"])
        source = AngelOneTicks(FeedClient(url=told["feed"], session=session, clock=SystemClock()), session)
        helpers = [line.listen() for _ in range(LISTENERS)] + [line.candles()]
        async with running(source.run(lambda: followed, stages.accept), *helpers):
            while not counters.received:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)
            process, began = psutil.Process(), time.monotonic()
            used = sum(process.cpu_times()[:2])
            async with running(watch.memory_look(), watch.late_look()):
                sent = json.loads(await child.stdout.readline())
                ended = time.monotonic()
                while counters.received < sent["sent"] and time.monotonic() - ended < 30:  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0.005)
            elapsed, used = time.monotonic() - began, sum(process.cpu_times()[:2]) - used
        await child.wait()
        await session.close()
        await client.close()
    late = sorted(watch.late)
    lost = sent["sent"] - sink.rows - counters.duplicate
    return [
        (
            f"pipeline into a counter, {rate:,}/s sent for {sent['seconds']:.0f} s",
            f"{counters.received / elapsed:,.0f}/s",
            "20,000/s",
        ),
        ("  processor time of a tick", f"{used / counters.received * 1e6:.0f} µs", "50 µs"),
        ("  ticks that did not come through", f"{lost:,}", "0"),
        ("  memory", f"{watch.slope():+.1f} MB/min", "flat"),
        ("  event loop late: median / p99 / most", _three(late), ""),
    ]


def _three(late: list[float]) -> str:
    p99 = late[int(len(late) * 0.99)]
    return f"{late[len(late) // 2] * 1e3:.1f} / {p99 * 1e3:.1f} / {late[-1] * 1e3:.0f} ms"


async def flood(rate: int, seconds: float, symbols: int) -> None:
    """The other process: a simulated exchange that sends `rate` frames a second once everything is subscribed."""
    followed = instruments(symbols)
    frames = Frames(followed)
    async with AngelOneSimulator(rates={}) as simulator:
        account = simulator.account
        told = {"rest": simulator.rest_url, "feed": simulator.feed.url, "api_key": account.api_key}
        told |= {"client_id": account.client_code, "password": account.pin, "totp_key": account.totp_secret}
        print(json.dumps(told), flush=True)
        await simulator.feed.subscribed([(QUOTE, one.exchange_type, one.token) for one in followed], 60)
        transport = simulator.feed.connections[0].socket.transport
        head = bytes((0x82, SIZES[QUOTE]))
        began, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - began) < seconds:
            now = round(time.time() * 1000)
            due = min(int(rate * elapsed) - sent, rate // 20)
            transport.write(b"".join(head + frames.next(now) for _ in range(due)))
            sent += due
            await asyncio.sleep(0.004)
        while transport.get_write_buffer_size():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.001)
        print(json.dumps({"sent": sent, "seconds": time.monotonic() - began}), flush=True)
        await simulator.feed.until(lambda: not simulator.feed.connections, 60)
