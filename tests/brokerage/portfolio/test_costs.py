"""A day's charges, against arithmetic of its own on fractions and on rates of its own."""

from collections import Counter
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.portfolio.costs import NOT_KNOWN, CostedTrade, day_costs, shared
from app.brokerage.portfolio.naming import Settlement
from app.brokerage.words import BrokerName, Exchange, Product, Side
from app.core.charges import COMPONENTS
from tests.brokerage.portfolio.kit import ENGINE

ON = date(2026, 11, 20)
SYMBOLS = ["RELIANCE", "TCS"]
prices = st.decimals("0.05", "9999.95", places=2)
Given = list[tuple[str, Product, Side, int, Decimal, int, Decimal | None]]
trades_of_a_day = st.lists(
    st.tuples(
        st.sampled_from(SYMBOLS),
        st.sampled_from([Product.CNC, Product.MIS]),
        st.sampled_from(list(Side)),
        st.integers(1, 2000),
        prices,
        st.integers(0, 4),
        st.none() | st.decimals("0", "50", places=2),
    ),
    min_size=1,
    max_size=12,
)


def trades(given_: Given) -> list[CostedTrade]:
    made = []
    for number, (symbol, product, side, quantity, price, order, told) in enumerate(given_):
        # One that its owner tells the brokerage of is an order of its own, as it is in the database.
        name = f"o{order}" if told is None else f"t{number}"
        made.append(CostedTrade(f"t{number}", name, Exchange.NSE, symbol, product, side, quantity, price, told))
    return made


def rounded(value: Fraction, unit: str = "0.01") -> Decimal:
    step = Decimal(unit)
    whole = (value / Fraction(step) + Fraction(1, 2)).__floor__()
    return (Decimal(whole) * step).quantize(Decimal("0.01"), ROUND_HALF_UP)


class Note:
    """Zerodha's note by hand: rates of the specification, per 100 rupees."""

    STT: ClassVar = {(Product.CNC, Side.BUY): "0.1", (Product.CNC, Side.SELL): "0.1", (Product.MIS, Side.SELL): "0.025"}
    STAMP: ClassVar = {Product.CNC: "0.015", Product.MIS: "0.003"}

    def __init__(self, some: list[CostedTrade]) -> None:
        orders: dict[tuple[str, ...], list[CostedTrade]] = {}
        for one in some:
            orders.setdefault((one.order, one.symbol, one.product, one.side), []).append(one)
        self.levies = dict.fromkeys(("stt", "transaction", "sebi", "stamp"), Fraction(0))
        self.brokerage = self.depository = Decimal(0)
        sold: set[str] = set()
        net: dict[str, Counter[str]] = {symbol: Counter() for symbol in SYMBOLS}
        for one in some:
            net[one.symbol][one.side] += one.quantity if one.product == Product.CNC else 0
        for (_, symbol, product, side), fills in orders.items():
            value = sum((Fraction(one.price) * one.quantity for one in fills), Fraction(0))
            # What is bought and sold on the day is intraday, whatever its product says.
            both, kept = value, Fraction(0)
            if product == Product.CNC:
                both = value * min(net[symbol].values()) / net[symbol][side] if len(net[symbol]) == 2 else Fraction(0)
                kept = value - both
            for part, levied in ((both, Product.MIS), (kept, Product.CNC)):
                self.levies["stt"] += part * Fraction(self.STT.get((levied, Side(side)), "0")) / 100
                self.levies["stamp"] += part * Fraction(self.STAMP[levied]) / 100 if side == Side.BUY else 0
            self.levies["transaction"] += value * Fraction("0.00307") / 100
            self.levies["sebi"] += value * 10 / 10_000_000
            self.brokerage += rounded(min(both * Fraction("0.03") / 100, Fraction(20)))
            if kept and side == Side.SELL and symbol not in sold:
                sold.add(symbol)
                self.depository += 13
        self.parts = {name: rounded(value, "1" if name == "stt" else "0.01") for name, value in self.levies.items()}


@given(trades_of_a_day)
def test_the_note_is_what_the_rates_make(given_: Given) -> None:
    some = [one._replace(brokerage=None) for one in trades(given_)]
    note = day_costs(ENGINE, BrokerName.ZERODHA, ON, some).note
    ours = Note(some)
    assert (note.stt, note.sebi, note.stamp) == (ours.parts["stt"], ours.parts["sebi"], ours.parts["stamp"])
    assert (note.brokerage, note.depository) == (ours.brokerage, ours.depository)
    # The specification's transaction charge has the fund's contribution in it.
    assert abs(note.transaction + note.investor_protection - ours.parts["transaction"]) <= Decimal("0.01")
    taxed = note.brokerage + note.depository + note.transaction + note.sebi + note.investor_protection
    assert note.gst == rounded(Fraction(taxed) * 18 / 100)


@given(trades_of_a_day)
def test_shares_add_up_and_nobody_pays_for_others(given_: Given) -> None:
    some = trades(given_)
    costs = day_costs(ENGINE, BrokerName.ZERODHA, ON, some)
    assert sum(cost.total for cost in costs.by_trade.values()) == costs.note.total
    assert sum(cost.brokerage for cost in costs.by_trade.values()) == costs.note.brokerage
    for one in some:
        cost = costs.by_trade[one.trade]
        assert 0 <= cost.brokerage <= cost.total
        if one.brokerage is not None:
            assert cost.brokerage == one.brokerage.quantize(Decimal("0.01"))


@given(trades_of_a_day)
def test_brokerage_that_is_told_takes_the_place_of_the_plans(given_: Given) -> None:
    told = [one for one in trades(given_) if one.brokerage is not None]
    if not told:
        return
    note = day_costs(ENGINE, BrokerName.GROWW, ON, told).note
    assert note.brokerage == sum(one.brokerage or 0 for one in told)
    base = day_costs(ENGINE, BrokerName.PAPER, ON, [one._replace(brokerage=None) for one in told]).note
    assert note.gst - base.gst == rounded(Fraction(note.brokerage) * 18 / 100)
    assert {name: getattr(note, name) for name in COMPONENTS if name not in {"brokerage", "gst"}} == {
        name: getattr(base, name) for name in COMPONENTS if name not in {"brokerage", "gst"}
    }


@given(
    st.integers(0, 10**9).map(lambda paise: Decimal(paise) / 100),
    st.lists(st.decimals("0", "1e9", places=4), min_size=1, max_size=30),
)
def test_what_is_divided_is_divided_fairly(total: Decimal, weights: list[Decimal]) -> None:
    shares = shared(total, weights)
    assert sum(shares) == total
    whole = sum(map(Fraction, weights))
    for share, weight in zip(shares, weights, strict=True):
        exact = Fraction(total) * Fraction(weight) / whole if whole else Fraction(total) / len(weights)
        assert abs(Fraction(share) - exact) < Fraction(1, 100)


def test_the_specifications_example() -> None:
    buy = CostedTrade("b", "b", Exchange.NSE, "X", Product.CNC, Side.BUY, 5000, Decimal(1000))
    sell = buy._replace(trade="s", order="s", side=Side.SELL)
    notes = [day_costs(ENGINE, BrokerName.PAPER, ON + timedelta(n), [one]).note for n, one in enumerate((buy, sell))]
    assert sum(note.total for note in notes) == Decimal("11124.06")


def test_bought_and_sold_for_delivery_on_one_day_by_hand() -> None:
    """100 bought at 500 on NSE, 40 of them sold at 510 on BSE, and a share that was held: by hand, at Zerodha."""
    buy = CostedTrade("b", "b", Exchange.NSE, "X", Product.CNC, Side.BUY, 100, Decimal(500))
    sell = CostedTrade("s", "s", Exchange.BSE, "X", Product.CNC, Side.SELL, 40, Decimal(510))
    held = CostedTrade("h", "h", Exchange.NSE, "Y", Product.CNC, Side.SELL, 1, Decimal(1000))
    costs = day_costs(ENGINE, BrokerName.ZERODHA, ON, [buy, sell])
    assert costs.note.stt == 35  # 0.1 % of 30,000 that are kept, 0.025 % of the sale's 20,400
    assert costs.note.stamp == Decimal("5.10")  # 0.015 % of 30,000 and 0.003 % of 20,000
    assert costs.note.transaction == Decimal("2.30")  # 0.00307 % of 50,000 and BSE's 0.00375 % of 20,400
    assert costs.note.brokerage == Decimal("12.12")  # 0.03 % of 20,000 and of 20,400
    assert costs.note.depository == 0
    assert costs.note.gst == Decimal("2.61")  # 18 % of 12.12 + 2.30 + 0.07
    assert costs.note.total == Decimal("57.20")
    assert costs.by_trade["b"].brokerage == 6
    assert sum(cost.total for cost in costs.by_trade.values()) == costs.note.total
    with_held = day_costs(ENGINE, BrokerName.ZERODHA, ON, [buy, sell, held]).note
    assert (with_held.depository, with_held.stt) == (13, 36)


def test_a_settlement_costs_what_its_exercise_is_taxed() -> None:
    won = CostedTrade("w", "w", Exchange.NFO, "NIFTY26NOV24000CE", Product.NRML, Side.SELL, 75, Decimal("500.50"))
    settled = [
        won._replace(settlement=Settlement.EXERCISED),
        won._replace(trade="z", price=Decimal(0), settlement=Settlement.CASH),
        won._replace(trade="f", symbol="NIFTY26NOVFUT", price=Decimal(24500), settlement=Settlement.CASH),
    ]
    costs = day_costs(ENGINE, BrokerName.ZERODHA, ON, settled)
    assert costs.note.stt == costs.note.total == 56  # 0.15 % of 37,537.50: no order, no brokerage
    assert {trade: cost.total for trade, cost in costs.by_trade.items()} == {"w": 56, "z": 0, "f": 0}
    both = day_costs(ENGINE, BrokerName.ZERODHA, ON, [*settled, won._replace(trade="t", order="t")])
    assert both.note.total == 56 + day_costs(ENGINE, BrokerName.ZERODHA, ON, [won]).note.total


@pytest.mark.parametrize("exchange", [Exchange.MCX, Exchange.CDS])
def test_what_is_not_known_is_said(exchange: Exchange) -> None:
    gold = CostedTrade("g", "g", exchange, "GOLD26DECFUT", Product.NRML, Side.BUY, 1, Decimal(70000))
    share = CostedTrade("s", "s", Exchange.NSE, "TCS", Product.CNC, Side.BUY, 1, Decimal(70000))
    costs = day_costs(ENGINE, BrokerName.ZERODHA, ON, [gold, share])
    assert costs.note.note == NOT_KNOWN
    assert costs.by_trade["g"].total == 0
    assert costs.by_trade["s"].total == costs.note.total > 0


def test_options_are_not_futures() -> None:
    def cost(symbol: str) -> Decimal:
        trade = CostedTrade("t", "t", Exchange.NFO, symbol, Product.NRML, Side.SELL, 75, Decimal(100))
        return day_costs(ENGINE, BrokerName.PAPER, ON, [trade]).note.stt

    assert (cost("NIFTY26DEC24500CE"), cost("NIFTY26DECFUT")) == (Decimal(11), Decimal(4))


def test_depository_is_paid_once_a_share_and_day() -> None:
    sales = [
        CostedTrade(f"s{n}", f"o{n}", Exchange.NSE, symbol, Product.CNC, Side.SELL, 1, Decimal(100))
        for n, symbol in enumerate(["TCS", "TCS", "INFY"])
    ]
    assert day_costs(ENGINE, BrokerName.ZERODHA, ON, sales).note.depository == 2 * 13
