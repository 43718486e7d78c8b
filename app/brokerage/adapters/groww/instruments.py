"""Groww's list of instruments: one CSV of some 150,000 rows, made anew every morning. Prices are in rupees.

Read as it arrives, line by line. Indices have no tick and cannot be traded.
"""

import re
from decimal import Decimal
from typing import Final

from app.brokerage.adapters.groww.words import place_of, plain_symbol
from app.brokerage.adapters.values import cells, count, day, price, text
from app.brokerage.words import Exchange, Listing

_CONTRACTS: Final = frozenset({"FUT", "CE", "PE"})
_NEEDED: Final = frozenset({"exchange", "trading_symbol", "instrument_type", "segment", "lot_size", "tick_size"})
_LARGEST_LOT: Final = 10_000_000
_LONGEST_LINE: Final = 64 << 10
_ISIN = re.compile(r"IN[A-Z0-9]{10}").fullmatch
_NOT_ALLOWED: Final = frozenset({"0", "false"})


class InstrumentReader:
    """Takes the file piece by piece (not from two threads at once); `listings` is what it held so far."""

    def __init__(self) -> None:
        self._rest = b""
        self._columns: list[str] = []
        self._found: dict[tuple[Exchange, str], Listing] = {}
        self.rejected = 0
        """Rows of ours that make no sense."""

    def take(self, data: bytes) -> None:
        """The next piece. Raises `ValueError` for what is no list of instruments."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise ValueError("not a list of instruments")
        self._lines(lines)

    def finish(self) -> None:
        """There is no more."""
        rest, self._rest = self._rest, b""
        self._lines([rest])

    @property
    def listings(self) -> list[Listing]:
        """One a symbol of an exchange: where a share and a debenture have the same, the share."""
        return list(self._found.values())

    def _lines(self, lines: list[bytes]) -> None:
        for line in lines:
            values = cells(line)
            if values is None and self._columns:
                self.rejected += 1
            else:
                self._line(values if values is not None else ["no columns"])

    def _line(self, values: list[str]) -> None:
        if not values:
            return
        if not self._columns:
            self._columns = [name.strip().lower() for name in values]
            if not self._columns or not set(self._columns) >= _NEEDED:
                raise ValueError("not a list of instruments")
            return
        if len(values) < len(self._columns):
            self.rejected += 1
            return
        row = dict(zip(self._columns, values, strict=False))
        exchange = place_of(row["exchange"], row.get("segment", ""))
        if exchange is None or row.get("instrument_type") in {"IDX", "INDEX"} or not _tradable(row):
            return
        listing = _listing(row, exchange)
        if listing is None:
            self.rejected += 1
            return
        place = (exchange, listing.symbol)
        if place not in self._found or (listing.kind == "EQ" and self._found[place].kind != "EQ"):
            self._found[place] = listing


def _tradable(row: dict[str, str]) -> bool:
    flags = (row.get("buy_allowed", ""), row.get("sell_allowed", ""))
    return not all(flag.strip().lower() in _NOT_ALLOWED for flag in flags)


def _listing(row: dict[str, str], exchange: Exchange) -> Listing | None:
    key, tick, lot = text(row.get("trading_symbol"), 64), price(row.get("tick_size")), count(row.get("lot_size")) or 0
    symbol = key and plain_symbol(key, exchange)
    if key is None or not symbol or " " in symbol or tick is None or not 1 <= lot <= _LARGEST_LOT:
        return None
    kind = row.get("instrument_type", "")
    isin = row.get("isin", "")
    if kind in _CONTRACTS:
        return _contract(row, Listing(exchange, symbol, key, tick, lot, kind=kind))
    # Of shares it has no freeze quantity. A series other than those of shares is something else with their symbol.
    share = row.get("series", "EQ") in {"EQ", "BE", "BZ", "SM", "ST", "A", "B", "T", "X", "XT", "M", "MT", "Z", ""}
    return Listing(
        exchange, symbol, key, tick, lot, kind="EQ" if share else row["series"], isin=isin if _ISIN(isin) else None
    )


def _contract(row: dict[str, str], plain: Listing) -> Listing | None:
    expiry, strike = day(row.get("expiry_date")), price(row.get("strike_price"))
    if expiry is None or (strike is None and plain.kind != "FUT"):
        return None
    freeze = price(row.get("freeze_quantity")) or Decimal(0)
    # The file names the first quantity that is frozen (601 for lots of 30): the most is the lots below it.
    most = int(freeze) // plain.lot_size * plain.lot_size
    return Listing(
        plain.exchange,
        plain.symbol,
        plain.key,
        plain.tick_size,
        plain.lot_size,
        most or None,
        plain.kind,
        expiry=expiry,
        strike=None if plain.kind == "FUT" else strike,
    )
