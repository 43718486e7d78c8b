"""The feed follows the watchlist, over real sockets, and ticks of doubtful tokens are marked."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from app.core.clock import SystemClock
from app.integrations.angel_one.feed import FeedClient
from app.integrations.angel_one.frames import Mode
from app.market_data.adapters.angel_one import AngelOneTicks
from app.market_data.adapters.angel_one_instruments import MODES
from app.market_data.checks import Checks
from app.market_data.counters import Counters
from app.market_data.instrument_schemas import WatchlistIn
from app.market_data.ports import Quality, Tick, WatchMode
from tests.integrations.angel_one.signing_in import session_of
from tests.market_data.instruments.kit import Process, caller, until
from tests.simulators.angel_one import EQUITIES, INDICES, AngelOneSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

SENSEX, RELIANCE = INDICES[4], EQUITIES[0]


async def test_the_feed_follows_the_watchlist(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    process, operator, ticks = await Process(db, vendor, clock).load(), caller(), list[Tick]()
    lists = process.watchlist

    def take(some: Sequence[Tick]) -> None:
        ticks.extend(some)

    async with session_of(vendor) as session:
        feed = FeedClient(url=vendor.feed.url, session=session, clock=SystemClock())
        source = AngelOneTicks(feed, session, mode_of=lambda instrument: MODES[lists.mode_of(instrument)])
        lists.on_change(source.wake)
        running = asyncio.create_task(source.run(lists.followed, take))
        await vendor.feed.subscribed([(Mode.QUOTE, index.exchange, index.token) for index in INDICES])
        await vendor.tick(SENSEX)
        await until(lambda: ticks)
        checks = Checks(Counters())
        assert checks.judge(ticks[-1]) is None
        assert ticks[-1].quality is Quality.GOOD

        # The list of instruments comes: from now on it is known that this is not SENSEX.
        await process.master.refresh()
        await vendor.tick(SENSEX)
        await until(lambda: len(ticks) == 2)
        assert checks.judge(ticks[-1]) is None
        assert (ticks[-1].instrument.symbol, ticks[-1].quality) == ("SENSEX", Quality.SUSPECT)

        # Somebody corrects it, and wants another one with its order book.
        wanted = {"symbols": ["NIFTY 50", "SENSEX", {"symbol": "RELIANCE", "mode": "depth"}]}
        await lists.replace(operator, WatchlistIn.model_validate(wanted))
        keys = [(Mode.QUOTE, 1, INDICES[0].token), (Mode.QUOTE, 3, "99919000")]
        keys += [(mode, 1, RELIANCE.token) for mode in (Mode.QUOTE, Mode.DEPTH)]
        await vendor.feed.subscribed(keys)
        await vendor.feed.until(
            lambda: {key for connection in vendor.feed.connections for key in connection.subscriptions} == set(keys)
        )
        await vendor.tick(RELIANCE)
        await until(lambda: ticks[-1].instrument.symbol == "RELIANCE-EQ")
        await lists.put(operator, "NSE", RELIANCE.token, WatchMode.LTP)
        await vendor.feed.subscribed([(Mode.LTP, 1, RELIANCE.token)])
        assert len(vendor.feed.connections) == 1, "over the connection that there is"
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
