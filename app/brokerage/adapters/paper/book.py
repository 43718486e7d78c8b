"""An account at the paper broker: what one document holds. No I/O.

Money is exact: costs are kept as sums, never as averages. What is closed first is what was opened first, as the
service's own portfolio has it, so that both say the same to the paisa; average prices are for display only.
"""

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec

from app.brokerage.words import (
    AT_BROKER,
    BookedOrder,
    BookedTrade,
    Exchange,
    Listing,
    OrderState,
    PriceType,
    Product,
    Side,
    Validity,
)

_NOTHING = Decimal(0)
_FINE = Decimal("0.0001")


class Key(NamedTuple):
    """What has a price."""

    exchange: Exchange
    symbol: str


def same_holding(product: Product, one: Key, other: Key) -> bool:
    """Whether what is bought as `one` can be sold as `other`: shares for delivery are the same on both exchanges."""
    exchanges = {one.exchange, other.exchange}
    return one == other or (
        product is Product.CNC and one.symbol == other.symbol and exchanges == {Exchange.NSE, Exchange.BSE}
    )


class PaperLot(msgspec.Struct):
    """What is left of a fill that opened or enlarged something."""

    quantity: int
    cost: Decimal
    funded: Decimal = _NOTHING
    """What the broker lent of the cost."""


def take_oldest(lots: list[PaperLot], quantity: int) -> PaperLot:
    """Take so many units out of `lots`, at most all, those that came first; gives what they were, together."""
    taken = PaperLot(0, _NOTHING)
    while taken.quantity < quantity:
        lot = lots[0]
        part = min(lot.quantity, quantity - taken.quantity)
        cost, funded = (_part(amount, part, lot.quantity) for amount in (lot.cost, lot.funded))
        taken.quantity, taken.cost, taken.funded = taken.quantity + part, taken.cost + cost, taken.funded + funded
        lot.quantity, lot.cost, lot.funded = lot.quantity - part, lot.cost - cost, lot.funded - funded
        if not lot.quantity:
            lots.pop(0)
    return taken


def _part(whole: Decimal, quantity: int, of: int) -> Decimal:
    # Exact: all units of a lot have one price, and that has no more decimals.
    return whole if quantity == of else (whole * quantity / of).quantize(_FINE)


class PaperOrder(msgspec.Struct, kw_only=True):
    """An order that waits, or has ended and is not filed yet."""

    id: str
    tag: str | None
    """None: the broker's own, that closes a position."""
    listing: Listing
    side: Side
    product: Product
    quantity: int
    price_type: PriceType
    price: Decimal | None
    trigger_price: Decimal | None
    validity: Validity
    day: date
    """Of the session that it is meant for."""
    placed_at: datetime
    eligible_at: datetime
    """When it has arrived."""
    updated_at: datetime
    state: OrderState
    reference: Decimal
    """By which price funds are held for it."""
    filled: int = 0
    turnover: Decimal = _NOTHING
    fills: int = 0
    arrived: bool = False
    """Whether it has met a price."""
    triggered: bool = False
    reason: str | None = None
    version: int = 1
    """Counts its changes."""
    told: int = 0
    """The version that others know of."""

    @property
    def key(self) -> Key:
        """What it trades."""
        return Key(self.listing.exchange, self.listing.symbol)

    @property
    def remaining(self) -> int:
        """What is not filled."""
        return self.quantity - self.filled

    @property
    def is_open(self) -> bool:
        """Whether it can still be filled."""
        return self.state in AT_BROKER

    @property
    def name(self) -> str:
        """By what chance is drawn: the same however often it is placed again."""
        return self.tag or self.id

    @property
    def waits_for_trigger(self) -> bool:
        """Whether its trigger price has not been touched."""
        return self.price_type.has_trigger and not self.triggered

    def change(self, now: datetime, state: OrderState, reason: str | None = None) -> None:
        """It is in another state, or has other fills."""
        self.state, self.updated_at = state, now
        self.version += 1
        if reason is not None:
            self.reason = reason

    def booked(self) -> BookedOrder:
        """As the order book shows it."""
        average = (self.turnover / self.filled).quantize(_FINE) if self.filled else None
        return BookedOrder(
            broker_order_id=self.id,
            tag=self.tag,
            exchange=self.listing.exchange,
            symbol=self.listing.symbol,
            side=self.side,
            product=self.product,
            price_type=self.price_type,
            quantity=self.quantity,
            filled_quantity=self.filled,
            state=self.state,
            price=self.price,
            trigger_price=self.trigger_price,
            average_price=average,
            reason=self.reason,
            validity=self.validity,
            placed_at=self.placed_at,
            updated_at=self.updated_at,
        )


class PaperPosition(msgspec.Struct, kw_only=True):
    """What was traded today, or is carried, of an instrument and product."""

    listing: Listing
    product: Product
    net: int = 0
    """Of the day for delivery, of all for the others; below 0: short."""
    cost: Decimal = _NOTHING
    """What the net quantity was traded for, never negative."""
    realised: Decimal = _NOTHING
    """Today, before charges."""
    last: Decimal | None = None
    """The newest price at the last change."""
    lots: list[PaperLot] = []
    """What the net quantity is made of, oldest first."""

    def __post_init__(self) -> None:
        """What an older version wrote has no lots."""
        if self.net and not self.lots:
            self.lots = [PaperLot(abs(self.net), self.cost)]

    @property
    def key(self) -> Key:
        """What it is a position in."""
        return Key(self.listing.exchange, self.listing.symbol)

    @property
    def average(self) -> Decimal:
        """What a unit of it was traded for."""
        return (self.cost / abs(self.net)).quantize(_FINE) if self.net else _NOTHING

    def unrealised(self, price: Decimal | None) -> Decimal:
        """What closing it at `price` would bring."""
        return _NOTHING if price is None else price * self.net - (self.cost if self.net > 0 else -self.cost)

    def add(self, signed: int, price: Decimal) -> Decimal:
        """Trade `signed` units (below 0: sold) at `price`; gives what that realised."""
        closing = min(abs(signed), abs(self.net)) if signed * self.net < 0 else 0
        realised = _NOTHING
        if closing:
            out = take_oldest(self.lots, closing).cost
            realised = price * closing - out if self.net > 0 else out - price * closing
            self.cost -= out
        if opening := abs(signed) - closing:
            self.lots.append(PaperLot(opening, price * opening))
            self.cost += price * opening
        self.net += signed
        self.realised += realised
        self.last = price
        return realised


class PaperHolding(msgspec.Struct, kw_only=True):
    """Shares that are owned: bought for delivery, or on credit."""

    listing: Listing
    product: Product
    """`CNC` or `MTF`."""
    quantity: int = 0
    cost: Decimal = _NOTHING
    funded: Decimal = _NOTHING
    """What the broker lent of the cost."""
    lots: list[PaperLot] = []
    """What it is made of, oldest first."""

    def __post_init__(self) -> None:
        """What an older version wrote has no lots."""
        if self.quantity and not self.lots:
            self.lots = [PaperLot(self.quantity, self.cost, self.funded)]

    def add(self, lot: PaperLot) -> None:
        """Buy more."""
        self.lots.append(lot)
        self.quantity, self.cost, self.funded = (
            self.quantity + lot.quantity,
            self.cost + lot.cost,
            self.funded + lot.funded,
        )

    def take(self, quantity: int) -> PaperLot:
        """Sell what was bought first."""
        taken = take_oldest(self.lots, quantity)
        self.quantity, self.cost, self.funded = (
            self.quantity - taken.quantity,
            self.cost - taken.cost,
            self.funded - taken.funded,
        )
        return taken

    @property
    def key(self) -> Key:
        """What is held."""
        return Key(self.listing.exchange, self.listing.symbol)

    @property
    def average(self) -> Decimal:
        """What a share of it cost."""
        return (self.cost / self.quantity).quantize(_FINE) if self.quantity else _NOTHING


class ChargeLine(msgspec.Struct):
    """What was traded today, as far as charges tell it apart."""

    exchange: str
    segment: str
    side: Side
    turnover: Decimal
    symbol: str = ""
    """Of shares for delivery: what is bought and sold on one day is charged as intraday."""
    quantity: int = 0
    """Of these."""


class PaperBook(msgspec.Struct, kw_only=True):
    """The account."""

    account_id: str
    day: date
    """The trading day that positions, charges and filed orders belong to."""
    cash: Decimal
    """Rupees, after what is paid in full and all charges; margins are not taken off."""
    orders: list[PaperOrder] = []
    trades: list[BookedTrade] = []
    """That are not filed yet."""
    positions: list[PaperPosition] = []
    holdings: list[PaperHolding] = []
    lines: list[ChargeLine] = []
    charges: Decimal = _NOTHING
    """Of `lines`, taken off the cash already."""
    number: int = 0
    """Of the last order."""
    settled: bool = False
    """Whether the day's end has been carried out."""

    def __post_init__(self) -> None:
        """An older version held shares of one name by exchange."""
        for holding in list(self.holdings):
            first = self.holding(holding.listing, holding.product)
            if first is not holding:
                self.holdings.remove(holding)
                for lot in holding.lots:
                    first.add(lot)

    def open_orders(self, key: Key | None = None) -> Iterator[PaperOrder]:
        """Those that can still be filled, oldest first; of one instrument."""
        return (order for order in self.orders if order.is_open and (key is None or order.key == key))

    def order(self, order_id: str) -> PaperOrder | None:
        """One that is not filed yet."""
        return next((order for order in self.orders if order.id == order_id), None)

    def position(self, listing: Listing, product: Product) -> PaperPosition:
        """The one to trade in; made if there is none."""
        for position in self.positions:
            if position.key == (listing.exchange, listing.symbol) and position.product is product:
                return position
        self.positions.append(PaperPosition(listing=listing, product=product))
        return self.positions[-1]

    def holding(self, listing: Listing, product: Product) -> PaperHolding:
        """The one to buy into or sell from; made if there is none."""
        key = Key(listing.exchange, listing.symbol)
        for holding in self.holdings:
            if holding.product is product and same_holding(product, holding.key, key):
                return holding
        self.holdings.append(PaperHolding(listing=listing, product=product))
        return self.holdings[-1]

    def held(self, key: Key, product: Product) -> int:
        """How much is held."""
        return sum(h.quantity for h in self.holdings if h.product is product and same_holding(product, h.key, key))

    @property
    def awake(self) -> bool:
        """Whether prices, or the time alone, can change it, or something of it is to be filed or told."""
        closes = any(p.net and (p.product is Product.MIS or p.listing.expiry is not None) for p in self.positions)
        return bool(self.orders or self.trades or closes)
