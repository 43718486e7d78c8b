"""The words of brokerage: ours, into which every broker's are mapped.

Prices and money are `Decimal` rupees, quantities whole units (never lots), times aware UTC.
"""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec


class BrokerName(StrEnum):
    """Whom an account is with."""

    PAPER = "paper"
    ANGEL_ONE = "angelone"
    ZERODHA = "zerodha"
    UPSTOX = "upstox"
    GROWW = "groww"


class Exchange(StrEnum):
    """Where it is traded; cash segments and those of futures and options apart."""

    NSE = "NSE"
    BSE = "BSE"
    NFO = "NFO"
    BFO = "BFO"
    MCX = "MCX"
    CDS = "CDS"


class Side(StrEnum):
    """Of an order or a trade."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> "Side":
        """What ends a position that this began."""
        return Side.SELL if self is Side.BUY else Side.BUY

    @property
    def sign(self) -> int:
        """+1 for what adds to a position, −1 for what takes from it."""
        return 1 if self is Side.BUY else -1


class Product(StrEnum):
    """What becomes of it at the end of the day."""

    CNC = "CNC"
    """Delivery, paid in full."""
    MIS = "MIS"
    """Intraday: squared off before the close."""
    NRML = "NRML"
    """Futures and options that are carried over."""
    MTF = "MTF"
    """Delivery on the broker's credit."""


class PriceType(StrEnum):
    """How the price of an order comes about."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    SL = "SL"
    """A limit order once `trigger_price` is touched."""
    SL_M = "SL-M"
    """A market order once `trigger_price` is touched."""

    @property
    def has_limit(self) -> bool:
        """Whether it needs a price."""
        return self in {PriceType.LIMIT, PriceType.SL}

    @property
    def has_trigger(self) -> bool:
        """Whether it needs a trigger price."""
        return self in {PriceType.SL, PriceType.SL_M}


class Validity(StrEnum):
    """How long an order waits."""

    DAY = "DAY"
    IOC = "IOC"
    """At once, what cannot be filled is cancelled."""


class OrderState(StrEnum):
    """Where an order is. `orders.transitions` says what may follow what."""

    INTENT = "INTENT"
    """Stored; nothing has been sent."""
    SENDING = "SENDING"
    """About to be sent, or sent without an answer yet: after a crash it is what `UNKNOWN` is."""
    UNKNOWN = "UNKNOWN"
    """Sent, and nobody knows whether it arrived: reconciled from the broker's order book by its tag, never resent."""
    PENDING = "PENDING"
    """The broker has it, the exchange not yet (validation, after-market, …)."""
    TRIGGER_PENDING = "TRIGGER_PENDING"
    OPEN = "OPEN"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    COMPLETE = "COMPLETE"
    CANCELLED = "CANCELLED"
    """By somebody, or the rest of an IOC order; it may have fills."""
    REJECTED = "REJECTED"
    """By the broker or the exchange."""
    EXPIRED = "EXPIRED"
    """The day ended; it may have fills."""
    NOT_SENT = "NOT_SENT"
    """It certainly never reached the broker."""

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset(
    {OrderState.COMPLETE, OrderState.CANCELLED, OrderState.REJECTED, OrderState.EXPIRED, OrderState.NOT_SENT}
)
"""States that nothing follows."""
AT_BROKER: Final = frozenset(
    {OrderState.PENDING, OrderState.TRIGGER_PENDING, OrderState.OPEN, OrderState.PARTIALLY_FILLED}
)
"""States in which an order can be changed and cancelled."""
UNSURE: Final = frozenset({OrderState.SENDING, OrderState.UNKNOWN})
"""States that only the broker's order book can settle."""


class Listing(msgspec.Struct, frozen=True):
    """An instrument as a broker trades it: what orders name, and what they must fit."""

    exchange: Exchange
    symbol: str
    """The exchange's trading symbol without the series (`RELIANCE`, `NIFTY26DEC24500CE`)."""
    key: str
    """What this broker calls it: Kite and Groww the trading symbol, Angel One the symbol and token
    (`RELIANCE-EQ|2885`), Upstox the instrument key (`NSE_EQ|INE002A01018`)."""
    tick_size: Decimal
    lot_size: int = 1
    freeze_quantity: int | None = None
    """The most units in one order, by the exchange; None where it is not known."""
    kind: str = "EQ"
    """`EQ`, `FUT`, `CE`, `PE`, `INDEX` …"""
    isin: str | None = None
    expiry: date | None = None
    strike: Decimal | None = None
    lower_circuit: Decimal | None = None
    upper_circuit: Decimal | None = None


class OrderTicket(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it is sent to a broker; it has been checked against the listing and what the broker can do."""

    tag: str
    """Ours, unique, 8–20 letters and digits: by it the order is found in the broker's book."""
    listing: Listing
    side: Side
    quantity: int
    product: Product
    price_type: PriceType
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    validity: Validity = Validity.DAY


class OrderChange(msgspec.Struct, frozen=True, kw_only=True):
    """What of an order is to be another; the whole of the new order, as brokers want it."""

    quantity: int
    price_type: PriceType
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    validity: Validity = Validity.DAY


class BookedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order as the broker's book has it."""

    broker_order_id: str
    tag: str | None
    exchange: Exchange
    symbol: str
    side: Side
    product: Product
    price_type: PriceType
    quantity: int
    filled_quantity: int
    state: OrderState
    """Never `INTENT`, `SENDING`, `UNKNOWN` or `NOT_SENT`."""
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    average_price: Decimal | None = None
    """Of what is filled."""
    reason: str | None = None
    """Why it was rejected or cancelled, in the broker's words (at most 500 characters)."""
    validity: Validity = Validity.DAY
    exchange_order_id: str | None = None
    placed_at: datetime | None = None
    updated_at: datetime | None = None


class BookedTrade(msgspec.Struct, frozen=True, kw_only=True):
    """One fill as the broker's trade book has it."""

    trade_id: str
    """Unique with the broker, exchange and day."""
    broker_order_id: str
    exchange: Exchange
    symbol: str
    side: Side
    product: Product
    quantity: int
    price: Decimal
    at: datetime


class BrokerPosition(NamedTuple):
    """An open or closed position of the day, as the broker has it."""

    exchange: Exchange
    symbol: str
    product: Product
    net_quantity: int
    """Below 0: short."""
    average_price: Decimal
    last_price: Decimal | None
    realised: Decimal | None
    unrealised: Decimal | None


class BrokerHolding(NamedTuple):
    """Shares in the account."""

    exchange: Exchange
    symbol: str
    isin: str | None
    quantity: int
    """Those that are settled and those that are bought and not settled yet."""
    average_price: Decimal
    last_price: Decimal | None


class Funds(NamedTuple):
    """Money at the broker, in rupees."""

    available: Decimal
    """What new orders can use."""
    used: Decimal
    """What open orders and positions hold."""
    total: Decimal


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker takes. Anything else is refused with a 422 that says what is possible."""

    broker: BrokerName
    exchanges: frozenset[Exchange]
    products: dict[Exchange, frozenset[Product]]
    price_types: frozenset[PriceType]
    validities: frozenset[Validity]
    can_modify: bool = True
    tag_length: int = 20
    tag_unique: bool = False
    """Whether the broker itself refuses a tag that it has seen."""
    orders_per_second: int = 10
    orders_per_minute: int = 400
    orders_per_day: int = 5000
    session_ends: str | None = None
    """When sessions die each day, in India (`06:00`); None: never."""
    renews_itself: bool = False
    """Whether a session can be renewed without a person (TOTP)."""
