"""What trading costs: the specification's figures, and an independent computation with fractions."""

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.charges import (
    COMPONENTS,
    ChargeEngine,
    Charges,
    Exchange,
    Segment,
    Side,
    TradeForCharges,
    UnknownBrokerError,
    added,
    same_day_parts,
)

ENGINE = ChargeEngine()
DAY = date(2026, 11, 20)
NSE, BSE = Exchange
RAW: dict[str, Any] = json.loads((resources.files("app.core.charges") / "assets" / "charges.json").read_bytes())


def trade(
    segment: Segment = Segment.DELIVERY,
    side: Side = Side.BUY,
    *,
    quantity: Decimal | int = 5000,
    price: str = "1000",
    exchange: Exchange = NSE,
    on: date = DAY,
    broker: str = "none",
    depository: bool = True,
) -> TradeForCharges:
    return TradeForCharges(exchange, segment, side, quantity, Decimal(price), on, broker, depository)


def test_the_specifications_check() -> None:
    trip = ENGINE.round_trip(trade(), Decimal(1000))
    assert trip.charges.total == Decimal("11124.06")
    assert trip.charges.certain
    assert (trip.gross, trip.net) == (0, Decimal("-11124.06"))


@pytest.mark.parametrize(
    ("segment", "stt_buy", "stt_sell", "transaction", "stamp"),
    [
        (Segment.DELIVERY, "100000", "100000", "3070", "15000"),
        (Segment.INTRADAY, "0", "25000", "3070", "3000"),
        (Segment.FUTURES, "0", "50000", "1830", "2000"),
        (Segment.OPTIONS, "0", "150000", "35530", "3000"),
        (Segment.MTF, "100000", "100000", "3070", "15000"),
    ],
)
def test_the_specifications_table(segment: Segment, stt_buy: str, stt_sell: str, transaction: str, stamp: str) -> None:
    """On ten crores; its other rates are the regulator's ten rupees a crore, and 18 % on what is no tax."""
    for side, stt, duty in ((Side.BUY, stt_buy, stamp), (Side.SELL, stt_sell, "0")):
        charges = ENGINE.of(trade(segment, side, quantity=100_000))
        assert charges.stt == Decimal(stt)
        assert charges.transaction == Decimal(transaction)
        assert charges.stamp == Decimal(duty)
        assert charges.sebi == 100
        assert charges.gst == (Decimal(transaction) + 100) * Decimal("0.18")
        assert (charges.brokerage, charges.depository, charges.investor_protection) == (0, 0, 0)
        assert charges.total == sum(getattr(charges, name) for name in COMPONENTS)


def test_rates_change_on_their_day() -> None:
    before, after = date(2026, 3, 31), date(2026, 4, 1)
    sold = [ENGINE.of(trade(Segment.OPTIONS, Side.SELL, price="100", on=day)) for day in (before, after)]
    assert [charges.stt for charges in sold] == [500, 750]
    # The contribution to the fund went into the exchange's own charge: together they are the same.
    assert [charges.investor_protection for charges in sold] == [Decimal("2.50"), 0]
    assert len({charges.transaction + charges.investor_protection for charges in sold}) == 1
    assert sold[0].gst == sold[1].gst


# An independent computation, in fractions


def _row(rows: list[dict[str, str]], on: date) -> dict[str, str]:
    known = [row for row in rows if row["since"] <= on.isoformat()]
    return max(known or rows[:1], key=lambda row: row["since"])


def _half_up(value: Fraction, unit: Fraction = Fraction(1, 100)) -> Fraction:
    return (value / unit + Fraction(1, 2)) // 1 * unit


def _expected(trades: list[TradeForCharges]) -> dict[str, Fraction]:
    sums: dict[str, Fraction] = dict.fromkeys(COMPONENTS, Fraction(0))
    for one in trades:
        worth = Fraction(one.quantity) * Fraction(one.price)
        side, place = one.side.value, one.exchange.value
        plans = RAW["brokers"][one.broker]
        # An order in two parts: what is charged as it is, and what was bought and sold on the day.
        parts = {one.segment.value: worth * (1 - one.same_day), "intraday": worth * one.same_day}
        if not one.same_day:
            parts = {one.segment.value: worth}
        for segment, part in parts.items():
            levied = "delivery" if segment == "mtf" else segment
            for name in ("stt", "stamp"):
                sums[name] += part * Fraction(_row(RAW[name][levied], one.on)[side]) / 100
            for name in ("transaction", "investor_protection"):
                sums[name] += part * Fraction(_row(RAW[name][place][levied], one.on)["percent"]) / 100
        sums["sebi"] += worth / 1_000_000
        rows = {segment: _row(plans["brokerage"][segment], one.on) for segment in parts}
        whole = max(_of_plan(plan, worth) for plan in rows.values())
        sums["brokerage"] += min(whole, sum(_of_plan(rows[name], part) for name, part in parts.items() if part))
        if one.segment in {"delivery", "mtf"} and one.same_day < 1 and side == "sell" and one.depository:
            sums["depository"] += Fraction(_row(plans["depository"], one.on)["amount"])
    rounded = {
        name: _half_up(value, Fraction(1) if name == "stt" else Fraction(1, 100)) for name, value in sums.items()
    }
    serviced = ("brokerage", "transaction", "sebi", "investor_protection", "depository")
    rounded["gst"] = _half_up(sum((rounded[name] for name in serviced), Fraction(0)) * 18 / 100)
    return rounded


def _of_plan(plan: dict[str, str], worth: Fraction) -> Fraction:
    if "flat" in plan:
        return Fraction(plan["flat"])
    least = Fraction(plan.get("least", "0"))
    if "bound_percent" in plan:
        least = min(least, worth * Fraction(plan["bound_percent"]) / 100)
    amount = max(least, worth * Fraction(plan["percent"]) / 100)
    return _half_up(min(amount, Fraction(plan.get("most", "1e40"))))


prices = st.decimals("0.0001", "1000000", allow_nan=False, allow_infinity=False)
quantities = st.one_of(st.integers(1, 10_000_000), st.decimals("0.001", "1000", allow_nan=False, allow_infinity=False))
days = st.dates(date(2024, 10, 1), date(2027, 3, 31))


@st.composite
def notes(draw: st.DrawFn) -> list[TradeForCharges]:
    broker, on = draw(st.sampled_from(ENGINE.brokers)), draw(days)
    one = st.builds(
        TradeForCharges,
        st.sampled_from(Exchange),
        st.sampled_from(Segment),
        st.sampled_from(Side),
        quantities,
        prices,
        st.just(on),
        st.just(broker),
        st.booleans(),
    )
    some = draw(st.lists(one, min_size=1, max_size=4))
    parts = st.just(Fraction(0)) | st.just(Fraction(1)) | st.fractions(0, 1, max_denominator=999)
    return [replace(t, same_day=draw(parts)) if t.segment is Segment.DELIVERY else t for t in some]


@settings(max_examples=150)
@given(notes())
def test_it_agrees_with_fractions(trades: list[TradeForCharges]) -> None:
    charges = ENGINE.contract_note(trades)
    assert {name: Fraction(getattr(charges, name)) for name in COMPONENTS} == _expected(trades)
    assert charges.stt == charges.stt.to_integral_value()
    assert all(value.as_tuple().exponent == -2 for value in charges.as_dict().values())
    assert charges.certain


@settings(max_examples=40)
@given(notes(), prices)
def test_a_round_trip_is_its_two_orders(trades: list[TradeForCharges], exit_price: Decimal) -> None:
    entry = replace(trades[0], same_day=Fraction(0))
    trip = ENGINE.round_trip(entry, exit_price)
    ending = TradeForCharges(
        entry.exchange,
        entry.segment,
        entry.side.opposite,
        entry.quantity,
        exit_price,
        entry.on,
        entry.broker,
        entry.depository,
    )
    assert (trip.entry, trip.exit) == (ENGINE.of(entry), ENGINE.of(ending))
    direction = 1 if entry.side is Side.BUY else -1
    gross = direction * Fraction(entry.quantity) * (Fraction(exit_price) - Fraction(entry.price))
    assert Fraction(trip.gross) == gross
    assert Fraction(trip.net) == gross - Fraction(trip.charges.total)


def test_what_is_bought_and_sold_on_one_day_by_hand() -> None:
    """100 bought at 500 and 40 of them sold at 510, at Zerodha: 20,000 of the 50,000 were bought for the sale."""
    assert same_day_parts(100, 40) == (Fraction(2, 5), 1)
    assert same_day_parts(0, 40) == same_day_parts(40, 0) == (0, 0)
    bought = replace(trade(quantity=100, price="500", broker="zerodha"), same_day=Fraction(2, 5))
    sold = replace(trade(side=Side.SELL, quantity=40, price="510", broker="zerodha"), same_day=Fraction(1))
    note = ENGINE.contract_note([bought, sold])
    assert note.stt == 35  # 30.00 of what is kept, 5.10 of the sale
    assert note.stamp == Decimal("5.10")  # 4.50 and 0.60
    assert (note.transaction, note.sebi) == (Decimal("2.16"), Decimal("0.07"))
    assert note.brokerage == Decimal("12.12")  # 0.03 % of 20,000 and of 20,400; nothing of what is kept
    assert (note.depository, note.gst, note.total) == (0, Decimal("2.58"), Decimal("57.03"))
    assert ENGINE.of(replace(sold, same_day=Fraction(3, 4))).depository == 13, "ten shares leave the account"
    for segment, part in ((Segment.INTRADAY, Fraction(1)), (Segment.MTF, Fraction(1)), (Segment.DELIVERY, Fraction(2))):
        with pytest.raises(ValueError, match="bought and sold on one day"):
            replace(bought, segment=segment, same_day=part)


def test_the_tax_on_what_is_exercised_is_of_its_worth() -> None:
    assert ENGINE.exercise_stt(Decimal(100_000), date(2026, 3, 31)) == 125
    assert ENGINE.exercise_stt(Decimal(100_000), date(2026, 4, 1)) == 150
    assert ENGINE.exercise_stt(Decimal("333.33"), DAY) == 0, "under half a rupee"


# Rounding


def test_a_note_is_rounded_once() -> None:
    """Ten sales whose tax is 40 paise each: nothing by single orders, four rupees together."""
    orders = [trade(Segment.INTRADAY, Side.SELL, quantity=16, price="100")] * 10
    assert [ENGINE.of(order).stt for order in orders] == [0] * 10
    assert ENGINE.contract_note(orders).stt == 4


def test_half_a_rupee_is_rounded_up() -> None:
    assert ENGINE.of(trade(quantity=1, price="500")).stt == 1
    assert ENGINE.of(trade(quantity=1, price="499.99")).stt == 0


def test_a_note_is_of_one_broker_and_day() -> None:
    for orders in ([], [trade(), trade(broker="zerodha")], [trade(), trade(on=date(2026, 11, 19))]):
        with pytest.raises(ValueError, match="one broker and one day"):
            ENGINE.contract_note(orders)


# Brokers


@pytest.mark.parametrize(
    ("broker", "segment", "worth", "brokerage"),
    [
        ("none", Segment.OPTIONS, 10**7, "0"),
        ("paper", Segment.INTRADAY, 10**7, "0"),
        ("zerodha", Segment.DELIVERY, 10**7, "0"),
        ("zerodha", Segment.INTRADAY, 10_000, "3"),
        ("zerodha", Segment.INTRADAY, 10**6, "20"),
        ("zerodha", Segment.OPTIONS, 10, "20"),
        ("zerodha", Segment.MTF, 1_000, "3"),
        ("angelone", Segment.DELIVERY, 1_000, "2"),
        ("angelone", Segment.DELIVERY, 10_000, "10"),
        ("angelone", Segment.DELIVERY, 10**6, "20"),
        ("angelone", Segment.FUTURES, 10**6, "20"),
        ("upstox", Segment.DELIVERY, 100, "2.50"),
        ("upstox", Segment.DELIVERY, 10**5, "20"),
        ("upstox", Segment.FUTURES, 10_000, "5"),
        ("groww", Segment.DELIVERY, 100, "2.50"),
        ("groww", Segment.DELIVERY, 1_000, "5"),
        ("groww", Segment.DELIVERY, 10_000, "10"),
        ("groww", Segment.MTF, 10**6, "1000"),
    ],
)
def test_brokerage(broker: str, segment: Segment, worth: int, brokerage: str) -> None:
    assert ENGINE.of(trade(segment, quantity=1, price=str(worth), broker=broker)).brokerage == Decimal(brokerage)


def test_brokers_change_their_plans_on_their_day() -> None:
    old, new = (ENGINE.of(trade(broker="angelone", on=day)) for day in (date(2024, 10, 31), date(2024, 11, 1)))
    assert (old.brokerage, new.brokerage) == (0, 20)


def test_the_depository_charges_delivered_sales_once_a_day() -> None:
    def charged(segment: Segment, side: Side, *, depository: bool = True) -> Decimal:
        return ENGINE.of(trade(segment, side, broker="zerodha", depository=depository)).depository

    assert [charged(segment, Side.SELL) for segment in Segment] == [13, 0, 0, 0, 13]
    assert {charged(segment, Side.BUY) for segment in Segment} == {0}
    assert charged(Segment.DELIVERY, Side.SELL, depository=False) == 0
    # With the tax on it, as Zerodha lists it.
    sale = trade(Segment.DELIVERY, Side.SELL, quantity=1, price="1", broker="zerodha")
    assert ENGINE.of(sale).depository + ENGINE.of(sale).gst == Decimal("15.34")


def test_an_unknown_broker() -> None:
    with pytest.raises(UnknownBrokerError, match="called nobody: known are none, paper, angelone"):
        ENGINE.of(trade(broker="nobody"))


@pytest.mark.parametrize(
    ("broker", "funded", "days", "interest"),
    [
        ("zerodha", "1000000", 7, "2800"),
        ("upstox", "70000", 1, "40"),
        ("upstox", "40000", 3, "60"),
        ("upstox", "40000.01", 1, "40"),
        ("upstox", "0", 5, "0"),
        ("angelone", "100000", 365, "14990"),
        ("none", "100000", 365, "0"),
    ],
)
def test_interest_on_the_brokers_credit(broker: str, funded: str, days: int, interest: str) -> None:
    assert ENGINE.mtf_interest(broker, Decimal(funded), days, DAY) == Decimal(interest)
    with pytest.raises(ValueError, match="not negative"):
        ENGINE.mtf_interest(broker, Decimal(-1), days, DAY)


# What is not known, and what is no trade


def test_beyond_its_days_it_says_so() -> None:
    early, late = (ENGINE.of(trade(on=day)) for day in (date(2019, 5, 2), date(2030, 1, 2)))
    assert not early.certain
    assert early.note == (
        "The rates of charges here cover 01 Oct 2024 to 31 Mar 2027; for 02 May 2019 the oldest of them were used."
    )
    assert late.note is not None
    assert "the newest of them" in late.note
    assert early.total == ENGINE.of(trade(on=date(2024, 10, 1))).total
    assert added([early, early, Charges()]).note == early.note
    assert added([early, late]).note == f"{early.note} {late.note}"
    assert [ENGINE.covers(date(2024, 9, 30)), ENGINE.covers(date(2024, 10, 1))] == [False, True]
    assert [ENGINE.covers(date(2027, 3, 31)), ENGINE.covers(date(2027, 4, 1))] == [True, False]


@pytest.mark.parametrize("value", [0, -1, Decimal("NaN"), Decimal("Infinity"), Decimal(0), 1.5, True, "1"])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="quantity of a trade"):
        trade(quantity=value)
    with pytest.raises((ValueError, TypeError), match="price of a trade"):
        TradeForCharges(NSE, Segment.DELIVERY, Side.BUY, 1, value, DAY)
