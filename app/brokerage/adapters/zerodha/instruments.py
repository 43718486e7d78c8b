"""Kite's list of instruments: one CSV of some 120,000 rows for all exchanges, made anew every morning.

Columns: instrument_token, exchange_token, tradingsymbol, name, last_price, expiry, strike, tick_size, lot_size,
instrument_type, segment, exchange.
"""

from collections import Counter
from decimal import Decimal
from typing import Final

from app.brokerage.adapters.symbols import share_symbol
from app.brokerage.adapters.unreadable import UnreadableError
from app.brokerage.adapters.values import cells, count, day, price
from app.brokerage.adapters.zerodha.words import CAPABILITIES
from app.brokerage.words import Exchange, Listing

_NEEDED: Final = frozenset(
    {"tradingsymbol", "expiry", "strike", "tick_size", "lot_size", "instrument_type", "segment", "exchange"}
)
_KINDS: Final = frozenset({"EQ", "FUT", "CE", "PE"})
_LONGEST_LINE: Final = 4096


class InstrumentReader:
    """Takes the file piece by piece; what it finds is in `listings`."""

    def __init__(self) -> None:
        self._rest = b""
        self._columns: list[str] | None = None
        self._found: dict[tuple[Exchange, str], Listing] = {}
        self.rejected = Counter[str]()
        """Junk, by what is wrong with it."""
        self._exchanges = {exchange.value: exchange for exchange in CAPABILITIES.exchanges}

    @property
    def listings(self) -> list[Listing]:
        """What was sound so far, one for each symbol."""
        return list(self._found.values())

    def take(self, piece: bytes) -> None:
        """The next bytes. Raises `UnreadableError` for what is no such file."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _LONGEST_LINE:
            raise UnreadableError("no lines")
        self._read(lines)

    def end(self) -> None:
        """There is no more. Raises `UnreadableError` if it was nothing."""
        self._read([self._rest])
        self._rest = b""
        if self._columns is None:
            raise UnreadableError("an empty list")

    def _read(self, lines: list[bytes]) -> None:
        for line in lines:
            row = cells(line)
            if row == []:
                continue
            if self._columns is None:
                if row is None or not set(row) >= _NEEDED:
                    raise UnreadableError("no list of instruments")
                self._columns = row
            elif row is None or len(row) != len(self._columns):
                self.rejected["columns"] += 1
            else:
                self._judge(dict(zip(self._columns, row, strict=True)))

    def _judge(self, row: dict[str, str]) -> None:
        exchange = self._exchanges.get(row["exchange"])
        if exchange is None or row["segment"] == "INDICES":
            return
        made = _listing(row, exchange)
        if isinstance(made, str):
            self.rejected[made] += 1
            return
        key = (exchange, made.symbol)
        # Of two series of one share the one without a suffix is the usual one.
        if key not in self._found or made.key == made.symbol:
            self._found[key] = made


def _listing(row: dict[str, str], exchange: Exchange) -> Listing | str:
    """The instrument, or what is wrong with the row."""
    key, kind = row["tradingsymbol"].strip(), row["instrument_type"]
    tick, lot = price(row["tick_size"]), count(row["lot_size"])
    if not key or len(key) > 64 or not key.isprintable():
        return "symbol"
    if kind not in _KINDS:
        return "kind"
    if tick is None or not lot:
        return "tick" if tick is None else "lot"
    if kind == "EQ":
        return Listing(exchange, share_symbol(key), key, tick, lot)
    expiry, strike = day(row["expiry"]), price(row["strike"])
    if expiry is None or (kind != "FUT" and strike is None):
        return "contract"
    shown: Decimal | None = strike if kind != "FUT" else None
    return Listing(exchange, key.upper(), key, tick, lot, kind=kind, expiry=expiry, strike=shown)
