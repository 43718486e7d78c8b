"""Background tasks: none dies in silence, all are seen, all end when they are told to."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from app.core.supervisor import FIRST_BACKOFF, HEALTHY_AFTER, Supervisor
from tests.support.clocks import StandingClock

PATIENCE = 30.0


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


class Naps:
    """The supervisor's sleep: notes how long it was asked for, and lasts until the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.over.wait()


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest_asyncio.fixture
async def supervisor(naps: Naps) -> AsyncIterator[Supervisor]:
    made = Supervisor(sleep=naps)
    yield made
    await made.stop(0.5)


class Work:
    """A background task that does, at each of its runs, what the next of `plans` says; then it waits for ever."""

    def __init__(self, *plans: Any) -> None:
        self.plans = list(plans)
        self.began = 0
        self.ended = 0

    async def __call__(self) -> None:
        self.began += 1
        try:
            if not self.plans:
                await asyncio.Event().wait()
            plan = self.plans.pop(0)
            if isinstance(plan, BaseException):
                raise plan
            if plan is not None:
                await plan()
        finally:
            self.ended += 1


async def test_a_task_runs_until_the_end(supervisor: Supervisor):
    work = Work()
    supervisor.add("work", work)
    assert supervisor.health()["work"]["state"] == "waiting"
    assert not supervisor.healthy

    supervisor.start()
    await until(lambda: work.began)
    assert supervisor.healthy
    assert supervisor.health()["work"] | {"since": None} == {
        "state": "running",
        "restarts": 0,
        "last_error": None,
        "since": None,
    }

    await supervisor.stop()
    assert work.ended == 1
    assert supervisor.health()["work"]["state"] == "stopped"


async def test_a_task_that_fails_is_started_again_ever_more_slowly(supervisor: Supervisor, naps: Naps):
    work = Work(ValueError("one"), OSError("two"))
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: supervisor.health()["work"]["state"] == "backing off")
    assert not supervisor.healthy
    assert supervisor.health()["work"]["last_error"] == "ValueError"

    assert work.began == 1
    naps.over.set()
    await until(lambda: work.began == 3)

    first, second = naps.asked
    assert 0.75 * FIRST_BACKOFF <= first <= 1.25 * FIRST_BACKOFF
    assert 1.5 * FIRST_BACKOFF <= second <= 2.5 * FIRST_BACKOFF
    assert supervisor.healthy
    line = supervisor.health()["work"]
    assert (line["state"], line["restarts"], line["last_error"]) == ("running", 2, "OSError")


async def test_after_a_minute_of_health_it_is_started_soon_again(naps: Naps):
    clock = StandingClock()
    naps.over.set()

    async def long_and_well() -> None:
        clock.move(seconds=HEALTHY_AFTER + 1)
        raise ValueError

    work = Work(ValueError(), ValueError(), long_and_well)
    supervisor = Supervisor(clock, sleep=naps)
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: work.began == 4)
    await supervisor.stop()

    _, second, third = naps.asked
    assert 1.5 * FIRST_BACKOFF <= second <= 2.5 * FIRST_BACKOFF
    assert 0.75 * FIRST_BACKOFF <= third <= 1.25 * FIRST_BACKOFF


async def test_health_does_not_quote_an_error(supervisor: Supervisor):
    """/health is public; what a driver says names hosts and queries."""
    supervisor.add("work", Work(OSError("mongodb://user:password@db.internal:27017 refused")))
    supervisor.start()
    await until(lambda: supervisor.health()["work"]["restarts"] == 1)

    assert "internal" not in str(supervisor.health())


async def test_a_task_that_returns_has_finished(supervisor: Supervisor, naps: Naps):
    work = Work(None)
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: supervisor.health()["work"]["state"] == "finished")
    naps.over.set()
    await until(lambda: "work" not in {task.get_name() for task in asyncio.all_tasks()})

    assert work.began == 1
    assert supervisor.healthy


async def test_something_cancelled_within_a_task_does_not_end_it_in_silence(supervisor: Supervisor, naps: Naps):
    async def waits_for_what_is_cancelled() -> None:
        inner = asyncio.create_task(asyncio.sleep(10))
        inner.cancel()
        await inner

    naps.over.set()
    work = Work(waits_for_what_is_cancelled)
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: work.began == 2)

    line = supervisor.health()["work"]
    assert (line["state"], line["restarts"], line["last_error"]) == ("running", 1, "CancelledError")


async def test_one_tasks_failure_leaves_the_others_alone(supervisor: Supervisor, naps: Naps):
    naps.over.set()
    steady, failing = Work(), Work(ValueError())
    supervisor.add("failing", failing)
    supervisor.add("steady", steady)
    supervisor.start()
    await until(lambda: failing.began == 2)

    assert (steady.began, steady.ended) == (1, 0)


async def test_a_task_added_later_starts_at_once(supervisor: Supervisor):
    supervisor.start()
    work = Work()
    supervisor.add("late", work)
    await until(lambda: work.began)

    with pytest.raises(ValueError, match="late"):
        supervisor.add("late", Work())


async def test_a_task_that_fails_while_it_ends_is_not_started_again(supervisor: Supervisor, naps: Naps):
    async def fails_at_its_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the connection is gone")

    work = Work(fails_at_its_end)
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: work.began)
    naps.over.set()  # started again, it would wait for ever
    await supervisor.stop(20)

    assert work.began == 1
    assert supervisor.health()["work"]["state"] == "stopped"


async def test_a_task_that_is_backing_off_ends_at_once(supervisor: Supervisor):
    supervisor.add("work", Work(ValueError()))
    supervisor.start()
    await until(lambda: supervisor.health()["work"]["state"] == "backing off")
    await supervisor.stop(20)  # the nap would last longer

    assert "work" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_task_that_does_not_end_holds_nobody_up_beyond_the_deadline(supervisor: Supervisor):
    released, gave_in = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        try:
            await released.wait()
        except asyncio.CancelledError:
            # On the same loop as the deadline: of the two, the one that is due first comes first, whatever the machine.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(released.wait(), 2)
            gave_in.set()

    well = Work()
    supervisor.add("deaf", deaf)
    supervisor.add("well", well)
    supervisor.start()
    await until(lambda: well.began)
    began = time.monotonic()
    await supervisor.stop(0.3)
    took = time.monotonic() - began
    ended_first = gave_in.is_set()
    released.set()

    assert took > 0.25
    assert not ended_first
    assert well.ended == 1


async def test_stopping_without_tasks_and_twice(supervisor: Supervisor):
    await supervisor.stop()
    supervisor.add("work", Work())
    supervisor.start()
    await supervisor.stop()
    await supervisor.stop()
