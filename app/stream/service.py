"""All connections of `WS /ws`: who may connect, who is told of a revocation, and their end."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import structlog
from starlette.websockets import WebSocket

from app.core.client_address import network_of
from app.core.clock import Clock, to_micros
from app.core.errors import DomainError, RateLimitedError, UnavailableError
from app.core.events import AccountChanged, PeersChanged, SessionRevoked
from app.core.hub import Hub
from app.core.problem import domain_response
from app.core.security import Authenticator
from app.stream.conversation import Context, Limits
from app.stream.ports import Replays, Snapshots
from app.stream.session import Session
from app.stream.wire import GoneError, Wire

log = structlog.get_logger(__name__)

REVALIDATE_SECONDS = 15.0
"""How often sessions are asked after while other processes, and with them news of revocations, cannot be reached."""
RECHECK_SECONDS = 300.0
"""How often each signed-in session is asked after in any case: somebody who was cut off between a change and its
announcement leaves an API token's session open, and that token may live for a year."""
RECHECK_TURNS = 60
"""Parts of that time in which the sessions have their turns, so that the database is not asked for all at once."""
REVALIDATE_AT_ONCE = 16
REPLAYS_AT_ONCE = 8
RESYNC_MARGIN = 60_000_000
"""Microseconds before the notice of a lost link from which messages may be missing: losses are noticed late."""
UNKNOWN = "unknown"


class StreamService:
    """Serves every WebSocket connection of this process."""

    def __init__(
        self,
        *,
        hub: Hub,
        authenticator: Authenticator,
        replays: Replays,
        snapshots: Snapshots | None = None,
        clock: Clock,
        limits: Limits | None = None,
        connected: Callable[[], bool] = lambda: True,
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        """`connected`: whether news of the service's other processes arrive (the bus's own `connected`).

        `recheck_seconds`: how often each signed-in session is asked after whatever was heard.
        """
        self._hub, self._clock, self._connected = hub, clock, connected
        self._limits = limits or Limits()
        turns = asyncio.Semaphore(REPLAYS_AT_ONCE)
        self._context = Context(hub, clock, authenticator, replays, snapshots or {}, self._limits, turns)
        self._recheck_seconds = recheck_seconds
        self._sessions: dict[Session, int] = {}
        """With the turn in which each is asked after."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._addresses: Counter[str] = Counter()
        self._open = 0
        self._gap_since: int | None = None
        self._news_missed = asyncio.Event()
        self.counts: Counter[str] = Counter(accepted=0, refused=0, stalled=0)

    # Connections

    async def serve(self, websocket: WebSocket, address: str) -> None:
        """Serve one connection until its end; `address` is the client's, `unknown` where it has none."""
        wire = Wire(websocket)
        token = wire.take_token()
        network = network_of(address)
        try:
            self._admit(network)
        except DomainError as error:
            self.counts["refused"] += 1
            await wire.refuse(domain_response(websocket.scope, error))
            return
        self._open += 1
        self._addresses[network] += 1
        try:
            with suppress(GoneError):
                await wire.accept()
                await self._run(Session(wire, self._context), token)
        finally:
            self._open -= 1
            self._addresses[network] -= 1
            if not self._addresses[network]:
                del self._addresses[network]

    def _admit(self, network: str) -> None:
        if self._hub.closed:
            raise UnavailableError("The service is stopping; connect again shortly.")
        if self._open >= self._limits.max_connections:
            raise UnavailableError("Too many WebSocket connections are open; try again shortly.", retry_after=10)
        most = self._limits.max_connections_per_address
        # Without an address (a Unix socket behind a proxy that does not tell) nobody can be told apart.
        if network != UNKNOWN and self._addresses[network] >= most:
            raise RateLimitedError(f"At most {most} WebSocket connections per address.", retry_after=10, limit=most)

    async def _run(self, session: Session, token: str | None) -> None:
        self.counts["accepted"] += 1
        self._sessions[session] = self.counts["accepted"] % RECHECK_TURNS
        self._idle.clear()
        try:
            await session.run(token)
        finally:
            del self._sessions[session]
            if not self._sessions:
                self._idle.set()
            self.counts["stalled"] += session.stalled

    async def close(self, deadline: float = 3.0) -> None:
        """End all connections with 1012 (service restart) and refuse new ones; returns within `deadline` seconds."""
        self._hub.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._idle.wait()
        if self._sessions:
            log.warning("WebSocket sessions did not end in time", sessions=len(self._sessions))

    # News

    def on_session_revoked(self, event: SessionRevoked) -> None:
        """End what these sessions and API tokens had opened, and tell their clients."""
        revoked = frozenset(event.session_ids)
        for session in tuple(self._sessions):
            session.conversation.revoke(revoked)

    def on_account_changed(self, event: AccountChanged) -> None:
        """End what a deactivated account had opened, and tell its clients; roles open and close no channel."""
        if event.is_active:
            return
        for session in tuple(self._sessions):
            session.conversation.deactivate(event.user_id)

    def on_peers_changed(self, _event: PeersChanged) -> None:
        """News of other processes may be missing: ask after every session, and tell clients where to resume."""
        self._news_missed.set()
        if self._gap_since is None:
            self._gap_since = to_micros(self._clock.now()) - RESYNC_MARGIN
        if not self._connected():
            return
        since, self._gap_since = self._gap_since, None
        for session in tuple(self._sessions):
            session.conversation.resync(since)

    async def run(self) -> None:
        """Background task: asks after signed-in sessions now and then, and whenever a revocation may be unheard."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recheck(), name="WebSocket sessions asked after in turn")
            group.create_task(self._watch_news(), name="WebSocket sessions asked after when news are missing")

    async def _recheck(self) -> None:
        for turn in itertools.cycle(range(RECHECK_TURNS)):
            await asyncio.sleep(self._recheck_seconds / RECHECK_TURNS)
            await self._ask_after([session for session, its in self._sessions.items() if its == turn])

    async def _watch_news(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REVALIDATE_SECONDS):
                    await self._news_missed.wait()
            if self._news_missed.is_set() or not self._connected():
                self._news_missed.clear()
                await self.revalidate()

    async def revalidate(self) -> None:
        """Ask after every signed-in session once."""
        await self._ask_after(tuple(self._sessions))

    async def _ask_after(self, sessions: Iterable[Session]) -> None:
        turns = asyncio.Semaphore(REVALIDATE_AT_ONCE)

        async def ask(session: Session) -> None:
            async with turns:
                await session.conversation.revalidate()

        async with asyncio.TaskGroup() as group:
            for session in sessions:
                if session.conversation.principal is not None:
                    group.create_task(ask(session))

    def health(self) -> dict[str, Any]:
        """What the hub says, and the connections accepted, refused and closed as stalled since the start."""
        return {**self._hub.health(), **self.counts}
