"""A running feed client of the service, and what the tests see of it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from app.core.clock import SystemClock
from app.integrations.angel_one.feed import FeedClient
from app.integrations.angel_one.frames import AnyFrame, Exchange, Ltp, Mode
from app.integrations.angel_one.link import Timing
from app.integrations.angel_one.subscriptions import Instrument, Subscription
from tests.integrations.angel_one.signing_in import session_of
from tests.integrations.angel_one.talking import NIFTY, NIFTY_KEY
from tests.simulators.angel_one import AngelOneSimulator
from tests.simulators.angel_one.feed import Key

QUICK = Timing(
    stale_after=30.0,
    beat_every=0.1,
    first_wait=0.01,
    last_wait=0.04,
    busy_wait=0.02,
    open_timeout=30.0,
    close_timeout=0.2,
)
"""Comes back soon; and takes no connection for dead that is only slow."""
SHARP = msgspec.structs.replace(QUICK, stale_after=0.4)
"""For tests of silence. Where the machine stands still this may take one for dead that lives, and comes back."""
STAYS_AWAY = msgspec.structs.replace(QUICK, first_wait=60.0, last_wait=60.0)
"""Where the first setback is looked at: for as long as a test lasts there is no second try."""


def ltp(token: str, mode: Mode = Mode.LTP) -> Subscription:
    return Subscription(mode, Instrument(Exchange.NSE_CM, token))


def key(token: str, mode: Mode = Mode.LTP) -> Key:
    return int(mode), 1, token


class Follower:
    """A running feed client, what is wanted of it, and what it delivered."""

    def __init__(self, simulator: AngelOneSimulator, client: FeedClient, wanted: Iterable[Subscription]) -> None:
        self.simulator, self.client, self.wanted = simulator, client, list(wanted)
        self.frames: list[AnyFrame] = []
        self.losses: list[tuple[set[str], int, int]] = []
        """Tokens, from, until."""
        self._came = asyncio.Event()

    def take(self, frame: AnyFrame, raw: bytes, arrival_ms: int) -> None:
        assert len(raw) in {51, 123, 379, 443}
        assert abs(arrival_ms - self.simulator.now().timestamp() * 1000) < 60_000
        self.frames.append(frame)
        self._came.set()

    def miss(self, subscriptions: Collection[Subscription], from_ms: int, until_ms: int) -> None:
        self.losses.append(({one.instrument.token for one in subscriptions}, from_ms, until_ms))

    def want(self, *wanted: Subscription) -> None:
        self.wanted = list(wanted)
        self.client.wake()

    async def until_frames(self, count: int) -> list[AnyFrame]:
        async with asyncio.timeout(30):
            while len(self.frames) < count:
                self._came.clear()
                await self._came.wait()
        return self.frames

    async def sees_ticks(self) -> None:
        """The feed works (again): a tick that leaves now arrives. Sent again where its connection was replaced."""
        self.frames.clear()
        async with asyncio.timeout(30):
            while not self.frames:
                await self.simulator.feed.subscribed([NIFTY_KEY])
                await self.simulator.tick(last_price=2_450_055)
                self._came.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._came.wait(), 1)

    @property
    def prices(self) -> list[int]:
        return [frame.last_price for frame in self.frames if isinstance(frame, Ltp)]


@asynccontextmanager
async def following(
    simulator: AngelOneSimulator,
    wanted: Iterable[Subscription] = (ltp(NIFTY.token),),
    *,
    timing: Timing = QUICK,
    session: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Follower]:
    async with session_of(simulator, **{"renew_pause": 0, **(session or {})}) as signed_in:
        options = {"url": simulator.feed.url, "clock": SystemClock(), "timing": timing, **options}
        follower = Follower(simulator, FeedClient(session=signed_in, **options), wanted)
        assert follower.client.health().state == "off"
        running = asyncio.create_task(follower.client.run(lambda: follower.wanted, follower.take, follower.miss))
        try:
            yield follower
            assert not running.done()
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            assert follower.client.health().state == "off"


async def until(follower: Follower, state: str) -> None:
    """Until its health says so; for states that last."""
    await health_says(follower, state=state)


async def health_says(follower: Follower, **wanted: object) -> None:
    """Until all of these are so at once."""
    async with asyncio.timeout(30):
        while any(getattr(follower.client.health(), name) != value for name, value in wanted.items()):
            await asyncio.sleep(0.005)


async def tried(simulator: AngelOneSimulator, times: int) -> None:
    """Until so many handshakes were tried, those refused too; there may be more by then."""
    async with asyncio.timeout(30):
        while simulator.feed.handshakes < times:
            await asyncio.sleep(0.002)
