"""Signals as candles close."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.core.candles import Timeframe
from app.signals.at_close import EVERY, NAME, SignalsAtClose
from tests.signals.generated.kit import Desk, days, walk

M15, H1, D1, W1 = Timeframe.M15, Timeframe.H1, Timeframe.D1, Timeframe.W1


class Run:
    """Fills the port `scheduler.Run`."""

    id, job = "1", NAME

    def __init__(self, due: datetime | None) -> None:
        self.due = due
        self.arguments: Mapping[str, Any] = {}
        self.told: list[tuple[int, int | None]] = []

    async def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        assert note
        self.told.append((done, total))


def at_close(desk: Desk, *symbols: str, timeframes: tuple[Timeframe, ...] = (M15, H1, D1)) -> SignalsAtClose:
    return SignalsAtClose(
        generator=desk.generator,
        analyses=desk.analyses,
        followed=lambda: symbols,
        calendar=desk.calendar,
        clock=desk.clock,
        timeframes=timeframes,
        pause=0.01,
    )


def utc(day: int, hour: int, minute: int) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("slot", "closing"),
    [
        (utc(20, 3, 45), {}),
        (utc(20, 3, 50), {}),
        (utc(20, 4, 0), {M15: utc(20, 3, 45)}),
        (utc(20, 4, 5), {}),
        (utc(20, 4, 45), {M15: utc(20, 4, 30), H1: utc(20, 3, 45)}),
        # The last hour of a session has a quarter.
        (
            utc(20, 10, 0),
            {M15: utc(20, 9, 45), H1: utc(20, 9, 45), D1: utc(20, 3, 45), W1: utc(16, 3, 45)},
        ),
        (utc(19, 10, 0), {M15: utc(19, 9, 45), H1: utc(19, 9, 45), D1: utc(19, 3, 45)}),
        (utc(20, 10, 5), {}),
        (utc(21, 10, 0), {}),  # a Saturday
        (utc(24, 10, 0), {}),  # Guru Nanak Jayanti
    ],
)
def test_what_closes_when(desk: Desk, slot: datetime, closing: dict[Timeframe, datetime]):
    made = at_close(desk, timeframes=(M15, H1, D1, W1))
    found = made.closing(slot)
    assert found == closing
    skip = made.job().skip
    assert skip is not None
    assert skip(slot) is not bool(closing or made.again(slot))


@pytest.mark.parametrize(
    ("slot", "again"),
    [
        (utc(20, 3, 55), {}),
        (utc(20, 4, 5), {M15: utc(20, 3, 45)}),
        (utc(20, 5, 0), {M15: utc(20, 4, 30), H1: utc(20, 3, 45)}),
        (utc(20, 10, 0), {M15: utc(20, 9, 30), H1: utc(20, 8, 45)}),
        (utc(20, 10, 5), {M15: utc(20, 9, 45), H1: utc(20, 9, 45), D1: utc(20, 3, 45), W1: utc(16, 3, 45)}),
        (utc(20, 10, 10), {}),
        (utc(20, 10, 35), {M15: utc(20, 9, 45), H1: utc(20, 9, 45), D1: utc(20, 3, 45), W1: utc(16, 3, 45)}),
        (utc(20, 10, 40), {}),
        (utc(20, 12, 0), {D1: utc(20, 3, 45), W1: utc(16, 3, 45)}),
        (utc(20, 15, 0), {D1: utc(20, 3, 45), W1: utc(16, 3, 45)}),
        (utc(20, 15, 5), {}),
    ],
)
def test_what_is_looked_for_again(desk: Desk, slot: datetime, again: dict[Timeframe, datetime]):
    made = at_close(desk, timeframes=(M15, H1, D1, W1))
    assert made.again(slot) == again
    skip = made.job().skip
    assert skip is not None
    assert skip(slot) is not bool(again or made.closing(slot))


def test_every_candle_of_a_day_is_met_once(desk: Desk):
    made, found = at_close(desk, timeframes=(Timeframe.M5, M15, H1, D1)), []
    slot = utc(20, 0, 0)
    while slot < utc(21, 0, 0):
        found += list(made.closing(slot).items())
        slot += EVERY
    assert len(found) == len(set(found)) == 75 + 25 + 7 + 1


async def test_signals_of_all_that_is_followed(desk: Desk):
    starts = days(400, utc(20, 3, 45))
    for place, name in enumerate(("TCS.NS", "^NSEI", "INFY.NS")):
        desk.prices.rows[name, "1D"] = walk(starts, seed=place)
    made = at_close(desk, "TCS", "NIFTY50", "NOSUCH", "INFY", timeframes=(D1,))
    run = Run(utc(20, 10, 0))
    told = await made.work(run)
    assert told["new"] == len(desk.events) == await desk.stored() == 3
    assert (told["failed"], told["reasons"]) == (1, {"NOSUCH 1D": "There is no NOSUCH."})
    assert run.told[-1] == (4, 4)
    again = await made.work(Run(utc(20, 10, 0)))
    assert (again["new"], again["known"]) == (0, 3)
    assert len(desk.events) == 3


async def test_a_candle_that_comes_late_is_waited_for(desk: Desk):
    whole = walk(days(400, utc(20, 3, 45)))
    desk.prices.rows["TCS.NS", "1D"] = whole[:-1]
    made = at_close(desk, "TCS", timeframes=(D1,))
    asked = desk.prices.candles

    async def slowly(symbol: str, timeframe: str, bars: int) -> Any:
        if len(desk.prices.asked) == 2:
            desk.prices.rows["TCS.NS", "1D"] = whole
        return await asked(symbol, timeframe, bars)

    desk.prices.candles = slowly  # type: ignore[method-assign]  # the provider, not what is tested
    told = await made.work(Run(utc(20, 10, 0)))
    assert told["new"] == 1
    assert len(desk.prices.asked) == 3
    (stored,) = await desk.ask("GET", "/api/signals/TCS")
    assert datetime.fromisoformat(stored["candle_start"]) == whole[-1][0]


async def test_a_candle_that_does_not_come_makes_no_signal(desk: Desk):
    desk.prices.rows["TCS.NS", "1D"] = walk(days(400, utc(19, 3, 45)))
    told = await at_close(desk, "TCS", timeframes=(D1,)).work(Run(utc(20, 10, 0)))
    assert (told["late"], told["new"]) == (1, 0)
    assert not desk.events


async def test_what_the_provider_did_not_have_at_the_close_is_made_later(desk: Desk):
    """A day's candle counts as over half an hour after the close at the latest: long after the first look."""
    whole = walk(days(400, utc(20, 3, 45)))
    desk.prices.rows["TCS.NS", "1D"], desk.prices.rows["INFY.NS", "1D"] = whole[:-1], whole
    made = at_close(desk, "TCS", "INFY", "WIPRO", timeframes=(D1,))
    told = await made.work(Run(utc(20, 10, 0)))
    assert (told["new"], told["late"], told["failed"]) == (1, 1, 1)
    told = await made.work(Run(utc(20, 10, 5)))
    assert (told["new"], told["known"], told["late"], told["failed"]) == (0, 0, 1, 1)
    desk.prices.rows["TCS.NS", "1D"] = desk.prices.rows["WIPRO.NS", "1D"] = whole
    told = await made.work(Run(utc(20, 10, 35)))
    assert (told["new"], told["known"], told["late"], told["failed"]) == (2, 0, 0, 0)
    desk.prices.asked.clear()
    assert (await made.work(Run(utc(20, 10, 35))))["new"] == 0
    assert not desk.prices.asked
    # Another process, or the same after a restart, finds them stored.
    told = await at_close(desk, "TCS", "INFY", "WIPRO", timeframes=(D1,)).work(Run(utc(20, 10, 35)))
    assert (told["new"], told["known"]) == (0, 3)


async def test_a_weeks_candle_is_waited_for_like_any_other(desk: Desk):
    mondays = [utc(16, 3, 45) - timedelta(days=7 * back) for back in range(300)][::-1]
    whole = walk(mondays)
    desk.prices.rows["TCS.NS", "1W"] = whole[:-1]
    made = at_close(desk, "TCS", timeframes=(W1,))
    assert (await made.work(Run(utc(20, 10, 0))))["late"] == 1
    desk.prices.rows["TCS.NS", "1W"] = whole
    assert (await made.work(Run(utc(20, 10, 15))))["new"] == 1


async def test_asked_for_by_hand_it_takes_the_newest_candles(desk: Desk):
    desk.prices.rows["TCS.NS", "1D"] = walk(days(400, utc(12, 3, 45)))
    told = await at_close(desk, "TCS", timeframes=(D1,)).work(Run(None))
    assert told["new"] == 1


def test_the_job_has_time_for_what_is_late(desk: Desk):
    job = at_close(desk).job()
    assert (job.name, job.every) == (NAME, EVERY)
    assert job.timeout >= timedelta(minutes=5)
