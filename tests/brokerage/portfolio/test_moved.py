"""One share on two exchanges, and positions that a broker moved to another product."""

from dataclasses import dataclass
from decimal import Decimal

import pytest
from hypothesis import given as given_some
from hypothesis import strategies as st

from app.brokerage.orders.conversions import Conversion, conversions
from app.brokerage.orders.ports import Holding
from app.brokerage.portfolio.book_rows import book_rows, trade_rows
from app.brokerage.portfolio.moved import MovedPositions
from app.brokerage.portfolio.own_positions import BookedPositions
from app.brokerage.portfolio.places import Places
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerName,
    BrokerPosition,
    Exchange,
    Listing,
    OrderState,
    PriceType,
    Product,
    Side,
)
from app.core.errors import UnavailableError
from tests.brokerage.portfolio.kit import DASHBOARD, DAY, MINUTE, NOON, PNL, D, Desk, SomeRun, by_symbol, fill, given

MORNING = NOON - 60 * MINUTE
NSE, BSE = Exchange.NSE, Exchange.BSE


def at(exchange: Exchange, product: Product, net: int, symbol: str = "RELIANCE") -> BrokerPosition:
    return BrokerPosition(exchange, symbol, product, net, D(100), None, D(1), None)


# One share, two exchanges


async def test_a_share_bought_on_one_exchange_is_sold_on_the_other(desk: Desk) -> None:
    await desk.take(
        fill("buy", 10, "2500", NOON - 2 * DAY),
        fill("sell", 4, "2600", MORNING, exchange=BSE),
        fill("buy", 1, "2610", MORNING + MINUTE, exchange=BSE),
        # Intraday positions are those of their exchange.
        fill("buy", 5, "2500", MORNING, product=Product.MIS),
        fill("sell", 5, "2600", MORNING, product=Product.MIS, exchange=BSE),
    )
    desk.prices.put("RELIANCE", "2600")
    found = await desk.get(DASHBOARD)
    (held,) = found["holdings"]
    assert (held["exchange"], held["quantity"], held["cost"]) == ("NSE", 7, 6 * 2500 + 2610)
    assert found["realised_pnl"] == 4 * 100
    rows = await trade_rows().find({"product": "CNC"}).sort("seq").to_list()
    assert [(row["exchange"], row.get("realised")) for row in rows] == [("NSE", 0), ("BSE", 400), ("BSE", 0)]
    delivered = [row for row in found["positions"] if row["product"] == "CNC"]
    assert [(row["exchange"], row["quantity"]) for row in delivered] == [("NSE", 7)], "traded today, on BSE"
    assert sorted(row["quantity"] for row in found["positions"] if row["product"] == "MIS") == [-5, 5]
    made = (await desk.get(PNL, by="symbol"))["rows"]
    assert [(row["exchange"], row["bought"], row["sold"]) for row in made if row["product"] == "CNC"] == [
        ("NSE", 11, 4)
    ]


async def test_what_the_broker_has_of_it_on_both_is_added_up(desk: Desk) -> None:
    desk.broker.open = [at(NSE, Product.CNC, 10), at(BSE, Product.CNC, -4)._replace(average_price=D(130))]
    await desk.take(fill("buy", 10, "100", MORNING), fill("sell", 4, "130", MORNING, exchange=BSE))
    theirs = by_symbol((await desk.get(DASHBOARD))["positions"])["RELIANCE"]["broker"]
    assert theirs == {"quantity": 6, "average_price": 80, "realised_pnl": 2, "unrealised_pnl": None}


async def test_trades_of_before_are_brought_together(desk: Desk) -> None:
    await desk.take(fill("buy", 10, "2500", NOON - 2 * DAY, exchange=BSE), fill("sell", 4, "2600", MORNING))
    await desk.enter(given("buy", 1, 5, NOON - DAY, exchange="BSE"))
    (book,) = [row for row in await book_rows().find({}).to_list() if row["source"] == "broker"]
    # As it was stored when each exchange had its book.
    apart = book["_id"].replace("|NSE|", "|BSE|")
    await trade_rows().update_one({"exchange": "BSE", "source": "broker"}, {"$set": {"book": apart}})
    await desk.here.ledger.recompute(book["_id"])
    assert (await desk.get(DASHBOARD))["realised_pnl"] == 0
    found = await desk.upkeep.rebuild(SomeRun())
    assert found is not None
    assert (found["trades"], found["trades_moved"]) == (3, 1)
    assert (await desk.get(DASHBOARD))["realised_pnl"] == 400
    again = await desk.upkeep.rebuild(SomeRun())
    assert again is not None
    assert (again["books_corrected"], again["days_corrected"], "trades_moved" in again) == (0, 0, False)


async def test_older_books_of_each_exchange_are_joined_by_themselves(desk: Desk) -> None:
    """After an upgrade nobody has to ask for it: what was bought on BSE then can be sold now."""
    await desk.take(fill("buy", 10, "2500", NOON - 2 * DAY, exchange=BSE))
    (book,) = await book_rows().find({}).to_list()
    apart = book["_id"].replace("|NSE|", "|BSE|")
    await trade_rows().update_many({}, {"$set": {"book": apart}})
    await book_rows().delete_many({})
    await book_rows().insert_one({**book, "_id": apart})
    await desk.take(fill("sell", 4, "2600", MORNING))
    assert {(await desk.upkeep.repair()).get("trades_moved") for _ in range(2)} == {1, None}
    (held_,) = (await desk.get(DASHBOARD))["holdings"]
    assert (held_["quantity"], (await desk.get(PNL))["realised_pnl"]) == (6, 400)
    assert [row["_id"] for row in await book_rows().find({"open": True}).to_list()] == [book["_id"]]


@dataclass
class Listed:
    """Fills the port `Listings`: one symbol."""

    isins: dict[Exchange, str | None]
    away: bool = False

    async def find(self, broker: BrokerName, exchange: Exchange, symbol: str) -> Listing | None:  # noqa: ARG002
        if self.away:
            raise UnavailableError("The list is not here yet.")
        return (
            Listing(exchange, symbol, symbol, D("0.05"), isin=self.isins[exchange]) if exchange in self.isins else None
        )

    async def like(self, broker: BrokerName, exchange: Exchange, symbol: str) -> list[str]:
        raise AssertionError((broker, exchange, symbol))


@pytest.mark.parametrize(
    ("listed", "apart"),
    [
        (Listed({NSE: "INE002A01018", BSE: "INE999A01011"}), True),
        (Listed({NSE: "INE002A01018", BSE: "INE002A01018"}), False),
        (Listed({NSE: "INE002A01018", BSE: "INE002A01026"}), False),  # the share was split, and one list is older
        (Listed({NSE: None, BSE: None}), False),
        (Listed({NSE: "INE002A01018", BSE: None}), False),
        (Listed({BSE: "INE999A01011"}), False),
        (Listed({}, away=True), False),
    ],
)
async def test_two_companies_of_one_symbol_are_told_apart_by_their_isins(
    desk: Desk, listed: Listed, apart: bool
) -> None:
    desk.here.fills._places = desk.upkeep._places = Places(listed)
    await desk.take(fill("buy", 10, "2500", MORNING), fill("buy", 5, "40", MORNING + MINUTE, exchange=BSE))
    desk.prices.put("RELIANCE", "2600")
    held_ = sorted((row["exchange"], row["quantity"]) for row in (await desk.get(DASHBOARD))["holdings"])
    assert held_ == ([("BSE", 5), ("NSE", 10)] if apart else [("NSE", 15)])
    found = await desk.upkeep.rebuild(SomeRun())
    assert found is not None
    assert (found["books_corrected"], "trades_moved" in found) == (0, False)


# Conversions


def held(product: Product, quantity: int) -> dict[Holding, int]:
    return {Holding(NSE, "RELIANCE", product): quantity}


def traded(product: Product, side: str = "buy", quantity: int = 10) -> BookedTrade:
    return fill(side, quantity, "100", MORNING, product=product)


MIS, CNC, NRML, MTF = Product.MIS, Product.CNC, Product.NRML, Product.MTF


def test_a_conversion_is_what_alone_explains_the_positions() -> None:
    moved = [Conversion(NSE, "RELIANCE", MIS, CNC, 10)]
    mis = held(MIS, 10)
    assert conversions(mis, [at(NSE, CNC, 10)], [traded(MIS)]) == moved
    assert conversions(mis, [at(NSE, MIS, 0), at(NSE, CNC, 10, "RELIANCE-EQ")], [traded(MIS)]) == moved
    assert conversions({**mis, **held(CNC, 50)}, [at(NSE, CNC, 10)], [traded(MIS)]) == moved, "held for long"
    carried = [Conversion(NSE, "RELIANCE", NRML, MIS, -10)]
    assert conversions(held(NRML, -10), [at(NSE, MIS, -10)], []) == carried


@pytest.mark.parametrize(
    ("ours", "theirs", "trades"),
    [
        (held(MIS, 10), [at(NSE, MIS, 10)], [traded(MIS)]),  # as it is
        (held(MIS, 10), [], [traded(MIS)]),  # gone altogether
        (held(MIS, 10), [at(NSE, CNC, 4)], [traded(MIS)]),  # of another quantity
        (held(MIS, 10), [at(NSE, CNC, -10)], [traded(MIS)]),  # the other way
        (held(MIS, 10), [at(NSE, MIS, 4), at(NSE, CNC, 10)], [traded(MIS)]),  # a part is left
        (held(MIS, 10), [at(NSE, CNC, 10)], [traded(MIS), traded(CNC)]),  # bought so
        (held(MIS, 10), [at(NSE, CNC, 10)], [traded(MIS), traded(CNC), traded(CNC, "sell")]),
        (held(MIS, 10), [at(NSE, CNC, 10)], [traded(MIS), traded(MIS, "sell")]),  # closed, and not told here yet
        (held(MIS, 10), [at(NSE, CNC, 10)], []),  # not of today
        (held(MIS, 10), [at(NSE, CNC, 10), at(NSE, MTF, 10)], [traded(MIS)]),  # which of them?
        (held(MIS, 10), [at(BSE, CNC, 10)], [traded(MIS)]),  # elsewhere
        ({**held(MIS, 10), **held(NRML, 10)}, [at(NSE, NRML, 10)], [traded(MIS)]),  # it was there
        (held(CNC, 10), [at(NSE, MIS, 10)], []),
    ],
)
def test_what_can_be_otherwise_is_none(
    ours: dict[Holding, int], theirs: list[BrokerPosition], trades: list[BookedTrade]
) -> None:
    assert conversions(ours, theirs, trades) == []


def test_trades_that_are_late_explain_nothing() -> None:
    """Sold as intraday and bought for delivery, and the trade book has neither yet."""
    bought = fill("buy", 10, "100", MORNING, product=MIS, order="1")
    theirs = [at(NSE, CNC, 10)]
    assert conversions(held(MIS, 10), theirs, [bought], [order("1", MIS)]) != []
    assert conversions(held(MIS, 10), theirs, [bought], [order("1", MIS), order("2", CNC)]) == []
    assert conversions(held(MIS, 10), theirs, [bought], [order("1", MIS, filled=20)]) == []
    assert conversions(held(MIS, 10), theirs, [bought], [order("1", MIS), order("2", CNC, symbol="TCS")]) != []
    assert conversions(held(MIS, 10), theirs, [bought], [order("1", MIS), order("2", CNC, filled=0)]) != []


def order(number: str, product: Product, *, filled: int = 10, symbol: str = "RELIANCE-EQ") -> BookedOrder:
    return BookedOrder(
        broker_order_id=number,
        tag=None,
        exchange=NSE,
        symbol=symbol,
        side=Side.BUY,
        product=product,
        price_type=PriceType.MARKET,
        quantity=20,
        filled_quantity=filled,
        state=OrderState.OPEN,
    )


def books_of(desk: Desk) -> MovedPositions:
    return MovedPositions(ledger=desk.here.ledger, clock=desk.clock, audit=desk.audit)


async def test_a_conversion_moves_the_trades(desk: Desk) -> None:
    desk.prices.put("RELIANCE", "120")
    await desk.take(fill("buy", 5, "90", NOON - DAY), fill("buy", 4, "100", MORNING, product=MIS))
    await desk.take(fill("buy", 6, "110", MORNING + MINUTE, product=MIS, trade="7", order="O7"))
    before = (await desk.get(DASHBOARD))["totals"]
    account = await desk.account()
    assert await books_of(desk).convert(account, Conversion(NSE, "RELIANCE", MIS, CNC, 10))
    assert await BookedPositions().net(account) == held(CNC, 15)
    found = await desk.get(DASHBOARD)
    (held_,) = found["holdings"]
    assert (held_["quantity"], held_["cost"]) == (15, 5 * 90 + 4 * 100 + 6 * 110)
    assert found["totals"]["unrealised_pnl"] == before["unrealised_pnl"]
    assert found["totals"]["charges"] > before["charges"], "what is delivered is taxed on both sides"
    [act] = desk.audit.acts
    assert (act.action, act.details["quantity"], act.details["from"], act.details["to"], act.details["trades"]) == (
        "position.convert", 10, "MIS", "CNC", 2
    )  # fmt: skip
    # Told again under its old name it is the same trade; sold, the oldest goes first.
    again = fill("buy", 6, "110", MORNING + MINUTE, product=MIS, trade="7", order="O7")
    assert await desk.take(again) == 0
    await desk.take(fill("sell", 9, "130", MORNING + 2 * MINUTE))
    assert (await desk.get(DASHBOARD))["realised_pnl"] == 5 * 40 + 4 * 30
    rebuilt = await desk.upkeep.rebuild(SomeRun())
    assert rebuilt is not None
    assert (rebuilt["books_corrected"], rebuilt["days_corrected"], "trades_moved" in rebuilt) == (0, 0, False)


async def test_of_a_trade_that_was_closed_in_part_the_rest_is_moved(desk: Desk) -> None:
    account = await desk.account()
    bought = fill("buy", 10, "100", MORNING, product=MIS)
    await desk.take(bought, fill("sell", 4, "110", MORNING + MINUTE, product=MIS))
    await desk.take(fill("buy", 5, "120", MORNING + 2 * MINUTE, product=MIS))
    moved = Conversion(NSE, "RELIANCE", MIS, CNC, 11)
    assert await books_of(desk).convert(account, moved)
    assert await BookedPositions().net(account) == held(CNC, 11)
    assert await desk.take(bought) == 0, "told again it is the same"
    rows = await trade_rows().find({}).sort("seq").to_list()
    assert sorted((row["product"], row["order_type"], row["quantity"], row["capital_used"]) for row in rows) == [
        ("CNC", "buy", 5, 600),
        ("CNC", "buy", 6, 600),
        ("MIS", "buy", 4, 400),
        ("MIS", "sell", 4, 440),
    ]
    found = await desk.get(DASHBOARD)
    assert (found["realised_pnl"], found["holdings"][0]["quantity"], found["holdings"][0]["cost"]) == (40, 11, 1200)
    rebuilt = await desk.upkeep.rebuild(SomeRun())
    assert rebuilt is not None
    assert (rebuilt["books_corrected"], rebuilt["days_corrected"]) == (0, 0)


async def test_who_died_between_the_parts_does_it_again(desk: Desk) -> None:
    """The new part is there, the old trade is whole still: the position is found to be converted once more."""
    account = await desk.account()
    await desk.take(fill("buy", 10, "100", MORNING, product=MIS), fill("sell", 4, "110", MORNING, product=MIS))
    (whole,) = await trade_rows().find({"order_type": "buy"}).to_list()
    moved = Conversion(NSE, "RELIANCE", MIS, CNC, 6)
    assert await books_of(desk).convert(account, moved)
    await trade_rows().replace_one({"_id": whole["_id"]}, whole)
    await desk.here.ledger.recompute(whole["book"])
    assert await BookedPositions().net(account) == {**held(MIS, 6), **held(CNC, 6)}
    assert await books_of(desk).convert(account, moved)
    assert await BookedPositions().net(account) == held(CNC, 6)
    assert await trade_rows().count_documents({}) == 3


async def test_a_position_that_is_another_one_by_now_is_left(desk: Desk) -> None:
    account = await desk.account()
    await desk.take(fill("buy", 10, "100", MORNING, product=MIS))
    for wrong in (9, -10):
        assert not await books_of(desk).convert(account, Conversion(NSE, "RELIANCE", MIS, CNC, wrong))
    assert not await books_of(desk).convert(account, Conversion(NSE, "TCS", MIS, CNC, 6))
    await book_rows().update_one({}, {"$set": {"dirty": True}})
    assert not await books_of(desk).convert(account, Conversion(NSE, "RELIANCE", MIS, CNC, 10))
    assert await trade_rows().count_documents({"product": "MIS"}) == 1
    assert desk.audit.acts == []


SOME = st.lists(st.tuples(st.integers(1, 30), st.decimals("1", "999", places=2)), min_size=1, max_size=5)


@given_some(SOME, SOME, st.sampled_from(list(Side)))
def test_whatever_is_converted_nothing_is_made_or_lost(
    first: list[tuple[int, Decimal]], second: list[tuple[int, Decimal]], side: Side
) -> None:
    """A conversion by the positions of the trades themselves: found with their sum, and with no other."""
    some = [fill(side.value, quantity, str(price), MORNING, product=MIS) for quantity, price in first]
    total = side.sign * sum(quantity for quantity, _ in first)
    other = side.sign * sum(quantity for quantity, _ in second)
    found = conversions(held(MIS, total), [at(NSE, CNC, other)], some)
    assert found == ([Conversion(NSE, "RELIANCE", MIS, CNC, total)] if total == other else [])
