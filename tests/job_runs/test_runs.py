"""The same jobs carried out here and by workers over a real broker: once each, joined, in turn, and told truly."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.core.events import JobChanged
from app.core.scheduler import RunState, RunView, Scheduler
from app.job_runs.store import MongoRunStore
from tests.job_runs.conftest import MakeFleet, until
from tests.job_runs.jobs import open_scheduler
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db


async def finished(scheduler: Scheduler, run_id: str) -> RunView:
    view = await scheduler.wait(run_id, 30)
    assert view is not None
    assert view.finished, view
    return view


async def test_a_run_on_request(make_fleet: MakeFleet):
    fleet = await make_fleet("test.mark")
    account = "6b0288f1002b26997921d6aa"
    started = await fleet.schedulers[0].start("test.mark", {"limit": 50}, requested_by=account)
    view = await finished(fleet.schedulers[0], started.id)

    assert (view.state, view.error, view.due, view.requested_by) == (RunState.SUCCEEDED, None, None, account)
    assert view.result == {"due": None, "arguments": {"limit": 50}}
    assert view.started_at is not None
    assert view.created_at <= view.started_at <= (view.finished_at or view.created_at)
    assert (view.duration_ms or 0) >= 0
    assert [mark["what"] for mark in await fleet.marks()] == ["done"]
    with pytest.raises(KeyError):
        await fleet.schedulers[0].start("test.unknown")
    with pytest.raises(ValueError, match="JSON"):
        await fleet.schedulers[0].start("test.mark", {"x": object()})


async def test_the_clock_starts_jobs_and_two_processes_run_a_slot_once(make_fleet: MakeFleet):
    clock = StandingClock(datetime(2026, 11, 22, 9, 57, 30, tzinfo=UTC))
    fleet = await make_fleet("test.five", "test.hourly", clock=clock, count=2)

    async def look() -> list[tuple[str, str]]:
        await asyncio.gather(*(scheduler.look() for scheduler in fleet.schedulers))
        await fleet.settled()
        return [(row["job"], f"{row['due']:%H:%M}") for row in await fleet.runs(state="succeeded")]

    # A new service catches up the slot that was last, and does it once.
    first = await look()
    assert sorted(first) == [("test.five", "09:55"), ("test.hourly", "09:00")]
    assert await look() == first
    clock.move(seconds=149.999)
    assert await look() == first
    # The full hour is the hourly job's alone.
    clock.move(seconds=0.001)
    assert (await look())[2:] == [("test.hourly", "10:00")]
    clock.move(minutes=5)
    assert (await look())[3:] == [("test.five", "10:05")]
    # Down for a while: of the slots that were missed each job catches up one.
    clock.move(hours=3, minutes=2)
    assert sorted((await look())[4:]) == [("test.five", "13:05"), ("test.hourly", "13:00")]
    assert len(await fleet.marks()) == len(await fleet.runs()) == 6


async def test_many_requests_at_once_are_one_run(make_fleet: MakeFleet):
    fleet = await make_fleet("test.hold", count=3)
    answers = await asyncio.gather(*(fleet.schedulers[n % 3].start("test.hold", {"limit": 200}) for n in range(30)))
    assert len({answer.id for answer in answers}) == 1
    assert sorted(answer.joined for answer in answers) == [False] + [True] * 29
    # Other arguments are another run, the same ones in another order are not.
    other = await fleet.schedulers[0].start("test.hold", {"limit": 50, "provider": "x"})
    same = await fleet.schedulers[1].start("test.hold", {"provider": "x", "limit": 50})
    assert (other.joined, same) == (False, (other.id, True))
    await fleet.let_go()
    views = [await finished(scheduler, answers[0].id) for scheduler in fleet.schedulers]
    assert {view.state for view in views} == {RunState.SUCCEEDED}
    await finished(fleet.schedulers[0], other.id)
    assert len([mark for mark in await fleet.marks() if mark.get("what") == "began"]) == 2
    assert not (await fleet.schedulers[0].start("test.hold", {"limit": 200})).joined


async def test_a_slot_that_comes_during_a_run_is_skipped(make_fleet: MakeFleet):
    clock = StandingClock(datetime(2026, 11, 22, 10, 1, tzinfo=UTC))
    fleet = await make_fleet("test.slow", clock=clock)
    [scheduler] = fleet.schedulers
    await scheduler.look()
    clock.move(minutes=0.01)
    asked = await scheduler.start("test.slow")
    assert asked.joined
    await fleet.began()
    clock.move(minutes=4)

    async def vouched_for() -> bool:
        return not await fleet.runs(state="running", alive_until={"$lte": clock.now()})

    await until(vouched_for)
    await scheduler.look()
    [skipped] = await fleet.runs(state="skipped")
    assert (skipped["due"], skipped["result"]) == (
        datetime(2026, 11, 22, 10, 5, tzinfo=UTC),
        f'{{"served_by":"{asked.id}"}}',
    )
    assert "identity" not in skipped
    await fleet.let_go()
    assert (await finished(scheduler, asked.id)).state is RunState.SUCCEEDED
    await scheduler.look()
    assert len(await fleet.runs()) == 2


async def test_runs_of_a_group_take_turns(make_fleet: MakeFleet):
    fleet = await make_fleet("test.one", "test.two", count=2)
    one, two = fleet.schedulers
    started = [
        await one.start("test.one", {"n": 1}),
        await two.start("test.two", {"n": 1}),
        await one.start("test.two", {"n": 2}),
        await two.start("test.one", {"n": 2}),
    ]
    for run in started:
        assert (await finished(one, run.id)).state is RunState.SUCCEEDED
    marks = await fleet.marks()
    assert [mark["what"] for mark in marks] == ["began", "ended"] * 4
    assert all(began["run"] == ended["run"] for began, ended in zip(marks[::2], marks[1::2], strict=True))
    assert not await fleet.runs(exclusive={"$exists": True})


FAILURES: dict[str, tuple[RunState, str | None]] = {
    "test.fail": (
        RunState.FAILED,
        "Something went wrong inside; the service's log has more under this run's id.",
    ),
    "test.tell": (RunState.FAILED, "CoinGecko does not answer; try again in a minute."),
    "test.hang": (RunState.FAILED, "It took longer than 0.3 seconds and was cut off."),
    "test.babble": (RunState.SUCCEEDED, None),
}


async def test_how_runs_fail(make_fleet: MakeFleet):
    fleet = await make_fleet(*FAILURES)
    [scheduler] = fleet.schedulers
    started = {name: await scheduler.start(name) for name in FAILURES}
    views = {name: await finished(scheduler, run.id) for name, run in started.items()}
    assert {name: (view.state, view.error) for name, view in views.items()} == FAILURES
    assert all(view.result is None for view in views.values())
    assert 290 <= (views["test.hang"].duration_ms or 0) < 30_000
    # A failure is no loss: nothing is repeated, and the next request runs.
    await scheduler.look()
    assert len(await fleet.runs()) == len(FAILURES)
    assert not (await scheduler.start("test.tell")).joined


async def test_progress_is_told_a_few_times_a_second(make_fleet: MakeFleet):
    fleet = await make_fleet("test.count")
    heard: list[JobChanged] = []
    fleet.bus.subscribe(JobChanged, heard.append)
    started = await fleet.schedulers[0].start("test.count")
    view = await finished(fleet.schedulers[0], started.id)

    async def told() -> bool:  # after it was stored
        return heard[-1].finished

    await until(told)
    states = [event.state for event in heard]
    assert states[:2] == ["queued", "running"]
    assert states[-1] == "succeeded"
    assert 4 <= len(heard) <= 4 + 8 * (heard[-1].seconds or 0)  # of 400 steps in about a second
    assert [event.seq for event in heard] == sorted({event.seq for event in heard})
    assert view.progress is not None
    assert (view.progress.done, view.progress.total, view.progress.note) == (400, 400, "number 400")
    assert (view.seq, heard[-1].body) == (heard[-1].seq, view.json())
    assert b'"requested_by":null' in heard[-1].body
    assert heard[-1].finished
    assert (heard[-1].seconds or 0) > 0.5


async def test_runs_that_are_kept_are_bounded(db: Db):
    clock = StandingClock()
    store, begin = MongoRunStore(clock), clock.now() - timedelta(days=20)
    for day in range(20):
        at = begin + timedelta(days=day)
        for job in ("test.hold", "test.other"):
            view = RunView(
                id=store.new_id(), job=job, state=RunState.SUCCEEDED, created_at=at, finished_at=at, seq=_micros(at)
            )
            await store.add(view, slot=f"{job} {day}", identity=None, alive_until=at)

    async def kept(job: str) -> list[str]:
        return [row["slot"] for row in await db["job_runs"].find({"job": job}).sort("seq", 1).to_list()]

    async with open_scheduler(db, "test.hold", clock=clock, most=5) as scheduler:
        clock.move(minutes=9)
        await scheduler.look()
        assert len(await kept("test.hold")) == 20
        clock.move(minutes=2)
        await scheduler.look()
    assert await kept("test.hold") == [f"test.hold {day}" for day in range(15, 20)]
    assert len(await kept("test.other")) == 20


def _micros(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


async def test_the_loop_starts_what_is_due_by_itself(db: Db):
    async with open_scheduler(db, "test.hourly") as scheduler:
        loop = asyncio.create_task(scheduler.run())

        async def done() -> bool:
            return await db["marks"].count_documents({"what": "done"}) >= 1

        await until(done)
        health = scheduler.health()
        assert (health["leading"], health["status"], health["mode"]) == (True, "ok", "in process")
        assert health["jobs"]["test.hourly"]["next"].minute == 0
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
