"""Whether an order fits what its broker takes and what its instrument allows. Pure; nothing is ever changed silently.

Each refusal names what would be valid: the nearest prices on the tick, the nearest quantities of whole lots, what the
broker takes instead.
"""

from collections.abc import Iterable
from datetime import date
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from app.brokerage.errors import NotPossibleError
from app.brokerage.words import Capabilities, Exchange, Listing, OrderChange, PriceType, Product, Side, Validity
from app.core.errors import FieldError, InvalidInputError
from app.core.problem import summary

CASH = frozenset({Exchange.NSE, Exchange.BSE})


class Wish(NamedTuple):
    """An order as it was asked for, with what was left out filled in."""

    side: Side
    exchange: Exchange
    symbol: str
    quantity: int
    product: Product
    price_type: PriceType
    price: Decimal | None
    trigger_price: Decimal | None
    validity: Validity

    @property
    def terms(self) -> OrderChange:
        """What of it can be changed later."""
        return OrderChange(
            quantity=self.quantity,
            price_type=self.price_type,
            price=self.price,
            trigger_price=self.trigger_price,
            validity=self.validity,
        )


def default_product(exchange: Exchange) -> Product:
    """Delivery for shares, carried over elsewhere."""
    return Product.CNC if exchange in CASH else Product.NRML


def check_possible(wish: Wish, takes: Capabilities) -> None:
    """Raises `NotPossibleError` for what the broker does not take, saying what it takes."""
    faults: list[FieldError] = []
    name = takes.broker.value
    if wish.exchange not in takes.exchanges:
        faults.append(_cannot("exchange", f"{name} does not trade on {wish.exchange} here", takes.exchanges))
    else:
        products = takes.products.get(wish.exchange, frozenset())
        if wish.product not in products:
            faults.append(_cannot("product", f"{name} does not take {wish.product} on {wish.exchange}", products))
    if wish.price_type not in takes.price_types:
        faults.append(_cannot("price_type", f"{name} does not take {wish.price_type} orders", takes.price_types))
    if wish.validity not in takes.validities:
        faults.append(_cannot("validity", f"{name} does not take {wish.validity}", takes.validities))
    if faults:
        raise NotPossibleError(f"{summary(faults)}.", faults)


def check_terms(side: Side, terms: OrderChange, listing: Listing, today: date) -> None:
    """Raises `InvalidInputError` for prices and quantities that do not fit the order's kind or its instrument."""
    faults = [*_of_listing(listing, today), *_of_kind(terms), *_of_quantity(terms.quantity, listing)]
    for name, price in (("price", terms.price), ("trigger_price", terms.trigger_price)):
        if price is not None:
            faults += _of_price(name, price, listing)
    if not faults and terms.price_type is PriceType.SL:
        faults += _of_stop(side, terms)
    refuse(faults)


class OrderLimits(NamedTuple):
    """What no order goes beyond that was meant; None: no limit."""

    value: Decimal | None
    """Rupees that one order may be worth (`ORDER_MAX_VALUE`)."""
    deviation: Decimal | None
    """Percent by which a limit is worse than the newest price (`ORDER_MAX_PRICE_DEVIATION_PERCENT`)."""


_OPTIONS: Final = frozenset({"CE", "PE"})
_ROOM: Final = 5
"""Premiums double within minutes, shares do not: so many times the deviation is taken of options."""
_SMALL: Final = 100
"""Ticks that the limit of an option may always be away: a cheap one goes from 0.50 to 2 by itself."""


def is_option(listing: Listing) -> bool:
    """Whether prices of it are old after a few minutes."""
    return listing.kind in _OPTIONS


def needs_newest(side: Side, terms: OrderChange, listing: Listing, limits: OrderLimits) -> bool:
    """Whether `limit_faults` has to know the newest price."""
    if terms.trigger_price is not None:
        return False
    if terms.price is None:
        return limits.value is not None
    return limits.deviation is not None and _circuit(side, listing) is None


def limit_faults(
    side: Side, terms: OrderChange, listing: Listing, limits: OrderLimits, newest: Decimal | None
) -> list[FieldError]:
    """What of an order nobody can have meant: a digit too many in a quantity (`order_value`) or in a price
    (`price_deviation`).

    `newest`: None where no recent price is known; then it limits nothing.
    """
    faults: list[FieldError] = []
    price = terms.price or terms.trigger_price or newest or Decimal(0)
    if limits.value is not None and terms.quantity * price > limits.value:
        told = (
            f"{terms.quantity} of {listing.symbol} at {_text(price)} are worth {terms.quantity * price:,.2f} rupees, "
            f"and this server takes no order of more than {limits.value:,.2f} (ORDER_MAX_VALUE), unless it only "
            "ends or reduces a position: look at quantity and price, or ask the operator"
        )
        faults.append(_fault("quantity", told, "order_value"))
    if limits.deviation is not None:
        faults += _of_deviation(side, terms, listing, limits.deviation, newest)
    return faults


def _circuit(side: Side, listing: Listing) -> Decimal | None:
    """How much can be paid at most, or got at least, by the exchange."""
    return listing.upper_circuit if side is Side.BUY else listing.lower_circuit


def _of_deviation(
    side: Side, terms: OrderChange, listing: Listing, most: Decimal, newest: Decimal | None
) -> list[FieldError]:
    """Only what would be paid too much or got too little counts: a limit on the other side of the price waits. A stop
    order is in the market at its trigger price, so it is compared with that."""
    price, base = terms.price, terms.trigger_price or newest
    if price is None or base is None or _circuit(side, listing) is not None:
        return []
    if is_option(listing):
        if abs(price - base) <= _SMALL * listing.tick_size:
            return []
        most *= _ROOM
        # As far down as up: half is the opposite of twice.
        most = most if side is Side.BUY else 100 * most / (100 + most)
    away = (price / base - 1) * 100
    if away * side.sign <= most:
        return []
    than = "the newest price" if terms.trigger_price is None else "its trigger price"
    told = (
        f"To {side} at {_text(price)} is {abs(away):.0f} % {'above' if away > 0 else 'below'} {than}, {_text(base)}, "
        f"and this server takes {most:.4g} % at most (ORDER_MAX_PRICE_DEVIATION_PERCENT): look at the price, or ask "
        "the operator"
    )
    return [_fault("price", told, "price_deviation")]


def refuse(faults: list[FieldError]) -> None:
    """Raises `InvalidInputError` where there are any."""
    if faults:
        raise InvalidInputError(f"{summary(faults)}.", faults)


def unlisted(wish: Wish, name: str, alike: list[str], elsewhere: list[Exchange]) -> InvalidInputError:
    """The error for a symbol that the broker does not list."""
    told = f"{name} does not list {wish.symbol} on {wish.exchange}"
    if elsewhere:
        told += f"; it does on {_either(elsewhere)}: send that as exchange"
    elif alike:
        told += f"; do you mean {_either(alike[:5])}?"
    fault = FieldError(("body", "stock_ticker"), told, "symbol_unknown")
    return InvalidInputError(f"{summary([fault])}{'' if told.endswith('?') else '.'}", [fault])


def _of_listing(listing: Listing, today: date) -> list[FieldError]:
    if listing.kind == "INDEX":
        return [_fault("stock_ticker", f"{listing.symbol} is an index, which cannot be traded", "not_tradable")]
    if listing.expiry is not None and listing.expiry < today:
        return [_fault("stock_ticker", f"{listing.symbol} expired on {listing.expiry:%d %b %Y}", "expired")]
    return []


def _of_kind(terms: OrderChange) -> list[FieldError]:
    kind, faults = terms.price_type, []
    if kind.has_limit and terms.price is None:
        faults.append(_fault("price", f"{_a(kind)} order needs a price", "missing"))
    if not kind.has_limit and terms.price is not None:
        limit = PriceType.SL if kind.has_trigger else PriceType.LIMIT
        faults.append(_fault("price", f"{_a(kind)} order has no price: leave it out, or send {limit}", "not_possible"))
    if kind.has_trigger and terms.trigger_price is None:
        faults.append(_fault("trigger_price", f"{_a(kind)} order needs a trigger price", "missing"))
    if not kind.has_trigger and terms.trigger_price is not None:
        stop = PriceType.SL if kind.has_limit else PriceType.SL_M
        faults.append(
            _fault(
                "trigger_price", f"{_a(kind)} order has no trigger price: leave it out, or send {stop}", "not_possible"
            )
        )
    return faults


def _of_quantity(quantity: int, listing: Listing) -> list[FieldError]:
    lot = listing.lot_size
    if quantity % lot:
        below, above = quantity - quantity % lot, quantity - quantity % lot + lot
        near = f"{below} or {above}" if below else f"{above}"
        told = f"{listing.symbol} trades in lots of {lot} units: the nearest quantity is {near}"
        return [_fault("quantity", told, "lot_size")]
    freeze = listing.freeze_quantity
    if freeze is not None and quantity > freeze:
        most = freeze - freeze % lot
        told = f"One order of {listing.symbol} has {most} units at most (the exchange's freeze quantity): send several"
        return [_fault("quantity", told, "freeze_quantity")]
    return []


def _of_price(name: str, price: Decimal, listing: Listing) -> list[FieldError]:
    tick, low, high = listing.tick_size, listing.lower_circuit, listing.upper_circuit
    if low is not None and price < low:
        told = (
            f"{_text(price)} is below today's lower circuit of {listing.symbol}: {_text(_up(low, tick))} is the least"
        )
        return [_fault(name, told, "circuit")]
    if high is not None and price > high:
        told = (
            f"{_text(price)} is above today's upper circuit of {listing.symbol}: {_text(_down(high, tick))} is the most"
        )
        return [_fault(name, told, "circuit")]
    if price % tick:
        near = [value for value in (_down(price, tick), _up(price, tick)) if value > 0 and _within(value, low, high)]
        told = f"Prices of {listing.symbol} are multiples of {_text(tick)}"
        told += f": the nearest is {_either(map(_text, near))}" if near else ""
        return [_fault(name, told, "tick_size")]
    return []


def _of_stop(side: Side, terms: OrderChange) -> list[FieldError]:
    price, trigger = terms.price, terms.trigger_price
    if price is None or trigger is None or (price - trigger) * side.sign >= 0:
        return []
    than = "at or above" if side is Side.BUY else "at or below"
    told = (
        f"The price of an SL {side} order is {than} its trigger price ({_text(trigger)}), or it could never be filled"
    )
    return [_fault("price", told, "stop_price")]


def _down(price: Decimal, tick: Decimal) -> Decimal:
    return (price / tick).to_integral_value(ROUND_FLOOR) * tick


def _up(price: Decimal, tick: Decimal) -> Decimal:
    down = _down(price, tick)
    return down if down == price else down + tick


def _within(price: Decimal, low: Decimal | None, high: Decimal | None) -> bool:
    return (low is None or price >= low) and (high is None or price <= high)


def _text(price: Decimal) -> str:
    return f"{price.normalize():f}"


def _a(kind: PriceType) -> str:
    return f"{'An' if kind.has_trigger else 'A'} {kind}"


def _either(values: Iterable[str]) -> str:
    *rest, last = values
    return f"{', '.join(rest)} or {last}" if rest else last


def _fault(name: str, message: str, kind: str) -> FieldError:
    return FieldError(("body", name), message, kind)


def _cannot(name: str, message: str, possible: Iterable[StrEnum]) -> FieldError:
    takes = sorted(str(value) for value in possible)
    return _fault(name, f"{message}; it takes {_either(takes) if takes else 'nothing'}", "not_possible")
