"""What an account's money is held for. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

from app.brokerage.adapters.paper.book import Key, PaperBook, PaperOrder, PaperPosition
from app.brokerage.adapters.paper.ledger import charges_of, line
from app.brokerage.adapters.paper.rules import (
    EQUITY_INTRADAY,
    FUTURES,
    MTF_OWN,
    SHORT_OPTION,
    is_option,
    is_share,
)
from app.brokerage.words import Funds, Listing, Product, Side
from app.core.charges import ChargeEngine

Marks = Mapping[Key, Decimal]
"""Newest prices."""

_NOTHING: Final = Decimal(0)
_PAISA: Final = Decimal("0.01")
_PAID_IN_FULL: Final = frozenset({Product.CNC, Product.MTF})


def funds(engine: ChargeEngine, book: PaperBook, marks: Marks) -> Funds:
    """The account's money as a broker shows it: the total is the cash less losses that are open."""
    total = book.cash + open_losses(book, marks)
    used = held(engine, book)
    return Funds((total - used).quantize(_PAISA), used.quantize(_PAISA), total.quantize(_PAISA))


def available(engine: ChargeEngine, book: PaperBook, marks: Marks) -> Decimal:
    """What new orders can use; below 0 after losses."""
    return book.cash + open_losses(book, marks) - held(engine, book)


def open_losses(book: PaperBook, marks: Marks) -> Decimal:
    """What positions on margin have lost and not realised, all together; never above 0."""
    lost = _NOTHING
    for position in book.positions:
        if position.product not in _PAID_IN_FULL and (position.net < 0 or not is_option(position.listing)):
            lost += position.unrealised(marks.get(position.key, position.last))
    return min(lost, _NOTHING)


def held(engine: ChargeEngine, book: PaperBook) -> Decimal:
    """What open orders and positions hold."""
    groups: dict[tuple[Key, Product], list[PaperOrder]] = defaultdict(list)
    paid: list[PaperOrder] = []
    for order in book.open_orders():
        if order.product not in _PAID_IN_FULL:
            groups[order.key, order.product].append(order)
        elif order.side is Side.BUY:
            paid.append(order)
    positions = {(p.key, p.product): p for p in book.positions if p.net and p.product not in _PAID_IN_FULL}
    total = sum((_paid(order) for order in paid), _NOTHING)
    total += sum((_margin(positions.get(at), groups.get(at, ())) for at in {**groups, **positions}), _NOTHING)
    if paid:
        pending = [line(o.listing, o.product, o.side, o.reference * o.remaining, o.remaining) for o in paid]
        total += charges_of(engine, book, [*book.lines, *pending]) - book.charges
    return total


def _paid(order: PaperOrder) -> Decimal:
    value = order.reference * order.remaining
    return value * MTF_OWN if order.product is Product.MTF else value


def _margin(position: PaperPosition | None, orders: Iterable[PaperOrder]) -> Decimal:
    """Of the worse of what could become of a position: all buys are filled, or all sales."""
    orders = list(orders)
    listing: Listing = position.listing if position else orders[0].listing
    net, cost = (position.net, position.cost) if position else (0, _NOTHING)
    buys = [order for order in orders if order.side is Side.BUY]
    sales = [order for order in orders if order.side is Side.SELL]
    # What only closes holds nothing.
    bought = max(0, sum(order.remaining for order in buys) - max(0, -net))
    sold = max(0, sum(order.remaining for order in sales) - max(0, net))
    buying = bought * max((order.reference for order in buys), default=_NOTHING)
    selling = sold * max((order.reference for order in sales), default=_NOTHING)
    if is_option(listing):
        short = max(0, -net) + sold
        strike = listing.strike or (cost + selling) / max(1, short)
        return buying + SHORT_OPTION * strike * short
    rate = EQUITY_INTRADAY if is_share(listing) else FUTURES
    long_value = (cost if net > 0 else _NOTHING) + buying
    short_value = (cost if net < 0 else _NOTHING) + selling
    return rate * max(long_value, short_value)
