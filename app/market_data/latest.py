"""The newest tick of every symbol: in memory as it comes, in `market_latest` once it is stored.

The rows there are what is asked for often and must not grow with the ticks; each also says how many ticks of its symbol
are stored. They are replaced whole, from memory, a few times a second, after the ticks that they speak of are durable.

When the feed moves to another process both may write for a moment, and old ticks that are deleted are taken off the
counts by whoever deletes them. A row is therefore replaced only if it still is the one that was read or written last;
else what was added here is added to what is there.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec
import structlog
from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, PyMongoError

from app.core.clock import Clock
from app.market_data.models import LatestDocument, TickDocument
from app.market_data.ports import Tick
from app.market_data.rows import EncodedRow, decode, from_ms, to_ms
from app.market_data.waiting import within

log = structlog.get_logger(__name__)

SAVE_EVERY: Final = 1.0
CATCH_UP: Final = timedelta(seconds=5)
"""How far behind the newest rows a killed process may have left uncounted ticks: five saves."""
PATIENCE: Final = 3.0
"""Seconds that a write or a read of latest rows may take."""
_LIVELY_MS: Final = 60_000
_OPERATIONS: Final = 500
DUPLICATE_KEY: Final = 11000
_NEVER: Final = 1 << 62


class _Tally(msgspec.Struct):
    """What is counted of a symbol."""

    stored: int = 0
    by_quality: Counter[str] = msgspec.field(default_factory=Counter)
    by_source: Counter[str] = msgspec.field(default_factory=Counter)

    def copy(self) -> "_Tally":
        return _Tally(self.stored, self.by_quality.copy(), self.by_source.copy())

    def add(self, other: "_Tally", times: int = 1) -> None:
        self.stored += times * other.stored
        for mine, theirs in ((self.by_quality, other.by_quality), (self.by_source, other.by_source)):
            for key, count in theirs.items():
                mine[key] += times * count


class _Symbol(msgspec.Struct):
    """A row of `market_latest` in the making."""

    raw: bytes
    """The newest tick that is stored."""
    received_ms: int
    first_ms: int
    first_saved_ms: int
    """What the row in the database says of that, as far as is known; `_NEVER` if nothing is."""
    total: _Tally
    saved: _Tally
    """What the row in the database counts, as far as is known."""
    attempt: tuple[int, _Tally] | None = None
    """What was sent last and not acknowledged, and may still arrive: the time of its tick, and its counts."""


class LatestPrices:
    """The newest ticks, and the rows that tell of those that are stored."""

    def __init__(self, db: AsyncDatabase[dict[str, Any]], clock: Clock, *, patience: float = PATIENCE) -> None:
        """`patience`: seconds that one write or read may take."""
        # The settings are asked, not Beanie: rows go through the raw collections.
        self._rows = db[LatestDocument.Settings.name]
        self._ticks_stored = db[TickDocument.Settings.name]
        self._clock, self._patience = clock, patience
        self._ticks: dict[str, Tick] = {}
        self._symbols: dict[str, _Symbol] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._saving = asyncio.Lock()
        self._failing = False

    # In memory

    def seen(self, tick: Tick) -> bool:
        """Take a tick that passed the checks; says whether it is the newest of its symbol."""
        symbol = tick.instrument.symbol
        known = self._ticks.get(symbol)
        if known is not None:
            # By the exchange's clock; of ticks that share a time the one that came last.
            if tick.exchange_ms < known.exchange_ms:
                return False
        elif (stored := self._symbols.get(symbol)) is not None and tick.received_ms <= stored.received_ms:
            return False
        self._ticks[symbol] = tick
        return True

    def snapshot(self) -> dict[str, Tick]:
        """The newest tick of every symbol that came to this process."""
        return dict(self._ticks)

    def stored(self) -> dict[str, int]:
        """How many ticks of each symbol are stored, by what this process knows."""
        return {name: symbol.total.stored for name, symbol in self._symbols.items()}

    # What is stored

    def note_stored(self, rows: Iterable[EncodedRow], *, counted: bool = True) -> None:
        """Rows are durable; `counted=False`: they were before, and only the newest of them matters."""
        for row in rows:
            known = self._symbols.get(row.symbol)
            if known is None:
                known = _Symbol(row.raw, row.received_ms, row.received_ms, _NEVER, _Tally(), _Tally())
                self._symbols[row.symbol] = known
            elif row.received_ms > known.received_ms:
                known.raw, known.received_ms = row.raw, row.received_ms
            elif row.received_ms < known.first_ms:
                known.first_ms = row.received_ms
            elif not counted:
                continue
            if counted:
                known.total.stored += 1
                known.total.by_quality[row.quality] += 1
                known.total.by_source[row.source] += 1
            self._changed.add(row.symbol)
        self._wake.set()

    async def run(self) -> None:
        """Save what has changed, at most every `SAVE_EVERY` seconds, until cancelled."""
        while True:
            await self._wake.wait()
            await self.save()
            await asyncio.sleep(SAVE_EVERY)

    async def save(self) -> bool:
        """Write the rows that have changed; says whether all of them are written. Never raises `PyMongoError`."""
        async with self._saving:
            self._wake.clear()
            names = sorted(self._changed)
            try:
                for start in range(0, len(names), _OPERATIONS):
                    await self._save(names[start : start + _OPERATIONS])
            except (PyMongoError, TimeoutError) as error:
                if not self._failing:
                    log.warning("the latest prices cannot be saved", error=type(error).__name__)
                self._failing = True
                self._wake.set()
                return False
            self._failing = False
            if self._changed:
                self._wake.set()
            return not self._changed

    async def _save(self, names: Sequence[str]) -> None:
        # Of a row whose answer was lost it is not known what it says.
        if unsure := [name for name in names if self._symbols[name].attempt is not None]:
            await self._merge(unsure)
        sent, firsts = [], []
        for name in names:
            symbol = self._symbols[name]
            self._changed.discard(name)
            sent.append((symbol.received_ms, symbol.total.copy()))
            firsts.append(symbol.first_ms)
        operations = [self._replacement(name, self._symbols[name]) for name in names]
        refused: list[str] = []
        try:
            await within(self._patience, self._rows.bulk_write(operations, ordered=False))
        except BulkWriteError as error:
            refused = [names[found["index"]] for found in error.details.get("writeErrors", ())]
            if error.details.get("writeConcernErrors"):
                refused = list(names)
        except BaseException:
            self._changed.update(names)
            for name, attempt in zip(names, sent, strict=True):
                self._symbols[name].attempt = attempt
            raise
        for name, (_, counts), first_ms in zip(names, sent, firsts, strict=True):
            if name not in refused:
                symbol = self._symbols[name]
                symbol.saved, symbol.first_saved_ms, symbol.attempt = counts, first_ms, None
        if refused:
            self._changed.update(refused)
            # Another process's rows, or our own: the driver repeats by itself what a killed database had carried out.
            for name, attempt in zip(names, sent, strict=True):
                if name in refused:
                    self._symbols[name].attempt = attempt
            await self._merge(refused)

    def _replacement(self, name: str, symbol: _Symbol) -> ReplaceOne[dict[str, Any]]:
        tick = RawBSONDocument(symbol.raw)
        received_at = from_ms(symbol.received_ms)
        # Of an older tick, or with counts that are not the known ones, the filter finds nothing; the insertion that is
        # tried then fails on the id.
        same = {"_id": name, "received_at": {"$lte": received_at}, "stored": symbol.saved.stored}
        if symbol.first_saved_ms != _NEVER:
            same["first_at"] = from_ms(symbol.first_saved_ms)
        return ReplaceOne(
            same,
            {
                "schema_version": 1,
                "token": tick["token"],
                "exchange": tick["exchange"],
                "exchange_type": tick["exchange_type"],
                "tick": tick,
                "received_at": received_at,
                "first_at": from_ms(symbol.first_ms),
                "stored": symbol.total.stored,
                "by_quality": dict(+symbol.total.by_quality),
                "by_source": dict(+symbol.total.by_source),
            },
            upsert=True,
        )

    # After another process, or a kill

    async def load(self) -> None:
        """Learn what is stored: the rows, and the ticks that a killed process left uncounted. Raises `PyMongoError`
        and `TimeoutError`.

        To be called whenever the feed comes to this process, before the first tick. A bulk of rows that was stored less
        than `CATCH_UP` before the kill is found; a tick whose own time is older than its symbol's row is not, if it was
        stored within `SAVE_EVERY` seconds before.
        """
        async with self._saving:
            await self._merge(None)
            await self._catch_up()

    async def _merge(self, names: Sequence[str] | None) -> None:
        """Take over what the rows say (all of them if None); what was added here since is added to it."""
        rows = self._rows.with_options(codec_options=CodecOptions(document_class=RawBSONDocument, tz_aware=True))
        wanted = {} if names is None else {"_id": {"$in": list(names)}}
        for row in await within(self._patience, rows.find(wanted).to_list()):
            there = _Tally(row["stored"], Counter(dict(row["by_quality"])), Counter(dict(row["by_source"])))
            received_ms, first_ms = to_ms(row["received_at"]), to_ms(row["first_at"])
            name = row["_id"]
            known = self._symbols.get(name)
            if known is None:
                raw = bytes(row["tick"].raw)
                self._symbols[name] = _Symbol(raw, received_ms, first_ms, first_ms, there, there.copy())
                continue
            if known.attempt == (received_ms, there):
                known.saved, known.attempt = there, None  # it did arrive
            total = there.copy()
            total.add(known.total)
            total.add(known.saved, -1)
            known.total, known.saved = total, there
            # What came here since may be older; if nothing did, what was older there is deleted.
            came_older = known.first_ms < known.first_saved_ms
            known.first_ms = min(known.first_ms, first_ms) if came_older else first_ms
            known.first_saved_ms = first_ms
            if received_ms > known.received_ms:
                known.raw, known.received_ms = bytes(row["tick"].raw), received_ms

    async def _catch_up(self) -> None:
        now_ms = to_ms(self._clock.now())
        newest = [symbol.received_ms for symbol in self._symbols.values()]
        latest = max(newest, default=now_ms)
        start = min([ms for ms in newest if ms >= latest - _LIVELY_MS], default=latest)
        span = {"$gte": from_ms(start) - CATCH_UP, "$lt": from_ms(max(now_ms, latest) + _LIVELY_MS)}
        ticks = self._ticks_stored.with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
        missed = []
        async for row in ticks.find({"received_at": span}):
            found = decode(bytes(row.raw))
            known = self._symbols.get(found.symbol)
            if known is None or found.received_ms > known.received_ms:
                missed.append(found)
        if missed:
            log.info("ticks that were stored before a kill are counted", ticks=len(missed))
            self.note_stored(missed)
