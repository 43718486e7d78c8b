"""Futures and options by their terms: when they end, in what they are settled, and at which price. Pure.

Options and futures of indices are settled in money. Those of single shares are settled by delivery of the shares (since
October 2019), unless an option ends out of the money: then it is worth nothing, and nothing is delivered.
"""

import calendar
import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from app.brokerage.words import Exchange, Listing

INDICES: Final = {
    "NIFTY": (Exchange.NSE, "NIFTY 50"),
    "BANKNIFTY": (Exchange.NSE, "BANKNIFTY"),
    "FINNIFTY": (Exchange.NSE, "FINNIFTY"),
    "MIDCPNIFTY": (Exchange.NSE, "MIDCPNIFTY"),
    "NIFTYNXT50": (Exchange.NSE, "NIFTY NEXT 50"),
    "SENSEX": (Exchange.BSE, "SENSEX"),
    "BANKEX": (Exchange.BSE, "BANKEX"),
    "SENSEX50": (Exchange.BSE, "SENSEX50"),
}
"""What has its price, by the name that contracts have of it: prices know indices by the feed's names."""
SETTLED: Final = frozenset({Exchange.NFO, Exchange.BFO})
"""Where the rules of settlement above hold; of commodities and currencies nothing is known here."""
_CASH: Final = {Exchange.NFO: Exchange.NSE, Exchange.BFO: Exchange.BSE}
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKLY: Final = "123456789OND"
_MONTH: Final = "|".join(_MONTHS)
_LAST: Final = r"(?:FUT|(?:[1-9]\d*(?:\.\d+)?|0\.\d+)(?:CE|PE))$"
# Looked for at every place: names end in digits, too (NIFTYNXT50).
_OF_MONTH: Final = re.compile(rf"(?=(\d\d)({_MONTH}){_LAST})")
_OF_WEEK: Final = re.compile(rf"(?=(\d\d)([1-9OND])(\d\d){_LAST})")
_OF_DAY: Final = re.compile(rf"(?=(\d\d)({_MONTH})(\d\d){_LAST})")
_LONGEST: Final = timedelta(days=6 * 366)
"""No contract is traded longer before its end."""
_NOTHING: Final = Decimal(0)
_NEAR: Final = Decimal("0.01")
"""Of its strike: so near to it the last price does not tell whether an option on a share was exercised. That is decided
by the exchange's closing price, an average of the last half hour."""


class Contract(NamedTuple):
    """The terms of a future or an option."""

    underlying: str
    """`NIFTY`, `RELIANCE`."""
    kind: str
    """`FUT`, `CE` or `PE`."""
    strike: Decimal | None
    expiry: date

    @property
    def is_option(self) -> bool:
        """Whether it may end worthless."""
        return self.kind in {"CE", "PE"}

    @property
    def on_index(self) -> bool:
        """Whether it is settled in money."""
        return self.underlying in INDICES

    def priced_by(self, exchange: Exchange) -> tuple[Exchange, str]:
        """Whose price it follows; `exchange` is where the contract is traded."""
        return INDICES.get(self.underlying) or (_CASH.get(exchange, exchange), self.underlying)

    def worth(self, underlying: Decimal) -> Decimal:
        """Rupees a unit at the end, at that price of the underlying."""
        if not self.is_option or self.strike is None:
            return underlying
        return max(underlying - self.strike if self.kind == "CE" else self.strike - underlying, _NOTHING)


class EndState(StrEnum):
    """What became of an open position in a contract that has ended."""

    SETTLED = "settled"
    UNKNOWN = "unknown"
    """Nobody here knows the price of settlement."""
    PHYSICAL = "physical"
    """The broker delivers the shares, or takes them."""


class Verdict(NamedTuple):
    """How a position ends."""

    state: EndState
    price: Decimal | None
    """A unit; None unless settled."""
    note: str
    """For a person."""


def contract_of(listing: Listing) -> Contract | None:
    """The terms by the broker's list; None for what is no future or option, or is listed without its terms."""
    kind, expiry = listing.kind, listing.expiry
    if expiry is None or kind not in {"FUT", "CE", "PE"} or (kind != "FUT" and listing.strike is None):
        return None
    month = _MONTHS[expiry.month - 1]
    week = f"{_WEEKLY[expiry.month - 1]}{expiry:%d}"
    dates = (f"{expiry:%d}{month}{expiry:%y}", f"{expiry:%y}{month}", f"{expiry:%y}{week}")
    # The spelling of a strike varies: `97.5`, `97.50`.
    amount = rf"{re.escape(f'{listing.strike.normalize():f}')}(?:\.?0+)?" if listing.strike and kind != "FUT" else ""
    for written in dates:
        found = re.fullmatch(rf"(.+?){written}{amount}{kind}", listing.symbol)
        if found:
            return Contract(found[1], kind, listing.strike if kind != "FUT" else None, expiry)
    return None


def ended_by(symbol: str, traded: date) -> date | None:
    """The last day on which the contract of that symbol can have been traded, if it was traded on the day `traded`:
    what the symbol alone says, of a contract that no list knows any more. None if it says nothing."""
    return max((day for day in _readings(symbol) if traded <= day <= traded + _LONGEST), default=None)


def _readings(symbol: str) -> Iterator[date]:
    for year, month in _OF_MONTH.findall(symbol):
        at = 2000 + int(year), _MONTHS.index(month) + 1
        yield date(*at, calendar.monthrange(*at)[1])
    for year, month, day in _OF_WEEK.findall(symbol):
        yield from _day(year, _WEEKLY.index(month) + 1, day)
    for day, month, year in _OF_DAY.findall(symbol):
        yield from _day(year, _MONTHS.index(month) + 1, day)


def _day(year: str, month: int, day: str) -> Iterator[date]:
    if 1 <= int(day) <= calendar.monthrange(2000 + int(year), month)[1]:
        yield date(2000 + int(year), month, int(day))


def verdict(exchange: Exchange, contract: Contract | None, underlying: Decimal | None) -> Verdict:
    """How a position in an ended contract ends; `underlying`: its last price of the expiry, None if that is not known.

    `contract`: None where only its end is known.
    """
    unknown = Verdict(EndState.UNKNOWN, None, "Expired; the settlement price is not known here: see the broker's note.")
    if contract is None or exchange not in SETTLED:
        return unknown
    if contract.on_index:
        return unknown if underlying is None else _at(contract, underlying)
    if underlying is not None and contract.strike is not None and not contract.worth(underlying):
        if abs(underlying - contract.strike) < contract.strike * _NEAR:
            told = "Expired very near its strike: see the broker's note for whether it was exercised."
            return Verdict(EndState.UNKNOWN, None, told)
        return _at(contract, underlying)
    return Verdict(
        EndState.PHYSICAL, None, "Expired: physical settlement at the broker; shares and money are not booked here."
    )


def _at(contract: Contract, underlying: Decimal) -> Verdict:
    price = contract.worth(underlying)
    what = "worthless" if contract.is_option and not price else f"settled at ₹{price:,f}"
    return Verdict(EndState.SETTLED, price, f"Expired {what}: {contract.underlying} ended at ₹{underlying:,f}.")
