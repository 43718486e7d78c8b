"""The typed event bus: handlers in this process at once, and the service's other processes right after.

`Bus` numbers, encodes and dispatches events; a `Transport` carries the encoded envelopes to the other processes:
`bus_loopback.LoopbackTransport` (one machine), `bus_redis.RedisTransport` (any number), `NullTransport` (none).

What holds, whatever the transport:

- Events of one process arrive in the order in which it published them, each at most once.
- A process that may have missed events learns it: `PeersChanged` is dispatched to it, when its transport is lost, when
  it is connected again, and when a number in another process's sequence is missing.
- `connected` is False while some process may be out of reach; what is cached on the promise of hearing about changes
  must not be used then.
"""

import asyncio
import inspect
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec
import structlog

from app.core.events import Event, PeersChanged, WireEvent

log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Event)

CONFIRM_SECONDS = 0.5
"""The longest that `publish(..., confirm=True)` waits for the other processes."""
FLUSH_SECONDS = 1.0
"""The longest that `stop` waits for queued events to leave."""
MAX_ENVELOPE = 1 << 20
"""Bytes of the largest envelope; a receiver closes the connection on anything bigger."""
KNOWN_ORIGINS = 512
"""Origins whose last number is remembered; restarts make new ones, so the oldest are forgotten."""


class Envelope(msgspec.Struct, frozen=True, array_like=True, tag="event"):
    """One event on its way to other processes."""

    origin: str
    """Which process published it: random, made anew at every start."""
    seq: int
    """1, 2, 3… within the origin: a repeated number is a duplicate, a missing one a loss."""
    confirm: bool
    """Whether the receiver is to answer with an `Ack`."""
    event: msgspec.Raw
    """The event, encoded by itself, so that an envelope with an unknown event can still be relayed and confirmed."""


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    """`peer` has run its handlers for event `seq` of `origin`."""

    origin: str
    seq: int
    peer: str


class Confirmation:
    """Counts the answers to one event. The transport says whom to wait for when the event really leaves."""

    __slots__ = ("_answered", "_count", "_peers", "done")

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answered: set[str] = set()
        self._peers: set[str] | None = None
        self._count: int | None = None

    def expect(self, peers: Iterable[str]) -> None:
        """Wait for these peers; a second call (the event was sent again) replaces the first."""
        self._peers = set(peers)
        self._check()

    def expect_count(self, count: int) -> None:
        """Wait for this many peers, where the transport knows no names."""
        self._count = count
        self._check()

    def answered(self, peer: str) -> None:
        """`peer` has handled the event. May be heard before it is known how many to wait for."""
        self._answered.add(peer)
        self._check()

    def gone(self, peer: str) -> None:
        """`peer` has left and will not answer."""
        if self._peers is not None:
            self._peers.discard(peer)
            self._check()

    @property
    def missing(self) -> int | None:
        """How many have not answered; None if the event has not even left."""
        if self._peers is not None:
            return len(self._peers - self._answered)
        if self._count is not None:
            return max(self._count - len(self._answered), 0)
        return None

    def _check(self) -> None:
        if self.missing == 0 and not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded envelope, with what it takes to send it again and to know that it arrived."""

    seq: int
    frame: bytes
    confirmation: Confirmation | None = None


class Outbox:
    """Envelopes that wait for a connection, or for the news that they arrived. Bounded: the oldest make room."""

    def __init__(self, max_items: int = 4096, max_bytes: int = 8 << 20) -> None:
        self._items: deque[Outgoing] = deque()
        self._bytes = 0
        self._max_items, self._max_bytes = max_items, max_bytes

    def append(self, item: Outgoing) -> int:
        """Add one; returns how many old ones had to go for it."""
        self._items.append(item)
        self._bytes += len(item.frame)
        dropped = 0
        while len(self._items) > self._max_items or self._bytes > self._max_bytes:
            self._pop()
            dropped += 1
        return dropped

    def take(self, count: int) -> list[Outgoing]:
        """Remove and return up to `count` of the oldest."""
        return [self._pop() for _ in range(min(count, len(self._items)))]

    def restore(self, items: list[Outgoing]) -> None:
        """Put back, in front, what `take` returned and could not be sent."""
        self._items.extendleft(reversed(items))
        self._bytes += sum(len(item.frame) for item in items)

    def discard_until(self, seq: int) -> None:
        """Forget everything up to and including this number."""
        while self._items and self._items[0].seq <= seq:
            self._pop()

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self._bytes = 0

    def _pop(self) -> Outgoing:
        item = self._items.popleft()
        self._bytes -= len(item.frame)
        return item

    def __iter__(self) -> Iterator[Outgoing]:
        return iter(tuple(self._items))

    def __len__(self) -> int:
        return len(self._items)


class Receiver(Protocol):
    """The side of the bus that a transport talks to."""

    @property
    def origin(self) -> str:
        """This process's name among its peers."""

    def deliver(self, envelope: Envelope) -> Ack | None:
        """Run the handlers for an envelope that arrived; the answer to send, if one is wanted."""

    def acknowledge(self, ack: Ack) -> None:
        """A peer has handled an event of ours."""

    def peer_gone(self, peer: str) -> None:
        """A peer's connection has ended: nobody waits for its answers any more."""

    def peers_changed(self, reason: str) -> None:
        """The transport was connected or lost, or events were missed: tell the caches."""


class Transport(Protocol):
    """Carries envelopes between this process and the service's others."""

    kind: ClassVar[str]

    @property
    def has_peers(self) -> bool:
        """Whether anybody may want to hear events; if not, nothing is encoded or sent."""

    @property
    def connected(self) -> bool:
        """False while other processes may exist that cannot be reached."""

    async def start(self, receiver: Receiver) -> None:
        """Begin connecting, and wait for it a moment; unreachable peers are no error."""

    def send(self, item: Outgoing) -> None:
        """Send now, or queue for later; never blocks and never raises because of the network."""

    async def stop(self, flush_seconds: float) -> None:
        """Give queued events up to `flush_seconds` to leave, then close everything."""

    def health(self) -> dict[str, object]:
        """`connected`, `peers`, `queued`, `dropped`, `last_error`, and what else the transport knows."""


class NullTransport:
    """For a service that is one process, and for tests: there is nobody else."""

    kind: ClassVar[str] = "none"
    has_peers = False
    connected = True

    async def start(self, receiver: Receiver) -> None:
        """Nothing to connect."""

    def send(self, item: Outgoing) -> None:
        """Nobody to send to."""

    async def stop(self, flush_seconds: float) -> None:
        """Nothing to close."""

    def health(self) -> dict[str, object]:
        """Always well."""
        return {"connected": True, "peers": 0, "queued": 0, "dropped": 0, "last_error": None}


class Bus:
    """Publishes events to handlers here and, through its transport, in the service's other processes.

    Everything happens in the event loop that called `start`; handlers are plain functions and must be quick.
    """

    def __init__(self, transport: Transport) -> None:
        self.origin = secrets.token_hex(8)
        self._transport = transport
        self._handlers: dict[type[Event], tuple[Callable[[Any], None], ...]] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder: msgspec.msgpack.Decoder[WireEvent] = msgspec.msgpack.Decoder(WireEvent)
        self._seq = 0
        self._last_seen: dict[str, int] = {}
        self._waiting: dict[int, Confirmation] = {}
        self._running = False
        self._oversized = self._unreadable = 0

    def subscribe(self, event_type: type[E], handler: Callable[[E], None]) -> None:
        """Call `handler` with every event of exactly this type, wherever in the service it was published."""
        if inspect.iscoroutinefunction(handler):
            raise TypeError("a bus handler is a plain function: let it put work into a queue or a task of its own")
        self._handlers[event_type] = (*self._handlers.get(event_type, ()), handler)

    def announce(self, event: Event) -> None:
        """Run the handlers here, then hand the event to the transport; never waits and never fails.

        What cannot be sent now is queued, and the oldest dropped and counted when the queue is full. Before `start` and
        after `stop` events stay in this process.
        """
        self._dispatch(event)
        if (numbered := self._encode_for_peers(event, confirm=False)) is not None:
            self._transport.send(Outgoing(*numbered))

    async def publish(self, event: Event, *, confirm: bool = False) -> None:
        """The same; with `confirm` it returns when every connected process has run its handlers.

        After `CONFIRM_SECONDS` it returns anyway, with a warning in the log.
        """
        if not confirm:
            self.announce(event)
            return
        self._dispatch(event)
        if (numbered := self._encode_for_peers(event, confirm=True)) is not None:
            await self._send_and_wait(*numbered, type(event).__name__)

    def _encode_for_peers(self, event: Event, *, confirm: bool) -> tuple[int, bytes] | None:
        """The event's number and envelope, or None when nobody else is to hear of it."""
        if event.local_only or not self._running or not self._transport.has_peers:
            return None
        self._seq = seq = self._seq + 1
        frame = self._encode(Envelope(self.origin, seq, confirm, msgspec.Raw(self._encode(event))))
        if len(frame) > MAX_ENVELOPE:
            # The number stays used: the others will see the gap and empty their caches.
            self._oversized += 1
            log.error("an event is too big for other processes", event_type=type(event).__name__, size=len(frame))
            return None
        return seq, frame

    async def _send_and_wait(self, seq: int, frame: bytes, event_type: str) -> None:
        confirmation = self._waiting[seq] = Confirmation()
        try:
            self._transport.send(Outgoing(seq, frame, confirmation))
            await asyncio.wait_for(confirmation.done, CONFIRM_SECONDS)
        except TimeoutError:
            missing = confirmation.missing
            log.warning(
                "an event was not confirmed by all processes",
                event_type=event_type,
                missing="all, not connected" if missing is None else missing,
                seconds=CONFIRM_SECONDS,
            )
        finally:
            del self._waiting[seq]

    @property
    def has_peers(self) -> bool:
        """Whether other processes may want to hear events: if not, a big one need not be made."""
        return self._running and self._transport.has_peers

    @property
    def connected(self) -> bool:
        """False while other processes may exist that cannot be reached: caches must be bypassed then."""
        return self._running and self._transport.connected

    async def start(self) -> None:
        """Join the other processes. Returns soon even when they cannot be reached; joining goes on meanwhile."""
        self._running = True
        await self._transport.start(self)

    async def stop(self) -> None:
        """Leave: queued events get up to `FLUSH_SECONDS`, then everything is closed. May be called twice."""
        if self._running:
            self._running = False
            await self._transport.stop(FLUSH_SECONDS)

    def health(self) -> dict[str, object]:
        """`kind`, `connected`, `peers`, `queued`, `dropped`, `last_error` and details of the transport."""
        return {
            "kind": self._transport.kind,
            **self._transport.health(),
            "oversized": self._oversized,
            "unreadable": self._unreadable,
        }

    def deliver(self, envelope: Envelope) -> Ack | None:
        """Run the handlers for an envelope that arrived (called by the transport)."""
        origin, seq = envelope.origin, envelope.seq
        if origin == self.origin:
            return None
        last = self._last_seen.pop(origin, None)
        self._last_seen[origin] = seq if last is None else max(seq, last)
        if last is None and len(self._last_seen) > KNOWN_ORIGINS:
            del self._last_seen[next(iter(self._last_seen))]
        if last is None or seq > last:
            if last is not None and seq > last + 1:
                self.peers_changed(f"{seq - last - 1} events of another process were lost")
            self._dispatch_encoded(envelope.event)
        # A duplicate is confirmed too: it was handled, and the first answer may have been lost.
        return Ack(origin, seq, self.origin) if envelope.confirm else None

    def acknowledge(self, ack: Ack) -> None:
        """A peer has handled an event of ours (called by the transport)."""
        confirmation = self._waiting.get(ack.seq) if ack.origin == self.origin else None
        if confirmation:
            confirmation.answered(ack.peer)

    def peer_gone(self, peer: str) -> None:
        """Nobody waits for this peer any more (called by the transport)."""
        for confirmation in self._waiting.values():
            confirmation.gone(peer)

    def peers_changed(self, reason: str) -> None:
        """Dispatch `PeersChanged` here (called by the transport)."""
        self._dispatch(PeersChanged(reason))

    def _dispatch_encoded(self, raw: msgspec.Raw) -> None:
        try:
            event = self._decoder.decode(raw)
        except msgspec.MsgspecError as error:
            # During a rolling update another process may know events that this one does not.
            self._unreadable += 1
            if self._unreadable == 1:
                log.warning("an event of another process cannot be read", error=str(error))
            return
        self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        for handler in self._handlers.get(type(event), ()):
            try:
                handler(event)
            except Exception:  # one subscriber's fault must not reach the publisher or the other subscribers
                name = getattr(handler, "__qualname__", repr(handler))
                log.exception("an event handler failed", event_type=type(event).__name__, handler=name)
