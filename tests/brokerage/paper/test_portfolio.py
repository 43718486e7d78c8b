"""The paper account and the portfolio say the same, to the paisa: profit, what is held, what it cost, charges."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.adapters.paper.book import PaperBook, PaperHolding, PaperLot, PaperPosition, take_oldest
from app.brokerage.errors import OrderRejectedError
from app.brokerage.portfolio.costs import CostedTrade, day_costs
from app.brokerage.portfolio.lots import Book, Fill
from app.brokerage.portfolio.naming import Source, book_id
from app.brokerage.words import BookedTrade, BrokerName, Exchange, Listing, Product, Side
from tests.brokerage.paper.kit import CALL, ENGINE, FUTURE, MONDAY, SHARE, Trader, ist

D = Decimal
TUESDAY = date(2026, 7, 7)
ON_BSE = Listing(Exchange.BSE, SHARE.symbol, "RELIANCE|500325", D("0.10"), isin=SHARE.isin)
THINGS: dict[str, tuple[Listing, Product]] = {
    "delivery": (SHARE, Product.CNC),
    "delivery on the other": (ON_BSE, Product.CNC),
    "credit": (SHARE, Product.MTF),
    "intraday": (SHARE, Product.MIS),
    "intraday on the other": (ON_BSE, Product.MIS),
    "future": (FUTURE, Product.NRML),
    "option": (CALL, Product.NRML),
}
STEPS = st.lists(
    st.tuples(st.sampled_from(list(THINGS)), st.sampled_from(list(Side)), st.integers(1, 12), st.integers(8000, 12000)),
    max_size=25,
)


def trade_on(trader: Trader, steps: Sequence[tuple[str, Side, int, int]]) -> None:
    for what, side, lots, dimes in steps:
        listing, product = THINGS[what]
        price = D(dimes) / 10
        trader.price(price, listing)
        order = trader.buy if side is Side.BUY else trader.sell
        with suppress(OrderRejectedError):
            order(lots * listing.lot_size, listing, product=product)
        trader.price(price, listing)
        trader.pass_time(seconds=1)


def portfolio_of(trades: Sequence[BookedTrade], days: Sequence[date]) -> tuple[dict[str, Book], Decimal]:
    """Books and charges by these trades, as the portfolio has them; `days`: of each trade."""
    books: defaultdict[str, Book] = defaultdict(Book)
    notes: defaultdict[date, list[CostedTrade]] = defaultdict(list)
    for trade, day in zip(trades, days, strict=True):
        name = book_id("a", Source.BROKER, trade.exchange, trade.symbol, trade.product)
        books[name].apply([Fill(trade.trade_id, trade.side.sign, trade.quantity, trade.price, day)])
        notes[day].append(
            CostedTrade(
                trade.trade_id,
                trade.broker_order_id,
                trade.exchange,
                trade.symbol,
                trade.product,
                trade.side,
                trade.quantity,
                trade.price,
            )
        )
    charges = sum((day_costs(ENGINE, BrokerName.PAPER, day, some).note.total for day, some in notes.items()), D(0))
    return dict(books), charges


def invested(book: PaperBook) -> Decimal:
    """What was paid for what is open: shares, and options; sold options brought it."""
    own = sum((holding.cost - holding.funded for holding in book.holdings), D(0))
    options = [p for p in book.positions if p.listing is CALL or p.listing.kind == "CE"]
    return own + sum((p.cost if p.net > 0 else -p.cost for p in options), D(0))


@given(STEPS, STEPS)
def test_it_is_the_dashboards_account(
    first: list[tuple[str, Side, int, int]], second: list[tuple[str, Side, int, int]]
) -> None:
    trader = Trader(at=ist("09:30"))
    trader.book.cash = D(50_000_000)
    trade_on(trader, first)
    trader.at("09:30", TUESDAY)
    begun = len(trader.book.trades)
    trade_on(trader, second)
    trades = trader.book.trades
    # What the evening squared off is Monday's, too.
    days = [MONDAY if trade.at < ist("00:00", TUESDAY) else TUESDAY for trade in trades]
    assert days[:begun] == [MONDAY] * begun
    books, charges = portfolio_of(trades, days)
    realised = sum((book.realised for book in books.values()), D(0))
    assert trader.book.cash + invested(trader.book) == 50_000_000 + realised - charges
    # What is open is open there, at the same cost.
    open_ = {name: (book.position, book.cost) for name, book in books.items() if book.side}
    ours = [(h.quantity, h.cost) for h in trader.book.holdings]
    ours += [(p.net, p.cost) for p in trader.book.positions if p.net and p.product in {Product.MIS, Product.NRML}]
    assert sorted(ours) == sorted(open_.values())
    # And so is what was made today.
    today = sum((book.day_realised for book in books.values() if book.last_day == TUESDAY), D(0))
    assert sum((p.realised for p in trader.book.positions), D(0)) == today


def test_what_was_bought_first_is_sold_first() -> None:
    trader = Trader()
    for price in ("1000", "1100"):
        trader.price(price)
        trader.buy(10)
        trader.price(price)
    trader.price("1200")
    trader.sell(10)
    trader.price("1200")
    (holding,) = trader.book.holdings
    assert (holding.quantity, holding.cost, holding.average) == (10, 11_000, 1100)
    assert trader.book.positions[0].realised == 2000, "not 1,500, as by the average"


def test_shares_bought_on_one_exchange_are_sold_on_the_other() -> None:
    trader = Trader()
    trader.price("1000")
    trader.buy(10)
    trader.price("1000")
    trader.price("1010", ON_BSE)
    trader.sell(4, ON_BSE)
    with pytest.raises(OrderRejectedError, match="Only 6 of RELIANCE"):
        trader.sell(7, SHARE)
    trader.price("1010", ON_BSE)
    (holding,) = trader.book.holdings
    assert (holding.quantity, holding.cost) == (6, 6000)
    with pytest.raises(OrderRejectedError, match="Only 0 of RELIANCE"):
        trader.sell(1, ON_BSE, product=Product.MTF)


def test_accounts_of_an_older_version_are_read() -> None:
    """They have costs and no lots, and shares of one name by exchange."""
    old = msgspec.to_builtins(
        PaperBook(
            account_id="a",
            day=MONDAY,
            cash=D(1000),
            holdings=[PaperHolding(listing=SHARE, product=Product.CNC, quantity=3, cost=D(100))],
            positions=[PaperPosition(listing=FUTURE, product=Product.NRML, net=-65, cost=D(650))],
        )
    )
    old["holdings"].append({**old["holdings"][0], "quantity": 2, "cost": "50"})
    old["holdings"][1]["listing"] = msgspec.to_builtins(ON_BSE)
    for one in (*old["holdings"], *old["positions"]):
        one.pop("lots")
    book = msgspec.convert(old, PaperBook)
    (holding,) = book.holdings
    assert (holding.quantity, holding.cost, book.held(holding.key, Product.CNC)) == (5, 150, 5)
    sold = holding.take(4)
    assert (sold.quantity, sold.cost, holding.cost) == (4, 125, 25)
    assert book.positions[0].add(65, D(9)) == 65
    assert (book.positions[0].net, book.positions[0].cost, book.positions[0].lots) == (0, 0, [])


@given(st.lists(st.tuples(st.integers(1, 50), st.decimals("0.05", "9999.95", places=2)), min_size=1), st.data())
def test_lots_are_queues_of_units(given_: list[tuple[int, Decimal]], data: st.DataObject) -> None:
    lots = [PaperLot(quantity, quantity * price, quantity * price / 2) for quantity, price in given_]
    units = [price for quantity, price in given_ for _ in range(quantity)]
    wanted = data.draw(st.integers(1, len(units)))
    taken = take_oldest(lots, wanted)
    assert (taken.quantity, taken.cost) == (wanted, sum(units[:wanted]))
    assert sum(lot.cost for lot in lots) == sum(units[wanted:])
    assert sum(lot.quantity for lot in lots) == len(units) - wanted
    assert all(lot.quantity for lot in lots)
