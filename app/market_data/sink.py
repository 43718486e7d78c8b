"""Into the database: ticks gather in a bounded buffer and are written in batches, one write at a time.

When the database does not take them they go to the spill, and come back from there once it does. Nothing is stored
twice: a row has the same id whoever writes it and how often (see `rows`). What cannot be kept is counted as lost.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Final, TypeVar

import structlog
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.market_data.checks import UNENCODABLE
from app.market_data.counters import Counters
from app.market_data.placing import Placing
from app.market_data.rows import EncodedRow, Row, decode, encode
from app.market_data.spill import Spill, SpilledBatch
from app.market_data.waiting import within

log = structlog.get_logger(__name__)

ROUNDS: Final = 20
"""How often a row is placed anew until it is given up; each time another process was quicker."""
SAVES: Final = 5
"""How often it is tried to save what is counted, when rows have come back from the spill."""
_FULL: Final = 0.8
"""Filled to this share, the buffer's older half goes to the spill."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SinkBounds:
    """How much waits, and how long."""

    rows: int = 100_000
    bytes: int = 128 * 1024 * 1024
    """Of the rows' BSON: a row without its order book has about 550."""
    batch: int = 250
    linger: float = 0.03
    """Seconds that the first row of a batch waits for company."""
    patience: float = 2.0
    """Seconds that one write may take, and that writes may fail before rows go to the spill."""
    retry: float = 0.5
    """Seconds between attempts while the database is away, or the disk."""
    adopt_every: float = 30.0


class TickStore:
    """Fills the port `TickSink`; `run` is to be supervised, `drain` to be called at the end."""

    def __init__(
        self,
        collection: AsyncCollection[Row],
        *,
        clock: Clock,
        counters: Counters,
        spill: Spill,
        on_stored: Callable[[Sequence[EncodedRow], bool], None],
        on_drained: Callable[[], Awaitable[bool]],
        bounds: SinkBounds | None = None,
    ) -> None:
        """`on_stored` is told of rows once they are durable, and whether they are new there (True) or were before.

        `on_drained` is awaited after each batch from the spill, to save what is counted, and says whether that is done:
        nobody finds these old rows uncounted later. A process that ends in between leaves one batch uncounted at most.
        """
        self._collection = collection
        self._placing = Placing(collection)
        self._clock = clock
        self._counters = counters
        self._spill = spill
        self._on_stored = on_stored
        self._on_drained = on_drained
        self._bounds = bounds or SinkBounds()
        self._waiting: deque[EncodedRow] = deque()
        self._bytes = 0
        self._came = asyncio.Event()
        # Guards all that follows, between `run` and `drain`.
        self._turn = asyncio.Lock()
        self._in_hand: list[EncodedRow] = []
        self._from_spill: tuple[SpilledBatch, list[EncodedRow]] | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spill")  # one: calls of the spill take turns
        self._disk_again_at = self._probe_at = self._adopt_at = 0.0
        self._probe: asyncio.Task[bool] | None = None
        self._failing_since: float | None = None
        self._away = False
        self._closing = self._closed = False
        self._last_error: str | None = None

    # Taking

    def offer(self, rows: Sequence[Row]) -> None:
        """Take rows of `market_data`; never waits, never raises. What cannot be kept is counted as lost."""
        most = 0 if self._closed else self._bounds.rows - len(self._in_hand)
        for row in rows:
            if len(self._waiting) >= most or self._bytes >= self._bounds.bytes:
                self._counters.lost += 1
                continue
            try:
                encoded = encode(row)
            except Exception as error:  # noqa: BLE001 (whatever a row holds, the others are taken)
                self._counters.reject(UNENCODABLE)
                self._note_error("a row cannot be encoded", error)
                continue
            self._waiting.append(encoded)
            self._bytes += len(encoded.raw)
        self._came.set()

    @property
    def waiting(self) -> int:
        """Rows that are neither stored nor on the disk."""
        return len(self._waiting) + len(self._in_hand)

    @property
    def lost(self) -> int:
        """Rows given up since the start."""
        return self._counters.lost

    def health(self) -> dict[str, Any]:
        """How storing goes; `status` is `degraded` while rows go to the disk, or nowhere. Never raises."""
        return {
            "status": "degraded" if self._away or self._spill.last_error else "ok",
            "waiting": self.waiting,
            "spill_bytes": self._spill.bytes if self._spill.pending else 0,
            "lost": self._counters.lost,
            "last_error": self._last_error or self._spill.last_error,
        }

    # Writing

    async def run(self) -> None:
        """Write what waits, until cancelled or drained; what was in hand then waits again."""
        bounds = self._bounds
        while not self._closing:
            if not self._waiting and not self._away and not self._spill.pending:
                await self._arrival(self._adopt_at - self._clock.monotonic())
            if 0 < len(self._waiting) < bounds.batch and not self._away and not self._closing:
                await asyncio.sleep(bounds.linger)
            async with self._turn:
                pause = await self._step()
            await asyncio.sleep(pause)

    async def drain(self, deadline: float = 3.0) -> None:
        """Store what waits, for `deadline` seconds at most; the rest goes to the spill. Ends `run`."""
        end = self._clock.monotonic() + deadline
        self._closing = True
        self._came.set()
        async with self._turn:
            while self._waiting and not self._away and self._clock.monotonic() < end:
                await self._write_live()
            if self._probe is not None:
                self._probe.cancel()
                await asyncio.wait([self._probe])
            self._closed = True
            self._disk_again_at = 0.0
            await self._put_away(len(self._waiting))
            if self._waiting:
                log.error("ticks are lost: neither the database nor the disk took them", rows=len(self._waiting))
                self._counters.lost += len(self._waiting)
                self._waiting.clear()
            await self._on_disk(self._spill.close)
        self._disk.shutdown(wait=False)

    async def _arrival(self, seconds: float) -> None:
        """Wait for rows, `seconds` at most."""
        self._came.clear()
        if self._waiting or self._closing or seconds <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._came.wait()

    async def _step(self) -> float:
        """Do what is most urgent; gives how many seconds nothing should be done after it."""
        now = self._clock.monotonic()
        if now >= self._adopt_at:
            self._adopt_at = now + self._bounds.adopt_every
            await self._on_disk(self._spill.adopt)
        if self._away:
            await self._step_away()
            return 0.0
        if self._is_full():
            await self._put_away(len(self._waiting) // 2)
        if self._waiting:
            await self._write_live()
        return await self._step_back() if self._can_drain() else 0.0

    def _can_drain(self) -> bool:
        return not self._away and self._spill.pending and len(self._waiting) < self._bounds.rows // 4

    async def _step_back(self) -> float:
        """Bring back some spilled rows: a batch for a batch of new ones, and half of the time when there are none."""
        began = self._clock.monotonic()
        await self._settle_spilled()
        self._go_away_if_due()
        spent = self._clock.monotonic() - began
        return 0.0 if self._waiting else min(max(spent, 0.01), 0.25)

    async def _step_away(self) -> None:
        """Rows go to the disk as they come, while one attempt after the other is made to store the oldest."""
        if self._waiting:
            await self._put_away(len(self._waiting))
        now = self._clock.monotonic()
        if self._probe is None and now >= self._probe_at:
            self._probe_at = now + self._bounds.retry
            self._probe = asyncio.create_task(self._settle_spilled() if self._spill.pending else self._ping())
        if self._probe is None:
            await asyncio.sleep(0.1)
            return
        await asyncio.wait([self._probe], timeout=0.1)
        if self._probe.done():
            probe, self._probe = self._probe, None
            if not probe.cancelled() and probe.result():
                self._away, self._failing_since = False, None
                log.info("the database takes ticks again", spilled_bytes=self._spill.bytes)

    async def _write_live(self) -> None:
        """Write the oldest batch until it is settled, or the database is taken to be away."""
        self._in_hand = self._take(self._bounds.batch)
        pause = 0.05
        try:
            for _ in range(ROUNDS):
                self._in_hand = await self._attempt(self._in_hand)
                while self._in_hand and self._failing_since is not None and not self._go_away_if_due():
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.4)
                    self._in_hand = await self._attempt(self._in_hand)
                if not self._in_hand or self._away:
                    return
            self._lose(self._in_hand, "no place for them was free for long enough")
            self._in_hand = []
        finally:
            self._put_back(self._in_hand)
            self._in_hand = []

    async def _settle_spilled(self) -> bool:
        """Write the oldest spilled batch, once or as often as it helps; says whether it is settled."""
        if self._from_spill is None:
            batch = await self._on_disk(self._spill.read)
            if batch is None:
                return True
            rows = [decode(raw) for raw in batch.rows]
            for row in rows:
                row.tried = batch.tried
            self._from_spill = (batch, rows)
        batch, rows = self._from_spill
        for _ in range(ROUNDS):
            if rows:
                rows = await self._attempt(rows)
                self._from_spill = (batch, rows)
            if not rows:
                for _ in range(SAVES):  # where another process has the feed it counts, too, and both have their turn
                    if await self._on_drained():
                        break
                await self._on_disk(self._spill.done, batch)
                self._from_spill = None
                self._counters.drained += len(batch.rows)
                return True
            if self._failing_since is not None:
                return False
        self._lose(rows, "no place for them was free for long enough")
        self._from_spill = (batch, [])
        return False

    async def _ping(self) -> bool:
        try:
            await within(self._bounds.patience, self._collection.database.command("ping"))
        except (PyMongoError, TimeoutError):
            return False
        return True

    async def _attempt(self, rows: list[EncodedRow]) -> list[EncodedRow]:
        """Write rows once; gives those whose fate is open. `_failing_since` says whether that is the database's fault.

        Raises nothing of the database's.
        """
        try:
            report = await within(self._bounds.patience, self._placing.insert(rows))
        except BaseException as error:
            for row in rows:
                row.tried = True
            if not isinstance(error, PyMongoError | TimeoutError):
                raise
            self._failed(type(error).__name__)
            return rows
        if report.get("writeErrors") or report.get("writeConcernErrors"):
            return await self._sort(rows, report)
        self._works()
        self._note(rows)
        return []

    async def _sort(self, rows: list[EncodedRow], report: Mapping[str, Any]) -> list[EncodedRow]:
        try:
            fates = await within(self._bounds.patience, self._placing.sort(rows, report))
        except BaseException as interrupted:
            # Of those that were stored just now nobody was told: as after any lost answer.
            for row in rows:
                row.tried = True
            if not isinstance(interrupted, TimeoutError):
                raise
            self._failed("TimeoutError")
            return rows
        if fates.failure is None:
            self._works()
        else:
            self._failed(fates.failure)
        self._counters.moved += fates.moved
        self._note(fates.stored + [row for row in fates.there if row.tried])
        if repeats := [row for row in fates.there if not row.tried]:
            for row in repeats:
                self._counters.repeat(row.symbol)
            self._on_stored(repeats, False)
        if fates.refused:
            self._lose(fates.refused, f"the database refused them ({sorted(fates.codes)})")
        return fates.open

    # The buffer and the disk

    def _take(self, count: int) -> list[EncodedRow]:
        rows = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._bytes -= sum(len(row.raw) for row in rows)
        return rows

    def _put_back(self, rows: list[EncodedRow]) -> None:
        self._waiting.extendleft(reversed(rows))
        self._bytes += sum(len(row.raw) for row in rows)

    def _is_full(self) -> bool:
        return len(self._waiting) > _FULL * self._bounds.rows or self._bytes > _FULL * self._bounds.bytes

    async def _put_away(self, count: int) -> None:
        """Put the oldest `count` rows on the disk, as many as it takes."""
        if self._clock.monotonic() < self._disk_again_at:
            return
        chunk = list(islice(self._waiting, count))
        for tried, group in groupby(chunk, key=lambda row: row.tried):
            rows = [row.raw for row in group]
            kept = await self._append(rows, tried)
            if kept < len(rows):
                self._disk_again_at = self._clock.monotonic() + self._bounds.retry
                return

    async def _append(self, rows: list[bytes], tried: bool) -> int:
        call = self._disk.submit(self._spill.append, rows, tried=tried)
        try:
            await asyncio.wait([asyncio.wrap_future(call)])
        finally:
            # When cancelled too, the rows must not be both there and here; the disk is not given up half-way.
            kept = call.result()
            self._take(kept)
            self._counters.spilled += kept
        return kept

    async def _on_disk(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, call, *arguments)

    # What is known

    def _note(self, rows: list[EncodedRow]) -> None:
        if rows:
            self._counters.stored += len(rows)
            self._on_stored(rows, True)

    def _lose(self, rows: Sequence[EncodedRow], why: str) -> None:
        self._counters.lost += len(rows)
        log.error("ticks are lost", rows=len(rows), why=why)

    def _works(self) -> None:
        self._failing_since = self._last_error = None

    def _failed(self, error: str) -> None:
        if self._failing_since is None:
            self._failing_since = self._clock.monotonic()
        self._note_error("ticks cannot be stored", error)

    def _note_error(self, what: str, error: Exception | str) -> None:
        """Log an error once, until things work again or another comes."""
        kind = error if isinstance(error, str) else type(error).__name__
        if kind != self._last_error:
            self._last_error = kind
            log.warning(what, error=kind)

    def _go_away_if_due(self) -> bool:
        """Whether the database is to be taken for away: it has failed for long, or there is no room or time to wait."""
        since = self._failing_since
        if since is None:
            return False
        if self._closing or self._is_full() or self._clock.monotonic() - since >= self._bounds.patience:
            if not self._away:
                log.warning("ticks go to the disk until the database takes them again", waiting=self.waiting)
            self._away = True
        return self._away
