"""Candles as they are fetched, kept and served: real database, real sockets."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from app.core.candles import Timeframe
from app.core.errors import InvalidInputError, NotFoundError, UnavailableError
from app.quotes.store import Saved
from tests.quotes.kit import Desk
from tests.simulators.yahoo import YahooSimulator
from tests.simulators.yahoo.simulator import CHART

DAILY = "RELIANCE.NS|1D|yahoo"


def charts(simulator: YahooSimulator) -> Counter[str]:
    return Counter({
        path.removeprefix(CHART): count for path, count in simulator.calls.items() if path.startswith(CHART)
    })  # fmt: skip


async def test_a_sync_says_what_it_did_and_the_same_again_does_nothing(desk: Desk, simulator: YahooSimulator):
    first = await desk.sync("reliance", days=90)
    assert first["symbol"] == "RELIANCE.NS"
    assert first["added"] == first["fetched"] > 50
    assert (first["updated"], first["unchanged"], first["removed"], first["left_out"]) == (0, 0, 0, 0)
    again = await desk.sync("RELIANCE.NS", days=90)
    assert (again["added"], again["updated"], again["unchanged"]) == (0, 0, first["fetched"])
    assert charts(simulator) == {"RELIANCE.NS": 2}
    rows = await desk.stored(DAILY)
    assert len(rows) == first["fetched"]
    assert rows[-1]["closed"] is False
    assert all(row["closed"] for row in rows[:-1])


async def test_the_forming_candle_is_updated_until_it_is_over(desk: Desk):
    before = await desk.sync("TCS", days=30)
    forming = (await desk.stored("TCS.NS|1D|yahoo"))[-1]
    desk.pass_by(minutes=30)
    again = await desk.sync("TCS", days=30)
    assert (again["added"], again["updated"]) == (0, 1)
    desk.pass_by(hours=6)
    await desk.sync("TCS", days=30)
    over = (await desk.stored("TCS.NS|1D|yahoo"))[-1]
    assert over["_id"] == forming["_id"]
    assert over["closed"]
    assert over["raw"]["volume"] > forming["raw"]["volume"]
    assert before["last"] == again["last"]


async def test_a_split_rewrites_what_older_candles_are_worth_and_not_what_was_traded(
    desk: Desk, simulator: YahooSimulator
):
    await desk.sync("RELIANCE", days=300)
    before = await desk.stored(DAILY)
    simulator.market.split("RELIANCE.NS", 3, 2.0)
    # No more than the last month is asked for: the ten months before have to follow.
    report = await desk.sync("RELIANCE", days=30)
    after = await desk.stored(DAILY)
    assert [row["_id"] for row in after] == [row["_id"] for row in before]
    older = len(after) - 4
    assert report["updated"] >= older
    for old, new in zip(before[:older], after[:older], strict=True):
        assert new["raw"]["close"] == pytest.approx(old["raw"]["close"], rel=1e-6)
        assert new["raw"]["volume"] == pytest.approx(old["raw"]["volume"], abs=1)
        assert new["adjusted"]["close"] == pytest.approx(old["adjusted"]["close"] / 2, rel=1e-6)
        assert new["adjusted"]["volume"] == pytest.approx(old["adjusted"]["volume"] * 2, abs=2)
    assert after[older]["split"] == 2.0
    # No candle jumps: what is adjusted is of one piece.
    moves = [new["adjusted"]["close"] / old["adjusted"]["close"] for old, new in pairwise(after)]
    assert all(0.9 < move < 1.1 for move in moves)
    again = await desk.sync("RELIANCE", days=30)
    assert again["updated"] == 0


async def test_a_dividend_rewrites_older_candles_too(desk: Desk, simulator: YahooSimulator):
    await desk.sync("INFY", days=200)
    before = await desk.stored("INFY.NS|1D|yahoo")
    simulator.market.dividend("INFY.NS", 2, 30.0)
    await desk.sync("INFY", days=30)
    after = await desk.stored("INFY.NS|1D|yahoo")
    share = 1 - 30.0 / after[-4]["raw"]["close"]
    assert after[-3]["dividend"] == 30.0
    assert after[0]["adjusted"]["close"] == pytest.approx(before[0]["adjusted"]["close"] * share, rel=1e-5)
    assert after[0]["raw"] == before[0]["raw"]


async def test_a_repair_that_was_interrupted_is_taken_up_again(desk: Desk, simulator: YahooSimulator):
    await desk.sync("RELIANCE", days=300)
    simulator.market.split("RELIANCE.NS", 3, 2.0)
    # The fetch of the month succeeds, that of the ten months before does not.
    simulator.fail("slow", seconds=0, on="RELIANCE.NS")
    simulator.fail("unavailable", on="RELIANCE.NS")
    answer = await desk.client.post(
        "/api/market/sync/RELIANCE", params={"days": 30}, headers={"Authorization": "Bearer somebody"}
    )
    assert answer.status_code == 503
    assert (await desk.db["quote_series"].find_one({"_id": DAILY}))["mending"]
    await desk.sync("RELIANCE", days=30)
    rows = await desk.stored(DAILY)
    moves = [new["adjusted"]["close"] / old["adjusted"]["close"] for old, new in pairwise(rows)]
    assert all(0.9 < move < 1.1 for move in moves)
    assert not (await desk.db["quote_series"].find_one({"_id": DAILY}))["mending"]


async def test_a_long_absence_leaves_no_hole(desk: Desk):
    desk.clock.move(days=-120)
    await desk.sync("SBIN", days=60)
    desk.pass_by(days=120)
    await desk.sync("SBIN", days=5)
    rows = await desk.stored("SBIN.NS|1D|yahoo")
    gaps = [new["start"] - old["start"] for old, new in pairwise(rows)]
    assert max(gaps) <= timedelta(days=5)
    assert rows[0]["start"] < desk.clock.now() - timedelta(days=170)


async def test_reads_store_what_they_fetched(desk: Desk):
    answer = await desk.get("historical/HDFCBANK", days=30)
    assert len(await desk.stored("HDFCBANK.NS|1D|yahoo")) >= len(answer["candles"])


async def test_history_is_newest_first_bounded_and_paged(desk: Desk):
    whole = await desk.get("historical/RELIANCE", days=60)
    assert whole["symbol"] == "RELIANCE.NS"
    assert whole["currency"] == "INR"
    assert (whole["source"], whole["stale"], whole["adjusted"]) == ("yahoo", False, True)
    stamps = [candle["timestamp"] for candle in whole["candles"]]
    assert stamps == sorted(stamps, reverse=True)
    assert [candle["closed"] for candle in whole["candles"][:2]] == [False, True]
    found, path, query = [], "/api/market/historical/RELIANCE", {"days": "60", "limit": "7"}
    answer = await desk.client.get(path, params=query)
    while True:
        found += answer.json()["candles"]
        assert len(answer.json()["candles"]) <= 7
        if "link" not in answer.headers:
            break
        answer = await desk.client.get(answer.links["next"]["url"])
        assert answer.status_code == 200
    assert found == whole["candles"]


@pytest.mark.parametrize("timeframe", ["1m", "5m", "15m", "1H", "1h", "1D", "1W"])
async def test_every_timeframe(desk: Desk, timeframe: str):
    answer = await desk.get("historical/TCS", timeframe=timeframe)
    assert answer["timeframe"] == Timeframe(timeframe).value
    assert answer["candles"]
    for candle in answer["candles"]:
        begins, ends = (datetime.fromisoformat(candle[name]) for name in ("timestamp", "end"))
        assert timedelta() < ends - begins <= Timeframe(timeframe).length
        assert candle["low"] <= min(candle["open"], candle["close"])
        assert candle["high"] >= max(candle["open"], candle["close"])
    if timeframe.lower() == "1h":
        assert {candle["timestamp"][14:16] for candle in answer["candles"]} == {"45"}  # 09:15 in India


async def test_many_readers_at_once_are_one_request_and_later_ones_none(desk: Desk, simulator: YahooSimulator):
    simulator.fail("slow", seconds=0.2)
    answers = await asyncio.gather(*(desk.get("historical/TCS", days=25 + place) for place in range(15)))
    assert len({answer["fetched_at"] for answer in answers}) == 1
    await desk.get("historical/TCS", days=30)
    await desk.get("historical/TCS", days=30, timeframe="1D")
    assert charts(simulator) == {"TCS.NS": 1}
    desk.clock.move(days=1)
    await desk.get("historical/TCS", days=30)
    assert charts(simulator) == {"TCS.NS": 2}


async def test_a_candle_that_is_over_is_not_waited_for(desk: Desk, simulator: YahooSimulator):
    first = await desk.get("historical/TCS", timeframe="5m", days=1)
    desk.clock.move(minutes=5)
    second = await desk.get("historical/TCS", timeframe="5m", days=1)
    assert second["candles"][0]["timestamp"] > first["candles"][0]["timestamp"]
    assert charts(simulator) == {"TCS.NS": 2}


async def test_429_opens_the_breaker_and_what_is_stored_is_served_as_stale(desk: Desk, simulator: YahooSimulator):
    fresh = await desk.get("historical/RELIANCE", days=30)
    await desk.candles.drain()
    desk.pass_by(minutes=10)
    simulator.fail("too_many", times=100)
    asked = charts(simulator)["RELIANCE.NS"]
    for _ in range(5):
        stale = await desk.get("historical/RELIANCE", days=30)
        assert stale["stale"] is True
        assert stale["age_seconds"] == 600.0
        assert stale["fetched_at"] == fresh["fetched_at"]
        assert stale["candles"] == fresh["candles"]
        desk.cache.clear()
    assert charts(simulator)["RELIANCE.NS"] == asked + 1
    health = desk.sources.health()
    assert health["status"] == "degraded"
    assert health["yahoo"]["circuit"] == "open"
    assert health["yahoo"]["last_error"] == "rate limited (429)"
    # When its rest is over one request finds out that Yahoo answers again.
    simulator.heal()
    desk.pass_by(seconds=61)
    back = await desk.get("historical/RELIANCE", days=30)
    assert back["stale"] is False
    assert desk.sources.health()["status"] == "ok"


async def test_yahoo_says_how_long_it_wants_to_be_left_alone(desk: Desk, simulator: YahooSimulator):
    simulator.fail("too_many", on="RELIANCE.NS", retry_after=300)
    answer = await desk.client.get("/api/market/historical/RELIANCE")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "300"
    assert answer.json()["detail"] == "Yahoo: rate limited (429)."
    desk.pass_by(seconds=290)
    assert (await desk.client.get("/api/market/historical/RELIANCE")).headers["retry-after"] == "10"
    desk.pass_by(seconds=11)
    assert (await desk.get("historical/RELIANCE"))["stale"] is False


async def test_an_empty_answer_does_not_hide_what_is_stored(desk: Desk, simulator: YahooSimulator):
    await desk.get("historical/RELIANCE", days=30)
    await desk.candles.drain()
    desk.pass_by(minutes=10)
    simulator.fail("empty_frame", on="RELIANCE.NS")
    stale = await desk.get("historical/RELIANCE", days=30)
    assert stale["stale"]
    assert stale["candles"]
    assert desk.sources.health()["yahoo"]["circuit"] == "closed"


async def test_refused_input_and_unknown_symbols(desk: Desk, simulator: YahooSimulator):
    for path, query, status in [
        ("historical/A$B", {}, 422),
        ("historical/RELIANCE", {"days": 0}, 422),
        ("historical/RELIANCE", {"days": 30, "timeframe": "1m"}, 422),
        ("historical/RELIANCE", {"timeframe": "2h"}, 422),
        ("historical/RELIANCE", {"cursor": "x"}, 422),
        ("historical/RELIANCE", {"limit": 1001}, 422),
        ("historical/RELIANCE", {"page": 2}, 422),
        ("historical/NOSUCHTHING", {}, 404),
        ("historical/NOPE", {}, 404),
    ]:
        answer = await desk.client.get(f"/api/market/{path}", params=query)
        assert answer.status_code == status, (path, query, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    # NOPE might be American: both were asked.
    assert charts(simulator) == {"NOSUCHTHING.NS": 1, "NOPE.NS": 1, "NOPE": 1}
    assert (await desk.client.post("/api/market/sync/RELIANCE")).status_code == 401


async def test_an_american_symbol_is_found_where_nse_has_none(desk: Desk, simulator: YahooSimulator):
    answer = await desk.get("historical/aapl", days=400)
    assert (answer["symbol"], answer["currency"]) == ("AAPL", "USD")
    desk.pass_by(minutes=9)
    await desk.get("historical/AAPL", days=400)
    assert charts(simulator) == {"AAPL.NS": 1, "AAPL": 3}  # the first of AAPL: its time zone


# For signals and predictions


async def test_series_are_closed_adjusted_and_of_the_length_asked_for(desk: Desk, simulator: YahooSimulator):
    simulator.market.split("RELIANCE.NS", 40, 2.0)
    series = await desk.candles.candles("RELIANCE", "1d", 250)
    assert (series.symbol, series.timeframe, series.currency) == ("RELIANCE.NS", "1D", "INR")
    assert series.closed
    assert not series.stale
    lengths = {len(column) for column in series[2:8]}
    assert lengths == {250}
    assert list(series.start) == sorted(series.start)
    assert series.start[-1] < desk.clock.now() - timedelta(hours=12)
    assert all(0.9 < after / before < 1.1 for before, after in pairwise(series.close))
    for timeframe, bars in (("1m", 300), ("5m", 300), ("1H", 200), ("1W", 60)):
        assert len((await desk.candles.candles("RELIANCE", timeframe, bars)).close) == bars


async def test_series_of_nothing(desk: Desk, simulator: YahooSimulator):
    with pytest.raises(NotFoundError):
        await desk.candles.candles("NOSUCHTHING", "1D", 10)
    with pytest.raises(InvalidInputError):
        await desk.candles.candles("RELIANCE", "4h", 10)
    simulator.fail("unavailable", times=10)
    with pytest.raises(UnavailableError):
        await desk.candles.candles("RELIANCE", "1D", 10)


async def test_two_processes_that_store_the_same_at_once(desk: Desk, simulator: YahooSimulator):
    symbol: Any = await desk.candles.history("RELIANCE", Timeframe.D1, 100)
    both = await asyncio.gather(desk.store.save(symbol), desk.store.save(symbol))
    await desk.candles.drain()
    rows = await desk.stored(DAILY)
    assert len({row["_id"] for row in rows}) == len(rows) >= len(symbol.bars)
    assert all(isinstance(saved, Saved) for saved in both)
    assert charts(simulator) == {"RELIANCE.NS": 1}


async def test_old_minutes_are_given_up_and_days_stay(desk: Desk):
    await desk.sync("TCS", timeframe="1m", days=2)
    await desk.sync("TCS", days=30)
    desk.clock.move(days=40)
    await desk.candles.expire()
    assert await desk.stored("TCS.NS|1m|yahoo") == []
    assert await desk.stored("TCS.NS|1D|yahoo")
