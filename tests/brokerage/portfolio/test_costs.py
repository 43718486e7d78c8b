"""A day's charges, against arithmetic of its own on fractions and on rates of its own."""

from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.portfolio.costs import NOT_KNOWN, CostedTrade, day_costs, shared
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
        for (_, symbol, product, side), fills in orders.items():
            value = sum((Fraction(one.price) * one.quantity for one in fills), Fraction(0))
            self.levies["stt"] += value * Fraction(self.STT.get((Product(product), Side(side)), "0")) / 100
            self.levies["transaction"] += value * Fraction("0.00307") / 100
            self.levies["sebi"] += value * 10 / 10_000_000
            self.levies["stamp"] += value * Fraction(self.STAMP[Product(product)]) / 100 if side == Side.BUY else 0
            if product == Product.MIS:
                self.brokerage += rounded(min(value * Fraction("0.03") / 100, Fraction(20)))
            if product == Product.CNC and side == Side.SELL and symbol not in sold:
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
    assert day_costs(ENGINE, BrokerName.PAPER, ON, [buy, sell]).note.total == Decimal("11124.06")


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
