"""Contracts as market data spells them, for orders: `NIFTY29DEC2624500CE`, where orders say `NIFTY26DEC24500CE`."""

from datetime import date
from typing import Final

from app.brokerage.adapters.angel_one.words import plain_symbol
from app.brokerage.listing_table import BrokerTable
from app.brokerage.words import Exchange, Listing

_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def by_other_spelling(table: BrokerTable, exchange: Exchange, symbol: str) -> Listing | None:
    """What market data's list of instruments, which is Angel One's, calls `symbol`."""
    if exchange is not Exchange.NFO:
        return None  # of BSE's contracts there is one spelling
    found = table.find(exchange, plain_symbol(symbol, exchange))
    # What orders say can be read as a contract of another year: only one that ends on the very day that is named is it.
    return found if found is not None and found.expiry is not None and _day(found.expiry) in symbol.upper() else None


def _day(expiry: date) -> str:
    return f"{expiry:%d}{_MONTHS[expiry.month - 1]}{expiry:%y}"
