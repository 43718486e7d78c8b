"""When jobs are due: aligned to the clock, whoever asks and whenever."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.market_calendar import IST
from app.core.scheduler import Job, Run, without_run

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 (the strategy adds the zone)


async def nothing(_: Run) -> None:
    """No work."""


@given(now=MOMENTS, minutes=st.sampled_from([1, 5, 15, 60, 1440]))
def test_slots_are_whole_multiples_and_follow_one_another(now: datetime, minutes: int):
    job = Job("a.b", nothing, every=timedelta(minutes=minutes))
    slot, following = job.slot_at(now), job.next_slot(now)
    assert slot is not None
    assert slot <= now < slot + timedelta(minutes=minutes)
    assert slot.timestamp() % (minutes * 60) == 0
    assert following == slot + timedelta(minutes=minutes)
    assert job.slot_at(slot) == slot


@given(now=MOMENTS)
def test_a_daily_job_is_due_at_its_time_in_india(now: datetime):
    job = Job("a.b", nothing, at=time(2, 30))
    slot, following = job.slot_at(now), job.next_slot(now)
    assert slot is not None
    assert following is not None
    assert slot <= now < following == slot + timedelta(days=1)
    assert slot.astimezone(IST).time() == time(2, 30)
    assert slot.tzinfo is UTC


def test_a_job_on_request_has_no_slots():
    job = Job("a.b", nothing)
    now = datetime(2026, 11, 22, tzinfo=UTC)
    assert (job.slot_at(now), job.next_slot(now)) == (None, None)


@pytest.mark.parametrize("name", ["", "Top50", "crypto..top", "crypto.", ".x", "a b", "a\n", "x" * 65, "1a"])
def test_names_are_checked(name: str):
    with pytest.raises(ValueError, match="name"):
        Job(name, nothing)


def test_a_job_has_one_clock():
    with pytest.raises(ValueError, match="not both"):
        Job("a", nothing, every=timedelta(hours=1), at=time(1))
    with pytest.raises(ValueError, match="second"):
        Job("a", nothing, every=timedelta(milliseconds=1))


async def test_work_without_a_run():
    done = []

    async def call() -> None:
        done.append(1)

    assert await without_run(call)(None) is None  # type: ignore[arg-type]
    assert done == [1]
