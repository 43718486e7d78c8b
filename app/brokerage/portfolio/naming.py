"""How trades are called: days in India, books, kinds of trade."""

import re
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Final

from app.brokerage.words import Exchange, Product
from app.core.market_calendar import IST

_OPTION: Final = re.compile(r"\d(CE|PE)$")


class TradeType(StrEnum):
    """What a trade is of, in the words of system 4."""

    EQUITY = "eq"
    INTRADAY = "intraday"
    MTF = "mtf"
    FUTURE = "fut"
    OPTION = "opt"


class TradeStatus(StrEnum):
    """What became of what a trade opened; one that only closed a position is closed itself."""

    OPEN = "OPEN"
    PARTIAL = "PARTIAL"
    CLOSED = "CLOSED"


class Source(StrEnum):
    """Where a trade is known from."""

    BROKER = "broker"
    MANUAL = "manual"
    """Its owner entered it."""


class Settlement(StrEnum):
    """How an expired contract's position was ended."""

    CASH = "cash"
    """A future; an option that was sold, or ended worthless."""
    EXERCISED = "exercised"
    """An option that was bought and is worth something: its exercise is taxed."""


PRODUCT_OF: Final = {
    TradeType.EQUITY: Product.CNC,
    TradeType.INTRADAY: Product.MIS,
    TradeType.MTF: Product.MTF,
    TradeType.FUTURE: Product.NRML,
    TradeType.OPTION: Product.NRML,
}
_TYPE_OF: Final = {Product.MIS: TradeType.INTRADAY, Product.MTF: TradeType.MTF}
KEPT: Final = frozenset({Product.CNC, Product.MTF})
"""Products whose shares are delivered: holdings from the next day on, and never short then."""
DERIVATIVES: Final = frozenset({Exchange.NFO, Exchange.BFO, Exchange.MCX, Exchange.CDS})


def is_option(symbol: str) -> bool:
    """Whether a symbol is that of an option's contract (`NIFTY26DEC24500CE`)."""
    return _OPTION.search(symbol) is not None


def type_of(exchange: Exchange, symbol: str, product: Product) -> TradeType:
    """The kind of a trade."""
    if exchange in DERIVATIVES:
        return TradeType.OPTION if is_option(symbol) else TradeType.FUTURE
    return _TYPE_OF.get(product, TradeType.EQUITY)


def day_of(moment: datetime) -> date:
    """The day in India."""
    return moment.astimezone(IST).date()


def day_begins(day: date) -> datetime:
    """Midnight in India, as UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=IST).astimezone(UTC)


def book_id(
    account_id: str, source: Source, exchange: Exchange, symbol: str, product: Product, *, apart: bool = False
) -> str:
    """The id of the book that a trade belongs to; what its owner enters is apart from what the broker tells.

    Shares that are delivered are the same on both exchanges: bought on one, they may be sold on the other. `apart`:
    not these; see `places`.
    """
    place = Exchange.NSE if product is Product.CNC and exchange is Exchange.BSE and not apart else exchange
    return f"{account_id}|{source}|{place}|{product}|{symbol}"


def same_place(product: str, one: str, other: str) -> bool:
    """Whether a product that was traded on one exchange is that of another: see `book_id`."""
    return one == other or (product == Product.CNC and {one, other} == {Exchange.NSE, Exchange.BSE})


def day_id(account_id: str, day: str) -> str:
    """The id of an account's day."""
    return f"{account_id}|{day}"


def rank(reference: str) -> tuple[int, str]:
    """Orders brokers' trade ids as their numbers go: of trades within the same second the smaller one was first."""
    return len(reference), reference
