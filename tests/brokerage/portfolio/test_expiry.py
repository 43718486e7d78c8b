"""Positions in futures and options that have expired: settled, or said to be open no more."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given as given_some
from hypothesis import strategies as st

from app.brokerage.adapters.symbols import contract_symbol
from app.brokerage.portfolio.book_rows import book_rows, trade_rows
from app.brokerage.portfolio.contracts import Contract, EndState, contract_of, ended_by, verdict
from app.brokerage.portfolio.expiry import IN_TRADING, Expiries
from app.brokerage.portfolio.own_positions import BookedPositions
from app.brokerage.ports import LastPrice
from app.brokerage.words import BookedTrade, BrokerName, Exchange, Listing, Product
from app.core.audit import ActorKind
from app.core.errors import UnavailableError
from app.core.market_calendar import MarketCalendar
from tests.brokerage.portfolio.kit import (
    DASHBOARD,
    MINUTE,
    MONDAY,
    PNL,
    TRADES,
    D,
    Desk,
    SomeRun,
    by_symbol,
    fill,
    given,
)

TUESDAY = date(2026, 11, 17)
CLOSE = datetime(2026, 11, 17, 10, 0, tzinfo=UTC)
"""15:30 in India."""
EVENING = CLOSE + timedelta(minutes=20)
CALL, PUT, FUTURE = "NIFTY26N1724500CE", "NIFTY26N1724500PE", "NIFTY26NOVFUT"
STOCK_CALL, STOCK_FUTURE = "RELIANCE26NOV1500CE", "RELIANCE26NOVFUT"


def listing(symbol: str, expiry: date = TUESDAY) -> Listing:
    kind = "FUT" if symbol.endswith("FUT") else symbol[-2:]
    strike = None if kind == "FUT" else D(1500) if symbol.startswith("RELIANCE") else D(24500)
    return Listing(Exchange.NFO, symbol, symbol, D("0.05"), 75, None, kind, None, expiry, strike)


@dataclass
class ListingsHere:
    """Fills the port `Listings`."""

    known: dict[str, Listing] = field(
        default_factory=lambda: {one: listing(one) for one in (CALL, PUT, FUTURE, STOCK_CALL, STOCK_FUTURE)}
    )
    away: bool = False

    async def find(self, broker: BrokerName, exchange: Exchange, symbol: str) -> Listing | None:  # noqa: ARG002
        if self.away:
            raise UnavailableError("The list is not here yet.")
        return self.known.get(symbol)

    async def like(self, broker: BrokerName, exchange: Exchange, symbol: str) -> list[str]:
        raise AssertionError((broker, exchange, symbol))


def contract(side: str, quantity: int, price: str, symbol: str, at: datetime = MONDAY) -> BookedTrade:
    return fill(side, quantity, price, at, symbol, product=Product.NRML, exchange=Exchange.NFO)


@pytest.fixture
def listings() -> ListingsHere:
    return ListingsHere()


@pytest.fixture
def expiries(desk: Desk, listings: ListingsHere) -> Expiries:
    desk.clock.moment = EVENING
    return Expiries(
        ledger=desk.here.ledger,
        prices=desk.prices,
        listings=listings,
        calendar=MarketCalendar(desk.clock),
        clock=desk.clock,
        audit=desk.audit,
    )


def ended_at(desk: Desk, price: str, symbol: str = "NIFTY 50", at: datetime = CLOSE) -> None:
    desk.prices.known[symbol] = LastPrice(D(price), at)


async def trades_of(desk: Desk) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await desk.get(TRADES, limit=100)
    return found


async def settlements(desk: Desk) -> list[tuple[str, str, int, Decimal]]:
    rows = [row for row in await trades_of(desk) if row["note"]]
    return sorted((row["stock_ticker"], row["order_type"], row["quantity"], row["price"]) for row in rows)


async def test_contracts_of_an_index_are_settled_after_the_close(desk: Desk, expiries: Expiries) -> None:
    await desk.take(
        contract("buy", 75, "120", CALL),
        contract("sell", 150, "80", PUT),
        contract("sell", 75, "24400", FUTURE),
        contract("buy", 75, "10", "NIFTY26D0124500CE"),
    )
    ended_at(desk, "24612.35")
    desk.clock.moment = CLOSE + timedelta(minutes=14)
    assert await expiries.run() == {}, "an index has its closing value a few minutes after the close"
    desk.clock.moment = EVENING
    assert await expiries.run() == {"settled": 3}
    assert await settlements(desk) == [
        (CALL, "sell", 75, D("112.35")),
        (PUT, "buy", 150, 0),
        (FUTURE, "buy", 75, D("24612.35")),
    ]
    found = await desk.get(PNL, start="2026-11-17", end="2026-11-17", by="symbol")
    made = {row["symbol"]: row["realised_pnl"] for row in found["rows"]}
    assert made == {CALL: 75 * (D("112.35") - 120), PUT: 150 * 80, FUTURE: 75 * (24400 - D("24612.35"))}
    # 0.15 % of 8,426.25: the call was exercised, and no order was given.
    assert found["charges"]["total"] == found["charges"]["stt"] == 13
    assert found["net_pnl"] == sum(made.values()) - 13
    rows = {row["symbol"]: row for row in await desk.all_of("portfolio_books")}
    assert {symbol: row["open"] for symbol, row in rows.items()} == {
        CALL: False, PUT: False, FUTURE: False, "NIFTY26D0124500CE": True
    }  # fmt: skip
    noted = [act for act in desk.audit.acts if act.action == "position.expire"]
    assert sorted((act.details["symbol"], act.details["quantity"], act.details["price"]) for act in noted) == [
        (CALL, 75, "112.35"),
        (PUT, -150, "0"),
        (FUTURE, -75, "24612.35"),
    ]
    assert {act.actor.kind for act in noted} == {ActorKind.SYSTEM}
    assert all(act.account_id == desk.people.ids["ann"] for act in noted)
    # Again, and made anew from the trades: nothing is otherwise.
    assert await expiries.run() == {}
    again = await desk.upkeep.rebuild(SomeRun())
    assert again is not None
    assert (again["books_corrected"], again["days_corrected"]) == (0, 0)
    assert len([act for act in desk.audit.acts if act.action == "position.expire"]) == 3


async def test_two_processes_settle_once(desk: Desk, expiries: Expiries) -> None:
    """Even where both have seen the position open, and neither has seen the other's work."""
    await desk.take(contract("buy", 75, "120", CALL))
    ended_at(desk, "24600")
    (row,) = await book_rows().find({}).to_list()
    ended = await expiries._ended(row)
    assert ended is not None
    for _ in range(2):
        await expiries._settle(expiries._row(row, ended.at, "settled", D(100), 75))
    assert await settlements(desk) == [(CALL, "sell", 75, 100)]
    (after,) = await book_rows().find({}).to_list()
    assert (after["open"], after["dirty"], after["pending"]) == (False, False, [])


@pytest.mark.parametrize(
    ("late", "left", "realised"),
    [
        (("sell", 75, "112.35"), [], "-573.75"),  # the broker's own settlement
        (("sell", 25, "130"), [(CALL, "sell", 50, D("112.35"))], "-132.5"),  # 250 - 382.50
        (("sell", 100, "130"), [(CALL, "buy", 25, D("112.35"))], "1191.25"),  # 750 + 441.25
    ],
)
async def test_trades_that_the_broker_tells_later_win(
    desk: Desk,
    expiries: Expiries,
    late: tuple[str, int, str],
    left: list[tuple[str, str, int, Decimal]],
    realised: str,
) -> None:
    await desk.take(contract("buy", 75, "120", CALL))
    ended_at(desk, "24612.35")
    assert await expiries.run() == {"settled": 1}
    await desk.take(contract(*late, CALL, CLOSE - MINUTE))
    desk.clock.move(days=3)
    assert await expiries.run() == {"corrected" if left else "withdrawn": 1}
    assert await settlements(desk) == left
    assert await expiries.run() == {}
    (book,) = await book_rows().find({}).to_list()
    assert (book["open"], book["state"]["realised"]) == (False, D(realised))
    assert [act.details["state"] for act in desk.audit.acts][1:] == ["corrected" if left else "withdrawn"]


async def test_without_a_price_of_that_evening_nothing_is_invented(desk: Desk, expiries: Expiries) -> None:
    desk.prices.put(CALL, "150")
    await desk.take(contract("buy", 75, "120", CALL), fill("buy", 1, "100", MONDAY, "TCS"))
    desk.prices.put("TCS", "110")
    assert await expiries.run() == {}, "it may come yet"
    desk.clock.moment = CLOSE + timedelta(minutes=45)
    for moment in (CLOSE - timedelta(minutes=2), CLOSE + timedelta(hours=18)):
        ended_at(desk, "24612.35", at=moment)
        await expiries.run()
        assert await settlements(desk) == []
    assert [act.details["state"] for act in desk.audit.acts] == ["unknown"], "said once"
    found = await desk.get(DASHBOARD)
    call = by_symbol(found["positions"])[CALL]
    assert call["expired"] == "Expired; the settlement price is not known here: see the broker's note."
    assert (call["quantity"], call["value"], call["unrealised_pnl"], call["last_price"]) == (75, None, None, None)
    totals = found["totals"]
    assert (totals["expired"], totals["unpriced"], totals["invested"], totals["unrealised_pnl"]) == (1, 0, 100, 10)
    assert await BookedPositions().net(await desk.account()) == {(Exchange.NSE, "TCS", Product.CNC): 1}
    desk.clock.moment = EVENING + timedelta(hours=1)
    await desk.upkeep.snapshot()
    (kept,) = await desk.all_of("portfolio_snapshots")
    assert (len(kept["books"]), kept["unpriced"]) == (1, 0)
    ended_at(desk, "24612.35")
    assert await expiries.run() == {"settled": 1}, "the price came later that evening"
    assert (await desk.get(DASHBOARD))["totals"]["expired"] == 0


async def test_the_last_price_in_trading_is_taken_where_no_closing_one_comes(desk: Desk, expiries: Expiries) -> None:
    await desk.take(contract("buy", 75, "120", CALL))
    ended_at(desk, "24600", at=CLOSE - timedelta(seconds=1))
    desk.clock.moment = CLOSE + timedelta(minutes=44)
    assert await expiries.run() == {}
    desk.clock.moment = CLOSE + timedelta(minutes=45)
    assert await expiries.run() == {"settled": 1}
    assert await settlements(desk) == [(CALL, "sell", 75, 100)]
    (row,) = await trade_rows().find({"note": {"$exists": True}}).to_list()
    assert row["note"].endswith(f"ended at ₹24,600. {IN_TRADING}")


async def test_what_is_settled_is_not_in_the_evenings_snapshot_too(desk: Desk, expiries: Expiries) -> None:
    """It may be taken first, with the position open."""
    desk.prices.put(CALL, "110")
    desk.prices.put("TCS", "110")
    await desk.take(contract("buy", 75, "120", CALL), fill("buy", 1, "100", MONDAY, "TCS"))
    desk.clock.moment = CLOSE + timedelta(minutes=16)
    await desk.upkeep.snapshot()
    (kept,) = await desk.all_of("portfolio_snapshots")
    assert (kept["unrealised"].to_decimal(), len(kept["books"])) == (10 - 75 * 10, 2)
    ended_at(desk, "24612.35")
    assert await expiries.run() == {"settled": 1}
    (kept,) = await desk.all_of("portfolio_snapshots")
    left = [one["book"].rpartition("|")[2] for one in kept["books"] if one["quantity"]]
    assert (kept["unrealised"].to_decimal(), left) == (10, ["TCS"])
    assert await expiries.run() == {}


async def test_an_end_that_the_exchange_moves_is_followed(
    desk: Desk, expiries: Expiries, listings: ListingsHere
) -> None:
    """The future's month is its name, on whichever day it ends; what was kept of it is not the last word."""
    await desk.take(contract("buy", 75, "24400", FUTURE))
    desk.clock.moment = MONDAY
    assert await expiries.run() == {}
    listings.known[FUTURE] = listing(FUTURE, TUESDAY + timedelta(days=2))
    desk.clock.moment = CLOSE + timedelta(hours=1)
    ended_at(desk, "24600")
    assert await expiries.run() == {}, "it lives until Thursday"
    mark = {"day": TUESDAY.isoformat(), "state": "unknown", "note": "Expired."}
    await book_rows().update_one({}, {"$set": {"expired": mark}})
    assert await expiries.run() == {}
    listings.known.clear()
    desk.clock.move(days=2)
    assert (await desk.get(DASHBOARD))["totals"]["expired"] == 0
    ended_at(desk, "24650", at=CLOSE + timedelta(days=2))
    assert await expiries.run() == {"settled": 1}
    assert await settlements(desk) == [(FUTURE, "sell", 75, D("24650"))]


async def test_commodities_are_traded_into_the_night_of_their_last_day(
    desk: Desk, expiries: Expiries, listings: ListingsHere
) -> None:
    listings.known["GOLD26NOVFUT"] = msgspec.structs.replace(listing("GOLD26NOVFUT"), exchange=Exchange.MCX)
    await desk.take(fill("buy", 1, "75000", MONDAY, "GOLD26NOVFUT", product=Product.NRML, exchange=Exchange.MCX))
    desk.clock.moment = CLOSE + timedelta(hours=8, minutes=29)  # 23:59 in India
    assert await expiries.run() == {}
    desk.clock.move(minutes=1)
    assert await expiries.run() == {"unknown": 1}


async def test_shares_are_delivered_by_the_broker(desk: Desk, expiries: Expiries) -> None:
    """In the money, or a future: nothing is booked. Out of the money there is nothing to deliver."""
    await desk.take(contract("buy", 500, "20", STOCK_CALL), contract("sell", 500, "1490", STOCK_FUTURE))
    ended_at(desk, "1510", "RELIANCE")
    assert await expiries.run() == {"physical": 2}
    assert await expiries.run() == {}
    found = await desk.get(DASHBOARD)
    assert found["holdings"] == []
    assert {row["expired"] for row in found["positions"]} == {
        "Expired: physical settlement at the broker; shares and money are not booked here."
    }
    assert (found["totals"]["expired"], found["totals"]["realised_pnl"]) == (2, 0)
    ended_at(desk, "1490", "RELIANCE")
    assert await expiries.run() == {"unknown": 1}, "the closing price may be above the strike"
    assert (await desk.get(DASHBOARD))["totals"]["expired"] == 2
    ended_at(desk, "1485", "RELIANCE")
    assert await expiries.run() == {"settled": 1}
    assert await settlements(desk) == [(STOCK_CALL, "sell", 500, 0)]
    assert (await desk.get(PNL))["realised_pnl"] == -500 * 20


async def test_terms_are_known_when_the_list_has_forgotten_them(
    desk: Desk, expiries: Expiries, listings: ListingsHere
) -> None:
    await desk.take(contract("buy", 75, "120", CALL))
    desk.clock.moment = MONDAY
    assert await expiries.run() == {}
    listings.known.clear()
    desk.clock.moment = EVENING
    ended_at(desk, "24612.35")
    assert await expiries.run() == {"settled": 1}


async def test_a_symbol_alone_says_that_it_has_ended_and_no_price(
    desk: Desk, expiries: Expiries, listings: ListingsHere
) -> None:
    listings.away = True
    await desk.take(contract("buy", 75, "120", FUTURE), contract("buy", 75, "120", CALL))
    ended_at(desk, "24612.35")
    assert await expiries.run() == {}
    desk.clock.moment = datetime(2026, 11, 17, 18, 31, tzinfo=UTC)  # 00:01 in India
    assert await expiries.run() == {"unknown": 1}, "the call's day is over, the future's month is not"
    desk.clock.moment = datetime(2026, 11, 30, 18, 31, tzinfo=UTC)
    assert await expiries.run() == {"unknown": 1}
    assert await settlements(desk) == []


async def test_the_paper_broker_settles_itself_and_what_was_entered_is_settled(desk: Desk, expiries: Expiries) -> None:
    desk.sessions.broker = BrokerName.PAPER
    await desk.take(contract("buy", 75, "120", CALL))
    await desk.enter(
        given("buy", 75, 100, MONDAY, stock_ticker=CALL, type="opt"),
        given("sell", 75, 90, MONDAY, stock_ticker=PUT, type="opt"),
    )
    ended_at(desk, "24400")
    assert await expiries.run() == {"settled": 2}
    assert await settlements(desk) == [(CALL, "sell", 75, 0), (PUT, "buy", 75, 100)]
    rows = await trade_rows().find({"note": {"$exists": True}}).to_list()
    assert {row["source"] for row in rows} == {"manual"}
    told = await desk.ask("DELETE", f"/api/v1/trade/trade/{rows[0]['_id']}", 409)
    assert "settlement of a contract that expired" in told["detail"]


# Terms and prices

STRIKES = st.decimals("0.5", "99999.95", places=2)
NAMES = st.sampled_from(["NIFTY", "NIFTYNXT50", "BANKNIFTY", "RELIANCE", "M&M", "BAJAJ-AUTO", "360ONE", "SENSEX50"])
DAYS = st.dates(date(2024, 1, 1), date(2035, 12, 31))


@given_some(NAMES, DAYS, st.sampled_from(["CE", "PE", "FUT"]), STRIKES, st.none() | st.booleans())
def test_terms_are_read_from_how_contracts_are_written(
    name: str, expiry: date, kind: str, strike: Decimal, weekly: bool | None
) -> None:
    amount = None if kind == "FUT" else strike
    symbol = contract_symbol(name, expiry, kind, amount, weekly=weekly)
    listed = Listing(Exchange.NFO, symbol, symbol, D("0.05"), kind=kind, expiry=expiry, strike=amount)
    assert contract_of(listed) == Contract(name, kind, amount, expiry)
    # The symbol alone names a day that is not before the end.
    last = ended_by(symbol, expiry - timedelta(days=30))
    assert last is not None
    assert last >= expiry


def test_what_is_no_contract_has_no_terms() -> None:
    assert contract_of(Listing(Exchange.NSE, "RELIANCE", "k", D("0.05"))) is None
    assert contract_of(Listing(Exchange.NFO, "NIFTY26NOVFUT", "k", D("0.05"), kind="FUT")) is None
    assert contract_of(Listing(Exchange.NFO, "ODD", "k", D("0.05"), kind="FUT", expiry=TUESDAY)) is None
    assert ended_by("RELIANCE", TUESDAY) is None
    assert ended_by("NIFTY26DEC27000CE", TUESDAY) == date(2026, 12, 31), "no strike is 000"
    assert ended_by("NIFTY24NOVFUT", TUESDAY) is None, "it would have been traded after its end"


@given_some(st.decimals("1", "99999", places=2), STRIKES, st.sampled_from(["CE", "PE", "FUT"]))
def test_what_a_contract_is_worth_at_its_end(spot: Decimal, strike: Decimal, kind: str) -> None:
    on_index = Contract("NIFTY", kind, None if kind == "FUT" else strike, TUESDAY)
    found = verdict(Exchange.NFO, on_index, spot)
    wanted = {"FUT": spot, "CE": max(spot - strike, D(0)), "PE": max(strike - spot, D(0))}[kind]
    assert (found.state, found.price) == (EndState.SETTLED, wanted)
    share = verdict(Exchange.NFO, on_index._replace(underlying="TCS"), spot)
    near = kind != "FUT" and abs(spot - strike) < strike / 100
    assert share.state == (EndState.PHYSICAL if wanted else EndState.UNKNOWN if near else EndState.SETTLED)
    assert verdict(Exchange.NFO, on_index, None).price is None
    assert verdict(Exchange.MCX, on_index, spot).price is None
