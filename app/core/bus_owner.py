"""The owner's side of the loopback bus: admits peers, relays between them, and remembers for those who are away."""

import asyncio
import secrets
import time
from collections.abc import Iterable

import structlog

from app.core.bus import Ack, Envelope, Outbox, Outgoing, Receiver
from app.core.bus_link import (
    MAX_SILENT_BEATS,
    Bye,
    Challenge,
    Frame,
    Hello,
    Link,
    Members,
    Ping,
    Pong,
    Proof,
    pack,
    prove,
    proved,
)

log = structlog.get_logger(__name__)

GREETING_SECONDS = 1.0
"""How long a connection may take to prove itself."""
MAX_STRANGERS = 64
"""Connections that have not proved themselves yet; beyond, the oldest is closed."""
NONCE_BYTES = 32
ABSENCE_SECONDS = 1.5
"""How long a peer that vanished is expected back: it tries every quarter of a second, unless it is dead."""


class Owner:
    """The hub among the service's processes; also one of them."""

    def __init__(self, receiver: Receiver, token: str, absent: Iterable[str], beat_seconds: float) -> None:
        self._receiver, self._token, self._beat_seconds = receiver, token, beat_seconds
        self._links: dict[str, Link] = {}
        self._strangers: dict[Link, asyncio.TimerHandle] = {}
        deadline = time.monotonic() + ABSENCE_SECONDS
        self._absent = {origin: deadline for origin in absent if origin != receiver.origin}
        self._history = Outbox()
        """What was sent while somebody was away, to be repeated when they come back; duplicates are ignored there."""
        self._pinged: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._busy = asyncio.Event()

    @property
    def peers(self) -> int:
        """How many other processes are connected."""
        return len(self._links)

    @property
    def has_peers(self) -> bool:
        """Whether anybody is connected or expected back."""
        return bool(self._links or self._absent)

    @property
    def connected(self) -> bool:
        """False while somebody is expected back, or has not been heard of for too long."""
        if self._absent:
            return False
        if not self._links:
            return True
        # Looked at by the clock: a process that itself stood still is wrong about the world until it has listened.
        oldest = time.monotonic() - MAX_SILENT_BEATS * self._beat_seconds
        return all(link.heard > oldest for link in self._links.values())

    @property
    def unsent(self) -> int:
        """Bytes that wait for slow peers."""
        return sum(link.unsent for link in self._links.values())

    async def open(self) -> int:
        """Listen on a free port of 127.0.0.1 and return it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def run(self) -> None:
        """Heartbeats, as long as there is anybody to hear them."""
        while True:
            if not self.has_peers:
                self._busy.clear()
                await self._busy.wait()
            await asyncio.sleep(self._beat_seconds)
            self._beat()

    def send(self, item: Outgoing) -> None:
        """Send an event of this process (framed) to all peers."""
        self._relay(item, None)
        if item.confirmation:
            item.confirmation.expect(self._links)

    def close(self) -> list[Link]:
        """Stop listening and part from all peers; returns their connections, whose last bytes are still leaving."""
        if self._server:
            self._server.close()
        for stranger in tuple(self._strangers):
            stranger.abort("the owner is closing")
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            link.send(pack(Bye()))
            link.close()
        return links

    # ------------------------------------------------------------------ connections

    def _accept(self) -> Link:
        if len(self._strangers) >= MAX_STRANGERS:
            next(iter(self._strangers)).abort("too many strangers")
        link = Link(self._on_frame, self._on_lost)
        loop = asyncio.get_running_loop()
        self._strangers[link] = loop.call_later(GREETING_SECONDS, self._give_up, link)
        return link

    def _give_up(self, link: Link) -> None:
        self._strangers.pop(link, None)
        link.abort("it did not prove itself in time")

    def _greet(self, link: Link, frame: Frame) -> None:
        if isinstance(frame, Hello) and not link.origin and frame.origin and len(frame.nonce) == NONCE_BYTES:
            link.origin, link.nonce = frame.origin, secrets.token_bytes(NONCE_BYTES)
            link.expected_proof = prove(self._token, "peer", link.origin, frame.nonce, link.nonce)
            mine = prove(self._token, "owner", link.origin, frame.nonce, link.nonce)
            link.send(pack(Challenge(link.nonce, mine)))
        elif isinstance(frame, Proof) and link.origin and proved(frame.proof, link.expected_proof):
            self._admit(link)
        else:
            log.warning("a stranger was refused at the service's event bus")
            link.abort("it did not prove itself")

    def _admit(self, link: Link) -> None:
        self._strangers.pop(link).cancel()
        before = self._links.pop(link.origin, None)
        if before:
            before.abort("its process has connected anew")
        link.trust()
        self._links[link.origin] = link
        self._pinged[link.origin] = 0
        self._absent.pop(link.origin, None)
        self._busy.set()
        self._announce()
        for item in self._history:
            link.send(item.frame)
        if not self._absent:
            self._history.clear()

    def _on_lost(self, link: Link) -> None:
        timer = self._strangers.pop(link, None)
        if timer:
            timer.cancel()
        if self._links.get(link.origin) is link:
            log.warning("a process was lost from the event bus", reason=link.reason)
            self._absent[link.origin] = time.monotonic() + ABSENCE_SECONDS
            self._remove(link)

    def _remove(self, link: Link) -> None:
        del self._links[link.origin], self._pinged[link.origin]
        self._receiver.peer_gone(link.origin)
        self._announce()

    def _announce(self) -> None:
        members = pack(Members([self._receiver.origin, *self._links], not self._absent))
        for link in self._links.values():
            link.send(members)

    # ------------------------------------------------------------------ frames

    def _on_frame(self, link: Link, frame: Frame, raw: bytes) -> None:
        if self._links.get(link.origin) is not link:
            if link in self._strangers:
                self._greet(link, frame)
        elif isinstance(frame, Envelope) and frame.origin == link.origin:
            self._relay(Outgoing(frame.seq, raw), link)
            link.relayed = max(link.relayed, frame.seq)
            ack = self._receiver.deliver(frame)
            if ack:
                link.send(pack(ack))
        elif isinstance(frame, Ack) and frame.peer == link.origin:
            asker = self._links.get(frame.origin)
            if asker:
                asker.send(raw)
            else:
                self._receiver.acknowledge(frame)
        elif isinstance(frame, Bye):
            self._remove(link)
            link.close()
        elif not isinstance(frame, Pong):
            link.abort("it sent a frame that is not its to send")

    def _relay(self, item: Outgoing, source: Link | None) -> None:
        if self._absent:
            self._history.append(item)
        for link in self._links.values():
            if link is not source:
                link.send(item.frame)

    def _beat(self) -> None:
        now = time.monotonic()
        expired = [origin for origin, deadline in self._absent.items() if deadline < now]
        for origin in expired:
            del self._absent[origin]
        if expired and not self._absent:
            self._history.clear()
            self._announce()
        # What was relayed may be forgotten by its sender only when no byte of it waits in this process any more.
        all_sent = self.unsent == 0
        for origin, link in self._links.items():
            if not link.beat():
                link.abort("it gave no sign of life")
                continue
            if all_sent:
                self._pinged[origin] = link.relayed
            link.send(pack(Ping(self._pinged[origin])))
