"""Which ticks are rejected, which are marked."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.market_data.checks import IN_FUTURE, PRICE, REBASE_AFTER, TOO_OLD, Checks
from app.market_data.counters import Counters
from app.market_data.ports import Quality, Tick
from app.market_data.rows import RowMaker, encode
from tests.market_data.pipeline.kit import NIFTY, OPEN_MS, OPTION, tick

DAY_MS = 86_400_000
I64 = st.integers(-(2**63), 2**63 - 1)


def day_tick(**more: Any) -> Tick:
    figures = {"open": 2_390_000, "high": 2_420_000, "low": 2_380_000, "close": 2_395_000, "has_day": True}
    return tick(**{**figures, **more})


def quality_of(one: Tick, checks: Checks | None = None) -> Quality:
    assert (checks or Checks(Counters())).judge(one) is None
    return one.quality


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (tick(price=0), PRICE),
        (tick(price=-5), PRICE),
        (tick(price=100_000_000_001), PRICE),
        (tick(price=100_000_000_000), None),
        (tick(price=1), None),
        (tick(price=100_000_000_001, divisor=10_000_000), None),
        (tick(ms=1_577_836_799_999), TOO_OLD),
        (tick(ms=1_577_836_800_000), None),
        (tick(arrival_ms=OPEN_MS - 60_001), IN_FUTURE),
        (tick(arrival_ms=OPEN_MS - 60_000), None),
        (tick(ms=0), TOO_OLD),
        (tick(ms=2**63 - 1, arrival_ms=OPEN_MS), IN_FUTURE),
    ],
)
def test_what_cannot_be_right_is_rejected_with_its_reason(one: Tick, reason: str | None) -> None:
    assert Checks(Counters()).judge(one) == reason


@pytest.mark.parametrize(
    ("one", "quality"),
    [
        (day_tick(), Quality.GOOD),
        (tick(), Quality.GOOD),
        (tick(arrival_ms=OPEN_MS + 15_000), Quality.GOOD),
        (tick(arrival_ms=OPEN_MS + 15_001), Quality.STALE),
        (day_tick(price=2_379_999), Quality.SUSPECT),
        (day_tick(price=2_380_000), Quality.GOOD),
        (day_tick(price=2_420_001), Quality.SUSPECT),
        (day_tick(upper_circuit=2_399_999), Quality.SUSPECT),
        (day_tick(lower_circuit=2_400_001), Quality.SUSPECT),
        (day_tick(lower_circuit=2_400_000, upper_circuit=2_400_000), Quality.GOOD),
        (day_tick(open=0, high=0, low=0), Quality.GOOD),
        (day_tick(price=2_420_001, arrival_ms=OPEN_MS + 60_000), Quality.SUSPECT),
    ],
)
def test_quality_by_the_tick_itself(one: Tick, quality: Quality) -> None:
    assert quality_of(one) is quality


@pytest.mark.parametrize(("price", "quality"), [(2_880_000, "good"), (2_880_100, "suspect"), (1_919_900, "suspect")])
def test_a_jump_from_the_last_good_price(price: int, quality: str) -> None:
    checks = Checks(Counters())
    quality_of(tick(), checks)
    assert quality_of(tick(ms=OPEN_MS + 1000, price=price), checks) == quality
    assert quality_of(tick(ms=OPEN_MS + 2000), checks) is Quality.GOOD, "the reference is the last good one"


def test_a_jump_is_also_what_the_symbol_never_does() -> None:
    checks = Checks(Counters())
    for step in range(150):
        quality_of(tick(ms=OPEN_MS + step, price=2_400_000 + step % 2 * 240), checks)
    assert quality_of(tick(ms=OPEN_MS + 200, price=2_423_000), checks) is Quality.GOOD, "under the least that counts"
    for step in range(201, 400):
        quality_of(tick(ms=OPEN_MS + step, price=2_423_000), checks)
    assert quality_of(tick(ms=OPEN_MS + 400, price=2_460_000), checks) is Quality.SUSPECT


def test_a_price_that_stays_is_believed() -> None:
    checks = Checks(Counters())
    quality_of(tick(), checks)
    found = [quality_of(tick(ms=OPEN_MS + n, price=3_000_000 + n), checks) for n in range(1, REBASE_AFTER + 2)]
    assert found == [Quality.SUSPECT] * REBASE_AFTER + [Quality.GOOD]


def test_wild_prices_are_not_believed_however_many_they_are() -> None:
    checks = Checks(Counters())
    quality_of(tick(), checks)
    wild = [quality_of(tick(ms=OPEN_MS + n, price=3_000_000 * (1 + n % 3)), checks) for n in range(1, 30)]
    assert set(wild) == {Quality.SUSPECT}
    assert quality_of(tick(ms=OPEN_MS + 40), checks) is Quality.GOOD


def test_premiums_of_options_move_by_multiples() -> None:
    checks = Checks(Counters())
    quality_of(tick(OPTION, price=1_000), checks)
    assert quality_of(tick(OPTION, ms=OPEN_MS + 1, price=2_500), checks) is Quality.GOOD
    assert quality_of(tick(OPTION, ms=OPEN_MS + 2, price=9_000), checks) is Quality.SUSPECT


def test_a_new_day_is_compared_with_the_close_that_the_exchange_names() -> None:
    split = {"open": 0, "high": 0, "low": 0, "close": 1_200_000, "has_day": True, "price": 1_190_000}
    checks = Checks(Counters())
    quality_of(tick(), checks)
    assert quality_of(tick(ms=OPEN_MS + 1000, **split), checks) is Quality.SUSPECT
    assert quality_of(tick(ms=OPEN_MS + 3 * DAY_MS, **split), checks) is Quality.GOOD


def test_the_day_s_volume_never_goes_back_but_overnight() -> None:
    checks = Checks(Counters())
    assert quality_of(day_tick(volume=500), checks) is Quality.GOOD
    assert quality_of(day_tick(ms=OPEN_MS + 1, volume=499), checks) is Quality.SUSPECT
    assert quality_of(day_tick(ms=OPEN_MS - 1, volume=498), checks) is Quality.GOOD, "it is an older tick"
    assert quality_of(day_tick(ms=OPEN_MS + 2, volume=500), checks) is Quality.GOOD
    assert quality_of(day_tick(ms=OPEN_MS + 3 * DAY_MS, volume=3), checks) is Quality.GOOD


def test_nonsense_beside_the_price_is_left_out() -> None:
    counters = Counters()
    one = day_tick(
        total_buy_quantity=math.nan, total_sell_quantity=math.inf, volume=-1, year_low=-7, open_interest=2**62
    )
    assert quality_of(one, Checks(counters)) is Quality.GOOD
    assert (one.total_buy_quantity, one.total_sell_quantity, one.volume, one.year_low) == (0, 0, 0, 0)
    assert one.open_interest == 0
    assert counters.dropped_fields == 5


@settings(max_examples=150)
@given(
    st.lists(
        st.builds(
            Tick,
            instrument=st.just(NIFTY),
            exchange_ms=st.integers(OPEN_MS - 10**6, OPEN_MS + 10**6) | I64,
            arrival_ms=st.just(OPEN_MS),
            price=st.integers(1, 10**7) | I64,
            digest=I64,
            open=I64,
            high=I64,
            low=I64,
            close=I64,
            volume=I64,
            last_quantity=I64,
            average_price=I64,
            total_buy_quantity=st.floats(),
            total_sell_quantity=st.floats(),
            open_interest=I64,
            upper_circuit=I64,
            lower_circuit=I64,
            year_high=I64,
            year_low=I64,
            sequence=I64,
            has_day=st.booleans(),
        ),
        max_size=8,
    )
)
def test_whatever_comes_is_rejected_or_can_be_stored(ticks: list[Tick]) -> None:
    checks, maker = Checks(Counters()), RowMaker()
    for one in ticks:
        if checks.judge(one) is None:
            one.received_ms = one.exchange_ms
            row = maker.make(one)
            assert encode(row).received_ms == one.received_ms
            numbers = [value for part in (row, row["raw_data"]) for value in part.values() if isinstance(value, float)]
            assert all(math.isfinite(number) for number in numbers)
            assert all(row.get(name, 1) > 0 for name in ("ltpc", "high", "low", "open", "close"))
