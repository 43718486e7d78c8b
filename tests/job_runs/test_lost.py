"""What becomes of runs when processes are killed, and when the database or the broker are away."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from beanie import init_beanie
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from app.core.scheduler import RunState, RunView, Scheduler
from app.core.scheduler.brokers import distributed
from app.job_runs.models import DOCUMENTS
from app.job_runs.store import MongoRunStore
from tests.job_runs.conftest import Fleet, MakeFleet, Program, Way, until
from tests.job_runs.jobs import AT_WORK, LASTING, LEASE_SECONDS, VOUCHED_SECONDS, open_scheduler
from tests.support.clocks import StandingClock
from tests.support.mongodb import OPTIONS, Db, server_port, through
from tests.support.redis_servers import RedisServer
from tests.support.tcp_proxy import TcpProxy

MakeProgram = Callable[..., Program]
HOLD = "test.hold"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


async def lead_until(scheduler: Scheduler, condition: Callable[[], Any]) -> None:
    """Do what the process that looks after runs does, until then."""

    async def looked() -> bool:
        await scheduler.look()
        return bool(await condition())

    await until(looked)


async def begun(scheduler: Scheduler, fleet: Fleet, count: int) -> None:
    """Wait until work has begun so many times; a message that the broker gave to a dead worker is sent again."""

    async def enough() -> bool:
        return [mark.get("what") for mark in await fleet.marks()].count("began") >= count

    await lead_until(scheduler, enough)


@pytest.mark.timeout(180)
async def test_a_run_whose_process_is_killed_is_lost_and_run_again_once(db: Db, way: Way, make_program: MakeProgram):
    fleet = Fleet(db, way, None, (HOLD,))
    # It carries the run out itself where there are no workers: then its own looks must not take it for dead. What waits
    # for a worker is sent again after this time.
    lease = LEASE_SECONDS if way else VOUCHED_SECONDS
    async with open_scheduler(db, HOLD, broker_url=way, bus=fleet.bus, lease_seconds=lease) as scheduler:
        program = make_program(HOLD, way)
        if way:
            await scheduler.start(HOLD)
        await fleet.began()
        [running] = await fleet.runs()
        await scheduler.look()
        assert [row["state"] for row in await fleet.runs()] == ["running"]
        [mark] = await fleet.marks()
        os.kill(mark["pid"], signal.SIGKILL)
        # As if its time had passed.
        await db["job_runs"].update_one({"_id": running["_id"]}, {"$set": {"alive_until": LONG_AGO}})

        async def again() -> bool:
            return len(await fleet.runs()) == 2

        await lead_until(scheduler, again)
        await begun(scheduler, fleet, 2)
        await fleet.let_go()
        await fleet.settled()
        await scheduler.look()

        lost, repeated = await fleet.runs()
        assert (lost["_id"], lost["state"], lost["error"]) == (running["_id"], "lost", "The process that ran it died.")
        assert (repeated["state"], repeated["retry_of"]) == ("succeeded", lost["_id"])
        assert (lost["retried_as"], repeated.get("retried_as")) == (repeated["_id"], None)
        assert not {"again", "identity", "alive_until", "runner"} & (lost.keys() | repeated.keys())
        marks = [mark for mark in await fleet.marks() if "pid" in mark]
        assert [mark["what"] for mark in marks] == ["began", "began", "ended"]
        assert marks[0]["pid"] != marks[1]["pid"]
        if way:
            await stop_workers(fleet, scheduler, program)


async def stop_workers(fleet: Fleet, scheduler: Scheduler, program: Program) -> None:
    """What they have in hand is recorded as lost before they end."""
    await fleet.db["marks"].delete_one({"_id": "let go"})
    started = await scheduler.start(HOLD, {"n": 2})
    await begun(scheduler, fleet, 3)
    assert program.stop() == 0

    async def lost() -> bool:  # the program does not wait for its workers
        view = await scheduler.wait(started.id, 0)
        return view is not None and view.error == "The process that ran it was stopped."

    await until(lost)


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_lost_twice_is_not_run_a_third_time(db: Db, killed: bool):
    fleet = Fleet(db, None, None, (HOLD,))
    async with open_scheduler(db, HOLD) as leader:
        async with open_scheduler(db, HOLD, holder="stopped") as stopped:
            await stopped.start(HOLD)
            await fleet.began()
        async with open_scheduler(db, HOLD, holder="ended") as ended:
            await ended.look()
            await fleet.began(2)

            async def taken_for_dead() -> bool:
                # It goes on vouching for its run, perhaps between these two.
                await db["job_runs"].update_one({"state": "running"}, {"$set": {"alive_until": LONG_AGO}})
                await leader.look()
                return not await fleet.runs(state="running")

            if killed:
                await until(taken_for_dead)
        await leader.look()
        rows = await fleet.runs()
        assert [row["state"] for row in rows] == ["lost", "lost"]
        stop, death = "The process that ran it was stopped.", "The process that ran it died."
        assert [row["error"] for row in rows] == [stop, death if killed else stop]
        assert not (await leader.start(HOLD)).joined


async def reached(db: Db) -> None:
    """Wait until the driver knows again that the database is there: it looks from time to time only."""

    async def back() -> bool:
        with suppress(PyMongoError):
            await db.command("ping")
            return True
        return False

    await until(back)


@asynccontextmanager
async def database_to_cut(mongodb_url: str, db: Db) -> AsyncIterator[tuple[TcpProxy, Db]]:
    """The same database through a proxy; Beanie's documents go that way, too."""
    async with TcpProxy(server_port(mongodb_url)) as proxy:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            through(mongodb_url, proxy.port), **OPTIONS, serverSelectionTimeoutMS=1000
        )
        try:
            await reached(client[db.name])
            await init_beanie(client[db.name], document_models=DOCUMENTS, skip_indexes=True)
            yield proxy, client[db.name]
        finally:
            await init_beanie(db, document_models=DOCUMENTS, skip_indexes=True)
            await client.close()


async def test_a_run_outlives_a_database_that_is_away(mongodb_url: str, db: Db):
    """Longer than its lease: nobody could take it for lost there."""
    clock = StandingClock()
    LASTING.clear()
    async with (
        database_to_cut(mongodb_url, db) as (proxy, cut_db),
        open_scheduler(cut_db, "test.outlast", clock=clock) as scheduler,
    ):
        leading = asyncio.create_task(scheduler.run())
        run, _ = await scheduler.start("test.outlast")
        await Fleet(db, None, None, ()).began()
        await proxy.cut()
        clock.move(seconds=LEASE_SECONDS * 1.5)
        await scheduler.look()  # as the leader does all the time
        await proxy.mend()
        await reached(cut_db)
        await asyncio.sleep(LEASE_SECONDS / 2)
        LASTING.set()
        fleet = Fleet(db, None, None, ())
        await fleet.settled()
        [row] = await fleet.runs()
        assert (str(row["_id"]), row["state"], row["result"]) == (run, "succeeded", '{"outlasted":true}')
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


async def test_after_an_outage_nobody_is_taken_for_dead_at_once(mongodb_url: str, db: Db):
    """Those who run something could not vouch for it either."""
    clock, fleet = StandingClock(), Fleet(db, None, None, ())
    async with database_to_cut(mongodb_url, db) as (proxy, cut_db), open_scheduler(cut_db, HOLD, clock=clock) as leader:
        run = RunView(id="6b0288f1002b26997921d6aa", job=HOLD, state=RunState.RUNNING, created_at=clock.now(), seq=1)
        await MongoRunStore(clock).add(run, slot=None, identity="it", alive_until=clock.now())
        await db["job_runs"].update_one({}, {"$set": {"retry_of": run.id}})
        clock.move(seconds=LEASE_SECONDS)
        await proxy.cut()
        await leader.look()
        await proxy.mend()
        await reached(cut_db)
        for moved, state in [(0.0, "running"), (LEASE_SECONDS * 0.9, "running"), (LEASE_SECONDS, "lost")]:
            clock.move(seconds=moved)
            await leader.look()
            assert [row["state"] for row in await fleet.runs(job=HOLD)] == [state]


async def test_work_is_cut_off_when_its_run_was_taken_for_lost(make_fleet: MakeFleet):
    """The process was suspended: another one began it again."""
    fleet = await make_fleet("test.hold")
    started = await fleet.schedulers[0].start(HOLD)
    await fleet.began()
    await fleet.db["job_runs"].update_one({"state": "running"}, {"$set": {"state": "lost"}, "$unset": {"runner": ""}})

    async def cut_off() -> bool:
        return started.id not in AT_WORK

    await until(cut_off)
    await fleet.let_go()
    await asyncio.sleep(0.1)
    [row] = await fleet.runs()
    assert (str(row["_id"]), row["state"]) == (started.id, "lost")
    assert "ended" not in [mark.get("what") for mark in await fleet.marks()]


async def test_a_run_that_nobody_carries_out_is_sent_again(db: Db, broker_server: RedisServer):
    """Its message was lost, or its process died before it began."""
    fleet = Fleet(db, None, None, ("test.mark",))
    async with open_scheduler(db, "test.mark", broker_url=broker_server.url, holder="sender") as sender:
        await sender.start("test.mark")
        assert sender.health()["status"] == "ok"
        async with open_scheduler(db, "test.mark", lease_seconds=VOUCHED_SECONDS) as other:

            async def done() -> bool:
                return [row["state"] for row in await fleet.runs()] == ["succeeded"]

            await lead_until(other, done)
    assert len(await fleet.marks()) == 1


async def test_a_run_waits_for_a_broker_that_is_away(db: Db):
    with RedisServer() as server:
        server.kill()
        fleet = Fleet(db, server.url, None, ("test.mark",), worker_lease=VOUCHED_SECONDS)
        await fleet.start(1)
        [scheduler] = fleet.schedulers
        try:
            started = await scheduler.start("test.mark")
            health = scheduler.health()
            assert (health["status"], health["broker_error"]) == ("degraded", "ConnectionError")
            server.start()

            async def done(run_id: str) -> bool:
                view = await scheduler.wait(run_id, 0)
                return view is not None and view.state is RunState.SUCCEEDED

            await lead_until(scheduler, lambda: done(started.id))
            await scheduler.look()  # the last one may have found it waiting
            assert scheduler.health()["status"] == "ok"
            # The server comes back without its data, and the worker goes on.
            server.kill()
            server.start()
            again = await scheduler.start("test.mark")
            await lead_until(scheduler, lambda: done(again.id))
        finally:
            await fleet.close()


async def test_a_message_that_comes_twice_or_late_does_nothing(db: Db, broker_server: RedisServer):
    fleet = await Fleet(db, broker_server.url, None, ("test.mark",)).start(1)
    [scheduler] = fleet.schedulers
    started = await scheduler.start("test.mark")
    await scheduler.wait(started.id, 30)
    sender = distributed(broker_server.url, db.name)
    for run_id in (started.id, started.id, "6b0288f1002b26997921d6aa", "nonsense"):
        await sender.send(run_id)
    later = await scheduler.start("test.mark", {"n": 2})
    await scheduler.wait(later.id, 30)
    await sender.close()
    await fleet.close()
    assert len(await fleet.marks()) == 2


async def test_the_end_cuts_a_run_off_and_the_next_start_catches_it_up(db: Db):
    fleet = Fleet(db, None, None, (HOLD,))
    async with open_scheduler(db, HOLD) as first:
        await first.start(HOLD)
        await fleet.began()
        began = time.monotonic()
    assert time.monotonic() - began < 30  # the test has not let it go
    assert [row["state"] for row in await fleet.runs()] == ["lost"]
    async with open_scheduler(db, HOLD) as second:
        await second.look()
        await fleet.began(2)
        await fleet.let_go()
        await fleet.settled()
        # Another process was about to do the same, or this one was killed before it had noted what it did.
        undone = {"$set": {"again": True}, "$unset": {"retried_as": ""}}
        await db["job_runs"].update_one({"state": "lost"}, undone)
        await second.look()
        await fleet.settled()
    lost, repeated = await fleet.runs()
    assert (lost["state"], repeated["state"]) == ("lost", "succeeded")
    assert (lost["retried_as"], repeated["retry_of"]) == (repeated["_id"], lost["_id"])
    assert not await fleet.runs(again=True)


async def test_a_lost_run_names_the_run_that_was_under_way_already(db: Db):
    fleet = Fleet(db, None, None, (HOLD,))
    async with open_scheduler(db, HOLD) as first:
        await first.start(HOLD)
        await fleet.began()
    async with open_scheduler(db, HOLD, lease_seconds=VOUCHED_SECONDS) as second:
        asked = await second.start(HOLD)
        await second.look()
        await fleet.let_go()
        await fleet.settled()
    lost, other = await fleet.runs()
    assert str(lost["retried_as"]) == str(other["_id"]) == asked.id
    assert "retry_of" not in other
