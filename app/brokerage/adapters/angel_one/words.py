"""SmartAPI's words and ours, and what it takes. Pure.

From the vendor's documentation of October 2026. MCX and currencies are left out: its list of instruments is read for
the stock exchanges and their derivatives only.
"""

import re
from datetime import date
from decimal import Decimal
from typing import Final

from app.brokerage.adapters.symbols import contract_symbol, share_symbol
from app.brokerage.adapters.values import day
from app.brokerage.words import BrokerName, Capabilities, Exchange, OrderState, PriceType, Product, Validity

CAPABILITIES: Final = Capabilities(
    broker=BrokerName.ANGEL_ONE,
    exchanges=frozenset({Exchange.NSE, Exchange.BSE, Exchange.NFO, Exchange.BFO}),
    products={
        Exchange.NSE: frozenset({Product.CNC, Product.MIS, Product.MTF}),
        Exchange.BSE: frozenset({Product.CNC, Product.MIS, Product.MTF}),
        Exchange.NFO: frozenset({Product.NRML, Product.MIS}),
        Exchange.BFO: frozenset({Product.NRML, Product.MIS}),
    },
    price_types=frozenset(PriceType),
    validities=frozenset(Validity),
    tag_length=19,  # "should be less than 20 characters" (AB4008)
    orders_per_second=9,
    orders_per_minute=400,
    orders_per_day=5000,
    renews_itself=True,
)
NORMAL, STOPLOSS = "NORMAL", "STOPLOSS"
PRODUCTS: Final = {
    Product.CNC: "DELIVERY",
    Product.MIS: "INTRADAY",
    Product.NRML: "CARRYFORWARD",
    Product.MTF: "MARGIN",
}
PRICE_TYPES: Final = {
    PriceType.MARKET: "MARKET",
    PriceType.LIMIT: "LIMIT",
    PriceType.SL: "STOPLOSS_LIMIT",
    PriceType.SL_M: "STOPLOSS_MARKET",
}
SHARES: Final = frozenset({Exchange.NSE, Exchange.BSE})
_ENDS: Final = {
    "complete": OrderState.COMPLETE,
    "rejected": OrderState.REJECTED,
    "cancelled": OrderState.CANCELLED,
    "cancelled after market order": OrderState.CANCELLED,
    "lapsed": OrderState.EXPIRED,
    "expired": OrderState.EXPIRED,
}
_WAITING: Final = frozenset(
    {
        "open",
        "modified",
        "not modified",
        "not cancelled",
        "modify pending",
        "modify validation pending",
        "cancel pending",
    }
)
_CONTRACT = re.compile(r"(.+?)(\d{2}[A-Z]{3}\d{2})(?:FUT|(\d+(?:\.\d+)?)(CE|PE))").fullmatch


def variety_of(price_type: PriceType) -> str:
    """The kind of order that SmartAPI files it under."""
    return STOPLOSS if price_type.has_trigger else NORMAL


def price_type_of(word: object, variety: object) -> PriceType | None:
    """Ours for SmartAPI's. Orders that have been triggered are `MARKET` or `LIMIT` there, and still filed as before."""
    found = next((ours for ours, theirs in PRICE_TYPES.items() if theirs == word), None)
    if variety == STOPLOSS and found is PriceType.LIMIT:
        return PriceType.SL
    return PriceType.SL_M if variety == STOPLOSS and found is PriceType.MARKET else found


def product_of(word: object) -> Product | None:
    """Ours for SmartAPI's; None for what we do not have (bracket orders)."""
    return next((ours for ours, theirs in PRODUCTS.items() if theirs == word), None)


def exchange_of(word: object) -> Exchange | None:
    """Ours for SmartAPI's; None for what we do not trade there."""
    return next((exchange for exchange in CAPABILITIES.exchanges if exchange.value == word), None)


def state_of(word: str, price_type: PriceType, filled: int) -> OrderState:
    """Where an order is, by SmartAPI's `orderstatus`. A word that nobody knows is one that something will follow."""
    status = " ".join(word.lower().split())
    if status in _ENDS:
        return _ENDS[status]
    if status == "trigger pending":
        return OrderState.TRIGGER_PENDING
    if filled:
        return OrderState.PARTIALLY_FILLED
    if status in _WAITING:
        # It does not say whether an order that is being changed has been triggered: what is sure is that it waits.
        return OrderState.TRIGGER_PENDING if price_type.has_trigger and status != "open" else OrderState.OPEN
    return OrderState.PENDING


def plain_symbol(written: str, exchange: Exchange) -> str:
    """The exchange's symbol: `RELIANCE` for `RELIANCE-EQ`, `NIFTY26DEC24500CE` for `NIFTY29DEC2624500CE`.

    Those of BSE's derivatives are the exchange's already.
    """
    written = written.strip().upper()
    if exchange in SHARES:
        return share_symbol(written)
    found = _CONTRACT(written) if exchange is Exchange.NFO else None
    expiry = expiry_of(found[2]) if found else None
    if found is None or expiry is None:
        return written
    return contract_symbol(found[1], expiry, found[4] or "FUT", Decimal(found[3]) if found[3] else None)


def expiry_of(text: str) -> date | None:
    """`29DEC26` as a date."""
    return day(text, "%d%b%y")
