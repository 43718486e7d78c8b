"""Upstox's lists of instruments: a file an exchange, JSON in gzip, made anew every morning at about 06:00 in India.

Read as they arrive: a row is cut out, checked and kept or left out; the file (40 MB for NSE) is never whole in memory.
Ticks are in paise, expiries in milliseconds since the epoch. Indices are listed without a tick and cannot be traded.
"""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

import msgspec

from app.brokerage.adapters.symbols import contract_symbol
from app.brokerage.adapters.upstox.words import DERIVATIVES, plain_symbol
from app.brokerage.adapters.values import IST, price
from app.brokerage.words import Exchange, Listing

_SEGMENTS: Final = {
    "NSE_EQ": Exchange.NSE,
    "BSE_EQ": Exchange.BSE,
    "NSE_FO": Exchange.NFO,
    "BSE_FO": Exchange.BFO,
}
_KINDS: Final = frozenset({"FUT", "CE", "PE"})
_LARGEST_LOT: Final = 10_000_000
_LONGEST_ROW: Final = 64 << 10
# One object without others in it. Possessive, so that half a row at the end of a piece costs one look.
_ROW = re.compile(rb'\{[^{}"]*+(?:"(?:[^"\\]|\\.)*+"[^{}"]*+)*+\}', re.DOTALL)
_SHARE = re.compile(r"IN(?:E.{4}01|F)").match
"""ISINs of shares and of funds; the same symbol may also name a debenture."""


class _Row(msgspec.Struct):
    segment: str
    instrument_type: str
    instrument_key: str
    trading_symbol: str
    tick_size: Decimal | None = None
    lot_size: int | None = None
    freeze_quantity: Decimal | None = None
    isin: str | None = None
    expiry: int | None = None
    strike_price: Decimal | None = None
    underlying_symbol: str | None = None
    weekly: bool = False


_read = msgspec.json.Decoder(_Row, float_hook=Decimal).decode


class InstrumentReader:
    """Takes a file piece by piece (not from two threads at once); `listings` is what it held so far."""

    def __init__(self) -> None:
        self._rest = b""
        self._found: dict[tuple[Exchange, str], Listing] = {}
        self.rejected = 0
        """Rows of ours that make no sense."""

    def take(self, data: bytes) -> None:
        """The next piece. Raises `ValueError` for what is no list of instruments."""
        buffer = self._rest + data
        end = 0
        for match in _ROW.finditer(buffer):
            self._row(match[0])
            end = match.end()
        self._rest = buffer[end:]
        if len(self._rest) > _LONGEST_ROW:
            raise ValueError("not a list of instruments")

    def next_file(self) -> None:
        """Another file begins. Raises `ValueError` if the one before broke off."""
        if self._rest.strip() != b"]":
            raise ValueError("the list of instruments breaks off")
        self._rest = b""

    @property
    def listings(self) -> list[Listing]:
        """One a symbol of an exchange: where a share and a debenture have the same, the share."""
        return list(self._found.values())

    def _row(self, raw: bytes) -> None:
        try:
            row = _read(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, ArithmeticError):
            self.rejected += 1
            return
        exchange = _SEGMENTS.get(row.segment)
        if exchange is None:
            return
        listing = _listing(row, exchange)
        if listing is None:
            self.rejected += 1
            return
        place = (exchange, listing.symbol)
        if place not in self._found or (listing.kind == "EQ" and self._found[place].kind != "EQ"):
            self._found[place] = listing


def _listing(row: _Row, exchange: Exchange) -> Listing | None:
    tick = price(row.tick_size)
    lot = row.lot_size or 0
    known = row.instrument_key.startswith(f"{row.segment}|") and row.instrument_key.isprintable()
    if tick is None or not 1 <= lot <= _LARGEST_LOT or not known or len(row.instrument_key) > 64:
        return None
    tick /= 100
    if exchange in DERIVATIVES:
        return _contract(row, exchange, tick, lot)
    symbol = plain_symbol(row.trading_symbol, exchange)
    if symbol is None or len(symbol) > 40 or not symbol.isprintable():
        return None
    # Its freeze quantities of shares are all 100,000, whatever the exchange's are: not known.
    kind = "EQ" if _SHARE(row.isin or "") else row.instrument_type.replace("EQ", "") or "OTHER"
    return Listing(exchange, symbol, row.instrument_key, tick, lot, kind=kind, isin=row.isin or None)


def _contract(row: _Row, exchange: Exchange, tick: Decimal, lot: int) -> Listing | None:
    kind, expiry = row.instrument_type, _expiry(row.expiry)
    strike = price(row.strike_price)
    underlying = (row.underlying_symbol or "").strip().upper()
    if kind not in _KINDS or expiry is None or not underlying or (strike is None and kind != "FUT"):
        return None
    strike = None if kind == "FUT" else strike
    freeze = price(row.freeze_quantity)
    return Listing(
        exchange,
        contract_symbol(underlying, expiry, kind, strike, weekly=row.weekly),
        row.instrument_key,
        tick,
        lot,
        int(freeze) if freeze is not None else None,
        kind,
        expiry=expiry,
        strike=strike,
    )


def _expiry(milliseconds: int | None) -> date | None:
    """Files name the last second of the day in India."""
    if milliseconds is None or not 0 < milliseconds < 7_258_118_400_000:  # the year 2200
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(IST).date()
