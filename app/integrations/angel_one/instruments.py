"""Angel One's list of instruments: one JSON file of some 150,000 rows for all exchanges, made anew every morning.

It is read as it arrives, in a thread and piece by piece: the file is never whole in memory, and no single step holds
the interpreter for more than a few milliseconds. Rows that make no sense are counted and left out; they are in every
day's file.

The fields are the vendor's (`token`, `symbol`, `name`, `expiry`, `strike`, `lotsize`, `instrumenttype`, `exch_seg`,
`tick_size`), all of them texts; `strike` and `tick_size` are in paise. These two and `lotsize` hold -1 or 0 where there
is none.
"""

import asyncio
import ssl
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from functools import lru_cache
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from app.integrations.angel_one.errors import (
    TRY_AGAIN_SECONDS,
    AngelOneError,
    NonsenseError,
    RateLimitedError,
    UnreachableError,
    says_too_many,
)

EXCHANGES: Final = frozenset({"NSE", "BSE", "NFO", "BFO"})
"""What is read of it: those whose prices are in paise, and whose hours are those of the stock exchanges."""
OTHERS: Final = frozenset({"MCX", "CDS", "NCDEX", "NCO"})
"""The vendor's other exchanges: counted as skipped, not as junk."""
SENSIBLE_CHARACTERS: Final = 64

_PIECE: Final = 64 << 10
_LONGEST_ROW: Final = 16 << 10
_BATCH: Final = 256 << 10
_CUTS: Final = 64
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_SPACE: Final = b" \t\r\n"
_NO_LOT: Final = frozenset({"", "0", "-1"})


class MasterRow(msgspec.Struct, frozen=True, gc=False):
    """One instrument. Texts are in capitals; amounts are in paise, None where there is none or it is no number."""

    exchange: str
    token: str
    symbol: str
    name: str
    kind: str
    """The vendor's word: `AMXIDX`, `OPTSTK`, …; empty for what trades in the cash segment."""
    expiry: str
    """ISO 8601, or empty."""
    strike: int | None
    lot: int | None
    tick: int | None


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch may cost. Seconds, and bytes after decompression (today's file has some 35 MB)."""

    connect: float = 5.0
    read: float = 20.0
    whole: float = 300.0
    size: int = 192 << 20


class Fetched(NamedTuple):
    """What a file held."""

    rows: int
    """That were taken."""
    rejected: dict[str, int]
    """Junk, by what is wrong with it."""
    skipped: dict[str, int]
    """Of other exchanges."""
    size: int
    """Bytes."""
    etag: str
    last_modified: str


class InstrumentFile:
    """The file at `url`."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None, limits: FileLimits | None = None) -> None:
        """`tls`: what to trust, the system's authorities by default."""
        self._url, self._tls, self._limits = url, tls, limits or FileLimits()

    async def fetch(
        self, take: Callable[[MasterRow], None], *, etag: str = "", last_modified: str = ""
    ) -> Fetched | None:
        """Give every sound row to `take`, **in a thread**; None if it is still the file that `etag` or the date name.

        Raises `AngelOneError`; some rows may have been taken before.
        """
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        headers |= {"If-None-Match": etag} if etag else {}
        headers |= {"If-Modified-Since": last_modified} if last_modified else {}
        limits = self._limits
        try:
            async with (
                asyncio.timeout(limits.whole),
                await asyncio.to_thread(self._client) as client,
                client.stream("GET", self._url, headers=headers) as answer,
            ):
                if answer.status_code == 304:
                    return None
                await _raise_for(answer)
                return await self._read(answer, take)
        except (TimeoutError, httpx.TimeoutException):
            raise UnreachableError("timeout") from None
        except httpx.HTTPError as error:
            raise UnreachableError("tls" if "SSL" in str(error) else "connection") from None
        except httpx.InvalidURL:
            raise UnreachableError("address") from None

    def _client(self) -> httpx.AsyncClient:
        """Takes a tenth of a second: it imports its parts, and reads the system's authorities."""
        tls = self._tls if self._tls is not None else ssl.create_default_context()
        return httpx.AsyncClient(verify=tls, timeout=httpx.Timeout(self._limits.read, connect=self._limits.connect))

    async def _read(self, answer: httpx.Response, take: Callable[[MasterRow], None]) -> Fetched:
        encoding = answer.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"gzip", "identity"}:
            raise NonsenseError("encoding")
        inflate = _Inflate(self._limits.size, compressed=encoding == "gzip")
        parser = MasterParser(take)

        def work(raw: bytes) -> None:
            for data in inflate.feed(raw):
                parser.feed(data)

        waiting = bytearray()
        async for raw in answer.aiter_raw():
            waiting += raw
            if len(waiting) >= (_PIECE if inflate.compressed else _BATCH):
                await asyncio.to_thread(work, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(work, bytes(waiting))
        inflate.close()
        parser.close()
        return Fetched(
            parser.rows,
            dict(parser.rejected),
            dict(parser.skipped),
            inflate.size,
            answer.headers.get("etag", "")[:200],
            answer.headers.get("last-modified", "")[:100],
        )


async def _raise_for(answer: httpx.Response) -> None:
    status = answer.status_code
    if status == 200:
        return
    error: AngelOneError = UnreachableError(str(status)) if status >= 500 else NonsenseError(str(status))
    if status in {403, 429}:
        said = b""
        async for piece in answer.aiter_raw():
            said += piece
            if len(said) > 500:
                break
        if status == 429 or says_too_many(said[:500].decode("latin-1")):
            error = RateLimitedError(str(status), retry_after=_seconds(answer.headers.get("retry-after")))
    raise error


def _seconds(header: str | None) -> float:
    return float(min(int(header), 3600)) if header and header.isascii() and header.isdigit() else TRY_AGAIN_SECONDS


class _Inflate:
    """Undoes gzip in pieces of bounded size, however much a few bytes may stand for."""

    def __init__(self, most: int, *, compressed: bool) -> None:
        self.compressed, self.size, self._most = compressed, 0, most
        self._gzip = zlib.decompressobj(wbits=31)

    def feed(self, raw: bytes) -> Iterator[bytes]:
        if not self.compressed:
            yield from map(self._counted, (raw[at : at + _PIECE] for at in range(0, len(raw), _PIECE)))
            return
        try:
            while raw and not self._gzip.eof:
                yield self._counted(self._gzip.decompress(raw, _PIECE))
                raw = self._gzip.unconsumed_tail
        except zlib.error:
            raise NonsenseError("encoding") from None

    def close(self) -> None:
        if self.compressed and not self._gzip.eof:
            raise NonsenseError("cut off")

    def _counted(self, data: bytes) -> bytes:
        self.size += len(data)
        if self.size > self._most:
            raise NonsenseError("too large")
        return data


class _Row(msgspec.Struct):
    """As it is in the file, whatever it is."""

    token: Any = None
    symbol: Any = None
    name: Any = None
    expiry: Any = None
    strike: Any = None
    lotsize: Any = None
    instrumenttype: Any = None
    exch_seg: Any = None
    tick_size: Any = None


class MasterParser:
    """Reads a JSON array of objects as it arrives; keeps no more of it than one piece and a row."""

    def __init__(self, take: Callable[[MasterRow], None]) -> None:
        self._take = take
        self._rest = b""
        self._state = "start"
        self._decode = msgspec.json.Decoder(list[_Row]).decode
        self._decode_raw = msgspec.json.Decoder(list[msgspec.Raw]).decode
        self._decode_row = msgspec.json.Decoder(_Row).decode
        self.rows = 0
        self.rejected = Counter[str]()
        self.skipped = Counter[str]()

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises `NonsenseError` for what is no such file."""
        data = (self._rest + data).lstrip(_SPACE)
        if self._state == "start" and data:
            if data[:1] != b"[":
                raise NonsenseError("not JSON")
            self._state, data = "first", data[1:].lstrip(_SPACE)
        if self._state in {"first", "rows"} and data:
            data = self._read(data)
        if self._state == "end" and data.strip(_SPACE):
            raise NonsenseError("not JSON")
        self._rest = b"" if self._state == "end" else data

    def close(self) -> None:
        """There is no more; raises `NonsenseError` if that was not all of it."""
        if self._state != "end":
            raise NonsenseError("cut off" if self._state != "start" else "not JSON")

    def _read(self, data: bytes) -> bytes:
        """Take the whole rows of `data`, and give what is left."""
        # A piece that ends with a row is an array if brackets are put around it, and no other piece is. A brace may
        # stand within a text, so the last few are tried.
        end = data.rfind(b"}") + 1
        for _ in range(_CUTS):
            if not end:
                break
            if self._rows(data[:end]):
                self._state, data = "rows", data[end:].lstrip(_SPACE)
                break
            end = data.rfind(b"}", 0, end - 1) + 1
        # No further row ends here: the array does, or more has to come.
        end = data.find(b"]")
        if end == 0 or (end > 0 and self._rows(data[:end])):
            self._state = "end"
            return data[end + 1 :]
        if len(data) > _PIECE + _LONGEST_ROW:
            raise NonsenseError("not JSON")
        return data

    def _rows(self, piece: bytes, *, first: bool = False) -> bool:
        """Take rows; whether they are whole. All but the file's first begin with the comma after those before."""
        if self._state == "rows" and not first:
            if piece[:1] != b",":
                return False
            piece = piece[1:]
        text = b"[" + piece + b"]"
        try:
            rows: list[Any] = self._decode(text)
        except msgspec.ValidationError:  # some are no objects
            rows = self._decode_raw(text)
        except (msgspec.DecodeError, RecursionError):
            return False
        except UnicodeDecodeError:
            return self._rows(piece.decode(errors="replace").encode(), first=True)
        for row in rows:
            self._judge(row)
        return True

    def _judge(self, row: Any) -> None:
        if not isinstance(row, _Row):
            try:
                row = self._decode_row(row)
            except msgspec.DecodeError:
                self.rejected["not an object"] += 1
                return
        exchange = _text(row.exch_seg)
        if exchange not in EXCHANGES:
            if exchange in OTHERS:
                self.skipped[exchange] += 1
            else:
                self.rejected["exchange"] += 1
            return
        made = _made(row, exchange)
        if isinstance(made, str):
            self.rejected[made] += 1
            return
        self.rows += 1
        self._take(made)


def _made(row: _Row, exchange: str) -> MasterRow | str:
    """The instrument, or what is wrong with the row."""
    token, symbol = _text(row.token), _text(row.symbol)
    if not (token.isascii() and token.isalnum() and len(token) <= 24):  # a frame has 25 bytes for it, one of them NUL
        return "token"
    if not symbol or len(symbol) > SENSIBLE_CHARACTERS or not symbol.isprintable():
        return "symbol"
    name, kind, expiry = _text(row.name), _text(row.instrumenttype), _expiry(_text(row.expiry))
    if len(name) > SENSIBLE_CHARACTERS or not name.isprintable():
        name = ""
    if len(kind) > 16 or not (kind.isascii() and kind.isprintable()):
        return "kind"
    strike = _paise(_text(row.strike))
    derivative = kind.startswith(("FUT", "OPT"))
    if derivative and (not expiry or (kind.startswith("OPT") and not strike)):
        return "contract"
    lot = _lot(_text(row.lotsize)) if row.lotsize is None or isinstance(row.lotsize, str | int) else None
    if lot is None:
        return "lot"
    return MasterRow(
        exchange,
        token,
        symbol,
        name,
        kind,
        expiry if derivative else "",
        strike if kind.startswith("OPT") else None,
        lot or None,
        _paise(_text(row.tick_size)),
    )


def _text(value: Any) -> str:
    """In capitals, with single spaces; empty for what is neither text nor a whole number."""
    if type(value) is str:
        # The usual case: nothing to do.
        return value.upper() if value.isalnum() else " ".join(value.upper().split())
    return str(value) if type(value) is int else ""


@lru_cache(maxsize=4096)
def _expiry(text: str) -> str:
    """`26NOV2026` as a date; empty for anything else."""
    day, month, year = text[:-7], text[-7:-4], text[-4:]
    if month not in _MONTHS or not (day.isascii() and day.isdigit() and year.isascii() and year.isdigit()):
        return ""
    try:
        return date(int(year), _MONTHS.index(month) + 1, int(day)).isoformat()
    except ValueError:
        return ""


@lru_cache(maxsize=4096)
def _lot(text: str) -> int | None:
    """How many are traded at a time; 0 where the row says that there is no such number, None where it says nonsense."""
    whole, _, rest = text.partition(".")
    if rest.strip("0"):
        return None
    if whole in _NO_LOT:
        return 0
    return int(whole) if whole.isascii() and whole.isdigit() and len(whole) <= 9 else None


@lru_cache(maxsize=16_384)
def _paise(text: str) -> int | None:
    """A positive whole number of paise; None for anything else."""
    whole, _, rest = text.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 12) or rest.strip("0"):
        return None
    return int(whole) or None
