"""Durable inserts that share writes: while one write is under way, the next ones gather and go together.

Nothing is acknowledged before its own write is durable, and a lone insert does not wait for company. On the embedded
database a batch of 16 takes little more time than a single insert.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, ConnectionFailure, PyMongoError, WriteConcernError
from pymongo.read_concern import ReadConcern

from app.core.errors import UnavailableError

log = structlog.get_logger(__name__)

DUPLICATE_KEY = 11000
Row = dict[str, Any]


class DuplicateRowError(Exception):
    """A unique index has another row already."""


class _Waiting:
    """A row, what its sender wants to be told with it, and whoever waits for it to be stored.

    `refused`: a unique index has its value already, by another row or by this very one: an earlier attempt, of ours or
    of the driver's, may have been carried out although no answer came.
    """

    __slots__ = ("done", "note", "refused", "row")

    def __init__(self, row: Row, note: Any, done: asyncio.Future[None]) -> None:
        self.row = row
        self.note = note
        self.done = done
        self.refused = False


class GroupCommit:
    """Inserts into one collection, several rows a write.

    Rows bring their own `_id`: after a lost connection that is how a row that did arrive is told from one that did not.
    """

    def __init__(
        self,
        collection: AsyncCollection[Row],
        *,
        on_stored: Callable[[Row, Any], None] | None = None,
        on_batch: Callable[[int], None] | None = None,
        patience: float = 2.5,
        max_batch: int = 128,
        max_waiting: int = 4096,
    ) -> None:
        self._collection = collection
        # A row is only vouched for when a majority has it.
        self._majority = collection.with_options(read_concern=ReadConcern("majority"))
        self._on_stored = on_stored
        self._on_batch = on_batch
        self._patience = patience
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: list[_Waiting] = []
        self._last = 0
        self._writer: asyncio.Task[None] | None = None

    async def insert(self, row: Row, note: Any = None) -> None:
        """Return when `row` is durable; `on_stored` is called with it and `note` just before.

        Raises `DuplicateRowError` when a unique index refuses it, and `UnavailableError` when it was not known to be
        stored within `patience` seconds. If it was sent by then, it may be found stored later: `on_stored` hears of it.
        """
        if len(self._waiting) >= self._max_waiting:
            raise UnavailableError("Too much is waiting to be stored; try again shortly.", retry_after=1)
        waiting = _Waiting(row, note, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all(), name="group commit")
        try:
            async with asyncio.timeout(self._patience):
                await waiting.done
        except TimeoutError:
            raise UnavailableError("It could not be stored in time; nothing was acknowledged. Try again.") from None

    async def drain(self, deadline: float = 5.0) -> None:
        """Wait until nothing is waiting to be written, `deadline` seconds at most: the database may be away."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        while self._writer is not None and loop.time() < end:
            await asyncio.wait([self._writer], timeout=end - loop.time())
        if self._writer is not None:
            log.warning("rows that nobody was told were stored are given up", rows=len(self._waiting))
            self._writer.cancel()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                # Rows that were never sent and that nobody waits for any more: their senders were told so, and an alert
                # that turns up long after its time is worse than one that does not.
                waiting = [waiting for waiting in self._waiting if not waiting.done.done()]
                batch, self._waiting = waiting[: self._max_batch], waiting[self._max_batch :]
                if not batch:
                    return
                self._last = len(batch)
                if self._on_batch:
                    self._on_batch(self._last)
                await self._write(batch)
        finally:
            self._writer = None

    async def _gather(self) -> None:
        """Let rows that are about to come join this write.

        A row alone goes on after one turn of the event loop. After a batch its senders are expected back: the write
        then waits a millisecond for them, which is less than what a second write would cost.
        """
        await asyncio.sleep(0)
        if len(self._waiting) * 2 < self._last:
            await asyncio.sleep(0.001)

    async def _write(self, batch: list[_Waiting]) -> None:
        """Write `batch` until each row's fate is known, or nobody waits for it any more."""
        pause = 0.05
        while batch:
            try:
                await self._collection.insert_many([waiting.row for waiting in batch], ordered=False)
            except BulkWriteError as error:
                batch = self._settle(batch, error.details)
                if any(waiting.refused for waiting in batch):
                    batch = await self._still_open(batch)  # at once: it is a repeat, and its sender waits
            except (ConnectionFailure, WriteConcernError) as error:
                log.warning("write interrupted", collection=self._collection.name, error=type(error).__name__)
            except Exception as error:  # a row that cannot be encoded or is refused: the writer must live on
                if len(batch) == 1:
                    log.exception("write failed", collection=self._collection.name)
                    self._fail(batch, error)
                for waiting in batch if len(batch) > 1 else ():
                    await self._write([waiting])  # the others must not suffer for it
                return
            else:
                self._succeed(batch)
                return
            if batch:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.4)
                batch = await self._still_open(batch)

    def _settle(self, batch: list[_Waiting], details: Mapping[str, Any]) -> list[_Waiting]:
        """Tell each row's fate from a bulk write's report; gives the rows whose fate is open."""
        errors = {error["index"]: error for error in details.get("writeErrors", ())}
        unacknowledged = bool(details.get("writeConcernErrors"))
        open_: list[_Waiting] = []
        for index, waiting in enumerate(batch):
            error = errors.get(index)
            if error is None:
                if unacknowledged:
                    open_.append(waiting)
                else:
                    self._succeed([waiting])
            elif error.get("code") == DUPLICATE_KEY and error.get("keyPattern") == {"_id": 1}:
                # Ids are given once, so an attempt that seemed lost did arrive; whether a majority has it is seen next.
                open_.append(waiting)
            elif error.get("code") == DUPLICATE_KEY:
                waiting.refused = True
                open_.append(waiting)  # whether by this very row is seen next
            else:
                log.error("row refused", collection=self._collection.name, code=error.get("code"))
                self._fail([waiting], None)
        return open_

    async def _still_open(self, batch: list[_Waiting]) -> list[_Waiting]:
        """After an interruption or a refusal, the rows that have to be written again.

        Those that are stored or that another row keeps out are settled; those that nobody waits for are dropped.
        """
        try:
            # One by one: the embedded database scans the whole collection for an `$in` on ids.
            asked = [self._majority.find_one({"_id": waiting.row["_id"]}, {"_id": 1}) for waiting in batch]
            stored = {row["_id"] for row in await asyncio.gather(*asked) if row is not None}
        except PyMongoError:
            # Nothing is known yet; abandoned rows stay, since they may be stored and would have to be announced.
            if any(not waiting.done.done() for waiting in batch) or len(self._waiting) < self._max_waiting // 2:
                return batch
            return []
        self._succeed([waiting for waiting in batch if waiting.row["_id"] in stored])
        missing = [waiting for waiting in batch if waiting.row["_id"] not in stored and not waiting.done.done()]
        for waiting in missing:
            if waiting.refused:
                waiting.done.set_exception(DuplicateRowError())
        return [waiting for waiting in missing if not waiting.done.done()]

    def _succeed(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_result(None)
            if self._on_stored:
                self._on_stored(waiting.row, waiting.note)

    def _fail(self, batch: list[_Waiting], error: Exception | None) -> None:
        for waiting in batch:
            if not waiting.done.done():
                unavailable = UnavailableError("The database refused to store it; it was logged. Try again.")
                unavailable.__cause__ = error
                waiting.done.set_exception(unavailable)
