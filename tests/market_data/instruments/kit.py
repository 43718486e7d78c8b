"""Processes that share a database and a simulated Angel One, put together as the lifespan does it."""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from app.core.audit import Act
from app.core.bus import Bus, NullTransport
from app.core.security import ALL_SCOPES, Principal, Role
from app.integrations.angel_one.instruments import FileLimits, InstrumentFile
from app.integrations.angel_one.subscriptions import FeedLimits
from app.market_data.adapters.angel_one_instruments import AngelOneListings, plan_fault
from app.market_data.instrument_search import InstrumentSearch
from app.market_data.instruments import InstrumentMaster
from app.market_data.watchlist import Watchlist
from tests.integrations.angel_one.talking import TLS
from tests.simulators.angel_one import AngelOneSimulator
from tests.simulators.angel_one.instruments import REAL_INDICES, FileRow, option, share
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

FRIDAY = datetime(2026, 11, 20, 3, 5, tzinfo=UTC)
"""08:35 in India."""
LIMITS = FeedLimits(connections=1, per_connection=12, depth=1)
CONTRACT = option("43210", "NIFTY20NOV2624500CE", "NIFTY", "20NOV2026", 24_500)
FILE: tuple[FileRow, ...] = (
    *REAL_INDICES,
    share("2885", "RELIANCE-EQ"),
    share("500325", "RELIANCE", exchange="BSE"),
    share("1594", "INFY-EQ"),
    share("17", "TWIN", exchange="BSE"),
    {**CONTRACT, "token": "18", "symbol": "TWIN", "exch_seg": "BFO"},
    CONTRACT,
    *(share(str(number), f"SHARE{number}-EQ") for number in range(3000, 3020)),
)


def caller(role: Role = Role.OPERATOR) -> Principal:
    return Principal(ObjectId(), ObjectId(), role, datetime(2099, 1, 1, tzinfo=UTC), ALL_SCOPES)


class Trail:
    """Fills the port `AuditTrail`."""

    def __init__(self) -> None:
        self.acts: list[Act] = []

    async def record(self, act: Act) -> None:
        self.acts.append(act)

    async def note(self, act: Act) -> None:
        self.acts.append(act)


class Process:
    """One process of the service; those with one `wire` hear each other's events."""

    def __init__(
        self,
        db: Db,
        simulator: AngelOneSimulator | None,
        clock: StandingClock,
        *,
        configured: Iterable[str] = (),
        bus: Bus | None = None,
    ) -> None:
        self.db, self.clock, self.bus, self.trail = db, clock, bus or Bus(NullTransport()), Trail()
        file = simulator and InstrumentFile(simulator.instruments_url, tls=TLS, limits=FileLimits(read=20.0))
        self.master = InstrumentMaster(
            db=db, clock=clock, bus=self.bus, source=AngelOneListings(file) if file else None
        )
        self.watchlist = Watchlist(
            db=db,
            clock=clock,
            bus=self.bus,
            audit=self.trail,
            master=self.master,
            plan_fault=lambda wanted: plan_fault(wanted, LIMITS),
            configured=tuple(configured),
        )
        self.search = InstrumentSearch(self.master, self.watchlist)
        self.woken = 0
        self.watchlist.on_change(self._wake)

    def _wake(self) -> None:
        self.woken += 1

    async def load(self) -> "Process":
        await self.master.load()
        await self.watchlist.load()
        return self

    @property
    def symbols(self) -> list[str]:
        """What the feed would follow."""
        return [instrument.symbol for instrument in self.watchlist.followed()]

    async def state(self) -> dict[str, Any]:
        return await self.db["market_instruments"].find_one({"_id": "active"}) or {}


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
