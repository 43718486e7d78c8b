"""One process of several does it: another takes over when it dies, and nobody while the database is away."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient

from app.core.clock import Clock, SystemClock
from app.core.lease_holder import Lease, LeaseHolder
from tests.support.clocks import StandingClock
from tests.support.mongodb import OPTIONS, Db, empty_database, server_port, through
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("lease_worker.py")
PATIENCE = 30.0


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url) as made:
        yield made


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_of_many_claims_at_once_one_wins(db: Db):
    clock = StandingClock()
    claims = [Lease(db, clock, "x", f"holder {number}", 30) for number in range(16)]
    for _ in range(12):  # first there is no row, later one that has run out
        won = await asyncio.gather(*(claim.acquire() for claim in claims))
        assert sum(won) == 1
        winner = claims[won.index(True)]
        # It keeps it, however often it asks and even while the clock stands still; nobody else gets it.
        again = await asyncio.gather(*(claim.acquire() for claim in claims))
        assert [claim for claim, held in zip(claims, again, strict=True) if held] == [winner]
        clock.move(seconds=31)


async def test_a_lease_that_is_kept_lasts_as_long_as_what_it_is_for(db: Db):
    clock = StandingClock()
    lease, other = Lease(db, clock, "x", "here", 0.06), Lease(db, clock, "x", "there", 30)

    async def ends() -> Any:
        return (await db["leases"].find_one({"_id": "x"}) or {})["expires_at"]

    async def kept() -> None:
        assert await lease.acquire()
        async with lease.kept():
            for _ in range(3):
                before = await ends()
                clock.move(seconds=0.05)
                async with asyncio.timeout(PATIENCE):
                    while await ends() == before:
                        await asyncio.sleep(0.01)
                assert not await other.acquire()

    async def again() -> None:
        clock.move(seconds=31)

    await given_up(kept, other, again)


async def given_up(hold: Callable[[], Awaitable[None]], other: Lease, again: Callable[[], Awaitable[None]]) -> None:
    """What `hold` held is free at its end. The service gives it up within a second or not at all, and a busy machine
    may be too slow for that once."""
    for _ in range(4):
        await hold()
        if await other.acquire():
            return
        await again()
    raise AssertionError("it is not given up")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["claim", "release"]), st.integers(0, 2), st.sampled_from([0, 1, 9, 10, 11])),
        max_size=15,
    )
)
async def test_a_lease_is_what_it_says(db: Db, steps: list[tuple[str, int, int]]):
    """Beside a model: who holds it until when."""
    clock = StandingClock()
    name = f"lease {id(steps)} {time.monotonic_ns()}"
    claims = [Lease(db, clock, name, f"holder {number}", 10) for number in range(3)]
    holder, end = -1, clock.now()
    for action, number, seconds in steps:
        clock.move(seconds=seconds)
        if action == "release":
            await claims[number].release()
            if number == holder:
                end = clock.now()
            continue
        free = holder in {-1, number} or end <= clock.now()
        assert await claims[number].acquire() == free
        if free:
            holder, end = number, clock.now() + timedelta(seconds=10)


async def test_a_claim_that_was_carried_out_twice_is_one(db: Db):
    """As the driver does it after a lost answer, and a database that was killed meanwhile knows nothing of it."""

    class Repeating:
        """A collection that carries every write out twice, and gives the second answer."""

        def __init__(self, leases: Any) -> None:
            self.find_one = leases.find_one
            self._leases = leases

        async def insert_one(self, row: dict[str, Any]) -> Any:
            await self._leases.insert_one(dict(row))
            return await self._leases.insert_one(row)

        async def update_one(self, query: dict[str, Any], change: dict[str, Any]) -> Any:
            await self._leases.update_one(query, change)
            return await self._leases.update_one(query, change)

    clock = StandingClock()
    mine = Lease({"leases": Repeating(db["leases"])}, clock, "feed", "me", 10)  # type: ignore[arg-type]
    assert await mine.acquire()
    clock.move(seconds=5)
    assert await mine.acquire()
    clock.move(seconds=5)
    assert not await Lease(db, clock, "feed", "another", 10).acquire()
    clock.move(seconds=6)
    assert await Lease(db, clock, "feed", "another", 10).acquire()
    assert not await mine.acquire()


async def test_leases_of_other_names_do_not_matter(db: Db):
    clock = StandingClock()

    assert await Lease(db, clock, "a", "one", 10).acquire()
    assert await Lease(db, clock, "b", "two", 10).acquire()
    assert not await Lease(db, clock, "a", "two", 10).acquire()


class Work:
    """Notes how often it began, and when it was cut off and whether the lease was held still."""

    def __init__(self, db: Db, name: str = "this", seconds: float = 0.9, clock: Clock | None = None) -> None:
        self.holder = LeaseHolder(db, clock or SystemClock(), "feed", name, seconds)
        self.began = 0
        self.held_when_cut: list[bool] = []
        self.cut_at: list[float] = []
        self.end = asyncio.Event()
        self.error: Exception | None = None
        self.task = asyncio.create_task(self.holder.run(self))

    async def __call__(self) -> None:
        self.began += 1
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cut_at.append(time.monotonic())
            self.held_when_cut.append(self.holder.held)
            raise
        if self.error:
            raise self.error

    async def stop(self) -> BaseException | None:
        self.task.cancel()
        [ended] = await asyncio.wait_for(asyncio.gather(self.task, return_exceptions=True), PATIENCE)
        return ended


async def give_to(db: Db, holder: str, seconds: float, clock: Clock | None = None) -> None:
    expires = (clock or SystemClock()).now() + timedelta(seconds=seconds)
    await db["leases"].update_one({"_id": "feed"}, {"$set": {"holder": holder, "expires_at": expires}})


async def test_it_steps_down_at_once_when_another_holds_it_and_goes_on_when_that_ends(db: Db):
    clock, took = StandingClock(), list[float]()
    work = Work(db, clock=clock)
    # It looks every third of the lease, not when all of it has passed; a busy machine may be slow to look once.
    while not took or (min(took) > 0.6 and len(took) < 5):
        cuts = len(took)
        await until(lambda cuts=cuts: work.began == cuts + 1)  # type: ignore[misc]
        began = time.monotonic()
        await give_to(db, "another", 1.0, clock)
        await until(lambda cuts=cuts: len(work.held_when_cut) == cuts + 1)  # type: ignore[misc]
        took.append(work.cut_at[-1] - began)
        assert not work.holder.held
        await asyncio.sleep(0.35)  # a look at least
        assert work.began == cuts + 1  # the other's time is respected
        clock.move(seconds=1.1)
    assert min(took) <= 0.6
    await until(lambda: work.began == len(took) + 1)

    assert isinstance(await work.stop(), asyncio.CancelledError)
    assert work.held_when_cut == [False] * len(took) + [True]


@pytest.mark.parametrize("error", [None, ValueError("it broke")])
async def test_work_that_ends_gives_the_lease_up(db: Db, error: Exception | None):
    clock = StandingClock()

    async def worked() -> None:
        work = Work(db, seconds=30, clock=clock)
        await until(lambda: work.began)
        work.error = error
        work.end.set()
        [ended] = await asyncio.gather(work.task, return_exceptions=True)
        assert ended is error
        assert not work.holder.held

    async def again() -> None:
        clock.move(seconds=31)

    await given_up(worked, Lease(db, clock, "feed", "another", 10), again)


async def test_the_end_gives_the_lease_up(db: Db):
    clock = StandingClock()

    async def stopped() -> None:
        work = Work(db, seconds=30, clock=clock)
        await until(lambda: work.began)
        await work.stop()

    async def again() -> None:
        clock.move(seconds=31)

    await given_up(stopped, Lease(db, clock, "feed", "another", 10), again)


async def test_who_only_waits_does_not_touch_the_lease_of_another(db: Db):
    clock = StandingClock()
    assert await Lease(db, clock, "feed", "another", 30).acquire()
    work = Work(db, clock=clock)
    await asyncio.sleep(0.5)
    await work.stop()

    assert work.began == 0
    assert not await Lease(db, clock, "feed", "third", 30).acquire()


async def test_a_database_that_is_away_takes_the_lease_from_nobody(mongodb_url: str, db: Db):
    async with TcpProxy(server_port(mongodb_url)) as proxy:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            through(mongodb_url, proxy.port), **OPTIONS, serverSelectionTimeoutMS=200, connectTimeoutMS=200
        )
        work = Work(client[db.name], seconds=0.6)
        await until(lambda: work.began)
        await proxy.cut()
        await until(lambda: work.holder.last_error)
        await asyncio.sleep(1.0)  # longer than the lease
        assert work.holder.held
        await proxy.mend()
        await until(lambda: work.holder.last_error is None)
        assert (work.began, work.held_when_cut) == (1, [])

        # But if somebody else got it meanwhile, the first answer says so.
        await proxy.cut()
        await until(lambda: work.holder.last_error)
        await give_to(db, "another", 30)
        await proxy.mend()
        await until(lambda: work.held_when_cut)
        await work.stop()
        await client.close()

    assert work.held_when_cut == [False]


async def test_who_waits_outlasts_a_database_that_is_away(mongodb_url: str, db: Db):
    async with TcpProxy(server_port(mongodb_url)) as proxy:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            through(mongodb_url, proxy.port), **OPTIONS, serverSelectionTimeoutMS=200, connectTimeoutMS=200
        )
        await proxy.cut()
        work = Work(client[db.name], seconds=0.6)
        await until(lambda: work.holder.last_error)
        assert work.began == 0
        await proxy.mend()
        await until(lambda: work.began)
        await work.stop()
        await client.close()


class Process:
    """A run of lease_worker.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            self.said.append(line.decode().strip())

    @property
    def holds(self) -> bool:
        return "held" in self.said

    async def end(self, how: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(how)
        await self.process.wait()
        await self.reader


async def test_another_process_takes_over_from_one_that_was_killed(mongodb_url: str, db: Db):
    seconds = 1.5
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        Process(
            await asyncio.create_subprocess_exec(
                sys.executable, str(WORKER), mongodb_url, db.name, f"process {number}", str(seconds),
                stdout=asyncio.subprocess.PIPE, env=environment,
            )
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        await until(lambda: all("waiting" in one.said for one in running) and any(one.holds for one in running))
        while True:
            holder = await renewed(db)
            first, second = running[holder], running[1 - holder]
            # It is not to take over before the last state of the lease was seen, however slow this process is.
            second.process.send_signal(signal.SIGSTOP)
            if (await lease(db))["holder"] == f"process {holder}":
                break
            second.process.send_signal(signal.SIGCONT)
        await first.end(signal.SIGKILL)
        last = await lease(db)
        second.process.send_signal(signal.SIGCONT)
        next_ = await taken_over(db, f"process {1 - holder}")
        await until(lambda: second.holds)
    finally:
        for one in running:
            await one.end(signal.SIGKILL)

    assert last["holder"] == f"process {holder}"
    # Not before the end of the other's.
    assert next_["expires_at"] - timedelta(seconds=seconds) >= last["expires_at"]


async def lease(db: Db) -> dict[str, Any]:
    row = await db["leases"].find_one({"_id": "feed"})
    assert row is not None
    return row


async def taken_over(db: Db, holder: str) -> dict[str, Any]:
    """The lease as soon as `holder` has it."""
    deadline = time.monotonic() + PATIENCE
    while (row := await lease(db))["holder"] != holder:
        assert time.monotonic() < deadline, "nobody takes it over"
        await asyncio.sleep(0.01)
    return row


async def renewed(db: Db) -> int:
    """Which process has renewed its lease, and keeps it in this way."""
    before, deadline = await lease(db), time.monotonic() + PATIENCE
    while True:
        now = await lease(db)
        if now["holder"] == before["holder"] and now["expires_at"] > before["expires_at"]:
            return int(now["holder"].removeprefix("process "))
        if now["holder"] != before["holder"]:  # one that stood still has lost it
            before = now
        assert time.monotonic() < deadline, "it is not renewed"
        await asyncio.sleep(0.01)
