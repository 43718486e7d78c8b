"""What orders do at a price. Pure, and the same whenever it is computed again."""

from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Final, NamedTuple

from app.brokerage.adapters.paper.book import Key, PaperBook, PaperOrder
from app.brokerage.adapters.paper.funds import available
from app.brokerage.adapters.paper.hours import Hours
from app.brokerage.adapters.paper.ledger import charges_of, fill, line
from app.brokerage.adapters.paper.rules import MTF_OWN, PaperRules, is_option
from app.brokerage.words import Listing, OrderState, PriceType, Product, Side, Validity
from app.core.charges import ChargeEngine

_ENDLESS: Final = 1 << 62


class Model(NamedTuple):
    """By what an account is changed."""

    rules: PaperRules
    hours: Hours
    engine: ChargeEngine


class Quote(NamedTuple):
    """A price that orders meet."""

    key: Key
    price: Decimal
    at: datetime
    """By the exchange."""
    usual: int | None = None
    """Units that an arriving order finds; None: it is not known, so as many as it wants."""
    traded: int | None = None
    """Units that waiting orders can get of what was traded since the price before; None: as `usual`."""


def look(model: Model, book: PaperBook, quote: Quote, now: datetime) -> bool:
    """Let the orders of an instrument meet a price; whether anything changed."""
    if not meets(model, quote, now):
        return False
    changed = False
    for position in book.positions:
        if position.key == quote.key:
            position.last = quote.price
    arriving = _ENDLESS if quote.usual is None else quote.usual
    waiting = arriving if quote.traded is None else quote.traded
    for order in list(book.open_orders(quote.key)):
        if not arrives(order, now):
            continue
        room = waiting if order.arrived else arriving
        version, filled, first = order.version, order.filled, not order.arrived
        _meet(model, book, order, quote, room, now)
        if first:
            arriving -= order.filled - filled
        else:
            waiting -= order.filled - filled
        changed = changed or first or order.version != version
    return changed


def meets(model: Model, quote: Quote, now: datetime) -> bool:
    """Whether orders are filled at this price now: the market is open, and the price is of this session."""
    if model.hours.always_open:
        return True
    return model.hours.is_open(now) and quote.at >= model.hours.today(now).opens


def concerned(book: PaperBook, quote: Quote, now: datetime) -> bool:
    """Whether any order has to do with a price; a quick look before the account is read and written."""
    return any(_concerned(order, quote.price) for order in book.open_orders(quote.key) if arrives(order, now))


def arrives(order: PaperOrder, now: datetime) -> bool:
    """Whether an open order is in the market by now."""
    return order.state is not OrderState.PENDING and now >= order.eligible_at


def _concerned(order: PaperOrder, price: Decimal) -> bool:
    if not order.arrived:
        return True
    return _touches(order, price) if order.waits_for_trigger else _fits(order, price)


def _touches(order: PaperOrder, price: Decimal) -> bool:
    trigger = order.trigger_price or price
    return price >= trigger if order.side is Side.BUY else price <= trigger


def _fits(order: PaperOrder, price: Decimal) -> bool:
    """Whether it is to be had at this price: always, without a limit."""
    if order.price is None or not order.price_type.has_limit:
        return True
    return price <= order.price if order.side is Side.BUY else price >= order.price


def _meet(model: Model, book: PaperBook, order: PaperOrder, quote: Quote, room: int, now: datetime) -> None:
    arriving = not order.arrived
    order.arrived = True
    if order.waits_for_trigger and _touches(order, quote.price):
        order.triggered = arriving = True
        order.change(now, OrderState.PARTIALLY_FILLED if order.filled else OrderState.OPEN)
    if not order.waits_for_trigger and _fits(order, quote.price):
        price = _price(model.rules, order, quote.price, arriving=arriving)
        quantity = _lots(order.listing, min(order.remaining, room), room)
        quantity = min(quantity, order.remaining)
        if quantity and _can_pay(model.engine, book, order, quantity, price, now):
            fill(model.engine, book, order, quantity, price, now)
    if order.is_open and order.validity is Validity.IOC:
        order.change(now, OrderState.CANCELLED, "Immediate or cancel: what could not be filled at once.")


def _lots(listing: Listing, quantity: int, room: int) -> int:
    """Whole lots of it; one at least where there is any room."""
    lots = quantity - quantity % listing.lot_size
    return lots or (listing.lot_size if room > 0 else 0)


def _price(rules: PaperRules, order: PaperOrder, price: Decimal, *, arriving: bool) -> Decimal:
    """What a fill pays: a limit order that waited its limit, all others the market's price with slippage."""
    limit = order.price if order.price_type.has_limit else None
    if limit is not None and not arriving:
        return limit
    slip = price * rules.slippage(order.name, order.fills)
    listing, buys = order.listing, order.side is Side.BUY
    tick = listing.tick_size
    steps = (price + slip if buys else price - slip) / tick
    paid = max(steps.to_integral_value(ROUND_CEILING if buys else ROUND_FLOOR) * tick, tick)
    if listing.upper_circuit is not None:
        paid = min(paid, max(price, listing.upper_circuit))
    if listing.lower_circuit is not None:
        paid = max(paid, min(price, listing.lower_circuit))
    if limit is None:
        return paid
    return min(limit, paid) if buys else max(limit, paid)


def _can_pay(
    engine: ChargeEngine, book: PaperBook, order: PaperOrder, quantity: int, price: Decimal, now: datetime
) -> bool:
    """Whether there is money for what is paid in full: a price may have run away since funds were held for it."""
    full = order.product in {Product.CNC, Product.MTF} or is_option(order.listing)
    if not full or order.side is Side.SELL or price <= order.reference or order.tag is None:
        return True
    # What ends a sold option is bought whatever it costs: the loss is there already, and would only grow.
    quantity -= min(quantity, _sold(book, order))
    if not quantity:
        return True
    value = price * quantity
    new = line(order.listing, order.product, order.side, value, quantity)
    need = (value * MTF_OWN if order.product is Product.MTF else value) + (
        charges_of(engine, book, [*book.lines, new]) - book.charges
    )
    state, order.state = order.state, OrderState.CANCELLED  # without what is held for this order itself
    free = available(engine, book, {})
    order.state = state
    if need <= free:
        return True
    order.change(now, OrderState.CANCELLED, f"Not enough funds at {price}: {need:.2f} needed, {free:.2f} available.")
    return False


def _sold(book: PaperBook, order: PaperOrder) -> int:
    """How much is sold short of what an order trades."""
    return sum(max(0, -p.net) for p in book.positions if p.key == order.key and p.product is order.product)


def reference(rules: PaperRules, price_type: PriceType, side: Side, limit: Decimal | None, market: Decimal) -> Decimal:
    """By which price funds are held: the limit, else the market's (or the trigger's) with the most slippage."""
    if price_type.has_limit and limit is not None:
        return limit
    return market * (1 + rules.slippage_bps * Decimal("1.5") / 10_000) if side is Side.BUY else market
