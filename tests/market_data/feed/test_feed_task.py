"""One process of several runs the feed, at the hours of the exchanges, and the others know how it does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from app.market_data.feed_task import FeedTask
from app.market_data.leading import Part, Past
from app.market_data.ports import FeedHealth, Instrument, Lost, Tick
from app.market_data.rows import from_ms
from tests.market_data.candle_ticks import SHARE, at, tick
from tests.market_data.feed.kit import MarketCalendar, clock_at, until
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

MONDAY = date(2026, 11, 23)


class Source:
    """A `TickSource` that does as it is told."""

    def __init__(self) -> None:
        self.deliver: Callable[[Sequence[Tick]], None] | None = None
        self.lost: Lost = lambda *_: None
        self.sure_until: datetime | None = None
        self.runs = self.wakes = 0
        self.state = "live"
        self.error: Exception | None = None
        self.broken = asyncio.Event()

    async def run(
        self,
        wanted: Callable[[], Sequence[Instrument]],
        deliver: Callable[[Sequence[Tick]], None],
        lost: Lost = lambda *_: None,
    ) -> None:
        assert list(wanted()) == [SHARE]
        self.runs += 1
        self.deliver, self.lost = deliver, lost
        try:
            await self.broken.wait()
            assert self.error
            raise self.error
        finally:
            self.deliver = None

    def wake(self) -> None:
        self.wakes += 1

    def health(self) -> FeedHealth:
        return FeedHealth(
            self.state, connections=1, subscribed=6, frames=42, last_error="unreachable", sure_until=self.sure_until
        )


class Noting:
    """A `LeaderPart` that notes what happens."""

    def __init__(self, source: Source, said: list[str], name: str) -> None:
        self.source, self.said, self.name = source, said, name
        self.fails: str | None = None
        self.at_finish: Callable[[], Awaitable[object]] | None = None
        self.past: Past | None = None

    async def begin(self, past: Past) -> None:
        self.past = past
        assert self.source.deliver is None
        self._note("begin")

    async def run(self) -> None:
        self._note("run")
        await asyncio.Event().wait()

    async def finish(self, *, owned: bool) -> None:
        assert self.source.deliver is None
        if self.at_finish is not None:
            await self.at_finish()
        self._note(f"finish {owned}")

    def _note(self, what: str) -> None:
        self.said.append(f"{self.name} {what}")
        if self.fails == what:
            raise ValueError(what)


class Gaps:
    """A `GapKeeper`."""

    def __init__(self) -> None:
        self.outages: list[tuple[int, int, list[Instrument] | None]] = []
        self.unfilled: int | None = None

    def outage(self, start_ms: int, end_ms: int, instruments: Sequence[Instrument] | None = None) -> None:
        if start_ms < end_ms:
            self.outages.append((start_ms, end_ms, None if instruments is None else list(instruments)))

    def unfilled_ms(self) -> int | None:
        return self.unfilled


class Process:
    """What one process has of the feed."""

    def __init__(
        self, db: Db, clock: StandingClock, name: str = "one", *, generous: bool = False, run_always: bool = False
    ) -> None:
        self.db, self.clock, self.source, self.gaps = db, clock, Source(), Gaps()
        self.said: list[str] = []
        self.states: list[str] = []
        self.got: list[Tick] = []
        self.parts = [Noting(self.source, self.said, "first"), Noting(self.source, self.said, "second")]
        self.feed = FeedTask(
            db=db,
            clock=clock,
            calendar=MarketCalendar(clock, generous=generous),
            holder=name,
            source=self.source,
            wanted=lambda: [SHARE],
            takers=[self._fail, self.got.extend],
            parts=self.parts,
            counters=lambda: {"received": len(self.got)},
            gaps=self.gaps,
            on_state=self.states.append,
            run_always=run_always,
            lease_seconds=0.6,
            look_every=0.01,
        )

    def _fail(self, ticks: Sequence[Tick]) -> None:
        assert ticks
        raise ValueError("the first taker is broken, and the second gets the ticks all the same")

    @property
    def runs(self) -> bool:
        return self.source.deliver is not None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Process"]:
        task = asyncio.create_task(self.feed.run())
        try:
            yield self
        finally:
            task.cancel()
            [ended] = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 30)
            assert isinstance(ended, asyncio.CancelledError), ended

    async def row(self) -> dict[str, Any] | None:
        return await self.db["market_feed"].find_one({"_id": "feed"})

    async def says(self, **wanted: object) -> dict[str, Any]:
        """The row, once it is there and says so: a write that took the task too long comes later."""
        async with asyncio.timeout(30):
            while (row := await self.row()) is None or any(row[name] != value for name, value in wanted.items()):
                await asyncio.sleep(0.01)
        return row


async def test_one_runs_it_and_the_other_says_how_it_does(bare_db: Db):
    clock = clock_at("10:00:00")
    one, two = Process(bare_db, clock, "one"), Process(bare_db, clock, "two")
    async with two.running():
        async with one.running():
            await until(lambda: one.runs or two.runs)
            await asyncio.sleep(0.5)
            leader, other = (one, two) if one.runs else (two, one)
            assert (leader.source.runs, other.source.runs) == (1, 0)
            line = await leader.feed.health()
            assert (line["status"], line["leading"], line["state"], line["frames"]) == ("ok", True, "live", 42)
            assert not (await other.feed.health())["leading"]
            # Whoever looks later, by a clock of its own: by theirs the lease would be over.
            onlooker = Process(bare_db, clock_at("10:00:03"), "three")
            await leader.says(state="live")
            line = await onlooker.feed.health()
            assert (line["status"], line["leading"], line["leader"]) == ("ok", False, leader.feed._holder)
            assert line["age_seconds"] == 3
            assert line["subscribed"] == 6
            # The leader hangs, or the machine did.
            onlooker.clock.move(seconds=30)
            assert (await onlooker.feed.health())["status"] == "degraded"
        if leader is one:
            await until(lambda: two.runs)  # it was released: nobody waits for its end
        assert two.runs
    await one.says(state="off")


async def test_without_a_leader_health_says_so(bare_db: Db):
    assert await Process(bare_db, clock_at("10:00:00")).feed.health() == {
        "status": "degraded",
        "leading": False,
        "state": "off",
    }


async def test_parts_begin_before_the_first_tick_and_finish_after_the_last(bare_db: Db):
    process = Process(bare_db, clock_at("10:00:00"))
    async with process.running():
        await until(lambda: process.runs)
        assert process.source.deliver
        process.source.deliver([tick(at("10:00"), 100_00)])
    assert process.said == [
        "first begin",
        "second begin",
        "first run",
        "second run",
        "first finish True",
        "second finish True",
    ]
    assert len(process.got) == 1
    assert process.parts[0].past == Past()

    # The next one hears of it.
    process.clock.move(minutes=5)
    another = Process(bare_db, process.clock, "two")
    another.gaps.unfilled = at("09:20")
    async with another.running():
        await until(lambda: another.runs)
    assert another.parts[1].past == Past(from_ms(at("10:00")), from_ms(at("10:00")))
    # And what it could not fill is left to its successor.
    await another.says(through=from_ms(at("09:20")))


async def test_who_lost_the_lease_does_not_write_over_the_other(bare_db: Db):
    process = Process(bare_db, clock_at("10:00:00"))
    now, leases = process.clock.now(), bare_db["leases"]
    of_other = Past(from_ms(at("09:58")), from_ms(at("09:57")))

    async def other_writes() -> None:
        """Between what this process saved while it led, and what it might save at its end."""
        row = {"_id": "feed", "state": "of the other", "at": of_other.at, "through": of_other.through}
        await bare_db["market_feed"].replace_one({"_id": "feed"}, row, upsert=True)

    process.parts[0].at_finish = other_writes
    async with process.running():
        await until(lambda: process.runs)
        later = {"holder": "other", "expires_at": now + timedelta(hours=1)}
        await leases.update_one({"_id": "feed"}, {"$set": later})
        await until(lambda: "second finish False" in process.said)
        process.parts[0].at_finish = None
        # The other one ends, and it is our turn again: what we find is what it said.
        await leases.update_one({"_id": "feed"}, {"$set": {"expires_at": now}})
        await until(lambda: process.source.runs == 2)
    assert process.parts[0].past == of_other


@pytest.mark.parametrize("fails", ["begin", "run"])
async def test_a_part_that_fails_ends_it_for_the_supervisor_and_frees_the_lease(bare_db: Db, fails: str):
    process = Process(bare_db, clock_at("10:00:00"))
    process.parts[1].fails = fails
    with pytest.raises(ValueError, match=fails):
        await asyncio.wait_for(process.feed.run(), 30)

    assert "first finish True" in process.said
    assert not process.feed.leading
    async with Process(bare_db, process.clock, "two").running() as another:
        await until(lambda: another.runs)
    if fails == "begin":  # nobody knows what it would have had to fill
        assert another.parts[0].past == Past()


async def test_a_part_that_fails_at_the_end_keeps_no_other_from_its_own(bare_db: Db):
    process = Process(bare_db, clock_at("10:00:00"))
    process.parts[0].fails = "finish True"
    async with process.running():
        await until(lambda: process.runs)

    assert process.said[-1] == "second finish True"


async def test_it_keeps_the_exchanges_hours(bare_db: Db):
    process = Process(bare_db, clock_at("09:09:59"))
    clock = process.clock
    async with process.running():
        await until(lambda: "paused" in process.states)
        assert (await process.feed.health())["status"] == "ok"
        assert process.source.runs == 0
        clock.moment = from_ms(at("09:10"))
        await until(lambda: process.runs)
        clock.moment = from_ms(at("15:30:59"))
        await asyncio.sleep(0.1)
        assert process.runs
        clock.moment = from_ms(at("15:31"))
        await until(lambda: not process.runs)
        await until(lambda: process.feed._state == "paused")
        clock.moment = from_ms(at("09:12", MONDAY))
        await until(lambda: process.runs)
    assert process.source.runs == 2
    assert process.states == ["paused", "live", "paused", "live", "off"]


async def test_a_simulator_runs_at_any_hour(bare_db: Db):
    async with Process(bare_db, clock_at("23:00:00"), run_always=True).running() as process:
        await until(lambda: process.runs)


async def test_a_source_that_gave_up_is_not_asked_again_until_somebody_says_so(bare_db: Db):
    process = Process(bare_db, clock_at("10:00:00"))
    process.source.error = ValueError("the password is wrong")
    async with process.running():
        await until(lambda: process.runs)
        process.source.state = "refused"
        process.source.broken.set()
        await until(lambda: process.feed._refused)  # its state may say so before it has given up
        await asyncio.sleep(0.3)
        assert process.source.runs == 1
        assert process.feed.leading  # else the next process would try the same password
        assert (await process.feed.health())["status"] == "degraded"
        process.source.state = "live"
        process.source.broken.clear()
        process.feed.wake()
        await until(lambda: process.runs)
    assert process.source.wakes == 1


async def test_a_broken_source_is_the_supervisors_affair(bare_db: Db):
    process = Process(bare_db, clock_at("10:00:00"))
    process.source.error = KeyError("a bug")
    process.source.broken.set()
    with pytest.raises(KeyError):
        await asyncio.wait_for(process.feed.run(), 30)
    assert not process.feed.leading


async def test_outages_are_those_of_connections(bare_db: Db):
    process = Process(bare_db, clock_at("10:00:00"))
    async with process.running():
        await until(lambda: process.runs)
        deliver = process.source.deliver
        assert deliver
        deliver([tick(at("10:00:04"), 100_00)])
        deliver([tick(at("10:02"), 100_00)])  # two minutes without a trade
        assert process.gaps.outages == []
        process.source.lost([SHARE], at("10:01"), at("10:01:30"))  # though others brought ticks all the time
        assert process.gaps.outages == [(at("10:01"), at("10:01:30"), [SHARE])]
        process.clock.moment = from_ms(at("10:07"))
    row = await process.says(through=from_ms(at("10:02")))  # nothing came since
    assert row["counters"] == {"received": 2}


async def test_what_one_connection_misses_is_left_to_the_next_leader(bare_db: Db):
    process = Process(bare_db, clock_at("10:00:00"))
    async with process.running():
        await until(lambda: process.runs)
        await process.says(through=process.clock.now())  # what it saves at the beginning does not come after ours
        assert process.source.deliver
        process.clock.moment = from_ms(at("10:07"))
        process.source.sure_until = from_ms(at("10:05"))  # one of two is away
        process.source.deliver([tick(at("10:07"), 100_00)])
        await process.feed._save_state()
        await process.says(through=from_ms(at("10:05")))


async def test_while_no_source_runs_all_is_missed(bare_db: Db):
    process = Process(bare_db, clock_at("10:00:00"))
    process.source.error, process.source.state = ValueError("the password is wrong"), "refused"
    async with process.running():
        await until(lambda: process.runs)
        process.source.broken.set()
        await until(lambda: process.feed._refused)
        process.clock.moment = from_ms(at("10:20"))
        process.source.broken.clear()
        process.source.state = "live"
        process.feed.wake()
        await until(lambda: process.runs)
    assert process.gaps.outages == [(at("10:00"), at("10:20"), None)]


async def test_after_hours_nothing_is_missed(bare_db: Db):
    process = Process(bare_db, clock_at("20:00:00"))
    async with process.running():
        await until(lambda: "paused" in process.states)
    await process.says(through=process.clock.now())


async def test_a_part_of_functions():
    said: list[str] = []

    def note(what: str) -> Callable[[], Any]:
        async def do() -> None:
            said.append(what)

        return do

    part = Part(begin_with=note("begin"), run_with=note("run"), finish_with=note("finish"), only_if_owned=True)
    await part.begin(Past())
    await part.run()
    await part.finish(owned=False)
    await part.finish(owned=True)
    await Part().run()
    assert said == ["begin", "run", "finish"]
