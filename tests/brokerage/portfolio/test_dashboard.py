"""The account in one answer: valued, compared with the broker, and marked while that is away."""

import asyncio
from decimal import Decimal

import pytest

from app.brokerage.errors import BrokerRateLimitedError, BrokerSessionError, BrokerUnavailableError
from app.brokerage.orders.ports import Holding as Held
from app.brokerage.orders.schemas import OrderRow
from app.brokerage.portfolio.own_positions import BookedPositions
from app.brokerage.words import BrokerHolding, BrokerPosition, Exchange, Funds, Product
from app.core.errors import UnavailableError
from tests.brokerage.portfolio.kit import DASHBOARD, DAY, MINUTE, NOON, D, Desk, by_symbol, fill, given

POSITIONS, HOLDINGS = "/api/v1/dashboard/positions", "/api/v1/dashboard/holdings"
MIS = Product.MIS
MORNING = NOON - 60 * MINUTE
FUTURE = "NIFTY26NOVFUT"


def theirs(symbol: str, quantity: int, average: str, product: Product = Product.MIS) -> BrokerPosition:
    return BrokerPosition(Exchange.NSE, symbol, product, quantity, D(average), D(average), D(0), None)


async def test_an_account_at_a_glance(desk: Desk) -> None:
    desk.prices.put("RELIANCE", "2600")
    desk.prices.put("TCS", "3900", live=False)
    shown = OrderRow.model_json_schema()["examples"][0]
    desk.orders.rows = [shown | {"price": D("2500.05")}]
    await desk.take(
        fill("buy", 10, "2500", NOON - 3 * DAY),
        fill("buy", 100, "4000", MORNING, "TCS", product=Product.MIS),
        fill("sell", 40, "4010", MORNING + MINUTE, "TCS", product=Product.MIS),
        fill("sell", 75, "24500", MORNING, FUTURE, product=Product.NRML, exchange=Exchange.NFO),
    )
    found = await desk.get(DASHBOARD)
    assert found["account"] == {
        "account_id": await desk.account(),
        "broker": "zerodha",
        "reachable": True,
        "as_of": "2026-11-20T06:30:00Z",
        "problem": None,
        "login_url": None,
    }
    assert found["funds"] == {"available": 900_000, "used": 100_000, "total": 1_000_000}
    rows = by_symbol(found["positions"])
    assert rows.keys() == {"TCS", FUTURE}, "what is kept and was not traded today is a holding"
    tcs = rows["TCS"]
    assert (tcs["quantity"], tcs["average_price"], tcs["last_price"], tcs["price_live"]) == (60, 4000, 3900, False)
    assert (tcs["unrealised_pnl"], tcs["realised_pnl"], tcs["day_pnl"]) == (-6000, 400, -5600)
    assert tcs["day_charges"] > 40
    assert rows[FUTURE]["unrealised_pnl"] is None, "nobody knows its price"
    (held,) = found["holdings"]
    assert (held["symbol"], held["quantity"], held["value"], held["unrealised_pnl"]) == ("RELIANCE", 10, 26000, 1000)
    totals = found["totals"]
    assert totals["realised_pnl"] == found["realised_pnl"] == 400
    assert totals["unrealised_pnl"] == found["unrealised_pnl"] == 1000 - 6000
    assert totals["overall_pnl"] == -4600
    assert totals["net_pnl"] == -4600 - totals["charges"]
    assert totals["invested"] == 25000 + 240_000
    assert totals["value"] == 26000 + 234_000
    assert (totals["unpriced"], totals["day_unknown"]) == (1, 2), "RELIANCE has no price of yesterday"
    assert totals["day_charges"] < totals["charges"]
    [waiting] = found["open_orders"]
    assert (waiting["id"], waiting["status"], waiting["price"]) == (shown["id"], "OPEN", D("2500.05"))
    assert len(found["latest_trades"]) == 4
    assert await desk.get(POSITIONS) == {name: found[name] for name in ("at", "account", "positions")}
    assert await desk.get(HOLDINGS) == {name: found[name] for name in ("at", "account", "holdings")}
    empty = await desk.get(DASHBOARD, who="bob")
    assert (empty["positions"], empty["holdings"], empty["latest_trades"]) == ([], [], [])
    for path in (DASHBOARD, POSITIONS, HOLDINGS):
        await desk.get(path, 403, who="alerts")
        await desk.get(path, 401, who="")


async def test_what_today_has_made(desk: Desk) -> None:
    """A lot of yesterday counts from yesterday's close, one of today from its own price."""
    await desk.take(fill("buy", 10, "2500", NOON - DAY), fill("sell", 5, "100", NOON - DAY, "SBIN", product=MIS))
    desk.clock.move(days=-1, hours=4)  # after the close
    desk.prices.put("RELIANCE", "2550")
    desk.prices.put("SBIN", "90")
    assert await desk.upkeep.snapshot() == {"accounts": 1}
    desk.clock.move(days=1, hours=-4)
    desk.prices.put("RELIANCE", "2600")
    desk.prices.put("SBIN", "80")
    first = (await desk.get(DASHBOARD))["totals"]
    assert (first["day_pnl"], first["unrealised_pnl"], first["day_unknown"]) == (500 + 50, 1000 + 100, 0)
    await desk.take(fill("buy", 4, "2590", MORNING), fill("sell", 12, "2620", MORNING + MINUTE))
    await desk.take(fill("buy", 5, "70", MORNING, "SBIN", product=MIS))
    found = await desk.get(DASHBOARD)
    rows = by_symbol(found["positions"])
    reliance = rows["RELIANCE"]
    assert (reliance["realised_pnl"], reliance["unrealised_pnl"]) == (10 * 120 + 2 * 30, 2 * 10)
    assert reliance["day_pnl"] == 10 * (2620 - 2550) + 2 * 30 + 2 * 10
    assert (rows["SBIN"]["quantity"], rows["SBIN"]["day_pnl"]) == (0, 5 * (90 - 70))
    assert found["totals"]["day_unknown"] == 0
    # Yesterday is corrected, and its mark with it.
    await desk.take(fill("buy", 1, "2500", NOON - DAY + MINUTE))
    reliance = by_symbol((await desk.get(DASHBOARD))["positions"])["RELIANCE"]
    assert reliance["day_pnl"] == 11 * (2620 - 2550) + (2620 - 2590) + 3 * (2600 - 2590)


async def test_what_came_from_elsewhere(desk: Desk) -> None:
    desk.prices.put("TCS", "110")
    await desk.take(fill("buy", 10, "100", NOON - DAY, "TCS"))
    await desk.enter(given("buy", 3, 90, NOON - DAY, stock_ticker="TCS"))
    desk.broker.held = [
        BrokerHolding(Exchange.NSE, "TCS", "INE467B01029", 25, D(80), D(111)),
        BrokerHolding(Exchange.BSE, "SBIN", None, 4, D(500), D(600)),
        BrokerHolding(Exchange.NSE, "GONE", None, 0, D(1), None),
    ]
    desk.broker.open = [theirs("INFY", -5, "1500"), theirs("TCS", 10, "100", Product.CNC)]
    found = await desk.get(DASHBOARD)
    rows = {row["symbol"]: row for row in found["holdings"]}
    tcs = rows["TCS"]
    assert (tcs["quantity"], tcs["tracked_quantity"], tcs["isin"]) == (28, 13, "INE467B01029")
    assert tcs["cost"] == 10 * 100 + 3 * 90 + 15 * 80
    assert tcs["unrealised_pnl"] == 28 * 110 - tcs["cost"]
    assert (rows["SBIN"]["unrealised_pnl"], rows["SBIN"]["price_live"]) == (400, False), "the broker told its price"
    (infy,) = found["positions"]
    assert (infy["symbol"], infy["tracked"], infy["quantity"], infy["unrealised_pnl"]) == ("INFY", False, -5, 0)
    assert infy["broker"]["quantity"] == -5
    assert found["totals"]["unrealised_pnl"] == tcs["unrealised_pnl"] + 400
    assert await BookedPositions().net(await desk.account()) == {Held(Exchange.NSE, "TCS", Product.CNC): 10}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (BrokerUnavailableError("Zerodha is away."), "Zerodha is away."),
        (BrokerRateLimitedError("Too often."), "Too often."),
        (BrokerSessionError("Sign in again.", login_url="https://broker.test/in"), "Sign in again."),
    ],
)
async def test_a_broker_that_is_away_leaves_what_it_said(desk: Desk, fault: Exception, words: str) -> None:
    desk.prices.put("RELIANCE", "2600")
    await desk.take(fill("buy", 10, "2500", NOON - MINUTE))
    desk.broker.fault = fault
    never = await desk.get(DASHBOARD)
    assert (never["funds"], never["account"]["as_of"], never["account"]["reachable"]) == (None, None, False)
    assert never["unrealised_pnl"] == 1000, "what is known here is shown"
    desk.broker.fault = None
    desk.clock.move(seconds=10)
    desk.broker.open = [theirs("RELIANCE", 10, "2500", Product.CNC)]
    assert (await desk.get(DASHBOARD))["account"]["reachable"] is True
    desk.broker.fault = fault
    desk.clock.move(minutes=10)
    later = await desk.get(DASHBOARD)
    assert later["account"]["problem"] == words
    assert later["account"]["as_of"] == "2026-11-20T06:30:10Z"
    assert later["funds"]["available"] == 900_000
    assert later["positions"][0]["broker"]["quantity"] == 10
    expired = isinstance(fault, BrokerSessionError)
    assert later["account"]["login_url"] == ("https://broker.test/in" if expired else None)
    assert desk.sessions.ended == ([await desk.account()] * 2 if expired else [])


async def test_a_session_that_cannot_be_opened(desk: Desk) -> None:
    desk.sessions.fault = BrokerSessionError("Renew the session.", login_url="https://broker.test/in")
    found = await desk.get(POSITIONS)
    assert (found["account"]["problem"], found["account"]["reachable"]) == ("Renew the session.", False)


async def test_brokers_are_asked_once_for_all_who_ask(desk: Desk) -> None:
    await asyncio.gather(*(desk.get(path) for path in (DASHBOARD, POSITIONS, HOLDINGS, DASHBOARD)))
    assert desk.broker.asked == 1
    desk.broker.money = Funds(D(5), D(0), D(5))
    desk.clock.move(seconds=3)
    assert (await desk.get(DASHBOARD))["funds"]["available"] == 5


async def test_prices_that_fail_are_no_prices(desk: Desk) -> None:
    await desk.take(fill("buy", 10, "2500", NOON - MINUTE))

    async def away(exchange: Exchange, symbol: str) -> None:
        raise UnavailableError(f"No quotes of {exchange}:{symbol}.")

    desk.prices.last = away  # type: ignore[method-assign]
    found = await desk.get(DASHBOARD)
    assert found["totals"]["unpriced"] == 1
    assert found["positions"][0]["last_price"] is None
    assert isinstance(found["totals"]["charges"], Decimal)
