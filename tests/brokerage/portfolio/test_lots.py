"""First in, first out, against queues of single units."""

from collections import deque
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

from bson import Decimal128
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.portfolio.book_rows import book_of, state_of
from app.brokerage.portfolio.costs import interest_of
from app.brokerage.portfolio.lots import Book, Fill, Outcome
from app.brokerage.words import BrokerName, Product
from tests.brokerage.portfolio.kit import ENGINE

FIRST = date(2026, 4, 1)
Steps = list[tuple[int, int, Decimal, int]]

prices = st.decimals("0.05", "99999.95", places=2) | st.decimals("0.0001", "9.9999", places=4)
steps = st.lists(
    st.tuples(st.sampled_from([1, -1]), st.integers(1, 30), prices, st.integers(0, 2)), min_size=1, max_size=25
)


def fills_of(given_: Steps) -> list[Fill]:
    day, fills = FIRST, []
    for number, (sign, quantity, price, later) in enumerate(given_):
        day += timedelta(days=later)
        fills.append(Fill(f"t{number}", sign, quantity, price, day))
    return fills


class Units:
    """The same with a queue of single units: slow, and hard to get wrong."""

    def __init__(self) -> None:
        self.open: deque[tuple[str, int, Fraction]] = deque()
        self.realised = Fraction(0)
        self.by_trade: dict[str, Fraction] = {}
        self.closed_by: dict[str, list[Fraction]] = {}
        """By the trade that opened a unit, at what it was closed."""
        self.by_day: dict[date, Fraction] = {}

    def add(self, fills: Sequence[Fill]) -> None:
        for fill in fills:
            price = Fraction(fill.price)
            for _ in range(fill.quantity):
                if self.open and self.open[0][1] == -fill.sign:
                    trade, sign, entry = self.open.popleft()
                    made = sign * (price - entry)
                    self.realised += made
                    self.by_trade[fill.trade] = self.by_trade.get(fill.trade, Fraction(0)) + made
                    self.by_day[fill.day] = self.by_day.get(fill.day, Fraction(0)) + made
                    self.closed_by.setdefault(trade, []).append(price)
                else:
                    self.open.append((fill.trade, fill.sign, price))


@given(steps)
def test_lots_are_queues_of_units(given_: Steps) -> None:
    fills, book, units = fills_of(given_), Book(), Units()
    outcomes = book.apply(fills)
    units.add(fills)
    assert book.position == sum(sign for _, sign, _ in units.open)
    assert Fraction(book.realised) == units.realised
    assert Fraction(book.day_realised) == units.by_day.get(fills[-1].day, 0)
    assert Fraction(book.cost) == sum(entry for _, _, entry in units.open)
    mark = Decimal("101.35")
    assert Fraction(book.unrealised(mark)) == sum(sign * (Fraction(mark) - entry) for _, sign, entry in units.open)
    for fill in fills:
        outcome = outcomes[fill.trade]
        closed = units.closed_by.get(fill.trade, [])
        left = sum(trade == fill.trade for trade, _, _ in units.open)
        assert outcome.opened + outcome.closed == fill.quantity
        assert (outcome.exit_quantity, outcome.open_quantity) == (len(closed), left)
        assert Fraction(outcome.exit_value) == sum(closed)
        assert Fraction(outcome.realised) == units.by_trade.get(fill.trade, 0)


@given(steps, st.integers(0, 25), st.integers(0, 25))
def test_in_pieces_through_the_database_it_is_the_same(given_: Steps, first: int, second: int) -> None:
    fills, whole = fills_of(given_), Book()
    wanted = whole.apply(fills)
    cuts = sorted({min(first, len(fills)), min(second, len(fills))})
    book, found = Book(), dict[str, Outcome]()
    for low, high in zip([0, *cuts], [*cuts, len(fills)], strict=True):
        last = book.last_day
        book = book_of({"state": state_of(book), "last_day": last and last.isoformat()})
        for trade, outcome in book.apply(fills[low:high]).items():
            if trade in found:  # of an older trade only what became of it is told
                found[trade].exit_quantity, found[trade].exit_value = outcome.exit_quantity, outcome.exit_value
            else:
                found[trade] = outcome
    assert book == whole
    assert found == wanted


class Delivered(Units):
    """Of deliveries: what was sold short is gone when its day is over."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: dict[str, int] = {}
        self.day = FIRST

    def add(self, fills: Sequence[Fill]) -> None:
        for fill in fills:
            self.over(fill.day)
            super().add([fill])

    def over(self, day: date) -> None:
        if day > self.day and self.open and self.open[0][1] < 0:
            for trade, _, _ in self.open:
                self.elsewhere[trade] = self.elsewhere.get(trade, 0) + 1
            self.open.clear()
        self.day = day


@given(steps, st.integers(0, 25), st.integers(0, 1))
def test_deliveries_are_short_on_the_day_of_their_sale_only(given_: Steps, cut: int, later: int) -> None:
    fills, book, units = fills_of(given_), Book(delivered=True), Delivered()
    found = book.apply(fills[:cut])
    last = book.last_day
    if cut < len(fills) and last is not None:
        # Between two changes the day may be over, or not.
        book.rest(min(last + timedelta(days=later), fills[cut].day), found)
        row = {"state": state_of(book), "last_day": last.isoformat(), "product": "CNC"}
        assert book_of(row) == book
    for trade, outcome in book.apply(fills[cut:]).items():
        if trade in found:
            old = found[trade]
            old.opened, old.elsewhere = outcome.opened, outcome.elsewhere
            old.exit_quantity, old.exit_value = outcome.exit_quantity, outcome.exit_value
        else:
            found[trade] = outcome
    end = fills[-1].day + timedelta(days=1)
    book.rest(end, found)
    units.add(fills)
    units.over(end)
    assert book.position == len(units.open) >= 0
    assert Fraction(book.realised) == units.realised
    for fill in fills:
        outcome = found[fill.trade]
        assert outcome.elsewhere == units.elsewhere.get(fill.trade, 0)
        assert outcome.opened + outcome.closed + outcome.elsewhere == fill.quantity
        assert outcome.open_quantity == sum(trade == fill.trade for trade, _, _ in units.open)
        assert Fraction(outcome.realised) == units.by_trade.get(fill.trade, 0)


@given(st.integers(1, 500), st.integers(1, 500), prices, st.integers(0, 400))
def test_interest_of_what_is_sold_in_parts_is_that_of_the_whole(one: int, two: int, price: Decimal, days: int) -> None:
    for broker in (BrokerName.ZERODHA, BrokerName.UPSTOX, BrokerName.PAPER):
        interest = interest_of(ENGINE, broker, Product.MTF, Decimal("0.75"))
        bought = Fill("buy", 1, one + two, price, FIRST)
        end = FIRST + timedelta(days=days)
        whole, parts = Book(), Book()
        whole.apply([bought])
        parts.apply([bought])
        at_once = whole.apply([Fill("all", -1, one + two, price, end)], interest)["all"].interest
        told = parts.apply([Fill("a", -1, one, price, end), Fill("b", -1, two, price, end)], interest)
        assert abs(told["a"].interest + told["b"].interest - at_once) <= Decimal("0.01")
        if broker is BrokerName.ZERODHA:  # 14.6 % a year of 365 days
            exact = Fraction(price) * (one + two) * Fraction(3, 4) * Fraction(146, 1000) * days / 365
            assert abs(Fraction(at_once) - exact) <= Fraction(1, 100)
        assert not Book().apply([bought, Fill("c", -1, 1, price, end)])["c"].interest, "none without credit"


def test_what_is_stored_fits_the_database() -> None:
    book = Book()
    book.apply([Fill("t", 1, 100_000_000, Decimal("9999999.999999"), FIRST)])
    state = state_of(book)
    assert Decimal128(state["lots"][0]["price"]).to_decimal() == Decimal("9999999.999999")
    assert len(book.cost.as_tuple().digits) <= 34
