"""One connection to the live feed, kept alive: handshake, subscriptions, heartbeat, watchdog, reconnects."""

import asyncio
import logging
import random
import ssl
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.http11 import Response

from app.core.clock import Clock, to_micros
from app.integrations.angel_one.credentials import Credentials, Tokens
from app.integrations.angel_one.errors import AngelOneError, LoginRefusedError, RateLimitedError
from app.integrations.angel_one.frames import AnyFrame, FrameError, FrameParser, Refusal, parse_text
from app.integrations.angel_one.subscriptions import (
    HEARTBEAT,
    Action,
    FeedLimits,
    Request,
    Subscription,
    requests,
)

log = structlog.get_logger(__name__)

Deliver = Callable[[AnyFrame, bytes, int], None]
"""Gets a frame, its bytes, and when it came (ms since the epoch)."""
Lost = Callable[[Collection[Subscription], int, int], None]
"""Gets subscriptions that had no connection, and from when until when (ms since the epoch)."""

_SILENT: Final = logging.Logger("angel-one-feed", logging.CRITICAL + 1)  # noqa: LOG001 (no configuration reaches it)
"""The library would log the handshake's headers, in which the tokens stand."""
_NO_DATA: Final = "no data"
_LARGEST: Final = 64 << 10
_TURN: Final = 128
"""Messages after which the others in the event loop come to their turn, however many wait."""
_REMEMBERED: Final = 64
_MOST_PATIENCE: Final = 16
_LONGEST_WAIT: Final = 3600.0


class TokensPort(Protocol):
    """What the feed needs of a session."""

    @property
    def credentials(self) -> Credentials:
        """API key and client id go into the handshake."""

    async def tokens(self) -> Tokens:
        """Tokens that hold; raises `AngelOneError`."""

    async def renew(self, dead: Tokens) -> Tokens:
        """Others than `dead`; raises `AngelOneError`."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    stale_after: float = 8.0
    """Without a sign of life (a frame, or the answer to a ping sent after half of it) a connection is dead."""
    quiet_after: float = 60.0
    """Without a frame, though it lives: it is made anew, the next time after twice as long."""
    beat_every: float = 10.0
    """Between pings; the vendor allows 30."""
    first_wait: float = 0.5
    last_wait: float = 30.0
    """Between tries: from the first doubled up to the last, less up to half of it by chance."""
    busy_wait: float = 10.0
    """At the least, after an answer that says "too many" or "forbidden"."""
    open_timeout: float = 10.0
    close_timeout: float = 1.0


class Tally:
    """What the connections of a feed count together."""

    def __init__(self) -> None:
        self.frames = 0
        self.bad: Counter[str] = Counter()
        self.reconnects = 0
        self.last_frame_ms: int | None = None
        self.last_error: str | None = None


class _Setback(NamedTuple):
    """Why a connection is no more."""

    word: str
    wait: float = 0.0
    """Seconds, at the least, before the next try."""
    state: str = "backing off"


class _Connect(connect):
    """Follows no redirect: the headers that identify us are for one server only."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class FeedLink:
    """One connection of one account; asks for `wanted` and goes on until it is cancelled."""

    def __init__(
        self,
        *,
        url: str,
        session: TokensPort,
        clock: Clock,
        deliver: Deliver,
        lost: Lost,
        tally: Tally,
        timing: Timing,
        limits: FeedLimits,
        tls: ssl.SSLContext | None,
    ) -> None:
        """`tls` goes with `wss` addresses. `lost` is told when subscriptions are asked for again."""
        self._url, self._session, self._clock, self._deliver = url, session, clock, deliver
        self._tally, self._timing, self._limits, self._tls = tally, timing, limits, tls
        self._lost = lost
        self._parser = FrameParser()
        self._changed = asyncio.Event()
        self._failures = 0
        self._connections = 0
        self._patience = 1
        self._state = "connecting"
        self.wanted: frozenset[Subscription] = frozenset()
        self._away_ms: int | None = self._now_ms()
        """Since when nothing is subscribed; None while it is."""
        self._begin()

    def _begin(self) -> None:
        """Nothing is known of a new connection."""
        self._held: set[Subscription] = set()
        self._refused: set[Subscription] = set()
        self._asked: dict[str, Request] = {}
        self._parts: list[tuple[Subscription, ...]] = []
        self._next_id = 1
        self._ending: str | None = None
        self._heard_at = self._frame_at = self._clock.monotonic()
        self._heard_ms = self._frame_ms = self._now_ms()

    def _now_ms(self) -> int:
        return to_micros(self._clock.now()) // 1000

    def want(self, wanted: Collection[Subscription]) -> None:
        """Ask for these from now on, over the connection that there is."""
        self.wanted = frozenset(wanted)
        self._changed.set()

    @property
    def state(self) -> str:
        """One of the words of `FeedState.state`."""
        quiet = self._clock.monotonic() - self._frame_at
        return "silent" if self._state == "live" and quiet > self._timing.stale_after else self._state

    @property
    def subscribed(self) -> int:
        """How many subscriptions it has asked for and were not refused."""
        return len(self._held)

    @property
    def sure_ms(self) -> int:
        """Until when it is known to have had its connection (ms since the epoch)."""
        return self._heard_ms if self._away_ms is None else self._away_ms

    async def run(self) -> None:
        """Connect, and connect again, until cancelled. Raises nothing that it can wait out."""
        try:
            await self._go_on()
        finally:
            self._tell(self.wanted)

    def _tell(self, subscriptions: Collection[Subscription]) -> None:
        """They have a connection again, or never will: what they missed is known."""
        since, self._away_ms = self._away_ms, None
        if since is not None and subscriptions:
            self._lost(subscriptions, since, self._now_ms())

    async def _go_on(self) -> None:
        while True:
            self._state = "connecting"
            setback = await self._attempt()
            self._held = set()
            self._state, self._tally.last_error = setback.state, setback.word
            doubled = self._timing.first_wait * 2.0 ** min(self._failures, 20)
            # The chance keeps many clients, and our own connections, from coming back all at once.
            wait = max(setback.wait, min(doubled, self._timing.last_wait) * random.uniform(0.5, 1.0))  # noqa: S311
            self._failures += 1
            report = log.error if setback.state == "refused" else log.warning
            report("angel one's feed is interrupted", reason=setback.word, next_try_seconds=round(wait, 1))
            await asyncio.sleep(wait)

    async def _attempt(self) -> _Setback:
        try:
            tokens = await self._session.tokens()
            try:
                return await self._connected(tokens)
            except InvalidStatus as error:
                return await self._handshake_refused(tokens, error.response)
        except LoginRefusedError as error:
            return _Setback(error.word, min(error.retry_after or _LONGEST_WAIT, _LONGEST_WAIT), "refused")
        except AngelOneError as error:
            return _Setback(error.word, error.retry_after or 0.0)
        except TimeoutError:
            return _Setback("feed: timeout")
        except ssl.SSLError:
            return _Setback("feed: tls")
        except (OSError, EOFError, WebSocketException):
            return _Setback("feed: unreachable")

    async def _handshake_refused(self, tokens: Tokens, response: Response) -> _Setback:
        status = response.status_code
        busy = status in {403, 429}
        # 403 is said for bad tokens as well as for too many requests: every other time the tokens are blamed.
        if status == 401 or (status == 403 and self._failures % 2):
            try:
                await self._session.renew(tokens)
            except RateLimitedError as error:
                # That other tokens have to wait is no reason to stay away: what refuses us may pass any moment.
                if not busy:
                    return _Setback(error.word, min(error.retry_after or 0.0, self._timing.last_wait))
        return _Setback(f"feed: handshake {status}", self._timing.busy_wait if busy else 0.0)

    async def _connected(self, tokens: Tokens) -> _Setback:
        timing = self._timing
        async with _Connect(
            self._url,
            additional_headers=self._headers(tokens),
            ssl=self._tls if self._url.startswith("wss:") else None,
            compression=None,
            ping_interval=None,  # the vendor's own pings are text
            max_size=_LARGEST,
            open_timeout=timing.open_timeout,
            close_timeout=timing.close_timeout,
            logger=_SILENT,
        ) as socket:
            self._begin()
            self._state = "live"
            self._tally.reconnects += self._connections > 0
            self._connections += 1
            began = self._clock.monotonic()
            try:
                async with asyncio.TaskGroup() as group:
                    helpers = [group.create_task(self._keep_subscribed(socket)), group.create_task(self._watch(socket))]
                    await self._read(socket)
                    for helper in helpers:
                        helper.cancel()
            finally:
                if self._away_ms is None:
                    # One that lived and brought nothing may have forgotten what it was asked for.
                    self._away_ms = self._frame_ms if self._ending == _NO_DATA else self._heard_ms
        if self._clock.monotonic() - began > timing.last_wait:
            self._failures = 0
        return _Setback(f"feed: {self._ending or f'closed ({socket.close_code})'}")

    def _headers(self, tokens: Tokens) -> Mapping[str, str]:
        credentials = self._session.credentials
        return {
            "Authorization": f"Bearer {tokens.jwt}",
            "x-api-key": credentials.api_key.get_secret_value(),
            "x-client-code": credentials.client_id.get_secret_value(),
            "x-feed-token": tokens.feed,
        }

    # What comes

    async def _read(self, socket: ClientConnection) -> None:
        monotonic, turn = self._clock.monotonic, 0
        with suppress(ConnectionClosed):
            async for message in socket:
                self._heard_at, self._heard_ms = monotonic(), self._now_ms()
                if isinstance(message, bytes):
                    self._hear_frame(message)
                else:
                    self._hear_text(message)
                turn += 1
                if turn % _TURN == 0:
                    await asyncio.sleep(0)

    def _hear_frame(self, raw: bytes) -> None:
        try:
            frame = self._parser.parse(raw)
        except FrameError as error:
            self._tally.bad[error.fault] += 1
            return
        self._frame_at, self._failures, self._patience = self._heard_at, 0, 1
        self._tally.frames += 1
        arrival = self._frame_ms = self._heard_ms
        self._tally.last_frame_ms = arrival
        self._deliver(frame, raw, arrival)

    def _hear_text(self, text: str) -> None:
        try:
            said = parse_text(text)
        except FrameError as error:
            self._tally.bad[error.fault] += 1
            return
        if isinstance(said, Refusal):
            self._hear_refusal(said)

    def _hear_refusal(self, refusal: Refusal) -> None:
        """One bad token spoils a whole request: it is asked again in halves, until the bad one stands alone."""
        request = self._asked.pop(refusal.correlation_id or "", None)
        code = refusal.code if refusal.code.isalnum() else "no code"
        self._tally.last_error = f"feed: request refused ({code})"
        if request is None or request.action is Action.UNSUBSCRIBE:
            log.warning("angel one refused a request of the feed", code=code)
            return
        members = request.subscriptions
        if len(members) == 1:
            self._refused.update(members)
            self._held.difference_update(members)
            instrument = members[0].instrument
            log.warning(
                "angel one refused a subscription",
                code=code,
                exchange_type=int(instrument.exchange),
                instrument=instrument.token,
            )
            return
        half = len(members) // 2
        self._parts += [members[:half], members[half:]]
        self._changed.set()

    # What goes

    async def _keep_subscribed(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                self._changed.clear()
                wanted = self.wanted - self._refused
                await self._ask(socket, Action.UNSUBSCRIBE, self._held - wanted)
                await self._ask(socket, Action.SUBSCRIBE, wanted - self._held)
                parts, self._parts = self._parts, []
                for part in parts:
                    await self._ask(socket, Action.SUBSCRIBE, self.wanted.intersection(part))
                self._tell(self._held)
                await self._changed.wait()

    async def _ask(self, socket: ClientConnection, action: Action, subscriptions: Collection[Subscription]) -> None:
        for request in requests(action, subscriptions, first_id=self._next_id, limits=self._limits):
            self._next_id += 1
            self._asked[request.correlation_id] = request
            if len(self._asked) > _REMEMBERED:
                del self._asked[next(iter(self._asked))]
            await socket.send(request.text())
            if action is Action.SUBSCRIBE:
                self._held.update(request.subscriptions)
            else:
                self._held.difference_update(request.subscriptions)

    async def _watch(self, socket: ClientConnection) -> None:
        """Heartbeat and watchdog. A half-open connection looks like any other, only nothing comes of it."""
        timing, monotonic = self._timing, self._clock.monotonic
        step = min(timing.stale_after / 4, timing.beat_every)
        looked = beat = monotonic()
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(step)
                now, before = monotonic(), looked
                looked = now
                if now - before > 2 * step:
                    # It was us who did not listen: that time says nothing of the other side, which is asked at once.
                    missed = now - before
                    self._heard_at = min(now, self._heard_at + missed)
                    self._frame_at = min(now, self._frame_at + missed)
                    beat = now
                    await socket.send(HEARTBEAT)
                    continue
                quiet = now - self._heard_at
                if quiet >= timing.stale_after:
                    self._end(socket, "silent")
                elif now - self._frame_at >= timing.quiet_after * self._patience and self._held:
                    self._patience = min(self._patience * 2, _MOST_PATIENCE)
                    self._end(socket, _NO_DATA)
                elif (
                    now - beat >= (timing.stale_after if quiet >= timing.stale_after / 2 else 2 * timing.beat_every) / 2
                ):
                    beat = now
                    await socket.send(HEARTBEAT)

    def _end(self, socket: ClientConnection, word: str) -> None:
        self._ending = word
        socket.transport.abort()
