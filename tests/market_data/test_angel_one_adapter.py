"""Angel One's frames and candles as the pipeline gets them, over real sockets from the simulator."""

import asyncio
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.core.clock import SystemClock
from app.integrations.angel_one.candles import IST
from app.integrations.angel_one.feed import FeedClient
from app.integrations.angel_one.frames import Mode
from app.integrations.angel_one.link import Timing
from app.market_data.adapters.angel_one import AngelOneCandles, AngelOneTicks, digest_of
from app.market_data.ports import (
    DEFAULT_INSTRUMENTS,
    CandleSource,
    CandlesUnavailableError,
    Instrument,
    Tick,
    TickSource,
    Timeframe,
)
from tests.integrations.angel_one.signing_in import credentials, session_of, sign_ins
from tests.simulators.angel_one import EQUITIES, INDICES, AngelOneSimulator, http
from tests.simulators.angel_one.layout import encode
from tests.simulators.angel_one.rest import CANDLES
from tests.support.clocks import StandingClock

NIFTY, BANKNIFTY = DEFAULT_INSTRUMENTS[:2]
QUICK = Timing(stale_after=30, first_wait=0.01, last_wait=0.04, close_timeout=0.2)
MOMENT = 1_795_000_000_000


@pytest_asyncio.fixture
async def angel_one() -> AsyncIterator[AngelOneSimulator]:
    async with AngelOneSimulator(rates={}) as simulator:
        yield simulator


class Running:
    """A source at work, and what it delivered."""

    def __init__(self, simulator: AngelOneSimulator, source: AngelOneTicks, wanted: Sequence[Instrument]) -> None:
        self.simulator, self.source, self.wanted = simulator, source, wanted
        self.ticks: list[Tick] = []
        self.deliveries = 0
        self._came = asyncio.Event()

    def take(self, ticks: Sequence[Tick]) -> None:
        assert ticks
        self.deliveries += 1
        self.ticks += ticks
        self._came.set()

    async def until(self, count: int) -> list[Tick]:
        async with asyncio.timeout(30):
            while len(self.ticks) < count:
                self._came.clear()
                await self._came.wait()
        return self.ticks

    async def subscribed(self, *modes: Mode) -> None:
        await self.simulator.feed.subscribed(
            (int(mode), instrument.exchange_type, instrument.token) for instrument in self.wanted for mode in modes
        )


@asynccontextmanager
async def running(
    simulator: AngelOneSimulator,
    wanted: Sequence[Instrument] = (NIFTY,),
    mode_of: Callable[[Instrument], Mode] = lambda _: Mode.QUOTE,
    **session: Any,
) -> AsyncIterator[Running]:
    async with session_of(simulator, **session) as signed_in:
        feed = FeedClient(url=simulator.feed.url, session=signed_in, clock=SystemClock(), timing=QUICK)
        source = AngelOneTicks(feed, signed_in, mode_of=mode_of)
        at_work = Running(simulator, source, wanted)
        task = asyncio.create_task(source.run(lambda: at_work.wanted, at_work.take))
        try:
            yield at_work
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_quote_becomes_a_tick_with_the_days_figures(angel_one: AngelOneSimulator):
    async with running(angel_one) as at_work:
        await at_work.subscribed(Mode.QUOTE)
        sent = angel_one.market.walk(INDICES[0], angel_one.now())
        sent |= {"last_price": 2_450_055, "exchange_time": MOMENT}
        began = angel_one.now()
        await angel_one.feed.publish(1, NIFTY.token, sent)
        (tick,) = await at_work.until(1)
        arrived = datetime.fromtimestamp(tick.arrival_ms / 1000, UTC)
        assert began - timedelta(milliseconds=1) <= arrived <= angel_one.now()
    assert tick.instrument is NIFTY
    assert (tick.price, tick.divisor, tick.exchange_ms, tick.has_day) == (2_450_055, 100, MOMENT, True)
    for name in ("open", "high", "low", "close", "volume", "last_quantity", "average_price", "sequence"):
        assert getattr(tick, name) == sent[name], name
    assert (tick.total_buy_quantity, tick.total_sell_quantity) == (
        sent["total_buy_quantity"],
        sent["total_sell_quantity"],
    )
    assert tick.depth is None
    assert 0 < tick.digest < 2**63


async def test_the_other_modes_bring_what_they_have(angel_one: AngelOneSimulator):
    reliance = Instrument("RELIANCE", "2885", "NSE", 1, "EQ")
    infy = Instrument("INFY", "1594", "NSE", 1, "EQ")
    modes = {NIFTY: Mode.LTP, reliance: Mode.SNAP_QUOTE, infy: Mode.DEPTH}
    async with running(angel_one, (NIFTY, reliance, infy), lambda instrument: modes[instrument]) as at_work:
        await angel_one.feed.subscribed([(1, 1, NIFTY.token), (3, 1, "2885"), (2, 1, "1594"), (4, 1, "1594")])
        await angel_one.tick(INDICES[0])
        await angel_one.tick(EQUITIES[0], last_price=151_000)
        # The first Quote came before any book; the second has it; the third is too far from it.
        now = int(angel_one.now().timestamp() * 1000)
        for moment in (now, now + 1000, now + 60_000):
            await angel_one.feed.publish(1, "1594", {"last_price": 162_000, "exchange_time": moment})
            angel_one.feed.connections[0].subscriptions.discard((4, 1, "1594"))
        last, snap, *quotes = await at_work.until(5)
    assert (last.instrument, last.has_day, last.depth) == (NIFTY, False, None)
    assert (snap.has_day, snap.upper_circuit, snap.lower_circuit) == (True, 166_100, 135_900)
    assert (snap.year_high, snap.year_low) == (196_300, 105_700)
    depth = snap.depth()
    assert [level.price for level in depth.buys] == [150_995, 150_990, 150_985, 150_980, 150_975]
    assert len(depth.sells) == 5
    before, after, much_later = quotes
    assert [before.depth, much_later.depth] == [None, None]
    assert [len(side) for side in after.depth()] == [20, 20]


async def test_what_is_wanted_changes_while_it_runs(angel_one: AngelOneSimulator):
    strange = Instrument("GOLD", "1", "???", 99)
    async with running(angel_one, (NIFTY,)) as at_work:
        await at_work.subscribed(Mode.QUOTE)
        (connection,) = angel_one.feed.connections
        at_work.wanted = (BANKNIFTY, strange)
        at_work.source.wake()
        await angel_one.feed.until(lambda: connection.subscriptions == {(2, 1, BANKNIFTY.token)})
        frame = encode(1, 1, NIFTY.token, {"last_price": 5, "exchange_time": MOMENT})
        await connection.send(frame)  # on its way when we said that we do not want it any more
        await angel_one.tick(INDICES[1])
        (tick,) = await at_work.until(1)
        assert tick.instrument is BANKNIFTY
        assert at_work.source.unwanted == 1
        health = at_work.source.health()
        assert (health.state, health.connections, health.subscribed) == ("live", 1, 1)
        assert (health.frames, health.bad_frames, health.reconnects, health.sign_ins) == (2, 0, 0, 1)
    assert at_work.source.health().state == "off"
    assert sign_ins(angel_one) == (1, 0)


async def test_what_comes_together_is_delivered_together_and_in_order(angel_one: AngelOneSimulator):
    async with running(angel_one, DEFAULT_INSTRUMENTS) as at_work:
        await at_work.subscribed(Mode.QUOTE)
        for _ in range(50):
            for listing in INDICES:
                await angel_one.tick(listing)
        await at_work.until(300)
        assert at_work.deliveries <= 150
    by_symbol = {
        listing.token: [t for t in at_work.ticks if t.instrument.token == listing.token] for listing in INDICES
    }
    assert all(len(ticks) == 50 for ticks in by_symbol.values())
    assert all(a.sequence < b.sequence for ticks in by_symbol.values() for a, b in pairwise(ticks))


async def test_a_refused_sign_in_is_a_state_and_no_crash(angel_one: AngelOneSimulator):
    async with running(angel_one, account=credentials(angel_one, password="0000")) as at_work:
        wanted = ("refused", "sign-in refused (AB1007)")
        async with asyncio.timeout(30):
            while (at_work.source.health().state, at_work.source.health().last_error) != wanted:
                await asyncio.sleep(0.005)


def test_the_classes_fill_their_ports():
    def fills(ticks: AngelOneTicks, candles: AngelOneCandles) -> tuple[TickSource, CandleSource]:
        return ticks, candles

    assert callable(fills)  # mypy has checked it


# Digests


def test_a_repeat_has_the_same_digest_and_whatever_differs_another():
    values = {name: number for number, name in enumerate(("exchange_time", "last_price", "volume", "open"), 1000)}
    for mode in (1, 2, 3):
        frame = encode(mode, 1, "2885", values | {"sequence": 7})
        assert digest_of(frame) == digest_of(encode(mode, 1, "2885", values | {"sequence": 8}))
        different = [encode(mode, 1, "2885", values | {name: 5}) for name in values][: 2 if mode == 1 else 4]
        different += [encode(mode, 3, "2885", values), encode(mode, 1, "2886", values)]
        digests = {digest_of(other) for other in different}
        assert len(digests | {digest_of(frame)}) == len(different) + 1
    snap = encode(3, 1, "2885", values)
    undefined = bytearray(snap)
    struct.pack_into("<d", undefined, 139, 1.5)
    assert digest_of(bytes(undefined)) == digest_of(snap)
    for offset in [*range(27), *range(35, 139), *range(147, 379)]:
        other = bytearray(snap)
        other[offset] ^= 0x80
        assert digest_of(bytes(other)) != digest_of(snap), offset


def test_digests_are_the_same_in_every_process():
    code = "from app.market_data.adapters.angel_one import digest_of; print(digest_of(bytes(range(51))))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parents[2], check=True)
    assert int(run.stdout) == digest_of(bytes(range(51)))


# Candles

FRIDAY = datetime(2026, 11, 20, 9, 15, tzinfo=IST)


@asynccontextmanager
async def candles_at(moment: datetime) -> AsyncIterator[tuple[AngelOneSimulator, AngelOneCandles]]:
    clock = StandingClock(moment.astimezone(UTC))
    async with (
        AngelOneSimulator(now=clock.now, rates={}) as simulator,
        session_of(simulator, clock=clock, candle_rates=()) as session,
    ):
        yield simulator, AngelOneCandles(session, clock)


async def test_bars_begin_from_start_to_end_and_are_whole():
    async with candles_at(FRIDAY + timedelta(minutes=20, seconds=30)) as (_, source):
        bars = await source.bars(NIFTY, Timeframe.M1, FRIDAY + timedelta(seconds=30), FRIDAY + timedelta(minutes=5))
        assert [bar.start for bar in bars] == [FRIDAY + timedelta(minutes=minute) for minute in (1, 2, 3, 4)]
        assert all(isinstance(price, Decimal) for bar in bars for price in bar[1:5])
        forming = await source.bars(NIFTY, Timeframe.M5, FRIDAY, FRIDAY + timedelta(hours=1))
        assert [bar.start.minute for bar in forming] == [15, 20, 25, 30]
        assert [bar.volume > 0 for bar in forming] == [True] * 4
        assert await source.bars(NIFTY, Timeframe.M5, FRIDAY, FRIDAY) == []


@pytest.mark.parametrize("timeframe", Timeframe)
async def test_every_timeframe_can_be_had(timeframe: Timeframe):
    async with candles_at(FRIDAY + timedelta(days=1)) as (_, source):
        bars = await source.bars(NIFTY, timeframe, FRIDAY, FRIDAY + timedelta(hours=6, minutes=15))
        minutes = timeframe.milliseconds // 60_000
        assert len(bars) == max(1, -(-375 // minutes))
        assert bars[0].start == FRIDAY
        assert bars[-1].close == bars[-1].close.quantize(Decimal("0.01"))


async def test_a_days_bar_begins_with_the_session_and_is_given_when_it_is_over():
    for moment, days in ((FRIDAY + timedelta(hours=6), 1), (FRIDAY + timedelta(hours=6, minutes=15), 2)):
        async with candles_at(moment) as (_, source):
            bars = await source.bars(NIFTY, Timeframe.D1, FRIDAY - timedelta(days=1), FRIDAY + timedelta(days=1))
            assert [bar.start for bar in bars] == [FRIDAY - timedelta(days=1), FRIDAY][:days]


@pytest.mark.parametrize(
    ("fault", "word", "retry_after"),
    [
        (http.too_many(9), "rate limited (429)", 9),
        (http.html(502), "unreachable (502)", 60),
        (http.garbage(), "unreadable answer (not JSON)", 60),
        (http.api_error("AB2000", "Error not specified"), "request refused (AB2000)", None),
    ],
)
async def test_history_that_cannot_be_had_says_whether_to_ask_again(
    fault: http.HttpFault, word: str, retry_after: float | None
):
    async with candles_at(FRIDAY) as (simulator, source):
        simulator.rest.fail(CANDLES, fault)
        with pytest.raises(CandlesUnavailableError) as raised:
            await source.bars(NIFTY, Timeframe.M1, FRIDAY - timedelta(days=1), FRIDAY)
        assert (str(raised.value), raised.value.retry_after) == (word, retry_after)
