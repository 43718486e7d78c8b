"""Candles from ticks in any order, at any length, corrected by what comes late."""

from datetime import date
from decimal import Decimal
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.market_data.candles import FORMING_MOST, KEEP_MS, SUSPECTS_MOST, CandleBuilder, CandleRow
from app.market_data.ports import Bar, Gap, Instrument, Quality, Tick, Timeframe
from app.market_data.rows import from_ms
from tests.market_data.candle_ticks import (
    NEVER,
    NIFTY,
    SHARE,
    at,
    calendar,
    figures,
    finished,
    naive,
    tick,
)

CALENDAR = calendar()
OPEN, CLOSE = at("09:15"), at("15:30")
M1, M3, M5, H1, D1 = Timeframe.M1, Timeframe.M3, Timeframe.M5, Timeframe.H1, Timeframe.D1

# A day of ticks: when (crowded, so that minutes have several), at which price, how much was traded with it.
DAYS = st.lists(
    st.tuples(
        st.one_of(st.integers(OPEN - 90_000, OPEN + 600_000), st.integers(OPEN, CLOSE + 60_000)),
        st.integers(1, 10**7),
        st.integers(0, 1_000),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda row: row[0],
)


def day_of(rows: list[tuple[int, int, int]]) -> list[Tick]:
    """Ticks in the order of their time, with the volume of the day so far."""
    ticks, volume = [], 7_000
    for ms, price, quantity in sorted(rows):
        volume += quantity
        ticks.append(tick(ms, price, volume, last_quantity=quantity))
    return ticks


def built(*ticks: Tick) -> CandleBuilder:
    builder = CandleBuilder(CALENDAR)
    for one in ticks:
        builder.accept(one)
    return builder


@settings(max_examples=150, deadline=None)
@given(rows=DAYS, order=st.randoms(use_true_random=False))
def test_any_order_of_ticks_makes_the_same_candles(rows: list[tuple[int, int, int]], order: Random):
    ticks = day_of(rows)
    expected = naive(ticks, CALENDAR)
    order.shuffle(ticks)

    made = finished(built(*ticks))

    assert {key: figures(row) for key, row in made.items()} == expected
    assert all(row.closed and row.source == "ticks" for row in made.values())


@settings(max_examples=100, deadline=None)
@given(
    rows=DAYS,
    order=st.randoms(use_true_random=False),
    looks=st.lists(st.tuples(st.integers(0, 60), st.integers(OPEN, CLOSE + 3 * KEEP_MS)), max_size=6),
)
def test_looking_writing_and_forgetting_change_nothing(
    rows: list[tuple[int, int, int]], order: Random, looks: list[tuple[int, int]]
):
    """With a store beside it: what was written, evicted, and joined with what came late, is the same in the end.

    Except for volume: a late tick for a minute long forgotten moves some of it between neighbours.
    """
    ticks = day_of(rows)
    expected = naive(ticks, CALENDAR)
    order.shuffle(ticks)
    builder, stored = CandleBuilder(CALENDAR), {}
    moments = sorted((index, ms) for index, ms in looks)

    def write(written: list[CandleRow]) -> None:
        for row in written:
            assert row.revision >= stored.get(row.id, {"revision": 0})["revision"]
            stored[row.id] = row.document()

    def settle() -> None:
        asked = builder.unknown()
        builder.restore([stored[key] for key in asked if key in stored], asked)

    for index, one in enumerate(ticks):
        builder.accept(one)
        for _, ms in (moment for moment in moments if moment[0] == index):
            settle()
            builder.live(ms)
            write(builder.due(ms))
    settle()
    write(builder.due(NEVER))

    seen = {
        (Timeframe(row["timeframe"]), row["start"]): tuple(
            row[name] for name in ("open", "high", "low", "close", "ticks")
        )
        for row in stored.values()
    }
    assert seen == {(key[0], from_ms(key[1])): (*row[:4], row[5]) for key, row in expected.items()}


@settings(max_examples=60, deadline=None)
@given(rows=DAYS, cut=st.integers(0, 60))
def test_it_goes_on_after_a_restart(rows: list[tuple[int, int, int]], cut: int):
    ticks = day_of(rows)
    first = built(*ticks[:cut])
    first.restore([], first.unknown())
    stored = {row.id: row.document() for row in first.remaining(0)}
    second = CandleBuilder(CALENDAR)
    second.restore(stored.values())
    for one in ticks[cut:]:
        second.accept(one)
    asked = second.unknown()
    second.restore([stored[key] for key in asked if key in stored], asked)
    second_rows = {row.id: row.document() for row in second.due(NEVER)}

    made = {**stored, **second_rows}
    assert {key: row["close"] for key, row in made.items()} == {
        f"SBIN-EQ|{key[0]}|{key[1]}": row[3] for key, row in naive(ticks, CALENDAR).items()
    }
    assert {key: (row["volume"], row["ticks"]) for key, row in made.items()} == {
        f"SBIN-EQ|{key[0]}|{key[1]}": row[4:] for key, row in naive(ticks, CALENDAR).items()
    }


@settings(max_examples=60, deadline=None)
@given(rows=DAYS, order=st.randoms(use_true_random=False))
def test_longer_candles_are_the_sum_of_their_minutes(rows: list[tuple[int, int, int]], order: Random):
    ticks = day_of(rows)
    order.shuffle(ticks)
    made = finished(built(*ticks))
    minutes = [row for row in made.values() if row.timeframe is M1]

    for row in made.values():
        parts = sorted(
            (part for part in minutes if row.start_ms <= part.start_ms < row.end_ms), key=lambda part: part.start_ms
        )
        assert figures(row) == (
            parts[0].open,
            max(part.high for part in parts),
            min(part.low for part in parts),
            parts[-1].close,
            sum(part.volume for part in parts),
            sum(part.ticks for part in parts),
        )


def test_hours_begin_at_the_open_and_end_with_the_session():
    made = finished(built(*(tick(at(wall), 100_00) for wall in ("09:15", "10:14:59", "10:15", "15:29:59.999"))))

    assert sorted((row.start_ms, row.end_ms) for row in made.values() if row.timeframe is H1) == [
        (at("09:15"), at("10:15")),
        (at("10:15"), at("11:15")),
        (at("15:15"), at("15:30")),
    ]
    [day] = [row for row in made.values() if row.timeframe is D1]
    assert (day.start_ms, day.end_ms, day.ticks) == (OPEN, CLOSE, 4)


@pytest.mark.parametrize("ms", [at("09:14:59.999"), at("15:30"), at("12:00", date(2026, 11, 21)), 0, -5, 1 << 62])
def test_outside_of_sessions_there_are_no_candles(ms: int):
    assert finished(built(tick(ms, 100_00))) == {}


def test_a_tick_whose_time_was_moved_out_of_the_session_belongs_to_its_last_minute():
    late = tick(at("15:29:59.999"), 100_00)
    late.received_ms += 1  # made unique

    assert {row.start_ms for key, row in finished(built(late)).items() if key[0] is M1} == {at("15:29")}


def rows_by(builder: CandleBuilder, now: str) -> dict[Timeframe, CandleRow]:
    builder.restore([], builder.unknown())
    return {row.timeframe: row for row in builder.due(at(now))}


def test_forming_candles_are_written_now_and_then_and_closed_ones_always():
    builder = built(tick(at("10:00:01"), 100_00))

    assert not rows_by(builder, "10:00:02")[M1].closed
    builder.accept(tick(at("10:00:03"), 101_00))
    assert rows_by(builder, "10:00:04") == {}
    builder.accept(tick(at("10:00:58"), 99_00))
    closed = rows_by(builder, "10:01:01")
    assert (closed[M1].closed, closed[M1].low, closed[M1].close) == (True, 99, 99)
    assert not closed[M3].closed
    assert rows_by(builder, "10:01:30") == {}  # nothing new


def test_many_forming_candles_take_turns_and_do_not_hold_up_closed_ones():
    builder = CandleBuilder(CALENDAR)
    symbols = [type(SHARE)(f"S{number}", str(number), "NSE", 1) for number in range(40)]
    for instrument in symbols:
        builder.accept(tick(at("10:00:10"), 100_00, instrument=instrument))
    builder.restore([], builder.unknown())
    first = builder.due(at("10:00:20"))
    second = builder.due(at("10:00:21"))

    assert len(first) == FORMING_MOST
    third = builder.due(at("10:00:22"))
    assert len({row.id for row in first + second + third}) == 40 * len(Timeframe) == len(first + second + third)
    for instrument in symbols:
        builder.accept(tick(at("10:00:50"), 100_00, instrument=instrument))
    closing = builder.due(at("10:01:05"))
    assert [row.closed for row in closing] == [True] * 40 + [False] * FORMING_MOST


def test_a_late_tick_corrects_closed_candles_and_says_so():
    builder = built(tick(at("10:00:30"), 100_00, 500), tick(at("10:01:30"), 101_00, 900))
    before = rows_by(builder, "10:05:05")
    assert before[M5].closed
    builder.accept(tick(at("10:00:45"), 150_00, 600))

    corrected = {(row.timeframe, row.start_ms): row for row in builder.due(at("10:05:06"))}
    minute, next_minute = corrected[M1, at("10:00")], corrected[M1, at("10:01")]
    assert (minute.high, minute.close, minute.ticks, minute.volume, minute.revision) == (150, 150, 2, 100, 1)
    assert (next_minute.volume, next_minute.revision) == (300, 1)
    five = corrected[M5, at("10:00")]
    assert (five.high, five.close, five.ticks, five.volume, five.revision) == (150, 101, 3, 400, 1)
    day = {row.timeframe: row for row in builder.due(at("10:05:11"))}[D1]
    assert (day.high, day.revision) == (150, 0)  # it was not closed


def test_those_who_watch_see_each_change_once():
    builder = built(tick(at("10:00:01"), 100_00), tick(at("10:00:01"), 5_000_00, instrument=NIFTY))
    builder.restore([], builder.unknown())

    assert len(builder.live(at("10:00:02"))) == 2 * len(Timeframe)
    assert builder.live(at("10:00:02")) == []
    builder.accept(tick(at("10:00:03"), 102_00))
    [only] = builder.live(at("10:00:03"), lambda symbol, timeframe: (symbol, timeframe) == (SHARE.symbol, M1))
    assert (only.close, only.closed) == (102, False)
    [closed] = [row for row in builder.live(at("10:01:01")) if row.symbol == SHARE.symbol]
    assert closed.closed


# Volume


def volumes(*ticks: Tick) -> list[int]:
    made = finished(built(*ticks))
    return [row.volume for _, row in sorted(made.items(), key=lambda item: item[1].start_ms) if row.timeframe is M1]


def test_the_first_minute_of_a_session_has_all_that_was_traded_before():
    assert volumes(tick(at("09:15:20"), 1, 900), tick(at("09:16:20"), 1, 1_000)) == [900, 100]


def test_who_begins_in_the_middle_of_the_day_counts_from_there():
    first = tick(at("11:00:20"), 1, 1_000_000, last_quantity=50)

    assert volumes(first, tick(at("11:00:40"), 1, 1_000_200), tick(at("11:01"), 1, 1_000_300)) == [250, 100]


def test_a_count_that_begins_anew_loses_nothing():
    before, after = tick(at("09:15:20"), 1, 5_000), tick(at("09:16:50"), 1, 60)

    assert volumes(before, tick(at("09:16:10"), 1, 5_200), after, tick(at("09:17"), 1, 100)) == [5_000, 260, 40]
    assert volumes(before, after, tick(at("09:17"), 1, 100)) == [5_000, 60, 40]


def test_a_correction_is_no_new_beginning():
    ticks = [tick(at(f"09:{15 + n}"), 1, volume) for n, volume in enumerate([5_000, 5_200, 5_190, 5_300])]

    assert volumes(*ticks) == [5_000, 200, 0, 110]


def test_a_suspect_tick_does_not_count_volume():
    wrong = tick(at("09:16:10"), 1, 9_999_999, quality=Quality.SUSPECT)

    assert volumes(tick(at("09:15:20"), 1, 5_000), wrong, tick(at("09:17"), 1, 5_100)) == [5_000, 100]
    others = tick(at("09:15:20"), 1, 5_000), tick(at("09:16:20"), 1, 5_020)
    assert volumes(others[0], wrong, others[1], tick(at("09:17"), 1, 5_100)) == [5_000, 20, 80]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_suspect_price_is_in_no_candle_but_counts(place: int):
    """Wherever it comes: first of all, first of its minute, in the middle, last."""
    ticks = [tick(at(f"09:16:{second}"), price) for second, price in ((10, 100_00), (20, 103_00), (30, 101_00))]
    ticks.insert(place, tick(at(f"09:16:{5 + 10 * place:02}"), 1, quality=Quality.SUSPECT))
    builder = CandleBuilder(calendar())
    for one in ticks:
        builder.accept(one)
        builder.live(one.received_ms)  # what is longer follows at once

    found = {row[:4] + row[5:] for row in map(figures, finished(builder).values())}
    assert found == {(100, 103, 100, 101, 4)}


def test_a_minute_of_suspect_ticks_alone_is_none():
    builder = CandleBuilder(calendar())
    builder.accept(tick(at("09:15:10"), 100_00))
    builder.accept(tick(at("09:16:10"), 1, quality=Quality.SUSPECT))
    builder.restore([], builder.unknown())
    assert {row.low for row in builder.live(NEVER)} == {100}
    assert (Timeframe.M1, at("09:16")) not in finished(builder)
    # The provider's history fills it.
    gap = Gap(SHARE, at("09:15:30"), at("09:18"))
    assert builder.backfill(SHARE, [minute("09:16", (100, 110, 90, 105), 300)], gap) == 1
    filled = finished(builder)[Timeframe.M1, at("09:16")]
    assert (filled.low, filled.source) == (90, "backfill")


def test_where_nothing_but_suspect_ticks_come_they_are_taken():
    def low(instrument: Instrument, count: int) -> float | None:
        builder = CandleBuilder(calendar())
        for number in range(count):
            builder.accept(tick(at("09:16:10") + number, 99_00, instrument=instrument, quality=Quality.SUSPECT))
        row = finished(builder).get((Timeframe.D1, at("09:15")))
        return row and row.low

    assert low(SHARE, SUSPECTS_MOST) is None
    assert low(SHARE, SUSPECTS_MOST + 1) == 99
    # What another instrument's token brings is suspect as a whole.
    assert low(msgspec.structs.replace(SHARE, doubtful=True), 1) == 99


def test_ticks_without_volume_have_none():
    assert volumes(tick(at("09:15:20"), 1), tick(at("10:16:10"), 1)) == [0, 0]


# The provider's history


def minute(wall: str, prices: tuple[int, int, int, int], volume: int) -> Bar:
    return Bar(from_ms(at(wall)), *(Decimal(price) for price in prices), volume)


def test_a_gap_is_filled_and_what_we_have_ourselves_is_kept():
    builder = built(
        tick(at("09:15:10"), 100_00, 1_000),
        tick(at("09:16:10"), 101_00, 1_200),  # the feed dies at 09:16:30 …
        tick(at("09:19:20"), 105_00, 2_000),  # … and is back at 09:19:10
        tick(at("09:20:20"), 104_00, 2_050),
    )
    builder.restore([], builder.unknown())
    assert {row.start_ms: row.volume for row in builder.due(at("09:21:05")) if row.timeframe is M1} == {
        at("09:15"): 1_000,
        at("09:16"): 200,
        at("09:19"): 800,
        at("09:20"): 50,
    }
    gap = Gap(SHARE, at("09:16:30"), at("09:19:10"))
    history = [
        minute("09:15", (1, 500, 1, 1), 1),  # not in the gap: ours is better
        minute("09:16", (100, 103, 99, 102), 300),
        minute("09:17", (102, 109, 102, 107), 400),
        minute("09:18", (107, 107, 104, 104), 100),
        minute("09:19", (104, 106, 103, 106), 200),
    ]

    assert builder.backfill(SHARE, history, gap) == 4
    made = {row.start_ms: row for row in builder.due(at("09:25:02")) if row.timeframe is M1}
    assert {ms: (row.source, *figures(row)) for ms, row in made.items()} == {
        at("09:16"): ("mixed", 101, 103, 99, 102, 300, 1),
        at("09:17"): ("backfill", 102, 109, 102, 107, 400, 0),
        at("09:18"): ("backfill", 107, 107, 104, 104, 100, 0),
        at("09:19"): ("mixed", 104, 106, 103, 105, 200, 1),
    }
    assert builder.backfill(SHARE, history, gap) == 0  # again: nothing new


def test_longer_candles_have_what_was_filled_in():
    builder = built(tick(at("09:15:10"), 100_00, 1_000), tick(at("09:18:20"), 105_00, 2_000))
    builder.backfill(
        SHARE,
        [minute("09:16", (100, 120, 90, 110), 300), minute("09:17", (110, 110, 110, 110), 500)],
        Gap(SHARE, at("09:15:30"), at("09:18")),
    )

    made = finished(builder)
    five = made[M5, OPEN]
    assert (five.source, *figures(five)) == ("mixed", 100, 120, 90, 105, 2_000, 2)
    assert made[M1, at("09:18")].volume == 200  # of the 1,000 since 09:15, the history has 800 in the minutes missed
    assert made[D1, OPEN].volume == 2_000


@pytest.mark.parametrize(
    "nonsense",
    [
        minute("09:16", (100, 90, 95, 92), 1),
        minute("09:16", (0, 1, 0, 1), 1),
        minute("09:14", (1, 1, 1, 1), 1),
        minute("09:16:30", (1, 1, 1, 1), 1),
    ],
)
def test_nonsense_in_the_history_is_left_out(nonsense: Bar):
    builder = CandleBuilder(CALENDAR)

    assert builder.backfill(SHARE, [nonsense], Gap(SHARE, at("09:00"), at("10:00"))) == 0
    assert finished(builder) == {}


def test_a_tick_that_comes_after_all_is_added_to_a_filled_minute():
    builder = CandleBuilder(CALENDAR)
    builder.backfill(SHARE, [minute("09:16", (100, 110, 90, 105), 300)], Gap(SHARE, at("09:15"), at("09:20")))
    builder.accept(tick(at("09:16:30"), 111_00))

    row = finished(builder)[M1, at("09:16")]
    assert (row.source, *figures(row)) == ("mixed", 100, 111, 90, 105, 300, 1)


def test_a_session_is_rolled_up_anew_from_its_minutes():
    whole = built(*(tick(at(f"{9 + n // 60:02}:{n % 60:02}"), 100_00 + n, n * 10) for n in range(15, 200)))
    rows = {row.id: row.document() for row in finished(whole).values()}
    damaged = {**rows, f"{SHARE.symbol}|1d|{OPEN}": {**rows[f"{SHARE.symbol}|1d|{OPEN}"], "high": 1.0, "revision": 4}}
    builder = CandleBuilder(CALENDAR)
    builder.accept(tick(at("12:21"), 999_00, 9_999))  # it goes on meanwhile

    builder.rebuild([row for row in rows.values() if row["timeframe"] == "1m"])
    asked = builder.unknown()
    builder.restore([damaged[key] for key in asked if key in damaged], asked)
    written = {(row.timeframe, row.start_ms): row for row in builder.due(at("15:31"))}

    assert (written[D1, OPEN].high, written[D1, OPEN].revision) == (999, 5)
    # What is as it was is not written again: an hour of the forenoon, say.
    assert (H1, at("09:15")) not in written
    assert written[H1, at("12:15")].ticks == rows[f"{SHARE.symbol}|1h|{at('12:15')}"]["ticks"] + 1


def test_memory_holds_what_is_recent():
    builder = CandleBuilder(CALENDAR)
    for n in range(300):
        now = OPEN + n * 60_000
        builder.accept(tick(now + 500, 100_00 + n))
        builder.restore([], builder.unknown())
        builder.due(now + 30_000)

    assert builder.health()["in_memory"] < 60
