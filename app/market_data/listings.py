"""What is listed on the exchanges, as one immutable table: 150,000 instruments in about ten megabytes.

An object for each of them would be ten times as much, in every process. So the table is one text with a line for each
instrument, in the order of exchange and token, and two lists of line numbers: by symbol, and by the name of what trades
in the cash segment. A lookup is a binary search of a few microseconds; a line becomes an object when it is asked for.
All texts are in capitals.
"""

import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from heapq import merge
from itertools import islice
from typing import Final, NamedTuple, Protocol

import msgspec

from app.market_data.ports import DEFAULT_INSTRUMENTS, Instrument

EXCHANGES: Final[Mapping[str, int]] = {"NSE": 1, "BSE": 3, "NFO": 2, "BFO": 4}
"""The exchanges that can be followed, with the provider's numbers; cash segments first, as they are to be found."""

_ORDER: Final = tuple(EXCHANGES)
_RANK: Final = {exchange: b"%d" % rank for rank, exchange in enumerate(_ORDER)}
_BUILT_IN: Final = frozenset((instrument.exchange, instrument.token) for instrument in DEFAULT_INSTRUMENTS)
_CASH: Final = 2
_RUN: Final = 4096
"""Keys that are sorted in one go: about a millisecond for which nothing else runs."""
_MOST: Final = 256 << 20
_SCANNED, _LOOKED_AT, _CANDIDATES = 3000, 200, 1000


class Listing(msgspec.Struct, frozen=True):
    """An instrument as its exchange lists it."""

    exchange: str
    token: str
    symbol: str
    name: str
    """Of the company, the index, or what a contract is about."""
    kind: str
    """`INDEX`, `EQ` or another series, `FUTSTK`, `OPTIDX`, …"""
    expiry: str
    """ISO 8601, or empty."""
    strike: Decimal | None
    """Rupees, like the next."""
    tick_size: Decimal | None
    lot_size: int | None

    @property
    def place(self) -> str:
        """Names it for certain: `NSE:2885`."""
        return f"{self.exchange}:{self.token}"

    @property
    def is_index(self) -> bool:
        """Whether it is a figure, which nobody can buy."""
        return self.kind == "INDEX"

    def instrument(self, symbol: str | None = None) -> Instrument:
        """As ticks name it, by another symbol perhaps."""
        strike = None if self.strike is None else float(self.strike)
        return Instrument(
            symbol or self.symbol, self.token, self.exchange, EXCHANGES[self.exchange], self.kind, self.expiry, strike
        )


class Stamp(NamedTuple):
    """By what the provider knows whether somebody has its newest list."""

    etag: str = ""
    last_modified: str = ""


class Filled(NamedTuple):
    """What a provider's list held beside what is in the table."""

    stamp: Stamp
    rejected: dict[str, int]
    """Junk, by what is wrong with it."""
    skipped: dict[str, int]
    """Of exchanges that cannot be followed."""


class ListingSource(Protocol):
    """Where the list comes from."""

    async def fill(self, table: "TableBuilder", known: Stamp | None) -> Filled | None:
        """Put everything into `table`; None if there is nothing newer than what is `known`.

        Raises `ListingsUnavailableError`.
        """


class ListingsUnavailableError(Exception):
    """The provider gave no list. `kind` is a word for `/health`."""

    def __init__(self, kind: str, retry_after: float | None = None) -> None:
        super().__init__(kind)
        self.kind, self.retry_after = kind, retry_after


class TableBuilder:
    """Takes instruments in any order; not for the event loop's thread when there are many."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self.by_expiry: dict[str, int] = {}
        """How many contracts end on a day."""
        self.repeated = 0

    def add(
        self,
        exchange: str,
        token: str,
        symbol: str,
        name: str,
        kind: str,
        expiry: str = "",
        strike: int | None = None,
        lot: int | None = None,
        tick: int | None = None,
    ) -> None:
        """One instrument; amounts in paise. No text may hold tabs or line ends; all are in capitals."""
        line = f"{token}\t{symbol}\t{name}\t{kind}\t{expiry}\t{strike or ''}\t{lot or ''}\t{tick or ''}\n"
        self._lines.append(_RANK[exchange] + b"\t" + line.encode())
        if expiry:
            self.by_expiry[expiry] = self.by_expiry.get(expiry, 0) + 1

    def build(self) -> "ListingTable":
        """The table. Of several rows with one token the first in the order of their texts stays."""
        lines, last = list[bytes](), b""
        for line in _in_order(self._lines):
            key = line[: line.index(b"\t", 2) + 1]
            if key == last:
                self.repeated += 1
                continue
            lines.append(line)
            last = key
        self._lines = []
        symbols = (line.split(b"\t", 3)[2] + _number(at) for at, line in enumerate(lines))
        by_symbol = _numbers(_in_order(symbols))
        names = (line.split(b"\t", 4)[3] + _number(at) for at, line in enumerate(lines) if line[:1] < b"%d" % _CASH)
        by_name = _numbers(_in_order(name for name in names if name[0]))
        return ListingTable(b"".join(lines), by_symbol, by_name)


def _number(at: int) -> bytes:
    """Comes after a key, and orders those that are equal."""
    return b"\0" + at.to_bytes(4, "big")


def _numbers(keys: Iterable[bytes]) -> "array[int]":
    return array("I", (int.from_bytes(key[-4:], "big") for key in keys))


def _in_order(keys: Iterable[bytes]) -> Iterator[bytes]:
    """Sorted; never for long without a chance for other threads."""
    left = iter(keys)
    runs: list[list[bytes]] = []
    while run := sorted(islice(left, _RUN)):
        runs.append(run)
    return merge(*runs)


class ListingTable:
    """All listings of one version. Immutable."""

    def __init__(self, text: bytes, by_symbol: "array[int]", by_name: "array[int]") -> None:
        self._text, self._by_symbol, self._by_name = text, by_symbol, by_name
        self._starts = _starts(text)
        self._numbers = range(len(self))
        self._ranges = [self._first(b"%d" % rank) for rank in range(len(_ORDER) + 1)]

    def __len__(self) -> int:
        return len(self._starts) - 1

    # One

    def find(self, exchange: str, token: str) -> Listing | None:
        """By the exchange's own number."""
        rank = _RANK.get(exchange)
        if rank is None:
            return None
        key = b"%b\t%b\t" % (rank, token.encode())
        at = self._first(key)
        return self._listing(at) if at < len(self) and self._line(at).startswith(key) else None

    def named(self, text: str, exchange: str | None = None) -> list[Listing]:
        """All that have this symbol; in cash segments also those whose name it is, or whose symbol without series.

        The likeliest first: the six indices, other indices, then shares of NSE, then those of BSE.
        """
        key = text.encode()
        found = dict.fromkeys(
            at for wanted in (key, key + b"-EQ") for at in self._equal(self._by_symbol, wanted, self._symbol)
        )
        found |= dict.fromkeys(self._equal(self._by_name, key, self._name))
        listings = [self._listing(at) for at in found]
        return sorted(
            (listing for listing in listings if exchange is None or listing.exchange == exchange),
            key=lambda listing: likelihood(listing, text),
        )

    def _equal(self, order: "array[int]", key: bytes, field: Callable[[int], bytes]) -> list[int]:
        return order[bisect_left(order, key, key=field) : bisect_right(order, key, key=field)][:_LOOKED_AT].tolist()

    # Many

    def search(self, text: str, exchange: str | None = None, *, most: int = 20) -> list[Listing]:
        """At most `most` whose symbol, name or token is `text`, begins with it, or has all its words; best first."""
        ranks = range(len(_ORDER)) if exchange is None else [_ORDER.index(exchange)]
        ranges = [(self._ranges[rank], self._ranges[rank + 1]) for rank in ranks]
        found: dict[int, int] = {}
        for worth, candidates in enumerate(self._candidates(text, ranges)):
            for at in candidates:
                if any(first <= at < end for first, end in ranges):
                    found.setdefault(at, worth)
            if len(found) >= most:
                break
        ordered = sorted(((worth, at, self._listing(at)) for at, worth in found.items()), key=_by_worth)
        return [listing for _, _, listing in ordered[:most]]

    def _candidates(self, text: str, ranges: Sequence[tuple[int, int]]) -> Iterator[Iterable[int]]:
        """Line numbers, the better ones first."""
        key = text.encode()
        yield [
            at
            for listing in [*self.named(text), *(self.find(exchange, text) for exchange in _ORDER)]
            if listing is not None
            for at in [self._at(listing)]
        ]
        yield self._beginning(self._by_name, key, self._name)
        yield self._beginning(self._by_symbol, key, self._symbol)
        yield self._with_words(text.split(), ranges)

    def _at(self, listing: Listing) -> int:
        return self._first(b"%b\t%b\t" % (_RANK[listing.exchange], listing.token.encode()))

    def _beginning(self, order: "array[int]", key: bytes, field: Callable[[int], bytes]) -> Iterator[int]:
        first = bisect_left(order, key, key=field)
        for at in order[first : first + _LOOKED_AT]:
            if not field(at).startswith(key):
                return
            yield at

    def _with_words(self, words: Sequence[str], ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
        keys = sorted((word.encode() for word in words), key=len, reverse=True)
        looked = found = 0
        for first, last in ranges:
            position, end = self._starts[first], self._starts[last]
            while looked < _SCANNED and found < _LOOKED_AT:
                position = self._text.find(keys[0], position, end)
                if position < 0:
                    break
                looked += 1
                at = bisect_right(self._starts, position) - 1
                position = self._starts[at + 1]
                shown = b" ".join(self._line(at).split(b"\t", 4)[2:4])
                if all(key in shown for key in keys):
                    found += 1
                    yield at

    def near(self, text: str) -> list[str]:
        """Up to three symbols or names of cash segments that are spelt nearly like `text`, and begin as it does."""
        key = text[:2].encode()
        names: dict[str, None] = {}
        for order, field in ((self._by_name, self._name), (self._by_symbol, self._symbol)):
            first = bisect_left(order, key, key=field)
            for at in order[first : first + _CANDIDATES]:
                name = field(at)
                if not name.startswith(key):
                    break
                if at < self._ranges[_CASH]:
                    names[name.decode()] = None
        return get_close_matches(text, names, n=3, cutoff=0.6)

    # Lines

    def _first(self, key: bytes) -> int:
        """The first line that is not before `key`."""
        return bisect_left(self._numbers, key, key=self._line)

    def _line(self, at: int) -> bytes:
        return self._text[self._starts[at] : self._starts[at + 1]]

    def _symbol(self, at: int) -> bytes:
        return self._line(at).split(b"\t", 3)[2]

    def _name(self, at: int) -> bytes:
        return self._line(at).split(b"\t", 4)[3]

    def _listing(self, at: int) -> Listing:
        rank, token, symbol, name, kind, expiry, strike, lot, tick = self._line(at).decode()[:-1].split("\t")
        exchange = _ORDER[int(rank)]
        return Listing(
            exchange,
            token,
            symbol,
            name,
            _kind(exchange, symbol, kind),
            expiry,
            Decimal(strike) / 100 if strike else None,
            Decimal(tick) / 100 if tick else None,
            int(lot) if lot else None,
        )

    # As bytes

    def encode(self) -> bytes:
        """The table in a form for `decode`, compressed."""
        parts = [self._text, _little(self._by_symbol).tobytes(), _little(self._by_name).tobytes()]
        return zlib.compress(msgspec.msgpack.encode(parts), 6)

    @classmethod
    def decode(cls, data: bytes) -> "ListingTable":
        """The table behind `data`; raises `ValueError` for anything that `encode` did not make."""
        inflate = zlib.decompressobj()
        try:
            text, *orders = msgspec.msgpack.decode(inflate.decompress(data, _MOST), type=tuple[bytes, bytes, bytes])
            by_symbol, by_name = (_little(array("I", order)) for order in orders)
        except zlib.error:
            raise ValueError("not compressed") from None
        if not inflate.eof:
            raise ValueError("cut off, or too large")
        table = cls(text, by_symbol, by_name)
        if len(by_symbol) != len(table) or max(by_symbol, default=-1) >= len(table) or len(by_name) > len(table):
            raise ValueError("its parts do not fit together")
        return table


def _starts(text: bytes) -> "array[int]":
    starts, position = array("I", [0]), text.find(b"\n") + 1
    while position:
        starts.append(position)
        position = text.find(b"\n", position) + 1
    return starts


def _little(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _kind(exchange: str, symbol: str, kind: str) -> str:
    """The provider's word; for shares and bonds, which it has none for, their series."""
    if kind == "AMXIDX":
        return "INDEX"
    if kind or exchange != "NSE":
        return kind or "EQ"
    return symbol.rpartition("-")[2] if "-" in symbol[-4:] else ""


def likelihood(listing: Listing, text: str) -> tuple[bool, bool, int, bool, int]:
    """Smallest for what is most likely meant by `text`; of two that have the same, nothing here tells which is meant.

    The list has junk rows with the names of indices, so the six that are followed by default come before all others.
    """
    series = {"EQ": 0, "": 2}.get(listing.kind, 1)
    built_in = (listing.exchange, listing.token) in _BUILT_IN
    return not built_in, not listing.is_index, _ORDER.index(listing.exchange), listing.symbol != text, series


def _by_worth(found: tuple[int, int, Listing]) -> tuple[int, bool, int, int, str]:
    worth, _, listing = found
    return worth, not listing.is_index, _ORDER.index(listing.exchange), len(listing.symbol), listing.symbol
