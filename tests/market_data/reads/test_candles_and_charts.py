"""Candles over HTTP, and their charts: pages, bounds, and an axis without holes."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import pytest

from app.core.figures import Theme
from app.core.market_calendar import DAY, MarketCalendar
from app.market_data.candle_reading import MOST_BARS
from app.market_data.candle_store import STARTS
from app.market_data.charts import ChartBar, candle_chart
from app.market_data.models import DOCUMENTS
from app.market_data.ports import Timeframe
from app.market_data.rows import to_ms
from app.market_data.schemas import Candle, MarketStatus, Statistics
from tests.market_data.reads.conftest import Queries
from tests.market_data.reads.kit import (
    FRIDAY_OPEN,
    SESSION,
    SUNDAY,
    Reads,
    Row,
    SetClock,
    candle_row,
    latest_row,
    tick_row,
)

NIFTY = "NIFTY 50"
CALENDAR = MarketCalendar(SetClock())


def bars_of(first: date, last: date, timeframe: Timeframe, **fields: Any) -> list[Row]:
    length = DAY if timeframe is Timeframe.D1 else timedelta(milliseconds=timeframe.milliseconds)
    windows = [w for session in CALENDAR.sessions(first, last) for w in CALENDAR.bars_of(session, length)]
    return [
        candle_row(NIFTY, timeframe, w.opens, w.closes, 24_000.05 + number % 50, **fields)
        for number, w in enumerate(windows)
    ]


@pytest.fixture(scope="module")
def bars() -> dict[Timeframe, list[Row]]:
    """Candles over two weeks with a holiday (10 November)."""
    first, last = date(2026, 11, 5), date(2026, 11, 20)
    found = {timeframe: bars_of(first, last, timeframe) for timeframe in (Timeframe.M15, Timeframe.H1, Timeframe.D1)}
    found[Timeframe.M1] = bars_of(date(2026, 11, 20), last, Timeframe.M1)
    found[Timeframe.M1][-1] |= {"closed": False, "source": "mixed"}
    return found


@pytest.fixture
async def filled(reads: Reads, bars: dict[Timeframe, list[Row]]) -> Reads:
    if not await reads.db["candles"].find_one({"symbol": NIFTY, "timeframe": "1m", "start": FRIDAY_OPEN}):
        await reads.db["candles"].insert_many([row for rows in bars.values() for row in rows])
    return reads


@pytest.mark.parametrize(("timeframe", "limit"), [("1m", 50), ("15m", 7), ("1H", 1000), ("1d", 3)])
async def test_candles_newest_first_never_twice(
    filled: Reads, bars: dict[Timeframe, list[Row]], timeframe: str, limit: int
) -> None:
    expected = [row["start"] for row in bars[Timeframe(timeframe.lower())]][::-1]
    pages = await filled.pages(f"/candles/{NIFTY}", timeframe=timeframe, limit=limit)
    assert [datetime.fromisoformat(row["start"]) for page in pages for row in page] == expected


async def test_candles_within_a_stretch(filled: Reads, bars: dict[Timeframe, list[Row]]) -> None:
    start, end = FRIDAY_OPEN + timedelta(minutes=10), FRIDAY_OPEN + timedelta(minutes=12)
    found = await filled.get(f"/candles/{NIFTY}", start=start.isoformat(), end=end.isoformat())
    assert [datetime.fromisoformat(row["start"]) for row in found] == [end, end - timedelta(minutes=1), start]
    newest = (await filled.get(f"/candles/{NIFTY}", limit=1))[0]
    assert Candle.model_validate(newest).closed is False
    stored = bars[Timeframe.M1][-1]
    assert {name: newest[name] for name in ("open", "high", "low", "close", "volume")} == {
        name: stored[name] for name in ("open", "high", "low", "close", "volume")
    }
    assert set(newest) == set(Candle.model_fields)


async def test_a_missing_minute_costs_no_look_at_all_that_is_older(filled: Reads, queries: Queries) -> None:
    """The embedded database pays for each row that a query matches: all the rest of the day would be one."""
    hole = {"_id": f"{NIFTY}|1m|{to_ms(FRIDAY_OPEN + timedelta(minutes=360))}"}
    [missing] = await filled.db["candles"].find(hole).to_list()
    await filled.db["candles"].delete_one(hole)
    queries.forget()
    found = await filled.get(f"/candles/{NIFTY}", limit=50)
    await filled.db["candles"].insert_one(missing)

    assert len(found) == 50
    assert min(queries.lows) > FRIDAY_OPEN + timedelta(hours=4)


async def test_where_candles_begin_a_page_ends(filled: Reads, queries: Queries) -> None:
    starts = filled.db[STARTS]
    await starts.insert_one({"_id": "SPARSE", "start": FRIDAY_OPEN})
    queries.forget()
    try:
        assert await filled.get("/candles/SPARSE", limit=50) == []
        assert queries.count["candles"] <= 3
        queries.forget()
        assert await filled.get("/candles/SPARSE", limit=50, start="1990-01-01T00:00:00Z") == []
        assert queries.count["candles"] <= 3
    finally:
        await starts.delete_many({})


async def test_timeframes_are_those_of_the_contract(filled: Reads) -> None:
    problem = await filled.refused(f"/candles/{NIFTY}", 422, timeframe="2m")
    assert problem["errors"][0]["loc"] == ["query", "timeframe"]
    problem = await filled.refused(f"/chart/{NIFTY}", 422, start=SUNDAY.isoformat(), end=FRIDAY_OPEN.isoformat())
    assert "start is after end" in problem["detail"]


async def test_a_chart_is_a_figure_that_plotly_takes(filled: Reads) -> None:
    figure = await filled.get(f"/chart/{NIFTY}", timeframe="15m", start="2026-11-05T00:00:00Z")
    go.Figure(figure)  # raises for what is not in its schema
    candles, volume = figure["data"]
    assert (candles["type"], volume["type"]) == ("candlestick", "bar")
    assert len(candles["x"]) == len(candles["open"]) == len(volume["y"]) == 25 * 11
    assert all(isinstance(price, float) for name in ("open", "high", "low", "close") for price in candles[name])
    assert figure["layout"]["meta"]["theme"] == "dark"
    light = await filled.get(f"/chart/{NIFTY}", timeframe="15m", theme="light")
    assert light["layout"]["meta"]["theme"] == "light"
    assert light["layout"]["paper_bgcolor"] != figure["layout"]["paper_bgcolor"]


@pytest.mark.parametrize(("timeframe", "most"), [("1m", 375), ("15m", 375), ("1d", 250)])
async def test_a_chart_without_a_start_has_the_newest_candles(
    filled: Reads, bars: dict[Timeframe, list[Row]], timeframe: str, most: int
) -> None:
    figure = await filled.get(f"/chart/{NIFTY}", timeframe=timeframe)
    assert figure["layout"]["meta"]["candles"] == min(most, len(bars[Timeframe(timeframe)]))
    assert f"{FRIDAY_OPEN:%Y-%m-%d}" in figure["data"][0]["x"][-1]


async def test_a_chart_as_a_page_needs_nothing_from_elsewhere(filled: Reads) -> None:
    answer = await filled.client.get(f"/api/v1/market-data/chart/{NIFTY}", params={"format": "html", "timeframe": "1d"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "candlestick" in answer.text
    assert "<title>NIFTY 50: 1d</title>" in answer.text


async def test_too_many_candles_name_what_fits(filled: Reads) -> None:
    year = {"start": "2025-11-20T00:00:00Z", "end": "2026-11-20T00:00:00Z"}
    problem = await filled.refused(f"/chart/{NIFTY}", 422, timeframe="1m", **year)
    assert "timeframe=30m" in problem["detail"]
    assert problem["errors"][0]["loc"] == ["query", "timeframe"]
    assert (await filled.get(f"/chart/{NIFTY}", timeframe="30m", **year))["data"] == []
    centuries = {"start": "1990-01-01T00:00:00Z", "end": "2200-01-01T00:00:00Z"}
    assert "ask for less" in (await filled.refused(f"/chart/{NIFTY}", 422, timeframe="1d", **centuries))["detail"]


def test_a_window_reaches_back_so_many_candles_and_no_further(reads: Reads) -> None:
    friday_noon = to_ms(FRIDAY_OPEN + timedelta(hours=3))
    back = reads.candles.back
    assert back(friday_noon, 1, Timeframe.H1) == friday_noon
    assert back(friday_noon, 4, Timeframe.H1) == to_ms(FRIDAY_OPEN)
    assert back(friday_noon, 5, Timeframe.H1) == to_ms(FRIDAY_OPEN - timedelta(days=1) + timedelta(hours=6))
    assert back(to_ms(SUNDAY), 375 * 2, Timeframe.M1) == to_ms(FRIDAY_OPEN - timedelta(days=1))
    # 10 November was a holiday, and the weekend lies between.
    assert back(to_ms(FRIDAY_OPEN), 9, Timeframe.D1) == to_ms(datetime(2026, 11, 9, 3, 45, tzinfo=UTC))
    assert back(to_ms(FRIDAY_OPEN), MOST_BARS, Timeframe.D1) < to_ms(datetime(2008, 1, 1, tzinfo=UTC))


# What the axis leaves out


def drawn(first: date, last: date, timeframe: Timeframe) -> dict[str, Any]:
    rows = bars_of(first, last, timeframe)
    bars = [ChartBar(row["start"], row["open"], row["high"], row["low"], row["close"], 5, "ticks") for row in rows]
    figure = candle_chart(NIFTY, timeframe, bars, list(CALENDAR.sessions(first, last)), theme=Theme.DARK)
    go.Figure(figure)
    return figure


def distances(figure: dict[str, Any]) -> set[timedelta]:
    """Between neighbouring candles, as far as the axis shows time."""
    breaks = [
        tuple(datetime.fromisoformat(end) for end in one["bounds"])
        for one in figure["layout"]["xaxis"].get("rangebreaks", [])
    ]

    def shown(moment: datetime) -> timedelta:
        for start, end in breaks:
            assert not start <= moment < end, "a candle is hidden"
        return moment - breaks_before(moment)

    def breaks_before(moment: datetime) -> Any:
        hidden = sum((end - start for start, end in breaks if end <= moment), timedelta())
        return datetime(2020, 1, 1, tzinfo=UTC) + hidden

    places = [shown(datetime.fromisoformat(x)) for x in figure["data"][0]["x"]]
    return {after - before for before, after in pairwise(places)}


@pytest.mark.parametrize("timeframe", [Timeframe.M5, Timeframe.M30, Timeframe.H1, Timeframe.D1])
@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(2026, 11, 16), date(2026, 11, 20)),  # a week like any other
        (date(2026, 11, 5), date(2026, 11, 16)),  # with a holiday
        (date(2025, 10, 17), date(2025, 10, 24)),  # with Muhurat trading in the afternoon of a holiday
        (date(2026, 1, 29), date(2026, 2, 4)),  # with a budget on a Sunday
    ],
)
def test_candles_stand_side_by_side_whatever_lies_between(timeframe: Timeframe, first: date, last: date) -> None:
    length = DAY if timeframe is Timeframe.D1 else timedelta(milliseconds=timeframe.milliseconds)
    assert distances(drawn(first, last, timeframe)) == {length}


def test_a_candle_outside_of_the_calendar_is_never_hidden() -> None:
    rows = bars_of(date(2026, 11, 19), date(2026, 11, 20), Timeframe.H1)
    night = candle_row(NIFTY, Timeframe.H1, FRIDAY_OPEN - timedelta(hours=8), FRIDAY_OPEN - timedelta(hours=7), 5)
    rows = sorted([*rows, night], key=lambda row: row["start"])
    bars = [ChartBar(row["start"], 1.0, 1.0, 1.0, 1.0, 0, "backfill") for row in rows]
    figure = candle_chart(NIFTY, Timeframe.H1, bars, list(CALENDAR.sessions(date(2026, 11, 19), date(2026, 11, 20))))
    assert "rangebreaks" not in figure["layout"]["xaxis"]
    assert "No volume was reported" in figure["layout"]["annotations"][0]["text"]
    assert "provider&#39;s history" in figure["layout"]["annotations"][0]["text"].replace("'", "&#39;")


def test_nothing_to_draw_says_so_and_text_stays_text() -> None:
    figure = candle_chart("<b>X</b>", Timeframe.M1, [], [])
    go.Figure(figure)
    text = figure["layout"]["annotations"][0]["text"]
    assert "&lt;b&gt;X&lt;/b&gt;" in text
    assert figure["data"] == []


# What is known


async def test_symbols_with_and_without_ticks(reads: Reads) -> None:
    found = {row["symbol"]: row for row in await reads.get("/symbols")}
    assert list(found) == sorted(found)
    assert {"NIFTY 50", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY", "SENSEX", "BANKEX", "SPARSE", "NIGHT"} == set(found)
    assert found["SENSEX"] == {
        "symbol": "SENSEX",
        "exchange": "NSE",
        "exchange_type": 1,
        "token": "99926017",
        "instrument_type": "INDEX",
        "last_price": None,
        "last_tick_at": None,
    }
    assert found["NIFTY 50"]["last_price"] > 20_000
    pages = await reads.pages("/symbols", limit=3)
    assert [row["symbol"] for page in pages for row in page] == list(found)
    await reads.refused("/symbols", 422, cursor="ä")


async def test_statistics_count_what_is_stored_and_what_the_feed_says(reads: Reads, ticks: list[Row]) -> None:
    statistics = Statistics.model_validate(await reads.get("/statistics"))
    assert statistics.total == len(ticks)
    assert statistics.by_symbol["BANKNIFTY"] == 300
    assert statistics.by_source == {"angel_one": len(ticks) - 100, "import": 100}
    assert sum(statistics.by_quality.values()) == len(ticks)
    assert statistics.first_tick_at == min(row["received_at"] for row in ticks)
    assert statistics.last_tick_at == max(row["received_at"] for row in ticks)
    assert statistics.feed.state == "off"
    state = {
        "_id": "feed",
        "leader": "host:1",
        "state": "live",
        "since": SUNDAY - timedelta(hours=1),
        "at": SUNDAY - timedelta(seconds=1),
        "feed": {"reconnects": 2, "state": "live", "last_error": "timeout"},
        "counters": {"received": 9, "stored": 7, "duplicate": 1, "rejected": {"price": 1}, "after_hours": 3, "new": 1},
    }
    await reads.db["market_feed"].insert_one(state)
    try:
        feed = (await reads.get("/statistics"))["feed"]
        assert (feed["state"], feed["received"], feed["reconnects"]) == ("live", 9, 2)
        assert (feed["rejected"], feed["after_hours"], feed["duplicate"]) == ({"price": 1}, 3, 1)
        assert "host:1" not in str(feed)
        reads.clock.moment += timedelta(minutes=1)
        assert (await reads.get("/statistics"))["feed"]["state"] == "unknown"
    finally:
        await reads.db["market_feed"].delete_one({"_id": "feed"})


async def test_quality_of_a_day(reads: Reads) -> None:
    gap = {"start": FRIDAY_OPEN, "end": FRIDAY_OPEN + timedelta(minutes=3)}
    rows = [
        {
            "_id": f"{symbol}|{day}",
            "symbol": symbol,
            "day": day,
            "gaps": [gap],
            "gap_count": 1,
            "longest_silence_seconds": 180.0,
            "duplicates": 4,
            "late": 2,
            "by_quality": {"good": 10},
            "rejected": {"price": 3},
        }
        for symbol in (NIFTY, "BANKNIFTY")
        for day in ("2026-11-19", "2026-11-20")
    ]
    await reads.db["market_quality"].insert_many(rows)
    try:
        # Without a day: that of the newest session, which on Sunday is Friday's.
        found = await reads.get("/quality")
        assert [(row["symbol"], row["day"]) for row in found] == [("BANKNIFTY", "2026-11-20"), (NIFTY, "2026-11-20")]
        assert found[0]["rejected"] == {"price": 3}
        assert datetime.fromisoformat(found[0]["gaps"][0]["end"]) == gap["end"]
        assert not found[0]["stale"], "nothing is expected on a Sunday"
        (row,) = await reads.get("/quality", symbols=NIFTY, day="2026-11-19")
        assert (row["symbol"], row["day"], row["duplicates"]) == (NIFTY, "2026-11-19", 4)
        assert [row["symbol"] for row in await reads.get("/quality", symbols="nifty 50,nobody")] == [NIFTY]
        pages = await reads.pages("/quality", limit=1)
        assert [[row["symbol"] for row in page] for page in pages] == [["BANKNIFTY"], [NIFTY]]
        await reads.refused("/quality", 422, limit="1001")
        reads.clock.moment = FRIDAY_OPEN + SESSION - timedelta(seconds=1)
        fresh = (await reads.get("/quality", symbols=NIFTY))[0]
        assert fresh["silent_seconds"] < 60
        reads.clock.moment = FRIDAY_OPEN + timedelta(days=3, hours=1)  # Monday morning, and nothing came
        assert (await reads.get("/quality", symbols=NIFTY, day="2026-11-20"))[0]["stale"]
        await reads.refused("/quality", 422, day="tomorrow")
    finally:
        await reads.db["market_quality"].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})


async def test_the_quality_of_many_comes_in_pages_of_fifty(reads: Reads) -> None:
    rows = [{"_id": f"S{n:03}|2026-11-18", "symbol": f"S{n:03}", "day": "2026-11-18"} for n in range(120)]
    await reads.db["market_quality"].insert_many(rows)
    try:
        pages = await reads.pages("/quality", day="2026-11-18")
        assert [len(page) for page in pages] == [50, 50, 20]
        assert [row["symbol"] for page in pages for row in page] == [row["symbol"] for row in rows]
    finally:
        await reads.db["market_quality"].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})


async def test_a_symbol_whose_ticks_are_deleted_is_known_only_by_its_candles(reads: Reads, ticks: list[Row]) -> None:
    start = FRIDAY_OPEN - timedelta(days=42)
    gone = latest_row([tick_row("GONE", start)]) | {"stored": 0, "by_quality": {}, "by_source": {}}
    candle = candle_row("GONE", Timeframe.M1, start, start + timedelta(minutes=1), 100.0)
    await reads.db["market_latest"].insert_one(gone)
    await reads.db["candles"].insert_one(candle)
    try:
        statistics = Statistics.model_validate(await reads.get("/statistics"))
        assert "GONE" not in statistics.by_symbol
        assert statistics.first_tick_at == min(row["received_at"] for row in ticks)
        assert "GONE" not in {row["symbol"] for row in await reads.get("/symbols")}
        assert "GONE" not in {row["symbol"] for row in await reads.get("/latest")}
        assert await reads.get("/latest", symbols="GONE") == await reads.get("/symbol/GONE") == []
        assert len([row for page in await reads.pages("/candles/GONE") for row in page]) == 1
    finally:
        await reads.db["market_latest"].delete_one({"_id": "GONE"})
        await reads.db["candles"].delete_one({"_id": candle["_id"]})


@pytest.mark.parametrize(
    ("moment", "status", "phase", "note"),
    [
        (SUNDAY, "closed", "closed", None),
        (FRIDAY_OPEN, "open", "open", None),
        (FRIDAY_OPEN - timedelta(minutes=10), "pre-open", "pre_open", None),
        (FRIDAY_OPEN + SESSION, "closed", "post_close", None),
        (datetime(2026, 11, 10, 6, 0, tzinfo=UTC), "closed", "closed", "Diwali"),
    ],
)
async def test_market_status(reads: Reads, moment: datetime, status: str, phase: str, note: str | None) -> None:
    reads.clock.moment = moment
    found = MarketStatus.model_validate(await reads.get("/market-status"))
    assert (found.status, found.phase, found.is_open) == (status, phase, status == "open")
    assert found.certain
    assert (note or "") in (found.note or "")
    assert found.since <= moment < found.until
    assert found.next_open > moment
    assert found.next_session.opens == found.next_open


def test_every_document_has_its_indexes_by_name() -> None:
    names = {index.document["name"] for document in DOCUMENTS for index in getattr(document.Settings, "indexes", [])}
    assert {"symbol_receivedAt_unique", "symbol_1_timeframe_1_start_1", "day_1"} <= names
