"""The instruments of one broker as one immutable table: 100,000 of them in less than two megabytes.

An object for each would be a hundred megabytes, in every process and for every broker. So the table is one text with a
line for each, in the order of exchange and symbol, held in compressed blocks: a lookup is a binary search among their
first lines and the unpacking of one block, some 20 microseconds, and a line becomes an object when it is asked for.
"""

import re
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from heapq import merge
from itertools import islice
from typing import Final

from app.brokerage.words import Exchange, Listing
from app.core.staged_lists import BuiltList, ListHere

MOST: Final = 256 << 20
"""Bytes of an unpacked table."""
_RUN: Final = 4096
"""Lines that are sorted in one go: about a millisecond for which nothing else runs."""
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9 &._+*'()-]{0,63}").fullmatch
_PLAIN = re.compile(r"[\x20-\x7e]*").fullmatch
_PIECE: Final = 64 << 10
"""Bytes of a text that is being unpacked."""
_BLOCK: Final = 8 << 10
"""Bytes of a block, unpacked."""
_LOOKED_AT: Final = 3000
MOST_ALIKE: Final = 5
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
        packer = TablePacker()
        for first in range(0, len(kept), _RUN):
            packer.take(b"".join(kept[first : first + _RUN]))
        return packer.table()


def _in_order(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Sorted; never for long without a chance for other threads."""
    left = iter(lines)
    runs: list[list[bytes]] = []
    while run := sorted(islice(left, _RUN)):
        runs.append(run)
    return merge(*runs)


class TablePacker:
    """Makes a table of its text, which comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._blocks: list[bytes] = []
        self._firsts: list[bytes] = []
        self._count = 0

    def take(self, text: bytes) -> None:
        """The next piece."""
        text = self._rest + text
        at = 0
        while len(text) - at >= _BLOCK:
            end = text.rfind(b"\n", at, at + _BLOCK) + 1
            if not end:
                raise ValueError("no table")
            self._pack(text[at:end])
            at = end
        self._rest = text[at:]

    def table(self) -> "BrokerTable":
        """There is no more. Raises `ValueError` for what is no table."""
        if self._rest:
            if not self._rest.endswith(b"\n"):
                raise ValueError("no table")
            self._pack(self._rest)
        return BrokerTable(self._blocks, self._firsts, self._count)

    def _pack(self, text: bytes) -> None:
        first = text[: text.index(b"\n")]
        if first.count(b"\t") != _FIELDS - 1:
            raise ValueError("no table")
        self._firsts.append(first)
        self._count += text.count(b"\n")
        self._blocks.append(zlib.compress(text, 1))


class TableReader:
    """Makes a table of what `BrokerTable.encode` made of one, which comes in pieces; all of it is never in memory.

    Raises `ValueError` for anything else.
    """

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj()
        self._packer = TablePacker()
        self._left = MOST

    def take(self, data: bytes) -> None:
        """The next piece."""
        try:
            while data and not self._inflate.eof:
                text = self._inflate.decompress(data, _PIECE)
                data = self._inflate.unconsumed_tail
                self._left -= len(text)
                if self._left < 0:
                    raise ValueError("too large")
                self._packer.take(text)
        except zlib.error:
            raise ValueError("not compressed") from None

    def table(self) -> "BrokerTable":
        """There is no more."""
        if not self._inflate.eof:
            raise ValueError("cut off")
        return self._packer.table()


class BrokerTable:
    """All instruments of one version. Immutable."""

    def __init__(self, blocks: Sequence[bytes], firsts: Sequence[bytes], count: int) -> None:
        """`firsts`: the first line of each of the compressed `blocks`."""
        self._blocks, self._firsts, self._count = blocks, firsts, count
        self._keys: array[int] | None = None

    def __len__(self) -> int:
        return self._count

    def find(self, exchange: Exchange, symbol: str) -> Listing | None:
        """The instrument of that symbol; `RELIANCE-EQ` is `RELIANCE` on NSE."""
        key = _key(exchange, plain_symbol(exchange, symbol)) + b"\t"
        line = next(self._lines_from(key), b"")
        return _listing(line) if line.startswith(key) else None

    def like(self, exchange: Exchange, symbol: str, most: int = MOST_ALIKE) -> list[str]:
        """Symbols that begin with it, or are spelt nearly so and begin with the same two characters."""
        wanted = plain_symbol(exchange, symbol)
        begins = list(islice(self._beginning(exchange, wanted), most)) if wanted else []
        others = list(self._beginning(exchange, wanted[:2])) if wanted else []
        near = get_close_matches(wanted, others, n=most, cutoff=0.6)
        return list(dict.fromkeys([*near, *begins]))[:most]

    def by_expiry(self) -> dict[str, int]:
        """How many contracts end on a day."""
        counted = Counter(
            line.split(b"\t", 9)[8] for number in range(len(self._blocks)) for line in self._lines(number)
        )
        return {day.decode(): count for day, count in sorted(counted.items()) if day}

    def symbol_of(self, key: str) -> str | None:
        """The symbol of what the broker calls `key`; by `index`."""
        keys = self.index()
        wanted = zlib.crc32(key.encode())
        for at in range(bisect_left(keys, wanted << 32), bisect_left(keys, (wanted + 1) << 32)):
            for line in self._lines(keys[at] & 0xFFFFFFFF):
                _, symbol, found, _ = line.split(b"\t", 3)
                if found == key.encode():
                    return symbol.decode()
        return None

    def index(self) -> "array[int]":
        """Of every key its check sum and the number of its block, in order; made once, not in the event loop."""
        if self._keys is None:
            found = array("Q")
            for number in range(len(self._blocks)):
                found.extend(zlib.crc32(line.split(b"\t", 3)[2]) << 32 | number for line in self._lines(number))
            self._keys = array("Q", sorted(found))
        return self._keys

    def keys(self) -> Iterator[str]:
        """What the broker calls them, in the order of exchange and symbol."""
        for number in range(len(self._blocks)):
            yield from (line.split(b"\t", 3)[2].decode() for line in self._lines(number))

    def _beginning(self, exchange: Exchange, text: str) -> Iterator[str]:
        key = _key(exchange, text)
        for line in islice(self._lines_from(key), _LOOKED_AT):
            if not line.startswith(key):
                return
            yield line.split(b"\t", 2)[1].decode()

    def _lines_from(self, key: bytes) -> Iterator[bytes]:
        """From the first that is not before `key`."""
        # Its block is the one before the first block that begins after it.
        first = max(bisect_right(self._firsts, key) - 1, 0)
        for number in range(first, len(self._blocks)):
            lines = self._lines(number)
            yield from lines[bisect_left(lines, key) :] if number == first else lines

    def _lines(self, number: int) -> list[bytes]:
        return self._text(number).split(b"\n")[:-1]

    def _text(self, number: int) -> bytes:
        return zlib.decompress(self._blocks[number])

    # As bytes

    def encode(self) -> bytes:
        """The table in a form for `TableReader`, compressed."""
        deflate = zlib.compressobj(6)
        pieces = [deflate.compress(self._text(number)) for number in range(len(self._blocks))]
        return b"".join([*pieces, deflate.flush()])


class Symbols(Mapping[str, str]):
    """A table's symbols by what the broker calls them, as mappings of its books ask for them."""

    def __init__(self, table: BrokerTable) -> None:
        self._table = table

    def __getitem__(self, key: str) -> str:
        found = self._table.symbol_of(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return self._table.keys()

    def __len__(self) -> int:
        return len(self._table)


def built(listings: Sequence[Listing]) -> ListHere:
    """The list that is stored of a broker's instruments; not for the event loop's thread."""
    builder = TableBuilder()
    for listing in listings:
        builder.add(listing)
    table = builder.build()
    data = table.encode()
    return ListHere(BuiltList.of(data, rows=len(table), rejected=builder.rejected, by_expiry=table.by_expiry()), data)


def _listing(line: bytes) -> Listing:
    exchange, symbol, key, tick, lot, freeze, kind, isin, expiry, strike, lower, upper = line.decode().split("\t")
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


def _key(exchange: Exchange, symbol: str) -> bytes:
    return f"{exchange.value}\t{symbol}".encode()
