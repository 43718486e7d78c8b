"""The position and profit maths, against computations that share nothing with it."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.alerts.positions import Book, replay

TRADE_TYPES = ("buy", "sell", "exit", "long_entry", "long_exit", "short_entry", "short_exit")


@dataclass(frozen=True)
class Fill:
    trade_type: str
    quantity: Decimal
    price: Decimal
    strategy_name: str = "S"
    contract: str = "NIFTY"


def fill(trade_type: str, quantity: str, price: str, **where: str) -> Fill:
    return Fill(trade_type, Decimal(quantity), Decimal(price), **where)


whole_fills = st.lists(
    st.builds(
        Fill,
        st.sampled_from(TRADE_TYPES),
        st.integers(1, 6).map(Decimal),
        st.integers(1, 500).map(Decimal),
        st.sampled_from(["A", "B"]),
        st.sampled_from(["NIFTY", "BANKNIFTY"]),
    ),
    max_size=40,
)
# Far more digits than decimal's usual 28, as many as a stored decimal may have.
exact = st.decimals(min_value="1e-12", max_value="1e20", places=12, allow_nan=False, allow_infinity=False)
exact_fills = st.lists(st.builds(Fill, st.sampled_from(TRADE_TYPES), exact, exact), max_size=25)


def unit_by_unit(fills: list[Fill]) -> list[tuple[int, int]]:
    """(position, realised) after each fill of whole quantities: every unit is moved by itself."""
    longs: dict[tuple[str, str], list[int]] = {}
    shorts: dict[tuple[str, str], list[int]] = {}
    results = []
    for one in fills:
        book = (one.strategy_name, one.contract)
        held, owed = longs.setdefault(book, []), shorts.setdefault(book, [])
        price, realised = int(one.price), 0
        word = one.trade_type
        if word == "exit":
            word = "long_exit" if held else "short_exit"
        for _ in range(int(one.quantity)):
            if word in {"buy", "long_entry", "short_exit"} and owed:
                realised += owed.pop(0) - price
            elif word in {"sell", "short_entry", "long_exit"} and held:
                realised += price - held.pop(0)
            elif word in {"buy", "long_entry"}:
                held.append(price)
            elif word in {"sell", "short_entry"}:
                owed.append(price)
        results.append((len(held) - len(owed), realised))
    return results


@given(whole_fills)
def test_it_agrees_with_moving_unit_by_unit(fills: list[Fill]):
    steps = replay(fills)

    assert [(step.position, step.realised) for step in steps] == unit_by_unit(fills)


@given(exact_fills, exact)
def test_money_is_conserved_exactly(fills: list[Fill], mark: Decimal):
    """Realised profit plus the open lots' is what was received less what was paid, plus what is left at `mark`."""
    book = Book()
    cash = position = realised = Fraction(0)
    for one in fills:
        step = book.apply(one.trade_type, one.quantity, one.price)
        traded = Fraction(step.position) - position
        cash -= traded * Fraction(one.price)
        position += traded
        realised += Fraction(step.realised)
    side = 1 if position > 0 else -1
    open_profit = sum(
        (side * Fraction(quantity) * (Fraction(mark) - Fraction(price)) for quantity, price in book.lots), Fraction(0)
    )

    assert realised + open_profit == cash + position * Fraction(mark)


@given(exact_fills)
def test_exits_never_open_nor_reverse(fills: list[Fill]):
    book = Book()
    for one in fills:
        before = book.position
        after = book.apply(one.trade_type, one.quantity, one.price).position
        if one.trade_type.endswith("exit"):
            assert abs(after) <= abs(before)
            assert before * after >= 0
        if one.trade_type == "long_exit":
            assert after == before or before > 0
        if one.trade_type == "short_exit":
            assert after == before or before < 0


@given(exact_fills)
def test_the_lots_make_up_the_position(fills: list[Fill]):
    book = Book()
    for one in fills:
        book.apply(one.trade_type, one.quantity, one.price)
        assert sum((Fraction(quantity) for quantity, _ in book.lots), Fraction(0)) == abs(Fraction(book.position))
        assert all(quantity > 0 for quantity, _ in book.lots)


def test_the_oldest_lot_goes_first():
    steps = replay([fill("buy", "10", "100"), fill("buy", "10", "110"), fill("sell", "15", "120")])

    assert steps[-1].realised == 10 * 20 + 5 * 10
    assert steps[-1].position == 5
    assert steps[-1].closed == 15


def test_a_larger_sale_reverses_and_opens_at_its_own_price():
    steps = replay([fill("buy", "10", "100"), fill("sell", "25", "90"), fill("buy", "15", "80")])

    assert [step.position for step in steps] == [10, -15, 0]
    assert [step.realised for step in steps] == [0, -100, 150]


@pytest.mark.parametrize("leave", ["exit", "long_exit"])
def test_an_exit_larger_than_the_position_leaves_it_flat(leave: str):
    steps = replay([fill("long_entry", "10", "100"), fill(leave, "999", "101")])

    assert steps[-1].position == 0
    assert steps[-1].closed == 10
    assert steps[-1].realised == 10


def test_strategies_and_contracts_have_books_of_their_own():
    steps = replay(
        [
            fill("buy", "1", "100", strategy_name="A"),
            fill("sell", "1", "150", strategy_name="B"),
            fill("sell", "1", "150", strategy_name="A", contract="BANKNIFTY"),
        ]
    )

    assert [step.realised for step in steps] == [0, 0, 0]
    assert [step.position for step in steps] == [1, -1, -1]


def test_no_digit_is_lost():
    steps = replay(
        [
            fill("buy", "12345678901234567890.000000000001", "0.000000000001"),
            fill("exit", "12345678901234567890.000000000001", "98765432109876543210.000000000002"),
        ]
    )
    quantity = Fraction(Decimal("12345678901234567890.000000000001"))

    assert Fraction(steps[-1].realised) == quantity * Fraction(Decimal("98765432109876543210.000000000001"))


def test_an_unknown_trade_type_is_refused():
    with pytest.raises(KeyError):
        replay([fill("hold", "1", "1")])
