"""Which points are kept: properties of the arithmetic."""

from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.crypto.history_slots import BUCKETS, Interval, Kept, floor, slot_of, thinned
from app.crypto.ports import PricePoint
from tests.crypto.portfolio.kit import DAY, HOUR, NOON

MOMENTS = st.integers(0, 60 * 86_400_000).map(lambda ms: NOON - timedelta(milliseconds=ms))
POINTS = st.lists(MOMENTS, unique=True, max_size=60).map(
    lambda moments: [PricePoint(at, Decimal(number + 1), None, None) for number, at in enumerate(moments)]
)
INTERVALS = st.sampled_from(list(Interval))


@given(POINTS, INTERVALS)
def test_of_each_slot_the_earliest_point_stays(points: list[PricePoint], interval: Interval) -> None:
    slots = {(point.at.timestamp() // interval.length.total_seconds()) for point in points}
    expected = [
        min((p for p in points if p.at.timestamp() // interval.length.total_seconds() == slot), key=lambda p: p.at)
        for slot in sorted(slots)
    ]
    assert thinned(points, interval) == expected


@given(POINTS, POINTS, INTERVALS)
def test_thinning_does_not_depend_on_order_or_on_how_often(
    one: list[PricePoint], other: list[PricePoint], interval: Interval
) -> None:
    other = [point for point in other if all(point.at != known.at for known in one)]
    whole = thinned([*one, *other], interval)
    assert thinned([*other, *one], interval) == whole
    assert thinned([*thinned(one, interval), *thinned(other, interval)], interval) == whole
    # A day's point is its first hour's: days can be made of hours.
    assert thinned(thinned([*one, *other], Interval.H1), Interval.D1) == thinned([*one, *other], Interval.D1)


@given(MOMENTS, st.integers(1, 3000), st.none() | MOMENTS)
def test_stretches_follow_one_another_and_never_cut_a_slot(now: datetime, days: int, low: datetime | None) -> None:
    kept = Kept.at(now, days)
    stretches = list(kept.stretches(None, low, now))
    assert [each.interval for each in stretches] == list(Interval)
    assert stretches[0].high == now
    for finer, coarser in pairwise(stretches):
        since = kept.since(finer.interval)
        assert coarser.high < since <= finer.low
        assert since - coarser.high <= timedelta(milliseconds=1) or coarser.high < coarser.low
        assert floor(since, coarser.interval.length) == since, "a slot is on one side of the limit"
    assert kept.daily <= kept.hourly <= kept.fine
    assert now - kept.fine <= max(DAY, HOUR) + HOUR
    assert now - kept.daily <= timedelta(days=days) + DAY


def test_what_is_promised_is_kept() -> None:
    kept = Kept.at(NOON, 365)
    assert kept.fine <= NOON - DAY
    assert kept.hourly <= NOON - 31 * DAY
    assert kept.daily <= NOON - 365 * DAY
    # With a short retention nothing is kept for longer by the other intervals.
    assert Kept.at(NOON, 1).hourly == Kept.at(NOON, 1).daily == NOON - 36 * HOUR


@given(MOMENTS, st.sampled_from(list(BUCKETS)))
def test_buckets_hold_whole_slots(at: datetime, interval: Interval) -> None:
    start = floor(at, BUCKETS[interval])
    assert start <= at < start + BUCKETS[interval]
    assert slot_of(start, interval) * interval.length == start - floor(start, timedelta(days=400_000))
