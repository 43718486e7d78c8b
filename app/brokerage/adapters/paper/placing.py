"""Orders as they come: taken into an account, changed, cancelled, or refused as an exchange would. Pure."""

from datetime import date, datetime
from decimal import Decimal
from typing import Final, NoReturn

from app.brokerage.adapters.paper.book import Key, PaperBook, PaperOrder, same_holding
from app.brokerage.adapters.paper.funds import Marks, available, held
from app.brokerage.adapters.paper.matching import Model, reference
from app.brokerage.adapters.paper.rules import MOST_ORDERS, PRODUCTS
from app.brokerage.errors import BrokerUnavailableError, OrderRejectedError
from app.brokerage.words import (
    Listing,
    OrderChange,
    OrderState,
    OrderTicket,
    PriceType,
    Product,
    Side,
    Validity,
)

_MOST_UNITS: Final = 10**9


def place(model: Model, book: PaperBook, ticket: OrderTicket, now: datetime, marks: Marks) -> PaperOrder:
    """Take an order into `book`, which `advance` has brought to `now`.

    `marks` has the newest prices of positions on margin, and of the instrument. Raises `OrderRejectedError`; the book
    is not to be kept then.
    """
    if len(book.orders) >= MOST_ORDERS:
        raise BrokerUnavailableError(
            f"The paper account has {MOST_ORDERS} orders that wait or are not filed yet. Cancel some; if none is open, "
            "no process of this service fills paper orders (BACKGROUND_TASKS_ENABLED)."
        )
    listing, day = ticket.listing, model.hours.for_order(now).day
    market = marks.get(Key(listing.exchange, listing.symbol))
    _check_listing(listing, ticket.product, day)
    _check_figures(listing, ticket.side, ticket)
    is_open = model.hours.is_open(now)
    _check_validity(ticket.validity, is_open=is_open)
    before = held(model.engine, book)
    book.number += 1
    triggers = ticket.price_type.has_trigger
    order = PaperOrder(
        id=f"{book.account_id}-{book.number}",
        tag=ticket.tag,
        listing=listing,
        side=ticket.side,
        product=ticket.product,
        quantity=ticket.quantity,
        price_type=ticket.price_type,
        price=ticket.price if ticket.price_type.has_limit else None,
        trigger_price=ticket.trigger_price if triggers else None,
        validity=ticket.validity,
        day=day,
        placed_at=now,
        eligible_at=now + model.rules.latency(ticket.tag),
        updated_at=now,
        state=_first_state(is_open=is_open, triggers=triggers),
        reference=_reference(model, ticket.price_type, ticket.side, ticket, market),
    )
    book.orders.append(order)
    _check_holdings(book, order)
    _check_square_off(model, order, now)
    _check_funds(model, book, before, marks)
    return order


def modify(
    model: Model, book: PaperBook, order_id: str, change: OrderChange, now: datetime, marks: Marks
) -> PaperOrder:
    """Make another order of one that is open. Raises `OrderRejectedError`; the book is not to be kept then."""
    order = _open(book, order_id)
    if change.quantity <= order.filled:
        _refuse(f"{order.filled} units of it are filled already: the quantity must be more.", "QUANTITY")
    _check_figures(order.listing, order.side, change)
    _check_validity(change.validity, is_open=model.hours.is_open(now))
    before = held(model.engine, book)
    if not order.price_type.has_trigger or change.trigger_price != order.trigger_price:
        order.triggered = False
    order.quantity, order.price_type, order.validity = change.quantity, change.price_type, change.validity
    order.price = change.price if change.price_type.has_limit else None
    order.trigger_price = change.trigger_price if change.price_type.has_trigger else None
    order.reference = _reference(model, change.price_type, order.side, change, marks.get(order.key))
    # It queues anew, as at an exchange.
    order.arrived, order.eligible_at = False, now + model.rules.latency(f"{order.name}|{order.version}")
    state = order.state
    if state is not OrderState.PENDING and not order.filled:
        state = OrderState.TRIGGER_PENDING if order.waits_for_trigger else OrderState.OPEN
    order.change(now, state)
    _check_holdings(book, order)
    _check_funds(model, book, before, marks)
    return order


def cancel(book: PaperBook, order_id: str, now: datetime) -> PaperOrder:
    """Cancel what is not filled of an open order. Raises `OrderRejectedError`."""
    order = _open(book, order_id)
    order.change(now, OrderState.CANCELLED, "Cancelled on request.")
    return order


def _open(book: PaperBook, order_id: str) -> PaperOrder:
    order = book.order(order_id)
    if order is None or not order.is_open:
        state = f"it is {order.state.value.lower()}" if order else "it has ended, or never was"
        _refuse(f"The order is not open: {state}.", "NOT_OPEN")
    if order.tag is None:
        _refuse("The order closes an intraday position before the session ends: it cannot be changed.", "SQUARE_OFF")
    return order


def _first_state(*, is_open: bool, triggers: bool) -> OrderState:
    if not is_open:
        return OrderState.PENDING
    return OrderState.TRIGGER_PENDING if triggers else OrderState.OPEN


def _refuse(reason: str, code: str) -> NoReturn:
    raise OrderRejectedError(reason, code=code)


def _check_listing(listing: Listing, product: Product, day: date) -> None:
    if listing.kind == "INDEX":
        _refuse(f"{listing.symbol} is an index: its futures, options and funds can be traded.", "INDEX")
    if product not in PRODUCTS.get(listing.exchange, frozenset()):
        _refuse(f"{product} is not possible on {listing.exchange}.", "PRODUCT")
    if listing.expiry is not None and listing.expiry < day:
        _refuse(f"{listing.symbol} ended on {listing.expiry}.", "EXPIRED")


def _check_validity(validity: Validity, *, is_open: bool) -> None:
    if validity is Validity.IOC and not is_open:
        _refuse("The market is closed: an immediate-or-cancel order cannot wait for it.", "MARKET_CLOSED")


def _check_figures(listing: Listing, side: Side, wanted: OrderTicket | OrderChange) -> None:
    """What an exchange refuses: quantities and prices that do not fit the instrument, triggers on the wrong side."""
    if not 0 < wanted.quantity < _MOST_UNITS or wanted.quantity % listing.lot_size:
        _refuse(f"The quantity must be a multiple of {listing.lot_size}.", "QUANTITY")
    if listing.freeze_quantity is not None and wanted.quantity > listing.freeze_quantity:
        _refuse(f"At most {listing.freeze_quantity} units are taken in one order.", "FREEZE_QUANTITY")
    kind = wanted.price_type
    for needed, name, price in (
        (kind.has_limit, "price", wanted.price),
        (kind.has_trigger, "trigger price", wanted.trigger_price),
    ):
        if needed:
            _check_price(listing, name, price)
    if kind is PriceType.SL and wanted.price is not None and wanted.trigger_price is not None:
        if side is Side.BUY and wanted.price < wanted.trigger_price:
            _refuse("The price of a stop order to buy must not be below its trigger price.", "TRIGGER")
        if side is Side.SELL and wanted.price > wanted.trigger_price:
            _refuse("The price of a stop order to sell must not be above its trigger price.", "TRIGGER")


def _check_price(listing: Listing, name: str, price: Decimal | None) -> None:
    if price is None or not price.is_finite() or price <= 0:
        _refuse(f"The {name} is missing.", "PRICE")
    if price % listing.tick_size:
        _refuse(f"The {name} must be a multiple of {listing.tick_size}.", "TICK")
    low, high = listing.lower_circuit, listing.upper_circuit
    if (low is not None and price < low) or (high is not None and price > high):
        _refuse(f"The {name} must be between {low} and {high} today.", "CIRCUIT")


def _reference(
    model: Model, kind: PriceType, side: Side, wanted: OrderTicket | OrderChange, market: Decimal | None
) -> Decimal:
    if kind.has_trigger:
        market = wanted.trigger_price
    if market is None and not kind.has_limit:
        _refuse(
            "No price of it is known, so the funds for it cannot be: give a limit price, or ask an operator to let the "
            "live feed follow it (PUT /api/v1/market-data/watchlist/{exchange}/{token}).",
            "NO_PRICE",
        )
    return reference(model.rules, kind, side, wanted.price, market or Decimal(0))


def _check_holdings(book: PaperBook, order: PaperOrder) -> None:
    if order.product not in {Product.CNC, Product.MTF} or order.side is Side.BUY:
        return
    selling = sum(
        o.remaining
        for o in book.open_orders()
        if o.product is order.product and o.side is Side.SELL and same_holding(o.product, o.key, order.key)
    )
    owned = book.held(order.key, order.product)
    if selling > owned:
        free = max(0, owned - selling + order.remaining)
        _refuse(
            f"Only {free} of {order.listing.symbol} can be sold for {order.product.value}: "
            "delivery sells what is held, and what open orders do not sell already. MIS sells short.",
            "HOLDINGS",
        )


def _check_square_off(model: Model, order: PaperOrder, now: datetime) -> None:
    if order.product is Product.MIS and model.hours.of(order.day).square_off <= now:
        _refuse(
            "Intraday positions are being closed by now, before the session ends: no MIS order is taken any more.",
            "SQUARE_OFF",
        )


def _check_funds(model: Model, book: PaperBook, before: Decimal, marks: Marks) -> None:
    need = held(model.engine, book) - before
    if need <= 0:  # it closes something, or wants less than before
        return
    free = available(model.engine, book, marks) + need
    if need > free:
        _refuse(f"Not enough funds: {need:.2f} needed, {free:.2f} available.", "FUNDS")
