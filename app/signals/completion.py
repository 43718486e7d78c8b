"""Completes users' signals when a price touches their target or stop: exactly once, whoever looks.

One process of the service does it (whoever runs `SignalCompletion.run`, under a lease). It hears ticks as they come,
and every few minutes looks through the candles since it last did: what moved through while nobody looked (a restart,
an outage of the feed that was filled in later, a symbol that has no live ticks) is found there.

The write is conditional on the revision of the row that the decision was made on. So of two processes one completes a
signal, and a signal that its owner changed or closed a moment before is left alone, or judged again by its new levels.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog
from bson import ObjectId
from pymongo.errors import PyMongoError

from app.core.audit import SYSTEM, Act, AuditTrail
from app.core.bus import Bus
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock, from_micros
from app.core.clock import Sequence as Numbers
from app.core.events import PeersChanged, SignalChanged, TickNotice, TicksArrived
from app.signals.followed import Followed, FollowedSignals, Touch, followed
from app.signals.price_names import PriceNames, as_written
from app.signals.status import Status
from app.signals.user_wire import Row, changed, signal_rows

log = structlog.get_logger(__name__)

CHECK_SECONDS: Final = 300.0
"""Between two looks through the candles."""
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 10.0
"""Seconds between attempts while the database is away."""
_FIELDS: Final = dict.fromkeys(
    ("symbol", "option_type", "signal_type", "target_price", "stop_loss", "status", "revision", "levels_at"), 1
)


class _Tick(msgspec.Struct):
    """What is read of a tick's JSON."""

    ltpc: Decimal
    data_quality: str = "good"
    after_hours: bool = False


class _Waiting(NamedTuple):
    """A touch that is to be stored, and what its writer knows it by: the answer to a write can be lost."""

    touch: Touch
    mark: ObjectId


class PastTouches(Protocol):
    """Finds what was touched while no tick was seen."""

    async def touches(self, symbol: str, signals: Sequence[Followed]) -> list[Touch]:
        """Which of `signals`, all on `symbol`, have been touched since the last look."""


class SignalCompletion:
    """Follows prices for the active signals while `run` runs; without it everything it hears is nothing to it."""

    def __init__(
        self,
        *,
        bus: Bus,
        clock: Clock,
        sequence: Numbers,
        audit: AuditTrail,
        past: PastTouches,
        names: PriceNames = as_written,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """`past`: a `look_back.LookBack`; `names`: what ticks call the symbols of signals."""
        self._bus, self._clock, self._sequence, self._audit = bus, clock, sequence, audit
        self._past, self._names, self._check_seconds = past, names, check_seconds
        self._followed = FollowedSignals()
        self._running = False
        self._waiting: deque[_Waiting] = deque()
        self._changed: set[str] = set()
        self._reload = False
        self._work, self._loaded = asyncio.Event(), asyncio.Event()
        self._decode_tick = msgspec.json.Decoder(_Tick).decode
        self._completed = 0
        self._last_error: str | None = None
        bus.subscribe(TicksArrived, lambda event: self.ticks(event.ticks))
        bus.subscribe(SignalChanged, self._on_changed)
        bus.subscribe(PeersChanged, self._on_peers_changed)

    # What is heard; quick, and never raises

    def follows(self, symbol: str) -> bool:
        """Whether prices of `symbol` matter here and now."""
        return symbol in self._followed

    def price(self, symbol: str, price: Decimal, at: datetime) -> None:
        """A live price that passed the checks; `at` is the exchange's time of it, aware."""
        self._take(self._followed.touched(symbol, price, at))

    def _take(self, touches: Iterable[Touch]) -> None:
        for touch in touches:
            self._waiting.append(_Waiting(touch, ObjectId()))
            self._work.set()

    def ticks(self, notices: Iterable[TickNotice]) -> None:
        """Ticks as the bus carries them; of those that are stale, suspect or out of hours nothing is concluded."""
        for notice in notices:
            if notice.symbol not in self._followed:
                continue
            try:
                tick = self._decode_tick(notice.body)
            except msgspec.MsgspecError as error:
                self._last_error = type(error).__name__
                continue
            if tick.data_quality == "good" and not tick.after_hours:
                self.price(notice.symbol, tick.ltpc, from_micros(notice.received_ms * 1000))

    def _on_changed(self, event: SignalChanged) -> None:
        if not self._running:
            return
        if event.deleted or event.status != Status.ACTIVE:
            self._followed.drop(event.signal_id)
        else:
            self._changed.add(event.signal_id)
            self._work.set()

    def _on_peers_changed(self, _event: PeersChanged) -> None:
        self._reload = True
        self._work.set()

    # What is done

    async def run(self) -> None:
        """Complete signals until cancelled; in one process at a time."""
        self._running = self._reload = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._complete())
                tasks.create_task(self._check())
        finally:
            self._running = False
            self._followed.clear()
            self._waiting.clear()
            self._changed.clear()

    async def _complete(self) -> None:
        while True:
            await self._patiently(self._catch_up)
            await self._work.wait()

    async def _check(self) -> None:
        while True:
            # Notices of changes can be lost with the process that was to send them.
            self._loaded.clear()
            self._reload = True
            self._work.set()
            await self._loaded.wait()
            for symbol in self._followed.symbols:
                await self._patiently(partial(self._check_one, symbol))
            await asyncio.sleep(self._check_seconds)

    async def _check_one(self, symbol: str) -> None:
        """Look through the candles for what was missed."""
        for touch in await self._past.touches(symbol, self._followed.on(symbol)):
            # A tick, or its owner, may have been quicker.
            if touch.signal in self._followed.on(symbol):
                self._followed.drop(touch.signal.id)
                self._take([touch])

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, again and again while the database is away."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await work()
            except PyMongoError as error:
                raise_if_cancelled()
                self._last_error = type(error).__name__
                log.warning("signals cannot be completed now", error=type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE)
            else:
                raise_if_cancelled()  # a write that is done again inside the driver swallows it as well
                self._last_error = None
                return

    async def _catch_up(self) -> None:
        """Read what has changed, and store what was touched."""
        self._work.clear()
        if self._reload:
            await self._read_all()
        while self._changed:
            await self._read(next(iter(self._changed)))
        while self._waiting:
            await self._settle(self._waiting[0])
            self._waiting.popleft()

    async def _read_all(self) -> None:
        self._reload = False  # before it is read: who asks meanwhile asks for what may not be in it
        try:
            rows = await signal_rows().find({"status": Status.ACTIVE.value}, _FIELDS).to_list()
        except BaseException:
            self._reload = True
            raise
        self._loaded.set()
        # What is touched and not stored yet must not be touched again.
        waiting = {touch.signal.id for touch, _ in self._waiting}
        found = [
            signal for row in rows if (signal := followed(row, self._names)) is not None and signal.id not in waiting
        ]
        self._followed.clear()
        self._followed.put(found)

    async def _read(self, signal_id: str) -> None:
        # Before it is read: what changes meanwhile is read again.
        self._changed.discard(signal_id)
        try:
            row = await signal_rows().find_one({"_id": ObjectId(signal_id)}, _FIELDS)
        except PyMongoError:
            self._changed.add(signal_id)
            raise
        self._follow(row, signal_id)

    def _follow(self, row: Row | None, signal_id: str) -> None:
        signal = followed(row, self._names) if row else None
        if signal is None:
            self._followed.drop(signal_id)
        else:
            self._followed.put([signal])

    async def _settle(self, waiting: _Waiting) -> None:
        """Store what ended a signal, and tell of it; if it has changed meanwhile, follow what it is now."""
        (signal, outcome), mark = waiting
        id_, now = ObjectId(signal.id), self._clock.now()
        stored: dict[str, Any] = {
            "kind": outcome.kind.value,
            "price": outcome.price,
            "at": outcome.at,
            "seen_in": outcome.seen_in.value,
            "certain": outcome.certain,
            "mark": mark,
        }
        change = {"status": Status.COMPLETED.value, "outcome": stored, "closed_at": now, "updated_at": now}
        result = await signal_rows().update_one(
            {"_id": id_, "status": Status.ACTIVE.value, "revision": signal.revision},
            {"$set": change, "$inc": {"revision": 1}},
        )
        row = await signal_rows().find_one({"_id": id_})
        ours = row is not None and row.get("outcome", {}).get("mark") == mark
        if not result.modified_count and not ours:
            self._judge_again(waiting.touch, row)
            return
        if row is None:
            return  # deleted in between: whoever did that has told of it
        self._completed += 1
        self._bus.announce(changed(row, "completed", self._sequence.next(), self._names))
        details = {"symbol": row["symbol"], "outcome": outcome.kind.value, "price": str(outcome.price)}
        target = ("signal", signal.id)
        await self._audit.note(Act("signal.complete", row["user_id"], SYSTEM, target=target, details=details))

    def _judge_again(self, touch: Touch, row: Row | None) -> None:
        """The row is not what was touched: it is closed, gone, or was changed by its owner."""
        signal, outcome = touch
        present = followed(row, self._names) if row else None
        if present and present.levels == signal.levels and outcome.at >= present.since:
            self._followed.drop(signal.id)
            self._take([Touch(present, outcome)])
        else:
            self._follow(row, signal.id)

    def health(self) -> dict[str, Any]:
        """`following`: active signals whose prices are followed here; `completed` since the start; `waiting`."""
        return {
            "status": "degraded" if self._waiting and self._last_error else "ok",
            "here": self._running,
            "following": len(self._followed),
            "waiting": len(self._waiting),
            "completed": self._completed,
            "last_error": self._last_error,
        }
