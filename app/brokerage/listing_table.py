"""The instruments of one broker as one immutable table: 100,000 of them in about ten megabytes.

An object for each would be ten times as much, in every process and for every broker. So the table is one text with a
line for each, in the order of exchange and symbol; a lookup is a binary search of a few microseconds, and a line
becomes an object when it is asked for.
"""

import re
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from heapq import merge
from itertools import islice
from typing import Final

from app.brokerage.words import Exchange, Listing

MOST: Final = 256 << 20
"""Bytes of an unpacked table."""
_RUN: Final = 4096
"""Lines that are sorted in one go: about a millisecond for which nothing else runs."""
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9 &._+*'()-]{0,63}").fullmatch
_PLAIN = re.compile(r"[\x20-\x7e]*").fullmatch
_LOOKED_AT: Final = 3000
_FIELDS: Final = 12


def plain_symbol(exchange: Exchange, symbol: str) -> str:
    """A symbol in the one spelling of tables: capitals, single spaces, and on NSE without the series `-EQ`."""
    text = " ".join(symbol.upper().split())
    return text.removesuffix("-EQ") if exchange is Exchange.NSE else text


def fault_of(listing: Listing) -> str | None:
    """What is wrong with an instrument, in a word; None for a sound one."""
    amounts = (listing.strike, listing.lower_circuit, listing.upper_circuit)
    if not _SYMBOL(plain_symbol(listing.exchange, listing.symbol)):
        return "symbol"
    if not (
        0 < len(listing.key) <= 200 and _PLAIN(listing.key) and _PLAIN(listing.kind) and _PLAIN(listing.isin or "")
    ):
        return "key"
    if not (listing.tick_size.is_finite() and 0 < listing.tick_size <= 100_000):
        return "tick size"
    if not 1 <= listing.lot_size <= 100_000_000:
        return "lot"
    if listing.freeze_quantity is not None and listing.freeze_quantity < 1:
        return "freeze quantity"
    if any(amount is not None and not (amount.is_finite() and amount >= 0) for amount in amounts):
        return "amount"
    return None


class TableBuilder:
    """Takes instruments in any order; not for the event loop's thread when there are many."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self.rejected: dict[str, int] = {}
        """Junk, by what is wrong with it."""

    def add(self, listing: Listing) -> None:
        """One instrument, if it is sound."""
        if (fault := fault_of(listing)) is not None:
            self.rejected[fault] = self.rejected.get(fault, 0) + 1
            return
        told = (
            listing.exchange.value,
            plain_symbol(listing.exchange, listing.symbol),
            listing.key,
            listing.tick_size,
            listing.lot_size,
            listing.freeze_quantity,
            listing.kind,
            listing.isin,
            listing.expiry,
            listing.strike,
            listing.lower_circuit,
            listing.upper_circuit,
        )
        self._lines.append("\t".join("" if one is None else str(one) for one in told).encode() + b"\n")

    def build(self) -> "BrokerTable":
        """The table. Of several with one symbol on an exchange the first in the order of their texts stays."""
        kept, last = list[bytes](), b""
        for line in _in_order(self._lines):
            key = line[: line.index(b"\t", line.index(b"\t") + 1) + 1]
            if key == last:
                self.rejected["repeated"] = self.rejected.get("repeated", 0) + 1
                continue
            kept.append(line)
            last = key
        self._lines = []
        return BrokerTable(b"".join(kept))


def _in_order(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Sorted; never for long without a chance for other threads."""
    left = iter(lines)
    runs: list[list[bytes]] = []
    while run := sorted(islice(left, _RUN)):
        runs.append(run)
    return merge(*runs)


class BrokerTable:
    """All instruments of one version. Immutable."""

    def __init__(self, text: bytes) -> None:
        self._text, self._starts = text, array("I", [0])
        position = text.find(b"\n") + 1
        while position:
            self._starts.append(position)
            position = text.find(b"\n", position) + 1
        self._numbers = range(len(self))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def find(self, exchange: Exchange, symbol: str) -> Listing | None:
        """The instrument of that symbol; `RELIANCE-EQ` is `RELIANCE` on NSE."""
        key = _key(exchange, plain_symbol(exchange, symbol)) + b"\t"
        at = bisect_left(self._numbers, key, key=self._line)
        return self._listing(at) if at < len(self) and self._line(at).startswith(key) else None

    def like(self, exchange: Exchange, symbol: str, most: int = 5) -> list[str]:
        """Symbols that begin with it, or are spelt nearly so and begin with the same two characters."""
        wanted = plain_symbol(exchange, symbol)
        begins = list(islice(self._beginning(exchange, wanted), most)) if wanted else []
        others = list(self._beginning(exchange, wanted[:2])) if wanted else []
        near = get_close_matches(wanted, others, n=most, cutoff=0.6)
        return list(dict.fromkeys([*near, *begins]))[:most]

    def ended(self, today: date) -> int:
        """How many contracts have ended before `today`."""
        limit = today.isoformat().encode()
        expiries = (self._line(at).split(b"\t", 9)[8] for at in self._numbers)
        return sum(bool(expiry) and expiry < limit for expiry in expiries)

    def _beginning(self, exchange: Exchange, text: str) -> Iterator[str]:
        key = _key(exchange, text)
        first = bisect_left(self._numbers, key, key=self._line)
        for at in range(first, min(first + _LOOKED_AT, len(self))):
            line = self._line(at)
            if not line.startswith(key):
                return
            yield line.split(b"\t", 2)[1].decode()

    def _line(self, at: int) -> bytes:
        return self._text[self._starts[at] : self._starts[at + 1]]

    def _listing(self, at: int) -> Listing:
        told = self._line(at).decode()[:-1].split("\t")
        exchange, symbol, key, tick, lot, freeze, kind, isin, expiry, strike, lower, upper = told
        return Listing(
            exchange=Exchange(exchange),
            symbol=symbol,
            key=key,
            tick_size=Decimal(tick),
            lot_size=int(lot),
            freeze_quantity=int(freeze) if freeze else None,
            kind=kind,
            isin=isin or None,
            expiry=date.fromisoformat(expiry) if expiry else None,
            strike=Decimal(strike) if strike else None,
            lower_circuit=Decimal(lower) if lower else None,
            upper_circuit=Decimal(upper) if upper else None,
        )

    # As bytes

    def encode(self) -> bytes:
        """The table in a form for `decode`, compressed."""
        return zlib.compress(self._text, 6)

    @classmethod
    def decode(cls, data: bytes) -> "BrokerTable":
        """The table behind `data`; raises `ValueError` for anything that `encode` did not make."""
        inflate = zlib.decompressobj()
        try:
            text = inflate.decompress(data, MOST)
        except zlib.error:
            raise ValueError("not compressed") from None
        if not inflate.eof or inflate.unconsumed_tail:
            raise ValueError("cut off, or too large")
        table = cls(text)
        if text[-1:] not in {b"", b"\n"} or (len(table) and table._line(0).count(b"\t") != _FIELDS - 1):
            raise ValueError("no table")
        return table


def _key(exchange: Exchange, symbol: str) -> bytes:
    return f"{exchange.value}\t{symbol}".encode()
