"""Time, and the numbers that order what a process makes."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from app.core.clock import Sequence, SystemClock, from_micros, to_micros
from tests.support.clocks import StandingClock

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 (its bounds)
# How far the clock is moved between two numbers: back, not at all, within a millisecond, ahead.
STEPS = st.lists(st.integers(-10_000_000, 10_000_000) | st.just(0) | st.integers(-2, 2), max_size=50)


def test_the_systems_time_is_utc_in_whole_milliseconds():
    clock, before = SystemClock(), datetime.now(UTC)
    now = clock.now()
    after = datetime.now(UTC)

    assert now.utcoffset() == timedelta(0)
    assert now.microsecond % 1000 == 0
    assert before - timedelta(milliseconds=1) < now <= after


def test_the_monotonic_clock_never_goes_back():
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]

    assert readings == sorted(readings)


@given(MOMENTS)
def test_microseconds_and_moments_are_the_same_thing(moment: datetime):
    assert from_micros(to_micros(moment)) == moment
    assert from_micros(to_micros(moment)).utcoffset() == timedelta(0)


@given(MOMENTS, st.integers(-14 * 60, 14 * 60))
def test_the_offset_of_a_moment_does_not_matter(moment: datetime, minutes: int):
    assert to_micros(moment.astimezone(timezone(timedelta(minutes=minutes)))) == to_micros(moment)


@given(MOMENTS, STEPS)
def test_numbers_of_a_sequence_only_grow_whatever_the_clock_does(moment: datetime, steps: list[int]):
    clock = StandingClock(moment)
    sequence = Sequence(clock)
    numbers = [sequence.next()]
    for step in steps:
        clock.moment += timedelta(microseconds=step)
        numbers.append(sequence.next())
        assert numbers[-1] > numbers[-2]
        # Never behind the clock, so that a number that another process makes later is not smaller for long.
        assert numbers[-1] >= to_micros(clock.now())
    # Ahead of the highest time seen only by as many as shared it.
    assert numbers[-1] <= max(to_micros(clock.moment), numbers[0] + sum(max(step, 0) for step in steps)) + len(numbers)


def test_numbers_fit_a_double_of_javascript():
    assert Sequence(StandingClock(datetime(2254, 12, 31, tzinfo=UTC))).next() < 2**53
