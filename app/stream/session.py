"""One client's conversation: requests, replies, who is signed in, and the three tasks that keep it going.

The reader takes messages off the socket and never waits for anything else, so that a disconnect is always noticed. The
worker follows the requests one after another. The writer alone writes, and takes what the hub put into the outbox.
"""

import asyncio
from typing import Any

import structlog

from app.core.clock import Clock
from app.stream import schemas
from app.stream.conversation import Context, Conversation
from app.stream.schemas import ProtocolError
from app.stream.wire import INTERNAL_ERROR, SERVICE_RESTART, TRY_AGAIN_LATER, GoneError, Wire

log = structlog.get_logger(__name__)

INBOX = 64
"""Requests that may wait for the worker; a client that asks for more meanwhile is told to slow down."""
FLOOD_PAUSE = 0.001
"""Seconds after each ignored message."""
YIELD_EVERY = 32
"""Messages written in a row before other connections get a turn: a socket with room does not make the writer wait."""


class Allowance:
    """A token bucket: `rate` a second, `burst` at once."""

    __slots__ = ("_at", "_burst", "_clock", "_left", "_rate")

    def __init__(self, rate: float, burst: int, clock: Clock) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = float(burst), clock.monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = self._clock.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Session:
    """One connection from its handshake to its end."""

    def __init__(self, wire: Wire, context: Context) -> None:
        """To be made in the event loop that serves the connection."""
        self.stalled = False
        self._wire, self._clock, self._limits = wire, context.clock, context.limits
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._hub = context.hub
        self._outbox = self._hub.attach(lambda: self.stop(SERVICE_RESTART, "The service restarts: connect again."))
        self.conversation = Conversation(self._outbox, context)
        self._inbox: asyncio.Queue[schemas.Request | ProtocolError] = asyncio.Queue(INBOX)
        self._allowance = Allowance(self._limits.messages_per_second, self._limits.message_burst, self._clock)
        self._warned = False
        self._sending_since: float | None = None
        self._watch = self._loop.call_later(self._limits.stall_seconds, self._check_progress)

    async def run(self, token: str | None) -> None:
        """Serve the client until it leaves, stalls or `stop` is called. `token`: from the query string."""
        if token is not None:
            self._inbox.put_nowait(schemas.Authenticate(action="auth", token=token))
        tasks = [asyncio.create_task(part()) for part in (self._read, self._work, self._write)]
        ends: list[asyncio.Future[Any]] = [*tasks, self._stopped]
        ending = (INTERNAL_ERROR, "Something went wrong here: connect again.")
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task in done and not task.cancelled() and not isinstance(error := task.exception(), GoneError):
                    log.error("a WebSocket session failed", exc_info=error)
            if self._stopped.done():
                ending = self._stopped.result()
        finally:
            self._hub.detach(self._outbox)
            self.conversation.close()
            self._watch.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._wire.close(*ending)

    def stop(self, code: int, reason: str) -> None:
        """End the session with this close code; may be called again."""
        if not self._stopped.done():
            self._stopped.set_result((code, reason))

    async def _read(self) -> None:
        while True:
            message = await self._wire.receive()
            if self._allowance.take() and not self._inbox.full():
                self._warned = False
                self._inbox.put_nowait(self._parse(message))
                continue
            if not self._warned and self._outbox.has_room:
                # Said once, then what exceeds the rate is ignored until the client has slowed down.
                self._warned = True
                self.conversation.fail(
                    "rate_limited", "You send faster than allowed; messages are ignored until you slow down."
                )
            # A flood is read no faster than this: the rest of it waits at the client.
            await asyncio.sleep(FLOOD_PAUSE)

    def _parse(self, message: str | bytes) -> schemas.Request | ProtocolError:
        try:
            limits = self._limits
            return schemas.parse(message, max_bytes=limits.max_message_bytes, max_symbols=limits.max_symbols)
        except ProtocolError as error:
            return error

    async def _work(self) -> None:
        while True:
            await self.conversation.follow(await self._inbox.get())

    async def _write(self) -> None:
        written = 0
        while True:
            texts = self._outbox.take()
            if not texts:
                await self._outbox.wait()
            for text in texts:
                self._sending_since = self._clock.monotonic()
                await self._wire.send(text)
                self._sending_since = None
                written += 1
                if written % YIELD_EVERY == 0:
                    await asyncio.sleep(0)

    def _check_progress(self) -> None:
        """Ends the session if its socket accepts nothing, or if the server waits for the client to let it close."""
        patience, now = self._limits.stall_seconds, self._clock.monotonic()
        waited = 0.0 if self._sending_since is None else now - self._sending_since
        if waited >= patience or self._wire.closing:
            self.stalled = True
            log.info("a WebSocket client stopped reading", seconds=round(waited, 1), cut_off=self._wire.can_abort)
            self.stop(TRY_AGAIN_LATER, "You read too slowly: connect again.")
            return
        self._watch = self._loop.call_later(max(patience - waited, 0.01), self._check_progress)
