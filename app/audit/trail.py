"""The audit trail: acts in, chained entries out. One writer per process, batches shared; see `store` for the steps."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.audit.chain import Row, chained
from app.audit.draft import draft, remark
from app.audit.store import ADVANCED, EXPIRED, LOST, Base, ChainStore, DamagedHeadError, Head
from app.core.audit import Act
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.request_info import current_request

log = structlog.get_logger(__name__)

_MENDING = 10
"""How often a head that is missing or damaged is made anew at one time, while others work on it too."""
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0
"""Seconds between attempts while the database is away."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """An act on its way, what its writing changes of the chain's beginning, and whoever waits for it."""

    row: Row
    base: Base | None = None
    hurried: bool = False
    """Whoever waits for it goes on when it is durable, before it is among the entries."""
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class ChainedAuditTrail:
    """Implements `core.audit.AuditTrail`.

    A lone act is written at once; what comes while a write is under way goes together with the next one. An act that
    could not be written in time is still written when the database is back: it did happen. What is lost in the end,
    because the process ends before that or too much is waiting, is in the log.
    """

    def __init__(
        self,
        db: AsyncDatabase[Row],
        clock: Clock,
        *,
        patience: float = 2.5,
        max_batch: int = 64,
        max_waiting: int = 4096,
    ) -> None:
        self.store = ChainStore(db)
        self._clock = clock
        self._patience = patience
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._head: Head | None = None
        """As this process knows it; another one may have moved it. None: it has to be read."""
        self._newest: Head | None = None
        """The newest that this process has ever known: the head never goes back by itself."""
        self._turn = asyncio.Lock()
        """Held by whoever works with the head: the writer, or `complete`."""
        self._settled = True
        """Whether all that the head carries is among the entries."""
        self._doubt = False
        """Whether an attempt to write what is first in the queue may have succeeded without our knowing."""
        self._careful = 0
        """How many acts are written one at a time, since one of them cannot be written."""
        self._head_lost = False
        self._acts_lost = False
        """Both since the start of this process."""

    async def record(self, act: Act, *, hurried: bool = False) -> None:
        """Return when `act` is durably in the trail. Raises `UnavailableError` when it could not be stored in time.

        `hurried`: see the port.
        """
        await self._add(_Waiting(draft(act, current_request(), self._clock.now()), hurried=hurried))

    async def note(self, act: Act) -> None:
        """Write down an act that is done already: as `record`, but whoever did it gets no error.

        It waits as long as `record` does, so that it is usually there when an answer says that the act is done. After
        that it stays in the queue.
        """
        try:
            await self.record(act)
        except UnavailableError:  # what is lost for good was logged with all there is to know
            log.warning("an act is done, and not in the audit trail yet", action=act.action)

    async def expire(self, base: Base) -> None:
        """Write down that all entries up to `base` expire, and begin the chain after it; both at once, or neither.

        Raises `UnavailableError`.
        """
        row = remark(EXPIRED, self._clock.now(), number=base.number, hash=base.hash, before=base.since.isoformat())
        await self._add(_Waiting(row, base))

    async def complete(self) -> Head | None:
        """Put right what a crash left behind; at the start of the service. Gives the head, if there is one.

        Entries that only the head carries are inserted. A head that stayed behind its entries (a copy made of a running
        service has such a one) is moved over those that follow it, which is itself written down. A head that was
        removed or damaged is made anew, in writing too: whoever meddles with it must not keep the service from its
        start. A database without a trail stays as it is: empty, so that something can be imported into it.
        """
        if self._newest is None and await self._is_empty():
            return None
        async with self._turn:
            return await self._advanced(await self._known_head())

    async def _is_empty(self) -> bool:
        try:
            return await self.store.head() is None and await self.store.ends() is None
        except DamagedHeadError:
            return False

    async def health(self) -> dict[str, Any]:
        """The line for `/health`. `kind` says what is wrong, as far as this process noticed since its start.

        `head_lost`: the head of the chain had been removed or damaged, see `scripts/verify_audit.py`; `acts_lost`: acts
        could not be written down at all, see the log; `behind`: some wait for longer than whoever did them waits.
        """
        kinds = {"head_lost": self._head_lost, "acts_lost": self._acts_lost, "behind": self._behind()}
        kind = next((kind for kind, holds in kinds.items() if holds), None)
        return {"status": "degraded", "kind": kind} if kind else {"status": "ok"}

    def _behind(self) -> bool:
        return bool(self._waiting) and asyncio.get_running_loop().time() - self._waiting[0].since > self._patience

    async def drain(self, deadline: float = 5.0) -> None:
        """Wait until all is written, `deadline` seconds at most: the database may be away. What is lost is logged."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        while self._writer is not None and loop.time() < end:
            await asyncio.wait([self._writer], timeout=end - loop.time())
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        for waiting in self._waiting:
            self._lose(waiting, None)
        self._waiting = []

    # ── the queue ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _add(self, waiting: _Waiting) -> None:
        if len(self._waiting) >= self._max_waiting:
            self._lose(waiting, None)
        else:
            self._enqueue(waiting)
        try:
            async with asyncio.timeout(self._patience):
                await waiting.done
        except TimeoutError:
            raise UnavailableError("The audit trail could not be written in time. Try again shortly.") from None

    def _enqueue(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all(), name="audit trail")

    async def _write_all(self) -> None:
        pause, conflicts = _FIRST_PAUSE, 0
        try:
            while self._waiting or not self._settled:
                await asyncio.sleep(0)  # let those join that are about to come
                size = 1 if self._careful else self._max_batch
                try:
                    written = await self._write(size)
                except (PyMongoError, DamagedHeadError) as error:
                    log.warning("audit write interrupted", error=type(error).__name__, waiting=len(self._waiting))
                    self._head = None
                    await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 (jitter, not a secret)
                    pause = min(pause * 2, _LAST_PAUSE)
                    continue
                except Exception as error:  # an entry that cannot be encoded, say: the writer must live on
                    log.exception("acts could not be written down")
                    self._give_up(size, error)
                    continue
                pause = _FIRST_PAUSE
                conflicts = 0 if written else min(conflicts + 1, 6)
                if not written:  # another process was faster: not all in step again
                    await asyncio.sleep(random.uniform(0, 0.001 * 2**conflicts))  # noqa: S311
        finally:
            self._writer = None

    def _give_up(self, size: int, error: Exception) -> None:
        """Something is wrong with one of the first `size` acts: find out which, it must not take the others along."""
        self._head = None
        if size > 1 and len(self._waiting) > 1:
            self._careful = min(size, len(self._waiting))
            return
        self._lose(self._waiting.pop(0), error)
        self._doubt = False
        self._careful = max(0, self._careful - 1)

    def _lose(self, waiting: _Waiting, error: Exception | None) -> None:
        """Tell whoever waits, and keep what there is to know in the log."""
        row = waiting.row
        known = {
            name: str(row[name]) for name in ("at", "action", "outcome", "account_id", "request_id") if name in row
        }
        log.error("an act is missing in the audit trail", **known)
        self._acts_lost = True
        if not waiting.done.done():
            unavailable = UnavailableError("The audit trail could not be written. Try again shortly.")
            unavailable.__cause__ = error
            waiting.done.set_exception(unavailable)
            waiting.done.exception()  # whoever asked may be gone

    def _succeed(self, batch: Sequence[_Waiting]) -> None:
        through = {id(waiting) for waiting in batch}
        self._waiting = [waiting for waiting in self._waiting if id(waiting) not in through]
        self._doubt = False
        self._careful = max(0, self._careful - len(batch))
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_result(None)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _write(self, most: int) -> bool:
        """Write the next acts; False if another process moved the head meanwhile. Raises what the store raises."""
        async with self._turn:
            return await self._write_in_turn(most)

    async def _write_in_turn(self, most: int) -> bool:
        head = await self._known_head()
        batch = self._waiting[:most]
        if self._doubt and (stored := [waiting for waiting in batch if await self._is_stored(head, waiting)]):
            self._succeed(stored)
            return True
        if not batch:
            return True
        rows = chained((waiting.row for waiting in batch), head.number, head.hash, head.seq)
        new = head.moved(rows, next((waiting.base for waiting in batch if waiting.base), None))
        doubt, self._doubt = self._doubt, True
        if not await self.store.move(head, new):
            self._head, self._doubt = None, doubt
            return False
        self._know(new)
        self._settled = False
        for waiting in batch:
            if waiting.hurried and not waiting.done.done():
                waiting.done.set_result(None)
        try:
            await self.store.insert(rows)
            self._settled = True
        except PyMongoError as error:  # they are durable, the head carries them; the writer does not rest before
            log.warning("audit entries are in the head alone", error=type(error).__name__, entries=len(rows))
        self._succeed(batch)
        return True

    async def _is_stored(self, head: Head, waiting: _Waiting) -> bool:
        """Whether an attempt before this one succeeded: whoever moved the head since has settled what it carried."""
        own = waiting.row["_id"]
        return any(row["_id"] == own for row in head.carried) or await self.store.stored(waiting.row)

    def _know(self, head: Head) -> None:
        self._head = head
        if self._newest is None or head.number >= self._newest.number:
            self._newest = head

    async def _known_head(self) -> Head:
        """The head, all of whose entries are in place."""
        head = self._head
        if head is None:
            # A doubtful write counts when a majority has it, whatever this server shows.
            head = await self._stored_head(sure=self._doubt)
            self._settled = False
        if not self._settled:
            await self.store.settle(head)
            self._settled = True
        if self._newest is not None and head.number < self._newest.number:  # somebody put an older one back
            head = await self._advanced(head)
        self._know(head)
        return head

    async def _advanced(self, head: Head) -> Head:
        """The head after it was moved over entries that follow it already; that it had to be is written down."""
        while True:
            ahead, others = await self.store.beyond(head)
            if ahead.number > head.number and await self.store.move(head, ahead):
                log.warning("the audit head was behind its entries", head=head.number, entries=ahead.number)
                self._enqueue(_Waiting(remark(ADVANCED, self._clock.now(), head=head.number, number=ahead.number)))
                self._know(ahead)
                return ahead
            if ahead.number == head.number and not others:
                return head
            now = await self._stored_head()
            if now.number == head.number:
                log.error("audit entries do not follow the head: run scripts/verify_audit.py", head=head.number)
                return head
            await self.store.settle(now)  # another process wrote them, and has moved the head since
            head = now

    async def _stored_head(self, *, sure: bool = False) -> Head:
        """The head; a new one where there is none yet, and where somebody removed or damaged it.

        Raises `DamagedHeadError` when it is damaged again and again while it is mended.
        """
        damaged: DamagedHeadError | None = None
        for _ in range(_MENDING):
            try:
                if head := await self.store.head(sure=sure and damaged is None):
                    return head
                damaged = None
            except DamagedHeadError as error:
                damaged = error
                await self.store.salvage(error.row)
            head = await self._last_known()
            if not await (self.store.replaced(damaged.row, head) if damaged else self.store.found(head)):
                continue  # another process was faster
            if head.number or damaged:
                self._tell_of_loss(head, damaged)
            return head
        raise damaged or PyMongoError("the head of the audit trail is removed again and again")

    async def _last_known(self) -> Head:
        """The head as the entries (and the memory of this process) say; the first one of all if there are none."""
        head = Head.first(self._clock.now())
        if ends := await self.store.ends():
            least, last = ends
            base = Base(least["number"] - 1, least["previous_hash"], least["at"])
            head = Head(last["number"], last["hash"], last["seq"], base)
        if self._newest is not None and self._newest.number > head.number:
            head = self._newest
        return head

    def _tell_of_loss(self, head: Head, damaged: DamagedHeadError | None) -> None:
        """The chain goes on, but that something may be gone is in the log, in `/health`, and in the chain for ever."""
        what = "damaged" if damaged else "removed"
        log.error("the audit head was lost: run scripts/verify_audit.py", head=what, entries=head.number)
        self._head_lost = True
        row = remark(LOST, self._clock.now(), number=head.number, hash=head.hash, head=what)
        self._enqueue(_Waiting(row))
