"""Upstox's words and ours, and what it takes. Pure.

From the vendor's documentation of October 2026: products are `I` (intraday), `D` (delivery, and what is carried over of
futures and options), `MTF`; price types are ours. MCX and currencies are left out: there it counts in lots, and its
order book does not say how large a lot is.
"""

import re
from datetime import date
from decimal import Decimal
from typing import Final

from app.brokerage.adapters.symbols import contract_symbol, share_symbol
from app.brokerage.words import BrokerName, Capabilities, Exchange, OrderState, PriceType, Product, Validity

CAPABILITIES: Final = Capabilities(
    broker=BrokerName.UPSTOX,
    exchanges=frozenset({Exchange.NSE, Exchange.BSE, Exchange.NFO, Exchange.BFO}),
    products={
        Exchange.NSE: frozenset({Product.CNC, Product.MIS, Product.MTF}),
        Exchange.BSE: frozenset({Product.CNC, Product.MIS}),
        Exchange.NFO: frozenset({Product.NRML, Product.MIS}),
        Exchange.BFO: frozenset({Product.NRML, Product.MIS}),
    },
    price_types=frozenset(PriceType),
    validities=frozenset(Validity),
    orders_per_second=10,
    orders_per_minute=400,
    session_ends="03:30",
)
DERIVATIVES: Final = frozenset({Exchange.NFO, Exchange.BFO})
_PRODUCTS: Final = {Product.CNC: "D", Product.NRML: "D", Product.MIS: "I", Product.MTF: "MTF"}
_PENDING: Final = frozenset(
    {
        "put order req received",
        "validation pending",
        "open pending",
        "amo req received",
        "after market order req received",
        "modify after market order req received",
    }
)
_AT_EXCHANGE: Final = frozenset(
    {
        "open",
        "modify pending",
        "modify validation pending",
        "modified",
        "not modified",
        "cancel pending",
        "not cancelled",
    }
)
_ENDS: Final = {
    "complete": OrderState.COMPLETE,
    "rejected": OrderState.REJECTED,
    "cancelled": OrderState.CANCELLED,
    "cancelled after market order": OrderState.CANCELLED,
    "expired": OrderState.EXPIRED,
}
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_FUTURE = re.compile(r"(\S+) FUT (\d{1,2}) ([A-Z]{3}) (\d{2})").fullmatch
_OPTION = re.compile(r"(\S+) (\d+(?:\.\d+)?) (CE|PE) (\d{1,2}) ([A-Z]{3}) (\d{2})").fullmatch


def product_word(product: Product) -> str:
    """Upstox's word for ours."""
    return _PRODUCTS[product]


def product_of(word: str, exchange: Exchange) -> Product | None:
    """Ours for Upstox's; None for what we do not have (cover orders)."""
    if word == "D":
        return Product.NRML if exchange in DERIVATIVES else Product.CNC
    return {"I": Product.MIS, "MTF": Product.MTF}.get(word)


def exchange_of(word: str) -> Exchange | None:
    """Ours for Upstox's; None for what we do not trade there."""
    return next((exchange for exchange in CAPABILITIES.exchanges if exchange.value == word), None)


def state_of(word: str, price_type: PriceType, filled: int) -> OrderState:
    """Where an order is, by Upstox's `status`. A word that nobody knows is one that something will follow."""
    status = word.lower()
    if status in _ENDS:
        return _ENDS[status]
    if status == "trigger pending":
        return OrderState.TRIGGER_PENDING
    if filled:
        return OrderState.PARTIALLY_FILLED
    if status in _AT_EXCHANGE:
        # It does not say whether an order that is being changed has been triggered: what is sure is that it waits.
        waiting = price_type.has_trigger and status != "open"
        return OrderState.TRIGGER_PENDING if waiting else OrderState.OPEN
    return OrderState.PENDING


def plain_symbol(written: str, exchange: Exchange) -> str | None:
    """The exchange's symbol for what Upstox writes: `RELIANCE-EQ`, `NIFTY 24500 CE 29 DEC 26`, `SBIN26DECFUT`."""
    written = written.strip().upper()
    if exchange not in DERIVATIVES:
        return share_symbol(written) or None
    if future := _FUTURE(written):
        expiry = _date(*future.group(2, 3, 4))
        return contract_symbol(future[1], expiry, "FUT") if expiry is not None else None
    if option := _OPTION(written):
        expiry = _date(*option.group(4, 5, 6))
        if expiry is None:
            return None
        return contract_symbol(option[1], expiry, option[3], Decimal(option[2]))
    return written if written and " " not in written else None


def _date(day: str, month: str, year: str) -> date | None:
    if month not in _MONTHS:
        return None
    try:
        return date(2000 + int(year), _MONTHS.index(month) + 1, int(day))
    except ValueError:
        return None
