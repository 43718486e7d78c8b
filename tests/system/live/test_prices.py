"""A tick that the exchange sends is seen everywhere: streamed, stored, listed, counted, in candles and charts."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.simulators.angel_one.layout import QUOTE as QUOTE_MODE
from tests.simulators.angel_one.layout import encode
from tests.support.people import somebody
from tests.system.live.kit import (
    API,
    BANKEX,
    BANKNIFTY,
    FINNIFTY,
    MIDCPNIFTY,
    NAMES,
    NIFTY,
    SENSEX,
    Live,
    agreed,
    seen_again,
    until,
)

pytestmark = pytest.mark.timeout(180)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_tick_is_streamed_stored_and_found(live: Live):
    before = datetime.now(UTC)
    async with live.listening("NIFTY 50") as listener:
        await live.send(BANKNIFTY)
        sent = await live.send(NIFTY)
        tick = await listener.hear(NIFTY, sent)
        assert {tick["symbol"] for tick in listener.ticks} == {"NIFTY 50"}
    rupees = sent["last_price"] / 100

    assert (tick["symbol"], tick["token"], tick["exchange"], tick["source"]) == (
        "NIFTY 50",
        NIFTY.token,
        "NSE",
        "angel_one",
    )
    assert (tick["ltpc"], tick["volume"], tick["data_quality"]) == (rupees, sent["volume"], "good")
    assert [tick[name] for name in ("open", "high", "low", "close")] == [
        sent[name] / 100 for name in ("open", "high", "low", "close")
    ]
    assert tick["ch"] == pytest.approx(rupees - sent["close"] / 100)
    assert moment(tick["received_at"]) == datetime.fromtimestamp(sent["exchange_time"] / 1000, UTC)
    assert before - timedelta(milliseconds=1) <= moment(tick["ingested_at"]) <= datetime.now(UTC)
    assert (tick["after_hours"], tick["is_realtime"]) == (False, True)

    async def there() -> Any:
        return await live.get("symbol/nifty 50", limit=1)

    # One tick, however it is asked for.
    assert await live.get("latest", symbols="NIFTY 50") == [tick]
    assert await until(there, lambda rows: rows and rows[0]["id"] == tick["id"]) == [tick]
    assert await live.get(
        "filter", symbol="NIFTY 50", data_quality="good", min_price=rupees, max_price=rupees, limit=1
    ) == [tick]
    everything = await live.get("filter", start=before - timedelta(seconds=1), end=datetime.now(UTC))
    assert {row["symbol"] for row in everything} == {"NIFTY 50", "BANKNIFTY"}
    [info] = [row for row in await live.get("symbols") if row["symbol"] == "NIFTY 50"]
    assert (info["last_price"], info["last_tick_at"]) == (rupees, tick["received_at"])


async def test_two_ticks_of_one_millisecond_are_two_rows(live: Live):
    first = await live.send(FINNIFTY)
    await live.send(FINNIFTY, exchange_time=first["exchange_time"])

    rows = await until(lambda: live.stored("FINNIFTY"), lambda rows: len(rows) >= 2)

    times = [moment(row["received_at"]) for row in rows]
    assert [row["raw_data"]["exchange_time"] for row in rows] == [first["exchange_time"]] * 2
    assert times[0] - times[1] == timedelta(milliseconds=1)


async def test_statistics_agree_with_what_is_stored(live: Live):
    before = await live.counters()
    await live.send_many(120)

    await until(live.counters, lambda told: told["received"] >= before["received"] + 120)
    # Lists and counts catch up with the store within a second or two.
    statistics = await until(lambda: agreed(live), lambda told: told and told["total"] == told["feed"]["stored"])

    assert statistics["by_source"] == {"angel_one": statistics["total"]}
    assert sum(statistics["by_quality"].values()) == statistics["total"]
    assert statistics["by_quality"]["good"] >= 60
    assert statistics["feed"]["lost"] == 0
    await until(live.ticking, lambda feed: feed["status"] == "ok")


async def test_ticks_become_candles_and_charts(live: Live):
    sent = await live.send(MIDCPNIFTY)
    symbol = NAMES[MIDCPNIFTY.token]

    def there(rows: Any) -> bool:
        return bool(rows) and rows[0]["close"] == sent["last_price"] / 100

    for timeframe in ("1m", "5m", "1h", "1d"):

        async def bars(timeframe: str = timeframe) -> Any:
            return await live.get(f"candles/{symbol}", timeframe=timeframe, limit=1)

        [bar] = await until(bars, there)
        assert bar["low"] <= bar["open"] <= bar["high"]
        assert bar["low"] <= bar["close"] <= bar["high"]
        assert bar["timeframe"] == timeframe
        assert moment(bar["start"]) <= datetime.fromtimestamp(sent["exchange_time"] / 1000, UTC) < moment(bar["end"])
    figure = await live.get(f"chart/{symbol}", timeframe="1m")
    [candles] = [trace for trace in figure["data"] if trace["type"] == "candlestick"]
    page = await live.client.get(f"{API}/chart/{symbol}", params={"timeframe": "1m", "format": "html"})

    assert candles["close"][-1] == sent["last_price"] / 100
    assert page.headers["content-type"].startswith("text/html")
    assert "candlestick" in page.text


async def test_candles_are_streamed_to_members(live: Live):
    async with (
        somebody(live.service.url) as person,
        live.listening("BANKNIFTY", channel="candles", token=person.token) as listener,
    ):
        sent = await live.send(BANKNIFTY)
        price = sent["last_price"] / 100

        def heard() -> set[str]:
            return {bar["timeframe"] for bar in listener.of("candle") if bar["close"] == price}

        await listener.until(lambda: heard() >= {"1m", "3m", "5m", "10m", "15m", "30m", "1h", "1d"})
        assert {bar["symbol"] for bar in listener.of("candle")} == {"BANKNIFTY"}


async def test_the_market_is_open_by_the_calendar(live: Live):
    status = await live.get("market-status")
    assert (status["status"], status["is_open"], status["session"]["kind"]) == ("open", True, "special")


# Frames that go wrong on their way


async def test_repeated_frames_are_one_row(live: Live):
    before, stored = await live.counters(), await live.stored("BANKEX")
    live.simulator.feed.faults.duplicates = 2
    try:
        await live.send_many(10, [BANKEX])
    finally:
        live.simulator.feed.faults.duplicates = 0

    counted = await until(live.counters, lambda now: now["duplicate"] >= before["duplicate"] + 20)
    rows = await until(lambda: live.stored("BANKEX"), lambda rows: len(rows) >= len(stored) + 10)

    assert len(rows) == len(stored) + 10
    assert counted["duplicate"] - before["duplicate"] == 20


async def test_frames_out_of_order_are_stored_in_order_and_the_newest_stays_the_newest(live: Live):
    live.simulator.feed.faults.out_of_order = True
    async with live.listening("BANKNIFTY") as listener:
        try:
            now = round(live.simulator.now().timestamp() * 1000)
            first = await live.send(BANKNIFTY, exchange_time=now - 20)
            last = await live.send(BANKNIFTY, exchange_time=now - 10)
        finally:
            live.simulator.feed.faults.out_of_order = False
        await listener.hear(BANKNIFTY, last)
    sent = [last["last_price"] / 100, first["last_price"] / 100]
    await until(lambda: live.stored("BANKNIFTY"), lambda rows: [row["ltpc"] for row in rows[:2]] == sent)

    [latest] = await live.get("latest", symbols="BANKNIFTY")
    assert latest["raw_data"]["exchange_time"] == now - 10


async def test_garbage_is_counted_and_harms_nothing(live: Live):
    bad = (await live.feed())["bad_frames"]
    [connection] = live.simulator.feed.connections
    whole = encode(QUOTE_MODE, SENSEX.exchange, SENSEX.token, live.simulator.market.walk(SENSEX, live.simulator.now()))
    wrong = [whole[:size] for size in (0, 1, 50, 51, 122)] + [whole + b"\0", os.urandom(123), bytes(123), b"\xff" * 379]
    for frame in wrong:
        await connection.send(frame)
    for text in ("", "{", '{"errorCode": "E1002"}', "\x00", "pong"):
        await connection.send(text)
    sent = await live.send(SENSEX)

    await until(live.feed, lambda feed: feed["bad_frames"] >= bad + len(wrong))
    await until(lambda: live.get("latest", symbols="SENSEX"), lambda rows: rows[0]["ltpc"] == sent["last_price"] / 100)

    await live.ticking()
    assert live.simulator.feed.connections == [connection]


def rejections(counters: Any) -> int:
    return sum(counters["rejected"].values())


async def test_prices_that_cannot_be_are_rejected_and_odd_ones_marked(live: Live):
    before, stored = await live.counters(), await live.stored("FINNIFTY")
    now = round(live.simulator.now().timestamp() * 1000)
    await live.send(FINNIFTY, last_price=0)
    await live.send(FINNIFTY, last_price=-5)
    await live.send(FINNIFTY, exchange_time=now + 300_000)
    await live.send(FINNIFTY, exchange_time=1_000)
    late = await live.send(FINNIFTY, exchange_time=now - 60_000)
    odd = await live.send(FINNIFTY, last_price=FINNIFTY.base * 3)

    counted = await until(live.counters, lambda now: rejections(now) >= rejections(before) + 4)
    rows = await until(lambda: live.stored("FINNIFTY"), lambda rows: len(rows) >= len(stored) + 2)

    assert len(rows) == len(stored) + 2
    quality = {row["ltpc"]: row["data_quality"] for row in rows}
    assert quality[odd["last_price"] / 100] == "suspect"
    assert quality[late["last_price"] / 100] == "stale"
    rejected = {name: counted["rejected"][name] - before["rejected"].get(name, 0) for name in counted["rejected"]}
    assert rejected == {"price": 2, "in_future": 1, "too_old": 1}


async def test_a_dropped_connection_is_made_again(live: Live):
    before = await live.feed()
    feed = live.simulator.feed
    [connection] = feed.connections
    connection.abort()
    await feed.until(lambda: connection not in feed.connections)
    await live.following()
    await seen_again(live)
    told = await live.ticking()

    assert told["reconnects"] > before["reconnects"]
    assert told["last_error"] == "feed: closed (1006)"
    assert told["sign_ins"] == 1
    # What is stored of it follows within two seconds.
    await until(live.counters, lambda told: told["reconnects"] > before["reconnects"])


async def test_quality_tells_what_was_wrong_with_a_symbol(live: Live):
    """Saved a few times a minute: the last test here, so that it waits the least."""

    async def of_today() -> Any:
        told = {row["symbol"]: row for row in await live.get("quality")}
        return told, (await live.get("latest", symbols="NIFTY 50"))[0]["received_at"]

    def whole(found: Any) -> bool:
        told, latest = found
        if not {"FINNIFTY", "BANKEX", "BANKNIFTY", "NIFTY 50"} <= told.keys():
            return False
        known = told["NIFTY 50"]["last_tick_at"] == latest and told["BANKNIFTY"]["late"] >= 1
        return known and sum(told["FINNIFTY"]["rejected"].values()) >= 4 and told["BANKEX"]["duplicates"] >= 20

    told, _ = await until(of_today, whole, 90)

    assert told["FINNIFTY"]["rejected"] == {"price": 2, "in_future": 1, "too_old": 1}
    assert told["FINNIFTY"]["by_quality"]["suspect"] == told["FINNIFTY"]["by_quality"]["stale"] == 1
    assert told["NIFTY 50"]["rejected"] == {}
    assert told["NIFTY 50"]["by_quality"]["good"] > 20
