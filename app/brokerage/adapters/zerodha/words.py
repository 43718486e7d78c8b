"""Kite Connect's words and ours, and what it takes. Pure.

From the vendor's documentation of October 2026; its words for products, price types and validities are ours. MCX and
currencies are left out: there it counts in lots, and nothing that it sends says how large a lot is.
"""

from datetime import datetime, time, timedelta
from typing import Final

from app.brokerage.adapters.values import IST
from app.brokerage.words import BrokerName, Capabilities, Exchange, OrderState, PriceType, Product, Validity

CAPABILITIES: Final = Capabilities(
    broker=BrokerName.ZERODHA,
    exchanges=frozenset({Exchange.NSE, Exchange.BSE, Exchange.NFO, Exchange.BFO}),
    products={
        Exchange.NSE: frozenset({Product.CNC, Product.MIS, Product.MTF}),
        Exchange.BSE: frozenset({Product.CNC, Product.MIS, Product.MTF}),
        Exchange.NFO: frozenset({Product.NRML, Product.MIS}),
        Exchange.BFO: frozenset({Product.NRML, Product.MIS}),
    },
    price_types=frozenset(PriceType),
    validities=frozenset(Validity),
    orders_per_second=10,
    orders_per_minute=400,
    orders_per_day=5000,
    session_ends="06:00",
)
TOKENS_DIE: Final = time(6, 0)
"""In India, whenever they were made."""
AUTOMATIC_PROTECTION: Final = -1
"""Of market orders: Zerodha chooses how far from the last price they may go. Without any they are refused."""
VARIETY: Final = "regular"
_ENDS: Final = {
    "COMPLETE": OrderState.COMPLETE,
    "REJECTED": OrderState.REJECTED,
    "CANCELLED": OrderState.CANCELLED,
    "CANCELLED AMO": OrderState.CANCELLED,
    "LAPSED": OrderState.EXPIRED,
    "EXPIRED": OrderState.EXPIRED,
}
_WAITING: Final = frozenset(
    {
        "OPEN",
        "MODIFIED",
        "NOT MODIFIED",
        "NOT CANCELLED",
        "MODIFY PENDING",
        "MODIFY VALIDATION PENDING",
        "CANCEL PENDING",
    }
)


def state_of(word: str, price_type: PriceType, filled: int) -> OrderState:
    """Where an order is, by Kite's `status`. A word that nobody knows is one that something will follow."""
    status = " ".join(word.upper().split())
    if status in _ENDS:
        return _ENDS[status]
    if status == "TRIGGER PENDING":
        return OrderState.TRIGGER_PENDING
    if filled:
        return OrderState.PARTIALLY_FILLED
    if status in _WAITING:
        # It does not say whether an order that is being changed has been triggered: what is sure is that it waits.
        return OrderState.TRIGGER_PENDING if price_type.has_trigger and status != "OPEN" else OrderState.OPEN
    return OrderState.PENDING


def exchange_of(word: object) -> Exchange | None:
    """Ours for Kite's; None for what we do not trade there."""
    return next((exchange for exchange in CAPABILITIES.exchanges if exchange.value == word), None)


def tokens_die(now: datetime) -> datetime:
    """When a token of now dies."""
    local = now.astimezone(IST)
    end = datetime.combine(local.date(), TOKENS_DIE, IST)
    return (end if local < end else end + timedelta(days=1)).astimezone(now.tzinfo)
