"""Groww's words and ours, and what it takes. Pure.

From the vendor's documentation of October 2026: an exchange is NSE or BSE with a segment, `CASH` or `FNO`; validity is
`DAY` and no other; commodities are not open to its interface.
"""

from typing import Final

from app.brokerage.adapters.symbols import share_symbol
from app.brokerage.words import BrokerName, Capabilities, Exchange, OrderState, PriceType, Product, Validity

CAPABILITIES: Final = Capabilities(
    broker=BrokerName.GROWW,
    exchanges=frozenset({Exchange.NSE, Exchange.BSE, Exchange.NFO, Exchange.BFO}),
    products={
        Exchange.NSE: frozenset({Product.CNC, Product.MIS, Product.MTF}),
        Exchange.BSE: frozenset({Product.CNC, Product.MIS, Product.MTF}),
        Exchange.NFO: frozenset({Product.NRML, Product.MIS}),
        Exchange.BFO: frozenset({Product.NRML, Product.MIS}),
    },
    price_types=frozenset(PriceType),
    validities=frozenset({Validity.DAY}),
    tag_unique=True,
    orders_per_second=10,
    orders_per_minute=250,
    session_ends="06:00",
    renews_itself=True,
)
"""It renews itself for accounts with a `totp_key`; a key with a secret has to be approved by a person each day."""
PRODUCTS: Final = frozenset(product.value for product in Product)
"""Its words for products are ours; others are of what is not placed through it."""
SEGMENTS: Final = ("CASH", "FNO")
_PLACES: Final = {
    ("NSE", "CASH"): Exchange.NSE,
    ("BSE", "CASH"): Exchange.BSE,
    ("NSE", "FNO"): Exchange.NFO,
    ("BSE", "FNO"): Exchange.BFO,
}
_WORDS: Final = {exchange: words for words, exchange in _PLACES.items()}
_STATES: Final = {
    "NEW": OrderState.PENDING,
    "ACKED": OrderState.PENDING,
    "TRIGGER_PENDING": OrderState.TRIGGER_PENDING,
    "REJECTED": OrderState.REJECTED,
    "FAILED": OrderState.REJECTED,
    "CANCELLED": OrderState.CANCELLED,
    "EXPIRED": OrderState.EXPIRED,
    "EXECUTED": OrderState.COMPLETE,
    "DELIVERY_AWAITED": OrderState.COMPLETE,
    "COMPLETED": OrderState.COMPLETE,
}
EXECUTED: Final = frozenset(word for word, state in _STATES.items() if state is OrderState.COMPLETE)
"""Words for what is filled."""
_AT_EXCHANGE: Final = frozenset({"OPEN", "APPROVED"})
_CHANGING: Final = frozenset({"MODIFICATION_REQUESTED", "CANCELLATION_REQUESTED"})
REFUSED: Final = frozenset({"REJECTED", "FAILED"})
"""What placing answers for an order that came to nothing."""


def place_of(exchange: str, segment: str) -> Exchange | None:
    """Ours for Groww's exchange and segment; None for what we do not trade there."""
    return _PLACES.get((exchange, segment))


def words_of(exchange: Exchange) -> tuple[str, str]:
    """Groww's exchange and segment."""
    return _WORDS[exchange]


def price_type_word(price_type: PriceType) -> str:
    """Groww's word for ours."""
    return "SL_M" if price_type is PriceType.SL_M else price_type.value


def state_of(word: str, price_type: PriceType, quantity: int, filled: int) -> OrderState:
    """Where an order is, by `order_status`. A word that nobody knows is one that something will follow."""
    state = _STATES.get(word.upper())
    if state is OrderState.COMPLETE and filled < quantity:
        # It is said of each fill, and may be said before the fills are counted.
        return OrderState.PARTIALLY_FILLED if filled else OrderState.OPEN
    if state is not None and (state.final or not filled):
        return state
    if filled:
        return OrderState.PARTIALLY_FILLED
    if word.upper() in _CHANGING:
        # It does not say whether it has been triggered: what is sure is that it waits.
        return OrderState.TRIGGER_PENDING if price_type.has_trigger else OrderState.OPEN
    return OrderState.OPEN if word.upper() in _AT_EXCHANGE else OrderState.PENDING


def plain_symbol(written: str, exchange: Exchange) -> str | None:
    """The exchange's symbol without the series."""
    return (share_symbol(written) if exchange in {Exchange.NSE, Exchange.BSE} else written.strip().upper()) or None
