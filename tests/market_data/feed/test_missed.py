"""From a connection that breaks to the gaps that are to be filled: those of its instruments, and no others."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from app.core.clock import SystemClock
from app.integrations.angel_one.feed import FeedClient
from app.integrations.angel_one.frames import Mode
from app.integrations.angel_one.subscriptions import FeedLimits
from app.market_data.adapters.angel_one import AngelOneTicks
from app.market_data.ports import DEFAULT_INSTRUMENTS, Instrument
from tests.integrations.angel_one.following import QUICK
from tests.integrations.angel_one.signing_in import session_of
from tests.market_data.candle_ticks import at
from tests.market_data.feed.kit import until
from tests.market_data.feed.test_backfill import Filling
from tests.simulators.angel_one import INDICES, AngelOneSimulator
from tests.support.mongodb import Db

NIFTY, BANK = DEFAULT_INSTRUMENTS[:2]
SHARE_OF_DEPTH = Instrument("SBIN-EQ", "3045", "NSE", 1, "EQ")

Losses = list[tuple[list[Instrument], int, int]]


@asynccontextmanager
async def listening(
    simulator: AngelOneSimulator, wanted: Sequence[Instrument], mode_of: Callable[[Instrument], Mode]
) -> AsyncIterator[Losses]:
    """A source over connections that take two subscriptions each; what it missed."""
    losses: Losses = []
    async with session_of(simulator) as session:
        limits = FeedLimits(per_connection=2)
        client = FeedClient(url=simulator.feed.url, session=session, clock=SystemClock(), timing=QUICK, limits=limits)
        source = AngelOneTicks(client, session, mode_of=mode_of)
        ran = source.run(lambda: wanted, lambda _: None, lambda *loss: losses.append((list(loss[0]), *loss[1:])))
        task = asyncio.create_task(ran)
        try:
            yield losses
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_one_connection_of_two_is_away():
    modes = {SHARE_OF_DEPTH: Mode.DEPTH}
    wanted = [SHARE_OF_DEPTH, NIFTY, BANK]
    async with (
        AngelOneSimulator(rates={}) as simulator,
        listening(simulator, wanted, lambda one: modes.get(one, Mode.QUOTE)) as losses,
    ):
        # At the beginning: from the start until each was asked for. Of two subscriptions for one share it is one.
        await until(lambda: len(losses) == 2)
        assert sorted(sorted(one.symbol for one in instruments) for instruments, _, _ in losses) == [
            sorted([BANK.symbol, NIFTY.symbol]),
            [SHARE_OF_DEPTH.symbol],
        ]
        losses.clear()
        both = (2, 1, NIFTY.token), (2, 1, BANK.token)
        await simulator.feed.subscribed(both)
        (away,) = (one for one in simulator.feed.connections if both[0] in one.subscriptions)
        away.abort()
        await until(lambda: losses)
        [(instruments, start, end)] = losses
        assert {one.symbol for one in instruments} == {NIFTY.symbol, BANK.symbol}
        assert start <= end
        await simulator.tick(INDICES[0])


async def test_only_what_was_missed_is_filled(bare_db: Db):
    filling = Filling(bare_db, "11:00:00", [NIFTY, BANK])
    filling.backfill.outage(at("10:00"), at("10:02"), [BANK])
    async with filling.running():
        await until(lambda: filling.backfill.health()["filled"] == 2)
    assert [symbol for symbol, _, _ in filling.history.asked] == [BANK.symbol]
