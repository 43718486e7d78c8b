"""Trades over HTTP: what system 4 sends, and what follows from it."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from beanie import PydanticObjectId

from app.brokerage.portfolio.book_rows import day_rows
from app.brokerage.portfolio.ledger import Ledger, Write
from app.brokerage.portfolio.trades import Trades
from app.core.charges import COMPONENTS
from app.core.errors import ConflictError, NotFoundError
from tests.brokerage.portfolio.kit import (
    DAY,
    ENGINE,
    MINUTE,
    MONDAY,
    NOON,
    PNL,
    SYSTEM_4,
    TRADE,
    TRADES,
    D,
    Desk,
    fill,
    given,
)


async def test_a_trade_as_system_4_sends_it(desk: Desk) -> None:
    made = await desk.ask("POST", TRADE, 201, json=SYSTEM_4)
    assert made["capital_used"] == 25000
    assert (made["buy_price"], made["sell_price"], made["status"]) == (2500, None, "OPEN")
    assert (made["brokerage_charge"], made["mtf_charge"]) == (20, 0)
    assert (made["type"], made["product"], made["exchange"], made["source"]) == ("eq", "CNC", "NSE", "manual")
    assert made["order_executed_at"] == "2026-11-20T06:30:00Z"
    # STT 25, transaction 0.77, SEBI 0.03, stamp 3.75, brokerage 20, GST 3.74 of 20.80
    assert made["charges"] == D("53.29")
    assert await desk.get(f"{TRADE}/{made['id']}") == made
    assert await desk.get(TRADES) == [made]
    sold = await desk.ask("PUT", f"{TRADE}/{made['id']}", json={**SYSTEM_4, "order_type": "sell", "price": 2600.0})
    assert (sold["order_type"], sold["sell_price"], sold["buy_price"]) == ("sell", 2600, None)
    assert (sold["capital_used"], sold["status"], sold["created_at"]) == (26000, "OPEN", made["created_at"])
    assert [act.action for act in desk.audit.acts] == ["trade.create", "trade.replace"]


async def test_profit_follows_from_the_trades(desk: Desk) -> None:
    first, second, sale = await desk.enter(
        given("buy", 10, 2500, NOON - 3 * DAY),
        given("buy", 10, "2600.10", NOON - 2 * DAY),
        given("sell", 15, 2700, NOON - DAY),
    )
    assert sale["realised_pnl"] == 10 * 200 + 5 * D("99.9")
    assert sale["buy_price"] == D("2533.3667"), "the average of what it closed"
    assert (sale["status"], sale["closed_quantity"], sale["open_quantity"]) == ("CLOSED", 15, 0)
    assert sale["net_pnl"] == sale["realised_pnl"] - sale["charges"]
    first = await desk.get(f"{TRADE}/{first['id']}")
    second = await desk.get(f"{TRADE}/{second['id']}")
    assert (first["status"], first["sell_price"], first["open_quantity"]) == ("CLOSED", 2700, 0)
    assert (second["status"], second["sell_price"], second["open_quantity"]) == ("PARTIAL", 2700, 5)
    (short,) = await desk.enter(given("sell", 10, 2500, NOON - MINUTE))
    assert (short["closed_quantity"], short["open_quantity"], short["status"]) == (5, 5, "OPEN")
    assert short["buy_price"] == D("2600.1")
    (cover,) = await desk.enter(given("buy", 5, 2400, NOON))
    assert cover["realised_pnl"] == 500
    short = await desk.get(f"{TRADE}/{short['id']}")
    assert (short["status"], short["buy_price"]) == ("CLOSED", D("2500.05")), "5 closed at 2600.1, 5 covered at 2400"
    for status, count in (("OPEN", 0), ("closed", 5), ("PARTIAL", 0)):
        assert len(await desk.get(TRADES, status=status)) == count


async def test_an_older_trade_changes_what_came_after(desk: Desk) -> None:
    buy, sale = await desk.enter(given("buy", 10, 100, NOON - 2 * DAY), given("sell", 10, 110, NOON - DAY))
    assert sale["realised_pnl"] == 100
    (older,) = await desk.enter(given("buy", 10, 90, NOON - 3 * DAY))
    assert (await desk.get(f"{TRADE}/{sale['id']}"))["realised_pnl"] == 200
    assert (await desk.get(f"{TRADE}/{buy['id']}"))["status"] == "OPEN"
    assert (await desk.get(PNL))["realised_pnl"] == 200
    await desk.ask("PUT", f"{TRADE}/{older['id']}", json=given("buy", 10, 95, NOON - 10 * DAY))
    assert (await desk.get(PNL))["realised_pnl"] == 150
    await desk.ask("PUT", f"{TRADE}/{older['id']}", json=given("buy", 10, 95, stock_ticker="TCS"))
    assert (await desk.get(f"{TRADE}/{sale['id']}"))["realised_pnl"] == 100
    assert (await desk.get(f"{TRADE}/{older['id']}"))["order_executed_at"] == "2026-11-10T06:30:00Z", "as it was"
    await desk.ask("DELETE", f"{TRADE}/{buy['id']}", 204)
    assert (await desk.get(f"{TRADE}/{sale['id']}"))["realised_pnl"] == 0
    whole = await desk.get(PNL)
    assert [(row["day"], row["trades"]) for row in whole["rows"]] == [("2026-11-19", 1), ("2026-11-10", 1)]
    assert whole["realised_pnl"] == 0
    await desk.get(f"{TRADE}/{buy['id']}", 404)


class Slow(Ledger):
    """Of a process that is held up before it changes anything."""

    meanwhile: Callable[[], Awaitable[object]]

    async def change(self, touched: Iterable[Mapping[str, Any]], write: Write) -> None:
        await self.meanwhile()
        await super().change(touched, write)


async def test_the_pnl_of_an_account_that_was_removed_stays(desk: Desk) -> None:
    await desk.enter(given("buy", 10, 100))
    removed = await desk.account()
    desk.sessions.accounts.clear()
    assert await desk.account() != removed
    assert (await desk.get(PNL, account_id=removed))["trades"] == 1
    untouched = await day_rows().find_one({"account_id": removed})
    await day_rows().update_one({"account_id": removed}, {"$set": {"pending": True}})
    await desk.get(PNL, 404, who="bob", account_id=removed)
    assert untouched is not None
    stays = await day_rows().find_one({"account_id": removed})
    assert stays is not None
    assert stays["pending"], "nobody else has it computed"


async def test_a_trade_that_is_moved_while_it_is_removed_leaves_no_position(desk: Desk) -> None:
    """Who removes it has read the book that it was in, not the one that it is in by now."""
    (made,) = await desk.enter(given("buy", 10, 100, NOON))
    path = f"{TRADE}/{made['id']}"
    slow = Slow(clock=desk.clock, engine=ENGINE, days=desk.here.days, mtf_funded_share=D(0))
    slow.meanwhile = lambda: desk.ask("PUT", path, json=given("buy", 10, 100, NOON, stock_ticker="TCS"))
    trades = Trades(ledger=slow, sessions=desk.sessions, orders=desk.orders, clock=desk.clock, audit=desk.audit)
    ann = await desk.people.authenticate("ann")
    with pytest.raises(ConflictError, match="try again"):
        await trades.delete(ann, PydanticObjectId(made["id"]))
    await desk.ask("DELETE", path, 204)
    found = (await desk.get("/api/v1/dashboard/positions"))["positions"]
    assert [one["symbol"] for one in found if one["quantity"]] == []
    slow.meanwhile = lambda: desk.ask("DELETE", path, 404)
    with pytest.raises(NotFoundError):
        await trades.delete(ann, PydanticObjectId(made["id"]))


async def test_who_enters_a_trade_may_say_what_it_cost(desk: Desk) -> None:
    planned, told = await desk.enter(
        given("buy", 10, 1000, NOON, type="intraday"),
        given("buy", 10, 1000, NOON, type="intraday", stock_ticker="TCS", brokerage_charge=7.5),
    )
    assert planned["brokerage_charge"] == 3, "0.03 % at Zerodha"
    assert told["brokerage_charge"] == D("7.5")
    assert told["charges"] - planned["charges"] == pytest.approx(D("4.5") * D("1.18"), abs=D("0.02"))
    lent, sale = await desk.enter(
        given("buy", 100, 1000, NOON - 10 * DAY, type="mtf"), given("sell", 100, 1000, NOON, type="mtf")
    )
    assert (lent["mtf_charge"], sale["mtf_charge"]) == (0, 300), "75,000 at 14.6 % for 10 days"
    await desk.enter(given("buy", 100, 1000, NOON - 10 * DAY, type="mtf", stock_ticker="INFY", mtf_charge=250))
    (sale,) = await desk.enter(given("sell", 100, 1000, NOON, type="mtf", stock_ticker="INFY"))
    assert sale["mtf_charge"] == 0, "it was told already"
    found = await desk.get(PNL, by="symbol")
    assert {(row["symbol"], row["product"]): row["interest"] for row in found["rows"]} == {
        ("RELIANCE", "MIS"): 0,
        ("TCS", "MIS"): 0,
        ("RELIANCE", "MTF"): 300,
        ("INFY", "MTF"): 250,
    }


WRONG: list[dict[str, Any]] = [
    {"quantity": 0},
    {"quantity": True},
    {"quantity": 1.5},
    {"quantity": 10**9},
    {"price": 0},
    {"price": "NaN"},
    {"price": 1e9},
    {"price": "1.0000001"},
    {"capital_used": 5},
    {"realised_pnl": 5},
    {"order_id": 1},
    {"order_type": "hold"},
    {"type": "opt", "exchange": "NFO"},
    {"type": "fut", "exchange": "NFO", "stock_ticker": "NIFTY26DEC24500CE"},
    {"exchange": "NFO"},
    {"stock_ticker": "REL\x00"},
    {"stock_ticker": {"$gt": ""}},
    {"stock_ticker": "=1+1"},
    {"buy_price": 99},
    {"brokerage_charge": -1},
    {"order_executed_at": "2026-11-20T06:32:00Z"},
    {"order_executed_at": "1999-12-31T00:00:00Z"},
]


async def test_what_is_wrong_is_refused(desk: Desk) -> None:
    for wrong in WRONG:
        refused = await desk.ask("POST", TRADE, 422, json={**given("buy", 10, 100), **wrong})
        assert refused["errors"], wrong
    assert await desk.get(TRADES) == []


async def test_what_is_somebody_elses_is_nobodys(desk: Desk) -> None:
    (mine,) = await desk.enter(given("buy", 10, 100))
    await desk.take(fill("buy", 5, "100", NOON))
    (reported,) = [row for row in await desk.get(TRADES) if row["source"] == "broker"]
    path, body = f"{TRADE}/{mine['id']}", given("buy", 10, 100)
    for method, options in (("GET", {}), ("PUT", {"json": body}), ("DELETE", {})):
        await desk.ask(method, path, 404, "bob", **options)
        await desk.ask(method, f"{TRADE}/{'0' * 24}", 404, **options)
        await desk.ask(method, f"{TRADE}/1", 404, **options)
        await desk.ask(method, path, 401, "", **options)
    assert await desk.get(TRADES, who="bob") == []
    assert (await desk.get(PNL, who="bob"))["trades"] == 0
    for stranger in (await desk.account(), "0" * 24, "1"):
        await desk.get(PNL, 404, who="bob", account_id=stranger)
    assert (await desk.get(PNL, account_id=await desk.account()))["trades"] == 2
    assert await desk.get(path, who="reader") == mine
    for hidden in (path, TRADES, PNL):
        await desk.get(hidden, 403, who="alerts")
    for method, options in (("POST", {"json": body}), ("PUT", {"json": body}), ("DELETE", {})):
        where = TRADE if method == "POST" else path
        await desk.ask(method, where, 403, "reader", **options)
    refused = await desk.ask("PUT", f"{TRADE}/{reported['id']}", 409, json=body)
    assert "broker reported" in refused["detail"]
    await desk.ask("DELETE", f"{TRADE}/{reported['id']}", 409)
    await desk.ask("POST", TRADE, 404, json={**body, "order_id": "6b02893a002b26997921d778"})
    desk.orders.mine["B1"] = "6b02893a002b26997921d778"
    (linked,) = await desk.enter({**body, "order_id": "6b02893a002b26997921d778"})
    assert linked["order_id"] == "6b02893a002b26997921d778"


async def test_lists_go_back_to_before_the_account(desk: Desk) -> None:
    moments = [datetime(2003, 5, 2, 5, tzinfo=UTC), *(NOON - n * timedelta(days=400) for n in range(4)), NOON]
    await desk.enter(*(given("buy", n + 1, 10 + n, at, stock_ticker="TCS") for n, at in enumerate(moments)))
    await desk.enter(given("buy", 1, 5, MONDAY))
    found, cursor = [], None
    while True:
        answer = await desk.client.get(
            TRADES,
            params={"limit": 2, "stock_ticker": "tcs-eq", **({"cursor": cursor} if cursor else {})},
            headers={"Authorization": "Bearer ann"},
        )
        assert len(answer.json()) <= 2
        found += answer.json()
        cursor = answer.headers.get("x-next-cursor")
        if cursor is None:
            break
    assert [row["order_executed_at"] for row in found] == [
        moment.isoformat().replace("+00:00", "Z") for moment in sorted(moments, reverse=True)
    ]
    within = await desk.get(TRADES, start="2026-11-16T00:00:00Z", end="2026-11-17T00:00:00Z")
    assert [row["stock_ticker"] for row in within] == ["RELIANCE"]
    await desk.get(TRADES, 422, start="2026-11-17T00:00:00Z", end="2026-11-16T00:00:00Z")
    await desk.get(TRADES, 422, ticker="TCS")
    assert await desk.get(TRADES, broker="upstox") == []


async def test_a_stretch_of_days(desk: Desk) -> None:
    await desk.enter(
        given("buy", 10, 100, datetime(2026, 3, 31, 18, 29, tzinfo=UTC)),  # 23:59 in India
        given("sell", 4, 110, datetime(2026, 3, 31, 18, 30, tzinfo=UTC)),  # a day and a year later
        given("sell", 6, 95, MONDAY),
        given("buy", 3, 50, MONDAY, stock_ticker="TCS", type="intraday"),
        given("sell", 3, 60, MONDAY + MINUTE, stock_ticker="TCS", type="intraday"),
    )
    year = await desk.get(PNL)
    assert (year["start"], year["end"]) == ("2026-04-01", "2026-11-20")
    assert [(row["day"], row["realised_pnl"]) for row in year["rows"]] == [("2026-11-16", 0), ("2026-04-01", 40)]
    assert year["realised_pnl"] == 40
    assert year["charges"].keys() == {*COMPONENTS, "total"}
    assert year["charges"]["total"] == sum(row["charges"] for row in year["rows"])
    assert year["net_pnl"] == 40 - year["charges"]["total"]
    assert year["turnover"] == 440 + 570 + 330
    symbols = await desk.get(PNL, by="symbol", start="2026-11-01", end="2026-11-30")
    assert [(row["symbol"], row["realised_pnl"], row["bought"], row["sold"]) for row in symbols["rows"]] == [
        ("TCS", 30, 3, 3),
        ("RELIANCE", -30, 0, 6),
    ]
    assert sum(row["charges"] for row in symbols["rows"]) == symbols["charges"]["total"]
    assert (await desk.get(PNL, start="2026-03-31", end="2026-03-31"))["trades"] == 1
    await desk.get(PNL, 422, start="2026-11-30", end="2026-11-01")
    await desk.get(PNL, 422, start="2020-11-30", end="2026-11-01")
    assert isinstance(year["charges"]["stt"], int | Decimal)
