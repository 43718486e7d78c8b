"""What the time alone does to an account: openings, square-off, expiry, the next day. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from app.brokerage.adapters.paper.book import PaperBook, PaperOrder, PaperPosition
from app.brokerage.adapters.paper.funds import Marks
from app.brokerage.adapters.paper.ledger import PLAN, fill
from app.brokerage.adapters.paper.matching import Model
from app.brokerage.adapters.paper.rules import IOC_PATIENCE
from app.brokerage.words import Listing, OrderState, PriceType, Product, Side, Validity

SQUARED_OFF: Final = "Intraday positions are closed before the end of the session."
_MOMENT: Final = timedelta(milliseconds=1)
SETTLED: Final = "The contract has ended: settled at its last price."


def advance(model: Model, book: PaperBook, now: datetime, marks: Marks) -> bool:
    """Do what was due until `now`; whether anything changed.

    `marks`: newest prices, for positions that have to end without a market; else the last price that was seen.
    """
    changed = False
    while True:
        changed |= _within_day(model, book, now, marks)
        if model.hours.today(now).day <= book.day:
            return changed
        _next_day(model, book)
        changed = True


def due(model: Model, book: PaperBook, now: datetime) -> datetime | None:
    """When the time alone changes the account next; None: never. In the past: now."""
    return min(_dues(model, book, now), default=None)


def to_mark(model: Model, book: PaperBook, now: datetime) -> list[PaperPosition]:
    """Positions that `advance` may have to end now without a market."""
    if book.settled or now < model.hours.of(book.day).closes:
        return []
    return [p for p in book.positions if p.net and (p.product is Product.MIS or _ends(p, book))]


def _dues(model: Model, book: PaperBook, now: datetime) -> Iterator[datetime]:
    hours, today = model.hours, model.hours.of(book.day)
    for order in book.open_orders():
        if order.state is OrderState.PENDING:
            yield hours.of(order.day).opens
        elif order.validity is Validity.IOC and not order.arrived:
            yield order.eligible_at + IOC_PATIENCE
    if not book.settled:
        if any(_to_square(book)):
            yield today.square_off
        if book.awake:
            yield today.closes
    if book.awake:
        yield hours.of(hours.after(book.day).day).opens if hours.today(now).day <= book.day else now


def _within_day(model: Model, book: PaperBook, now: datetime, marks: Marks) -> bool:
    day = model.hours.of(book.day)
    # What is made up for later was of its day all the same: so are its trades, and their charges.
    at = now if model.hours.today(now).day <= book.day else min(now, day.closes - _MOMENT)
    changed = False
    for order in list(book.open_orders()):
        if order.state is OrderState.PENDING and order.day <= book.day and day.opens <= now:
            order.change(at, OrderState.TRIGGER_PENDING if order.waits_for_trigger else OrderState.OPEN)
            changed = True
        elif order.validity is Validity.IOC and not order.arrived and now >= order.eligible_at + IOC_PATIENCE:
            order.change(at, OrderState.CANCELLED, "Immediate or cancel: no price was known.")
            changed = True
    if book.settled:
        return changed
    if now >= day.square_off:
        changed |= _square_off(book, at)
    if now >= day.closes:
        _settle(model, book, at, marks)
        changed = True
    return changed


def _to_square(book: PaperBook) -> Iterator[PaperPosition | PaperOrder]:
    yield from (p for p in book.positions if p.product is Product.MIS and p.net)
    yield from (o for o in book.open_orders() if o.product is Product.MIS and o.tag is not None and o.day <= book.day)


def _square_off(book: PaperBook, now: datetime) -> bool:
    changed = False
    for one in list(_to_square(book)):
        if isinstance(one, PaperOrder):
            one.change(now, OrderState.CANCELLED, "Intraday orders end when intraday positions are closed.")
            changed = True
        else:
            changed |= _close_out(book, one, now, SQUARED_OFF)
    return changed


def _close_out(book: PaperBook, position: PaperPosition, now: datetime, reason: str) -> bool:
    """See that there is an order of ours for all of a position."""
    closing = sum(
        order.remaining * order.side.sign
        for order in book.open_orders(position.key)
        if order.tag is None and order.product is position.product
    )
    left = position.net + closing
    if not left:
        return False
    book.number += 1
    price = position.last or position.average
    book.orders.append(
        PaperOrder(
            id=f"{book.account_id}-{book.number}",
            tag=None,
            listing=position.listing,
            side=Side.SELL if left > 0 else Side.BUY,
            product=position.product,
            quantity=abs(left),
            price_type=PriceType.MARKET,
            price=None,
            trigger_price=None,
            validity=Validity.DAY,
            day=book.day,
            placed_at=now,
            eligible_at=now,
            updated_at=now,
            state=OrderState.OPEN,
            reference=price,
            reason=reason,
        )
    )
    return True


def _ends(position: PaperPosition, book: PaperBook) -> bool:
    expiry = position.listing.expiry
    return expiry is not None and expiry <= book.day


def _settle(model: Model, book: PaperBook, now: datetime, marks: Marks) -> None:
    """The end of the session: nothing of the day is left open."""
    for order in list(book.open_orders()):
        if order.day <= book.day and order.tag is not None:
            order.change(now, OrderState.EXPIRED, "The session has ended.")
    for position in list(book.positions):
        if position.net and (position.product is Product.MIS or _ends(position, book)):
            _close_out(book, position, now, SETTLED if _ends(position, book) else SQUARED_OFF)
            price = _on_tick(marks.get(position.key) or position.last or position.average, position.listing)
            for order in list(book.open_orders(position.key)):
                if order.tag is None and order.product is position.product:
                    fill(model.engine, book, order, order.remaining, price, now)
    book.settled = True


def _on_tick(price: Decimal, listing: Listing) -> Decimal:
    return max((price / listing.tick_size).to_integral_value() * listing.tick_size, listing.tick_size)


def _next_day(model: Model, book: PaperBook) -> None:
    """Begin the next trading day: what is over is forgotten here, it is filed."""
    following = model.hours.after(book.day).day
    lent = sum(holding.funded for holding in book.holdings)
    if lent:
        book.cash -= model.engine.mtf_interest(PLAN, lent, (following - book.day).days, book.day)
    delivered = {Product.CNC, Product.MTF}
    book.positions = [p for p in book.positions if p.net and p.product not in delivered]
    for position in book.positions:
        position.realised = Decimal(0)
    book.lines, book.charges = [], Decimal(0)
    book.day, book.settled = following, False
