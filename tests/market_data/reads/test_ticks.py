"""Ticks over HTTP: the newest, pages that never skip or repeat, filters, what is unknown."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.pagination import Cursor
from app.core.settings import Settings
from app.market_data.rows import to_ms
from app.market_data.schemas import MarketTick
from tests.market_data.reads.conftest import Queries
from tests.market_data.reads.kit import (
    BASE,
    FRIDAY_OPEN,
    SESSION,
    SUNDAY,
    Reads,
    Row,
    SetClock,
    live_tick,
    reads_of,
)

DAY = timedelta(days=1)


def ids(rows: list[Row], match: Callable[[Row], bool] = lambda _: True) -> list[str]:
    """The ids of the rows that match, newest first, ties by id."""
    chosen = sorted((row for row in rows if match(row)), key=lambda row: (row["received_at"], row["_id"]), reverse=True)
    return [str(row["_id"]) for row in chosen]


def listed(pages: list[list[Row]]) -> list[str]:
    return [row["id"] for page in pages for row in page]


async def test_a_symbols_ticks_newest_first_across_nights_and_days(reads: Reads, ticks: list[Row]) -> None:
    pages = await reads.pages("/symbol/NIFTY 50", limit=700)
    assert listed(pages) == ids(ticks, lambda row: row["symbol"] == "NIFTY 50")
    assert [len(page) for page in pages[:-1]] == [700] * (len(pages) - 1)


async def test_the_link_to_the_next_page_is_an_address(reads: Reads, ticks: list[Row]) -> None:
    answer = await reads.client.get(f"{BASE}/symbol/NIFTY 50", params={"limit": 2, "end": FRIDAY_OPEN.isoformat()})
    target = answer.headers["link"].partition(">")[0].removeprefix("<")
    assert " " not in target
    following = (await reads.client.get(target)).json()
    expected = ids(ticks, lambda row: row["symbol"] == "NIFTY 50" and row["received_at"] <= FRIDAY_OPEN)
    assert [row["id"] for row in [*answer.json(), *following]] == expected[:4]


async def test_a_tick_says_what_is_stored(reads: Reads, ticks: list[Row]) -> None:
    newest = max((row for row in ticks if row["symbol"] == "NIFTY 50"), key=lambda row: row["received_at"])
    (tick,) = await reads.get("/symbol/NIFTY 50", limit=1)
    MarketTick.model_validate(tick)
    assert tick["ltpc"] == newest["ltpc"]
    assert datetime.fromisoformat(tick["received_at"]) == newest["received_at"]
    assert datetime.fromisoformat(tick["received_at"]).utcoffset() == timedelta(0)
    assert tick["raw_data"] == {"exchange_time": to_ms(newest["received_at"]), "sequence": 5_000_000_000}
    assert (tick["after_hours"], tick["ch"], tick["volume"]) == (False, None, None)
    (night,) = await reads.get("/symbol/NIGHT", limit=1)
    assert night["after_hours"] is True


NIFTY = "NIFTY 50"
SYMBOLS = st.sampled_from([NIFTY, "BANKNIFTY", "SPARSE", "NIGHT"])
MOMENTS = st.one_of(
    st.none(),
    st.integers(-26 * 86_400_000, 2 * 86_400_000).map(lambda ms: FRIDAY_OPEN + timedelta(milliseconds=ms)),
    st.sampled_from([FRIDAY_OPEN, FRIDAY_OPEN + SESSION, FRIDAY_OPEN - DAY, SUNDAY]),
)


@given(
    symbol=SYMBOLS,
    start=MOMENTS,
    end=MOMENTS,
    limit=st.sampled_from([60, 211, 1000]),
    quality=st.sampled_from([None, "good", "stale"]),
    low=st.sampled_from([None, 23_990.0, 24_010.0]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_pages_never_skip_and_never_repeat(
    reads: Reads,
    ticks: list[Row],
    symbol: str,
    start: datetime | None,
    end: datetime | None,
    limit: int,
    quality: str | None,
    low: float | None,
) -> None:
    if start and end and start > end:
        start, end = end, start

    def match(row: Row) -> bool:
        return (
            row["symbol"] == symbol
            and (start is None or row["received_at"] >= start)
            and (end is None or row["received_at"] <= end)
            and (quality is None or row["data_quality"] == quality)
            and (low is None or row["ltpc"] >= low)
        )

    asked: dict[str, Any] = {"symbol": symbol, "data_quality": quality, "min_price": low, "limit": limit}
    asked |= {name: moment.isoformat() for name, moment in (("start", start), ("end", end)) if moment}
    found = await reads.pages("/filter", **{name: value for name, value in asked.items() if value is not None})
    assert listed(found) == ids(ticks, match)


@pytest.mark.parametrize("limit", [3, 50, 1000])
async def test_ticks_of_all_symbols_with_equal_times(reads: Reads, ticks: list[Row], limit: int) -> None:
    start, end = FRIDAY_OPEN + SESSION - timedelta(minutes=15), FRIDAY_OPEN + SESSION
    expected = ids(ticks, lambda row: start <= row["received_at"] <= end)
    assert len(expected) > 40
    assert len({row["received_at"] for row in ticks if start <= row["received_at"] <= end}) < len(expected)
    pages = await reads.pages("/filter", start=start.isoformat(), end=end.isoformat(), limit=limit)
    assert listed(pages) == expected


async def test_filters_hold_together(reads: Reads, ticks: list[Row]) -> None:
    span = {"start": (FRIDAY_OPEN).isoformat(), "end": (FRIDAY_OPEN + DAY).isoformat(), "limit": 1000}

    def on_friday(row: Row) -> bool:
        return FRIDAY_OPEN <= row["received_at"] <= FRIDAY_OPEN + DAY

    imported = await reads.pages("/filter", source="import", **span)
    assert listed(imported) == ids(ticks, lambda row: on_friday(row) and row["source"] == "import")
    bse = await reads.pages("/filter", exchange=" bse ", max_price=48_000, **span)
    assert listed(bse) == ids(ticks, lambda row: on_friday(row) and row["exchange"] == "BSE" and row["ltpc"] <= 48_000)
    replayed = await reads.pages("/filter", symbol=NIFTY, is_realtime="false", limit=1000)
    assert listed(replayed) == ids(ticks, lambda row: row["symbol"] == NIFTY and not row["is_realtime"])
    assert await reads.get("/filter", symbol=NIFTY, exchange="NOWHERE") == []


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ({}, "query"),
        ({"start": FRIDAY_OPEN.isoformat()}, "query"),
        ({"start": FRIDAY_OPEN.isoformat(), "end": (FRIDAY_OPEN + DAY + timedelta(seconds=1)).isoformat()}, "query"),
        ({"symbol": NIFTY, "start": SUNDAY.isoformat(), "end": FRIDAY_OPEN.isoformat()}, "query"),
        ({"symbol": NIFTY, "min_price": "5", "max_price": "4"}, "query"),
        ({"symbol": NIFTY, "min_price": "NaN"}, "min_price"),
        ({"symbol": NIFTY, "min_price": "inf"}, "min_price"),
        ({"symbol": NIFTY, "max_price": "-1"}, "max_price"),
        ({"symbol": NIFTY, "max_price": "0"}, "max_price"),
        ({"symbol": NIFTY, "data_quality": "$ne"}, "data_quality"),
        ({"symbol": "a\x00b"}, "symbol"),
        ({"symbol": "x" * 65}, "symbol"),
        ({"symbol": NIFTY, "start": "yesterday"}, "start"),
        ({"symbol": NIFTY, "start": "0001-01-01T00:00:00Z"}, "start"),
        ({"symbol": NIFTY, "limit": "1001"}, "limit"),
        ({"symbol": NIFTY, "cursor": "nonsense"}, "cursor"),
    ],
)
async def test_wrong_filters_are_named(reads: Reads, query: dict[str, str], where: str) -> None:
    problem = await reads.refused("/filter", 422, **query)
    assert where in problem["errors"][0]["loc"]


async def test_a_cursor_of_nowhere_harms_nothing(reads: Reads, ticks: list[Row]) -> None:
    for seq in (2**62, to_ms(SUNDAY) + 10**9):
        (tick,) = await reads.get(f"/symbol/{NIFTY}", limit=1, cursor=Cursor(seq, ObjectId()).encode())
        assert tick["id"] == ids(ticks, lambda row: row["symbol"] == NIFTY)[0]
    for seq in (-(2**62), 0):
        assert await reads.get(f"/symbol/{NIFTY}", cursor=Cursor(seq, ObjectId()).encode()) == []


async def test_an_unknown_symbol_is_404_with_what_it_may_mean(reads: Reads) -> None:
    for path in ("/symbol/NIFTY50", "/candles/NIFTY50", "/chart/NIFTY50"):
        problem = await reads.refused(path, 404)
        assert problem["near"][0] == NIFTY
        assert "NIFTY 50" in problem["detail"]
    assert (await reads.refused("/filter", 404, symbol="ZZZZ"))["near"] == []
    assert (await reads.refused("/latest", 404, symbols="bank nifty"))["near"][0] == "BANKNIFTY"


async def test_case_does_not_matter(reads: Reads) -> None:
    assert (await reads.get("/symbol/nifty 50", limit=1))[0]["symbol"] == NIFTY
    assert [tick["symbol"] for tick in await reads.get("/latest", symbols="banknifty, nifty 50")] == [
        "BANKNIFTY",
        NIFTY,
    ]


async def test_a_followed_symbol_without_ticks_is_known_and_empty(reads: Reads) -> None:
    assert await reads.get("/symbol/FINNIFTY") == []
    assert await reads.get("/candles/FINNIFTY") == []
    assert await reads.get("/latest", symbols="FINNIFTY") == []


async def test_latest_is_the_newest_of_each(reads: Reads, ticks: list[Row]) -> None:
    found = await reads.get("/latest")
    assert [tick["symbol"] for tick in found] == sorted({row["symbol"] for row in ticks})
    for tick in found:
        MarketTick.model_validate(tick)
        assert tick["id"] == ids(ticks, lambda row, symbol=tick["symbol"]: row["symbol"] == symbol)[0]  # type: ignore[misc]
    one_by_one = await reads.pages("/latest", limit=1)
    assert [page[0] for page in one_by_one] == found
    some = await reads.get("/latest", symbols="SPARSE,NOBODY,NIFTY 50,SPARSE")
    assert [tick["symbol"] for tick in some] == ["SPARSE", NIFTY]


async def test_latest_of_named_symbols_has_pages_too(reads: Reads) -> None:
    names = "SPARSE,NOBODY,nifty 50,FINNIFTY,BANKNIFTY,NIFTY 50"
    whole = await reads.get("/latest", symbols=names)
    assert [tick["symbol"] for tick in whole] == ["SPARSE", NIFTY, "BANKNIFTY"]
    for limit in (1, 2, 3):
        pages = await reads.pages("/latest", symbols=names, limit=limit)
        assert [len(page) for page in pages] == [min(limit, 3 - at) for at in range(0, 3, limit)]
        assert [tick for page in pages for tick in page] == whole


async def test_a_cursor_of_other_symbols_is_refused(reads: Reads) -> None:
    answer = await reads.client.get(f"{BASE}/latest", params={"symbols": "SPARSE,NIFTY 50", "limit": 1})
    cursor = answer.headers["X-Next-Cursor"]
    problem = await reads.refused("/latest", 422, symbols="NIFTY 50,BANKNIFTY", cursor=cursor)
    assert problem["errors"][0]["loc"] == ["query", "cursor"]
    assert await reads.get("/latest", symbols="SPARSE", cursor=cursor) == []


async def test_latest_knows_what_has_streamed_by_and_is_not_stored_yet(reads: Reads) -> None:
    now = to_ms(SUNDAY)
    reads.stream.ticks([live_tick(NIFTY, now, 24_700.05, after_hours=True), live_tick("FINNIFTY", now, 21_000)])
    reads.stream.ticks([live_tick(NIFTY, now - 60_000, 1.0)])  # a late one is not the newest
    nifty, fin = await reads.get("/latest", symbols="NIFTY 50,FINNIFTY")
    assert (nifty["ltpc"], nifty["after_hours"]) == (24_700.05, True)
    assert MarketTick.model_validate(nifty).received_at == SUNDAY
    assert fin["ltpc"] == 21_000
    assert "FINNIFTY" in {tick["symbol"] for tick in await reads.get("/latest")}
    assert {row["symbol"]: row["last_price"] for row in await reads.get("/symbols")}[NIFTY] == 24_700.05


async def test_too_many_symbols_are_refused(reads: Reads) -> None:
    problem = await reads.refused("/latest", 422, symbols=",".join(f"S{n}" for n in range(201)))
    assert problem["errors"][0]["loc"] == ["query", "symbols"]
    await reads.refused("/latest", 422, symbols="A,,B")


async def test_a_page_costs_the_same_wherever_it_is(reads: Reads, queries: Queries) -> None:
    """Few queries, and few rows more than the page has: at the newest end, within, and across a night."""
    await reads.get(f"/symbol/{NIFTY}", limit=50)  # learns how dense the ticks are
    friday, thursday = FRIDAY_OPEN + SESSION, FRIDAY_OPEN - DAY + SESSION
    for end in (SUNDAY, friday, friday - timedelta(hours=2), FRIDAY_OPEN, thursday - timedelta(hours=3)):
        queries.forget()
        assert len(await reads.get(f"/symbol/{NIFTY}", limit=50, end=end.isoformat())) == 50
        assert queries.count["market_data"] <= 9, end
        assert queries.rows["market_data"] <= 160, end
    assert queries.hints == 0


@pytest.mark.within_a_minute(6)
async def test_they_are_public_limited_and_not_kept(reads: Reads) -> None:
    answer = await reads.client.get(f"{BASE}/latest")
    assert answer.headers["cache-control"] == "no-store"
    few = Settings(secret_key="k" * 40, rate_limit_per_minute=2, _env_file=None)  # type: ignore[call-arg]
    paths = ["/latest", "/symbol/NIFTY 50", "/filter?symbol=NIFTY 50", "/statistics", "/symbols", "/market-status"]
    paths += ["/quality", "/candles/NIFTY 50", "/chart/NIFTY 50"]
    for path in paths:
        async with reads_of(reads.db, SetClock(), few) as limited:
            answers = [await limited.client.get(BASE + path) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429], path
            assert "retry-after" in answers[-1].headers
