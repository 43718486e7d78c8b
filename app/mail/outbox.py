"""The outbox: requests for mails are stored, and one process at a time sends them.

- **Nothing is lost**: `request` returns when the row is durable, and a row waits until it is settled. A mail goes out
  at least once; twice only where a process dies, or the connection breaks, between the server's taking it and the note
  of that.
- **One sender**: whichever process finds a mail due takes the lease `mail` and keeps it until nothing is due. A killed
  holder's lease ends by itself within `Timings.lease` seconds.
- **While the server is away** every mail waits, and one connection is tried with growing pauses.
- **What happens to one mail concerns that mail alone**, from the moment that the server hears whom it is for: refused
  (5xx) it fails, else it is put off, also when the server broke the connection. Anybody can have mails sent to an
  address whose server they run, so nothing there may hold up the others, which go on at once.
- **Nothing shows who has an account**: a request that its composer found nothing to send for takes as long as others,
  counts as others in `health`, and leaves nothing behind. Whoever watches `health`, or waits for a mail of their own
  behind it, would see it else.
- **And nobody holds up the others with it**: while many mails wait, a few of these requests, drawn by lot, take as
  long, and the order is drawn, too. So what strangers ask for costs the others a bounded time, and lets them guess
  about one address at most, unless they do it again and again.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from pymongo.errors import PyMongoError

from app.core.bus import Bus
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.events import MailWaiting
from app.core.lease_holder import Lease
from app.core.mail import Composer, MailRequest
from app.core.settings import Settings
from app.mail.delivery import Delivery
from app.mail.errors import DeferredError, MailError, RefusedError, ServerError
from app.mail.models import MailState
from app.mail.store import MailStore, Row
from app.mail.transports import TIMEOUT, transport_for

log = structlog.get_logger(__name__)

MAX_WAITING = 10_000
"""Mails that may wait; beyond it requests are refused."""
_BATCH = 200
"""Ids that are read at once."""
_BATCH_SECONDS = 1.0
"""After it the rest is read anew: mails that are tried for the first time go first."""
_HEALTH_SECONDS = 2.0
_USUAL_SECONDS = 0.2
"""What a mail is taken to need before the first was sent."""
_LONGEST_PRETENCE = 2.0
_CROWD = 20
"""With more mails due than this, requests without a mail take as long as others only now and then."""
_PRETENDERS = 5
"""About so many of a crowd do: as many gaps between mails as would be hard to count."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, unless said otherwise."""

    look: float = 5.0
    """Between looks for due mails when nobody announces one: those that were put off, those of killed processes."""
    lease: float = 6.0
    first_backoff: float = 1.0
    last_backoff: float = 60.0
    """Between tries to reach a server that is away: from the first, doubled up to the last."""
    first_retry: float = 15.0
    last_retry: float = 3600.0
    """Between tries of a mail that was put off: from the first, doubled up to the last."""
    last_retry_after_break: float = 300.0
    """The longest that a mail is put off because the connection ended while it was handed over."""
    overdue: float = 30.0
    """A mail that was due this long ago makes the outbox `degraded`."""
    smtp: float = TIMEOUT
    compose: float = 10.0
    finish: float = 2.0
    """What a mail under way has to be finished when the process stops."""
    give_up: timedelta = timedelta(days=3)
    """A mail that is put off again and again fails after it."""
    keep: timedelta = timedelta(days=7)
    """How long sent and failed requests are kept; those that there was nothing to send for are not."""


class MailOutbox:
    """Implements `core.mail.Mails`. `lease` makes the lease `mail` of this process, for so many seconds."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        bus: Bus,
        lease: Callable[[float], Lease],
        timings: Timings | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._make_lease = lease
        self._timings = timings or Timings()
        self._store = MailStore(clock, cap=max_waiting, keep=self._timings.keep)
        self._transport = transport_for(settings, timeout=self._timings.smtp)
        self._delivery = (
            Delivery(settings, clock, self._transport, self._timings.compose) if self._transport is not None else None
        )
        self._wake, self._stop = asyncio.Event(), asyncio.Event()
        self._sending = self._server_away = False
        self._settled = 0
        self._usual_seconds = _USUAL_SECONDS
        self._last_error: str | None = None
        bus.subscribe(MailWaiting, lambda _: self._wake.set())

    # --- the port

    @property
    def available(self) -> bool:
        """See `Mails.available`."""
        return self._transport is not None

    async def request(self, request: MailRequest) -> None:
        """See `Mails.request`. A waiting request with the same kind and key is replaced; one that is being sent is
        followed by this one. `UnavailableError` also when very many mails wait already."""
        if self._transport is None:
            raise UnavailableError(
                "E-mail is not set up on this server: set SMTP_HOST (and the other SMTP_ settings) and start it again.",
                retry_after=3600,
            )
        await self._store.put(request)
        self._bus.announce(MailWaiting())

    def add_composer(self, kind: str, composer: Composer) -> None:
        """Letters of this kind are made by `composer`, just before they are sent."""
        if self._delivery is not None:
            self._delivery.add_composer(kind, composer)

    async def health(self) -> dict[str, Any]:
        """The line for `/health`; never raises. Anybody may read it, so it tells nothing of any one mail.

        `waiting` mails are due (one that was put off is not, until its time comes), the oldest for `oldest_seconds`.
        `settled` counts the requests that this process has dealt with since its start, whatever came of them, each at
        its first try. `last_error` is what keeps the server from taking any mail, None once it takes them; what becomes
        of single mails stands in the log.
        """
        line: dict[str, Any] = {
            "status": "off",
            "transport": self._transport.name if self._transport else None,
            "sending": self._sending,
            "waiting": None,
            "oldest_seconds": None,
            "settled": self._settled,
            "last_error": self._last_error,
        }
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                backlog = await self._store.look(max_age=1)
        except (PyMongoError, TimeoutError):
            return line | {"status": "degraded" if self.available else "off"}
        due = (self._clock.now() - backlog.due_since).total_seconds() if backlog.due_since else 0.0
        oldest = round(max(due, 0.0), 1) if backlog.due_since else None
        line |= {"waiting": backlog.due, "oldest_seconds": oldest}
        if self.available:
            line["status"] = "degraded" if self._server_away or due > self._timings.overdue else "ok"
        return line

    # --- the loop

    async def run(self) -> None:
        """Send what is due, whenever this process gets the lease; the supervisor runs this."""
        if self._delivery is None:
            return
        own = asyncio.current_task()
        while True:
            self._wake.clear()
            occupied = False
            try:
                occupied = not await self._send_as_holder(self._delivery)
                await self._store.look(max_age=self._timings.look)
            except PyMongoError as error:
                log.warning("mails wait: the database does not answer", error=type(error).__name__)
            if own is not None and own.cancelling():
                # On Python 3.11 `wait_for`, which libraries use, loses a cancellation that comes with a result.
                raise asyncio.CancelledError
            if occupied:
                # Whoever holds the lease hears of new mails, too; should it die, its lease ends soon.
                await asyncio.sleep(_jittered(self._timings.lease / 3))
            else:
                await _nap(self._wake, self._timings.look)

    async def _send_as_holder(self, delivery: Delivery) -> bool:
        """Send all that is due; False when another process is about it."""
        if not await self._store.due(1):
            self._server_away = False
            return True
        lease = self._make_lease(self._timings.lease)
        if not await lease.acquire():
            self._server_away = False  # what is known of the server is the holder's to tell
            return False
        self._sending = True
        self._stop.clear()
        work = asyncio.ensure_future(self._send_due(delivery))
        try:
            await self._keep(lease, work)
        finally:
            self._stop.set()
            await _finish(work, self._timings.finish)
            self._sending = False
            assert self._transport is not None  # noqa: S101 (there is a delivery)
            await self._transport.close()
            with suppress(PyMongoError, TimeoutError):
                async with asyncio.timeout(1):
                    await lease.release()
        return True

    async def _keep(self, lease: Lease, work: asyncio.Future[None]) -> None:
        """Renew `lease` until `work` is done; `work` is cut off when another process may have begun to send."""
        while not (await asyncio.wait([work], timeout=self._timings.lease / 3))[0]:
            with suppress(PyMongoError):  # the database may be restarting; nobody can take the lease meanwhile
                if not await lease.acquire():
                    log.warning("another process sends mails now")
                    self._stop.set()
                    work.cancel()
                    return
        await work

    async def _send_due(self, delivery: Delivery) -> None:
        backoff = self._timings.first_backoff
        while not self._stop.is_set():
            ids, until = await self._store.due(_BATCH, drawn_over=_CROWD), time.monotonic() + _BATCH_SECONDS
            if not ids:
                return
            chance = _PRETENDERS / len(ids) if len(ids) > _CROWD else 1.0
            for row_id in ids:
                if self._stop.is_set():
                    return
                if time.monotonic() > until:
                    break
                try:
                    if await self._send(delivery, row_id, pretend=_LOTS.random() < chance):
                        backoff = self._timings.first_backoff
                except ServerError as error:
                    log.warning("mails wait: the mail server does not take them", reason=error.kind)
                    self._server_away = True
                    assert self._transport is not None  # noqa: S101 (there is a delivery)
                    await self._transport.close()
                    await _nap(self._stop, backoff)
                    backoff = min(backoff * 2, self._timings.last_backoff)
                    break

    async def _send(self, delivery: Delivery, row_id: str, *, pretend: bool) -> bool:
        """Send one mail, if it is still due; whether the server has shown that it takes mails.

        `pretend`: where there is nothing to send, take as long all the same.
        """
        # Read again, one by one: it may have been replaced or sent since its id was read.
        row = await self._store.read(row_id)
        if row is None:
            return False
        began = time.monotonic()
        try:
            if await delivery.deliver(row):
                await self._note_sent(row, time.monotonic() - began)
            else:
                if pretend:
                    await self._pretend(time.monotonic() - began)
                await self._store.drop(row)
        except RefusedError as error:
            await self._fail(row, error)
        except DeferredError as error:
            await self._put_off(row, error)
        except ServerError as error:
            self._last_error = error.kind
            raise
        self._server_away, self._last_error = False, None
        if not row["attempts"]:
            self._settled += 1
        return True

    async def _note_sent(self, row: Row, seconds: float) -> None:
        await self._store.settle(row, MailState.SENT)
        self._usual_seconds = min((self._usual_seconds + seconds) / 2, _LONGEST_PRETENCE)
        log.info("mail sent", kind=row["kind"], mail=row["nonce"])

    async def _pretend(self, seconds: float) -> None:
        """Take as long as a mail does, of which `seconds` have passed: `/health` is quick enough to show the rest,
        and so are the mails that come after it."""
        await _nap(self._stop, max(self._usual_seconds - seconds, 0.0))

    async def _put_off(self, row: Row, error: DeferredError) -> None:
        now = self._clock.now()
        if now - row["created_at"] > self._timings.give_up:
            await self._fail(row, error)
            return
        most = self._timings.last_retry_after_break if error.lost else self._timings.last_retry
        pause = min(self._timings.first_retry * 2 ** min(row["attempts"], 30), most)
        await self._store.defer(row, now + timedelta(seconds=_jittered(pause)), error.kind)
        log.warning("a mail is put off", kind=row["kind"], mail=row["nonce"], reason=error.kind)

    async def _fail(self, row: Row, error: MailError) -> None:
        await self._store.settle(row, MailState.FAILED, error.kind)
        log.error("a mail failed for good", kind=row["kind"], mail=row["nonce"], reason=error.kind)


_LOTS = random.SystemRandom()


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 (jitter, not a secret)


async def _nap(until: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_jittered(seconds)):
            await until.wait()


async def _finish(work: asyncio.Future[None], seconds: float) -> None:
    """Give `work` so long to finish the mail that it is sending, then end it; what it raised has been seen."""
    if not work.done():
        await asyncio.wait([work], timeout=seconds)
    if not work.done():
        work.cancel()
        await asyncio.wait([work])
    if not work.cancelled():
        work.exception()
