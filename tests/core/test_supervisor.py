"""Background tasks: none dies in silence, all are seen, all end when they are told to."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from app.core.supervisor import FIRST_BACKOFF, HEALTHY_AFTER, Supervisor
from tests.support.clocks import StandingClock

PATIENCE = 6.0


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    made = Supervisor()
    yield made
    await made.stop(0.5)


class Work:
    """A background task that does, at each of its runs, what the next of `plans` says; then it waits for ever."""

    def __init__(self, *plans: Any) -> None:
        self.plans = list(plans)
        self.began: list[float] = []
        self.ended = 0

    async def __call__(self) -> None:
        self.began.append(time.monotonic())
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


async def test_a_task_that_fails_is_started_again_ever_more_slowly(supervisor: Supervisor):
    work = Work(ValueError("one"), OSError("two"))
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: supervisor.health()["work"]["state"] == "backing off")
    assert not supervisor.healthy
    assert supervisor.health()["work"]["last_error"] == "ValueError"

    await until(lambda: len(work.began) == 3)

    first, second = (later - earlier for earlier, later in zip(work.began, work.began[1:], strict=False))
    assert 0.75 * FIRST_BACKOFF <= first < 1.5 * FIRST_BACKOFF
    assert 1.5 * FIRST_BACKOFF <= second < 3 * FIRST_BACKOFF
    assert supervisor.healthy
    line = supervisor.health()["work"]
    assert (line["state"], line["restarts"], line["last_error"]) == ("running", 2, "OSError")


async def test_after_a_minute_of_health_it_is_started_soon_again():
    clock = StandingClock()

    async def long_and_well() -> None:
        clock.move(seconds=HEALTHY_AFTER + 1)
        raise ValueError

    work = Work(ValueError(), ValueError(), long_and_well)
    supervisor = Supervisor(clock)
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: len(work.began) == 4)

    assert work.began[3] - work.began[2] < 1.5 * FIRST_BACKOFF
    await supervisor.stop()


async def test_health_does_not_quote_an_error(supervisor: Supervisor):
    """/health is public; what a driver says names hosts and queries."""
    supervisor.add("work", Work(OSError("mongodb://user:password@db.internal:27017 refused")))
    supervisor.start()
    await until(lambda: supervisor.health()["work"]["restarts"] == 1)

    assert "internal" not in str(supervisor.health())


async def test_a_task_that_returns_has_finished(supervisor: Supervisor):
    work = Work(None)
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: supervisor.health()["work"]["state"] == "finished")
    await asyncio.sleep(FIRST_BACKOFF * 1.5)

    assert len(work.began) == 1
    assert supervisor.healthy


async def test_something_cancelled_within_a_task_does_not_end_it_in_silence(supervisor: Supervisor):
    async def waits_for_what_is_cancelled() -> None:
        inner = asyncio.create_task(asyncio.sleep(10))
        inner.cancel()
        await inner

    work = Work(waits_for_what_is_cancelled)
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: len(work.began) == 2)

    line = supervisor.health()["work"]
    assert (line["state"], line["restarts"], line["last_error"]) == ("running", 1, "CancelledError")


async def test_one_tasks_failure_leaves_the_others_alone(supervisor: Supervisor):
    steady, failing = Work(), Work(ValueError())
    supervisor.add("failing", failing)
    supervisor.add("steady", steady)
    supervisor.start()
    await until(lambda: len(failing.began) == 2)

    assert (len(steady.began), steady.ended) == (1, 0)


async def test_a_task_added_later_starts_at_once(supervisor: Supervisor):
    supervisor.start()
    work = Work()
    supervisor.add("late", work)
    await until(lambda: work.began)

    with pytest.raises(ValueError, match="late"):
        supervisor.add("late", Work())


async def test_a_task_that_fails_while_it_ends_is_not_started_again(supervisor: Supervisor):
    async def fails_at_its_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the connection is gone")

    work = Work(fails_at_its_end)
    supervisor.add("work", work)
    supervisor.start()
    await until(lambda: work.began)
    began = time.monotonic()
    await supervisor.stop(3)

    assert time.monotonic() - began < 1
    assert len(work.began) == 1
    assert supervisor.health()["work"]["state"] == "stopped"


async def test_a_task_that_is_backing_off_ends_at_once(supervisor: Supervisor):
    supervisor.add("work", Work(ValueError()))
    supervisor.start()
    await until(lambda: supervisor.health()["work"]["state"] == "backing off")
    began = time.monotonic()
    await supervisor.stop(3)

    assert time.monotonic() - began < 0.3


async def test_a_task_that_does_not_end_holds_nobody_up_beyond_the_deadline(supervisor: Supervisor):
    released = asyncio.Event()

    async def deaf() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    well = Work()
    supervisor.add("deaf", deaf)
    supervisor.add("well", well)
    supervisor.start()
    await until(lambda: well.began)
    began = time.monotonic()
    await supervisor.stop(0.3)
    took = time.monotonic() - began
    released.set()

    assert 0.25 < took < 1
    assert well.ended == 1


async def test_stopping_without_tasks_and_twice(supervisor: Supervisor):
    await supervisor.stop()
    supervisor.add("work", Work())
    supervisor.start()
    await supervisor.stop()
    await supervisor.stop()
