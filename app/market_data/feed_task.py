"""The live feed as a task: one process of all runs it, from shortly before the open until shortly after the close.

Which one is decided by a lease; the others wait for it and show what the leader says of itself in the database.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec
import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.cancelling import end, raise_if_cancelled
from app.core.clock import Clock
from app.core.lease_holder import LeaseHolder
from app.core.market_calendar import MarketCalendar
from app.market_data.leading import LeaderPart, Past, together
from app.market_data.models import FeedStateDocument
from app.market_data.ports import Instrument, Tick, TickSource
from app.market_data.rows import from_ms, to_ms

log = structlog.get_logger(__name__)

Row = dict[str, Any]

LEASE, LEASE_SECONDS = "feed", 6.0
SAVE_EVERY = 2.0
EARLY, LATE = timedelta(minutes=5), timedelta(seconds=60)
"""How long before a session's open the feed connects, and after its close it disconnects."""
REFUSED_SECONDS = 1_200.0
"""After a source has given up for good: it may be cured from outside, and must not lock the account meanwhile."""
SILENT_SECONDS = 10.0
"""How old the leader's word may be."""
FINISH_SECONDS = 4.0
_LOG_EVERY = 10.0
_FINE = {"live", "paused"}


class GapKeeper(Protocol):
    """Who is told of outages."""

    def outage(self, start_ms: int, end_ms: int, instruments: Sequence[Instrument] | None = None) -> None:
        """There was no feed of `instruments`, or of all that are wanted, between these times."""

    def unfilled_ms(self) -> int | None:
        """When the earliest gap begins that is still to be filled."""


class FeedTask:
    """Runs a source, and the parts that go with it, in the process that holds the lease `feed`."""

    def __init__(
        self,
        *,
        db: AsyncDatabase[Row],
        clock: Clock,
        calendar: MarketCalendar,
        holder: str,
        source: TickSource,
        wanted: Callable[[], Sequence[Instrument]],
        takers: Sequence[Callable[[Sequence[Tick]], None]],
        parts: Sequence[LeaderPart],
        counters: Callable[[], Mapping[str, Any]],
        gaps: GapKeeper,
        on_state: Callable[[str], None] = lambda _: None,
        run_always: bool = False,
        lease_seconds: float = LEASE_SECONDS,
        look_every: float = 1.0,
    ) -> None:
        """`takers` get all ticks, in this order, in the event loop; `parts` begin and finish in theirs.

        `run_always`: at any hour, for a simulator. `on_state` hears of each new state of this process's feed.
        """
        self._states = db[FeedStateDocument.Settings.name]
        self._clock = clock
        self._calendar = calendar
        self._holder = holder
        self._source = source
        self._wanted = wanted
        self._takers = takers
        self._parts = parts
        self._counters = counters
        self._gaps = gaps
        self._on_state = on_state
        self._run_always = run_always
        self._look_every = look_every
        self._lease = LeaseHolder(db, clock, LEASE, holder, lease_seconds)
        self._running = self._refused = False
        self._state, self._since = "off", clock.now()
        self._last_tick_ms = self._away_ms = 0
        self._logged_at = -_LOG_EVERY
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Wait for the lease, lead while it is held, wait again; the supervisor runs this."""
        await self._lease.run(self._lead)

    def wake(self) -> None:
        """What is wanted, or what a refusal rested on, has changed."""
        self._woken.set()
        self._source.wake()

    @property
    def state(self) -> str:
        """That of this process's feed: a state of `FeedHealth`; `off` where another one leads."""
        return self._state

    @property
    def leading(self) -> bool:
        """Whether this process runs the feed."""
        return self._lease.held

    # Leading

    async def _lead(self) -> None:
        past = await self._past()
        self._away_ms = to_ms(self._clock.now())  # the parts fill what was before
        log.info("this process runs the feed now", before=past.at)
        if caution := self._calendar.caution():
            log.warning("the market calendar needs to be seen to", caution=caution)
        begun = []
        try:
            for part in self._parts:
                await part.begin(past)
                begun.append(part)
            raise_if_cancelled()
            began = to_ms(self._clock.now())
            self._last_tick_ms = max(to_ms(past.through) if past.through else began, began - 60_000)
            await together(self._feed(), self._save_states(), *(_forever(part) for part in self._parts))
        finally:
            await self._finish(begun)

    async def _past(self) -> Past:
        row = await self._states.find_one({"_id": LEASE})
        return Past(row["at"], row.get("through")) if row else Past()

    async def _finish(self, parts: Sequence[LeaderPart]) -> None:
        """The last steps, whatever ended it: none keeps the others from theirs, and all have an end themselves."""
        owned, until = self._lease.held, self._clock.monotonic() + FINISH_SECONDS
        for part in parts:
            try:
                async with asyncio.timeout(max(until - self._clock.monotonic(), 0.1)):
                    await part.finish(owned=owned)
            except Exception:  # the others still have to store what they have
                log.exception("a part of the feed failed at its end", part=type(part).__name__)
        self._note("off")
        if owned and len(parts) == len(self._parts):  # else what was missed before is not known
            await self._save_state()
        log.info("this process does not run the feed any more", owned=owned)

    # The source

    async def _feed(self) -> None:
        while True:
            if self._due():
                await self._run_source()
            self._look()
            await asyncio.sleep(self._look_every)

    def _due(self) -> bool:
        """Whether it is time for the feed; a little longer than sessions, by the calendar."""
        if self._run_always:
            return True
        now, is_open = self._clock.now(), self._calendar.is_open
        return is_open(now) or is_open(now + EARLY) or is_open(now - LATE)

    async def _run_source(self) -> None:
        self._gaps.outage(self._away_ms, to_ms(self._clock.now()))
        work = asyncio.ensure_future(self._source.run(self._wanted, self._deliver, self._lost))
        self._running = True
        try:
            while self._due():
                self._look()
                if (await asyncio.wait([work], timeout=self._look_every))[0]:
                    await work
                    return
        except Exception:
            if self._source.health().state != "refused":
                raise
            log.exception("the source gave up")
            self._refused = True
        finally:
            self._running = False
            await end([work])
            self._away_ms = to_ms(self._clock.now())
            if not work.cancelled() and (error := work.exception()):
                log.warning("the source failed", error=type(error).__name__)
        if self._refused:
            await self._wait_refused()

    async def _wait_refused(self) -> None:
        self._look()
        self._woken.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), REFUSED_SECONDS)
        self._refused = False

    def _deliver(self, ticks: Sequence[Tick]) -> None:
        if not ticks:
            return
        self._last_tick_ms = ticks[-1].arrival_ms
        for take in self._takers:
            try:
                take(ticks)
            except Exception:  # none keeps the others from the ticks, and the feed goes on
                if self._clock.monotonic() - self._logged_at >= _LOG_EVERY:
                    self._logged_at = self._clock.monotonic()
                    log.exception("ticks could not be taken")

    def _lost(self, instruments: Sequence[Instrument], from_ms: int, until_ms: int) -> None:
        """The source was without a connection for these. That nothing comes over one is no outage: it may be quiet."""
        self._gaps.outage(from_ms, until_ms, instruments)

    # Its state

    def _look(self) -> None:
        if self._refused:
            self._note("refused")
        else:
            self._note(self._source.health().state if self._running else "paused")

    def _note(self, state: str) -> None:
        if state == self._state:
            return
        self._state, self._since = state, self._clock.now()
        try:
            self._on_state(state)
        except Exception:  # who listens must not end the feed
            log.exception("a change of state could not be told")

    def _through(self) -> datetime:
        """Until when no outage is known: what the next leader has not to fill."""
        now = self._clock.now()
        known = [to_ms(now)]
        if self._calendar.is_open(now):
            sure = self._source.health().sure_until if self._running else from_ms(self._away_ms)
            known += [self._last_tick_ms, *([to_ms(sure)] if sure else [])]
        unfilled = self._gaps.unfilled_ms()
        return from_ms(min(known if unfilled is None else [*known, unfilled]))

    async def _save_states(self) -> None:
        while True:
            await self._save_state()
            await asyncio.sleep(SAVE_EVERY)

    async def _save_state(self) -> None:
        row = {
            "_id": LEASE,
            "schema_version": 1,
            "leader": self._holder,
            "state": self._state,
            "since": self._since,
            "at": self._clock.now(),
            "through": self._through(),
            "feed": msgspec.structs.asdict(self._source.health()),
            "counters": dict(self._counters()),
        }
        try:
            async with asyncio.timeout(SAVE_EVERY):
                await self._states.replace_one({"_id": LEASE}, row, upsert=True)
        except (PyMongoError, TimeoutError) as error:  # others see that it is old
            log.debug("the feed's state cannot be saved now", error=type(error).__name__)

    async def health(self) -> dict[str, Any]:
        """The line for `/health`: this process's own feed, or what the one that leads said last; never raises."""
        if self._lease.held:
            if self._running or self._refused:
                self._look()  # it is looked at once a second, and may have gone on since
            feed = self._source.health()
            return {
                "status": "ok" if self._state in _FINE else "degraded",
                "leading": True,
                "since": self._since,
                **_shown(msgspec.structs.asdict(feed)),
                "state": self._state,
            }
        try:
            async with asyncio.timeout(2):
                row = await self._states.find_one({"_id": LEASE})
        except (PyMongoError, TimeoutError) as error:
            return {"status": "degraded", "leading": False, "state": "unknown", "last_error": type(error).__name__}
        if row is None:
            return {"status": "degraded", "leading": False, "state": "off"}
        age = (self._clock.now() - row["at"]).total_seconds()
        fine = row["state"] in _FINE and age <= SILENT_SECONDS
        return {
            "status": "ok" if fine else "degraded",
            "leading": False,
            "since": row["since"],
            **_shown(row.get("feed") or {}),
            "state": row["state"],
            "leader": row["leader"],
            "age_seconds": round(age, 1),
        }


def _shown(feed: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in feed.items() if value is not None}


async def _forever(part: LeaderPart) -> None:
    await part.run()
