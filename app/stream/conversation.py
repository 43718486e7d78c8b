"""What one client says and is answered: who is signed in, which subscriptions stand, what is replayed.

The conversation writes into the client's outbox and knows nothing of sockets.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from msgspec import UNSET
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.core.errors import DomainError, UnauthorizedError, UnavailableError
from app.core.hub import Hub
from app.core.outbox import POLICIES, Channel, Message, Subscriber
from app.core.security import Authenticator, Principal, Scope
from app.stream import schemas
from app.stream.ports import Replays, Snapshots
from app.stream.schemas import ProtocolError, Reply, Tag

log = structlog.get_logger(__name__)

LONGEST_TIMER = 3600.0
"""Seconds; a longer wait is cut in pieces, so that a change of the system's clock is noticed."""

SCOPES: Final[Mapping[Channel, Scope]] = {
    Channel.ALERTS: Scope.ALERTS_READ,
    Channel.ORDERS: Scope.ORDERS_READ,
    Channel.JOBS: Scope.JOBS_READ,
    Channel.SIGNALS: Scope.SIGNALS_READ,
}
"""What an API token needs for a channel; the other private ones are open to every valid token."""

R = TypeVar("R", bound=Reply)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may do, and how long the service is patient with it."""

    max_connections: int = 2000
    max_connections_per_address: int = 100
    max_message_bytes: int = 16 * 1024
    messages_per_second: float = 20
    message_burst: int = 50
    max_symbols: int = 200
    """In one message."""
    max_symbols_total: int = 2000
    """In one subscription."""
    stall_seconds: float = 30
    """A client whose socket accepts nothing for this long is closed."""
    replay_limit: int = 500
    """Messages that one `since` replays."""
    replay_bytes: int = 2 * 1024 * 1024
    """And their data: they wait here until the client has taken them."""
    patience_seconds: float = 10
    """How long a replay or the check of a token may take."""
    snapshot_seconds: float = 1.0
    """How long live messages may be held back for what is known at the subscription."""


@dataclass(frozen=True, slots=True)
class Context:
    """What all conversations share."""

    hub: Hub
    clock: Clock
    authenticator: Authenticator
    replays: Replays
    snapshots: Snapshots
    limits: Limits
    replay_turns: asyncio.Semaphore
    """Bounds the replays at one time: after a restart every client asks for one."""


class Conversation:
    """Follows a client's requests, one after another, and tells it what happens to its session meanwhile."""

    def __init__(self, outbox: Subscriber, context: Context) -> None:
        self.principal: Principal | None = None
        self._outbox, self._context = outbox, context
        self._hub, self._clock, self._limits = context.hub, context.clock, context.limits
        self._token = ""
        self._expiry: asyncio.TimerHandle | None = None
        # Sessions revoked and accounts deactivated while a token is being checked: the check may have looked before.
        self._ended_meanwhile: set[str] | None = None

    async def follow(self, request: schemas.Request | ProtocolError) -> None:
        """Do what the client asks and answer it; whatever goes wrong becomes an answer too."""
        await self._outbox.room()
        tag = request.tag if isinstance(request, ProtocolError) else request.id
        try:
            if isinstance(request, ProtocolError):
                raise request
            await self._dispatch(request)
        except ProtocolError as error:
            self.fail(error.code, error.detail, error.tag or tag)
        except UnauthorizedError as error:
            self.fail("unauthorized", error.detail, tag)
        except (UnavailableError, PyMongoError, TimeoutError) as error:
            log.warning("a WebSocket request had to be put off", error=type(error).__name__)
            self.fail("unavailable", "This cannot be done right now; try again shortly.", tag)
        except Exception:  # the client is told, the connection and its other subscriptions live on
            log.exception("a WebSocket request failed", action=getattr(request, "action", None))
            self.fail("internal", "Something went wrong here; try again.", tag)

    async def _dispatch(self, request: schemas.Request) -> None:
        match request:
            case schemas.Authenticate():
                await self._authenticate(request)
            case schemas.Subscribe():
                await self._subscribe(request)
            case schemas.Unsubscribe():
                self._unsubscribe(request)
            case _:
                self._reply(schemas.Pong, request.id)

    def fail(self, code: str, detail: str, tag: Tag | None = None) -> None:
        """Tell the client that something is wrong."""
        self._reply(schemas.Failure, tag, code=code, detail=detail)

    def _reply(self, kind: type[R], tag: Tag | None = None, **content: object) -> None:
        self._outbox.reply(kind(ts=self._hub.stamp(), id=tag, **content).encode())

    def close(self) -> None:
        """The connection is over."""
        if self._expiry:
            self._expiry.cancel()

    # Who is signed in

    async def _authenticate(self, request: schemas.Authenticate) -> None:
        principal = await self._check(request.token)
        if principal.expires_at <= self._clock.now():
            raise _expired()
        self.principal, self._token = principal, request.token
        user_id = str(principal.user_id)
        self._hub.identify(self._outbox, user_id)
        self._watch_expiry()
        self._reply(schemas.Authenticated, request.id, user_id=user_id, expires_at=principal.expires_at)
        self._end_out_of_scope()

    async def _check(self, token: str) -> Principal:
        """The principal of `token`, which was not revoked even while this was being found out."""
        self._ended_meanwhile = set()
        try:
            async with asyncio.timeout(self._limits.patience_seconds):
                principal = await self._context.authenticator.authenticate(token)
            if not self._ended_meanwhile.isdisjoint((str(principal.session_id), str(principal.user_id))):
                raise UnauthorizedError("The session of this token has ended.")
            return principal
        finally:
            self._ended_meanwhile = None

    def _missing_scope(self, channel: Channel) -> Scope | None:
        """What the client's API token would need for `channel` and was not given."""
        scope = SCOPES.get(channel)
        return scope if scope and self.principal and scope not in self.principal.scopes else None

    def _end_out_of_scope(self) -> None:
        """Another token of the same account may allow less than the one before."""
        for channel in tuple(self._outbox.lanes):
            if scope := self._missing_scope(channel):
                self._hub.unsubscribe(self._outbox, channel)
                self.fail("insufficient_scope", f"{_not_given(scope)} Ended: {channel}.")

    def _watch_expiry(self) -> None:
        if self._expiry:
            self._expiry.cancel()
            self._expiry = None
        if self.principal is None:
            return
        left = (self.principal.expires_at - self._clock.now()).total_seconds()
        if left <= 0:
            expired = _expired()
            self._sign_out(expired.code, expired.detail)
        else:
            delay = min(left, LONGEST_TIMER)
            self._expiry = asyncio.get_running_loop().call_later(delay, self._watch_expiry)

    def _sign_out(self, code: str, detail: str) -> None:
        self.principal, self._token = None, ""
        ended = self._hub.identify(self._outbox, None)
        self._watch_expiry()
        channels = f" Ended: {', '.join(ended)}." if ended else ""
        self.fail(code, f"{detail}{channels}")

    def revoke(self, session_ids: Collection[str]) -> None:
        """Sessions or API tokens were revoked: end the private subscriptions if this client's is among them."""
        if self._ended_meanwhile is not None:
            self._ended_meanwhile.update(session_ids)
        if self.principal is not None and str(self.principal.session_id) in session_ids:
            self._end_session()

    def deactivate(self, user_id: str) -> None:
        """An account was deactivated: end the private subscriptions if it is this client's."""
        if self._ended_meanwhile is not None:
            self._ended_meanwhile.add(user_id)
        if self.principal is not None and str(self.principal.user_id) == user_id:
            self._sign_out("session_ended", "The account was deactivated: ask the administrator.")

    def _end_session(self) -> None:
        self._sign_out("session_ended", "The session has ended: sign in again.")

    async def revalidate(self) -> None:
        """Ask again whether the session is alive, because news of its end may have been lost.

        When it cannot be found out now, the session goes on until the next time or its expiry.
        """
        principal, token = self.principal, self._token
        if principal is None:
            return
        try:
            async with asyncio.timeout(self._limits.patience_seconds):
                await self._context.authenticator.authenticate(token)
        except UnauthorizedError:
            if self.principal is principal:
                self._end_session()
        except (DomainError, PyMongoError, TimeoutError):
            log.warning("a WebSocket client's session could not be checked", user_id=str(principal.user_id))

    # Subscriptions

    async def _subscribe(self, request: schemas.Subscribe) -> None:
        channel = schemas.channel_of(request.channel, request.id)
        symbols = self._symbols(channel, request.symbols)
        if scope := self._missing_scope(channel):
            raise ProtocolError("insufficient_scope", _not_given(scope))
        known = channel in self._outbox.lanes
        seq = self._hub.subscribe(self._outbox, channel, symbols)
        if request.since is None:
            self._acknowledge(request.id, channel, seq)
            await self._show(channel, symbols, seq)
        elif channel not in self._context.replays:
            self._acknowledge(request.id, channel, seq, replayed=0, truncated=True)
        else:
            try:
                await self._replay(request, channel, request.since, seq)
            except BaseException:
                if channel in self._outbox.lanes:
                    if known:
                        self._outbox.release(channel, (), seq)
                    else:
                        self._hub.unsubscribe(self._outbox, channel)
                raise

    def _symbols(self, channel: Channel, named: list[str] | None) -> list[str] | None:
        """The symbols as the channel's messages have them, each once, however the client wrote them."""
        if named is None:
            return None
        policy = POLICIES[channel]
        if not policy.by_symbol:
            raise ProtocolError("invalid_message", f"The channel {channel} has no symbols to choose from.")
        symbols = list(dict.fromkeys(policy.spelling(symbol) for symbol in named))
        if not all(symbols):
            raise ProtocolError("invalid_message", "A symbol is more than spaces.")
        lane = self._outbox.lanes.get(channel)
        heard = (lane.symbols if lane else None) or set()
        if len(heard.union(symbols)) > self._limits.max_symbols_total:
            most = self._limits.max_symbols_total
            raise ProtocolError("too_many_symbols", f"You can hear at most {most} symbols; subscribe to all instead.")
        return symbols

    async def _show(self, channel: Channel, symbols: list[str] | None, seq: int) -> None:
        """Send what is known now of a channel, and only then live messages; without it if that takes too long."""
        snapshot = self._context.snapshots.get(channel)
        if snapshot is None:
            return
        self._outbox.hold(channel)
        try:
            async with asyncio.timeout(self._limits.snapshot_seconds), self._context.replay_turns:
                found = await snapshot.newest(symbols)
            for data in found:
                await self._still_subscribed(channel)
                self._outbox.reply(self._hub.envelope(channel, seq, data))
        except (DomainError, PyMongoError, TimeoutError) as error:
            log.info("a subscriber begins without the newest prices", error=type(error).__name__)
        finally:
            if channel in self._outbox.lanes:
                self._outbox.release(channel, (), seq)

    async def _replay(self, request: schemas.Subscribe, channel: Channel, since: int, seq: int) -> None:
        """Send what is stored after `since`, acknowledge, and only then let live messages through."""
        owner, limit = self._outbox.owner, self._limits.replay_limit
        if owner is None:
            raise UnauthorizedError(f"Authenticate to have what is stored of {channel}.")
        self._outbox.hold(channel)
        async with asyncio.timeout(self._limits.patience_seconds), self._context.replay_turns:
            stored = await self._context.replays[channel].since(owner, since, limit + 1)
        messages: list[Message] = []
        size = 0
        for number, data in stored[:limit]:
            await self._still_subscribed(channel)
            size += len(data)
            if messages and size > self._limits.replay_bytes:
                break
            messages.append(Message(channel, number, self._hub.envelope(channel, number, data)))
            self._outbox.reply(messages[-1])
        await self._still_subscribed(channel)
        truncated = len(messages) < len(stored)
        # Where more is stored than was sent, the position is the last one sent: the client can go on from there.
        position = messages[-1].seq if truncated else max([seq, *(message.seq for message in messages)])
        self._acknowledge(request.id, channel, position, replayed=len(messages), truncated=truncated)
        self._outbox.release(channel, messages, position)

    async def _still_subscribed(self, channel: Channel) -> None:
        """Wait for room in the outbox; raises `UnauthorizedError` if the client was signed out in the meantime."""
        await self._outbox.room()
        if channel not in self._outbox.lanes:
            raise UnauthorizedError(f"The subscription to {channel} ended during the replay.")

    def _acknowledge(
        self, tag: Tag | None, channel: Channel, seq: int, *, replayed: int | None = None, truncated: bool = False
    ) -> None:
        symbols = self._outbox.lanes[channel].symbols
        self._reply(
            schemas.Subscribed,
            tag,
            channel=channel,
            seq=seq,
            symbols=UNSET if symbols is None else sorted(symbols),
            replayed=UNSET if replayed is None else replayed,
            truncated=UNSET if replayed is None else truncated,
        )

    def _unsubscribe(self, request: schemas.Unsubscribe) -> None:
        channel = schemas.channel_of(request.channel, request.id)
        try:
            self._hub.unsubscribe(self._outbox, channel, self._symbols(channel, request.symbols))
        except ValueError as error:
            raise ProtocolError("invalid_message", f"{str(error).capitalize()}.") from None
        lane = self._outbox.lanes.get(channel)
        left = sorted(lane.symbols) if lane and lane.symbols else UNSET
        self._reply(schemas.Unsubscribed, request.id, channel=channel, symbols=left)

    def resync(self, since: int) -> None:
        """Messages after `since` may have been lost on their way here: tell the client where it can have them."""
        for channel in self._context.replays:
            if channel in self._outbox.lanes:
                self._reply(schemas.Resync, channel=channel, since=since)


def _expired() -> ProtocolError:
    return ProtocolError("token_expired", "The token has expired: get a new one and authenticate again.")


def _not_given(scope: Scope) -> str:
    return f"This API token was not given the scope {scope}."
