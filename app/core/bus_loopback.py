"""The bus between the processes of one machine, with nothing to install: a socket that one of them owns.

Whoever holds the lock file owns the bus: it listens on a port of 127.0.0.1, says in the endpoint file where, and relays
between the others. The operating system frees the lock when the owner dies, however it dies; then the first of the
others to take it owns the next one, and the rest connect to that. Events published meanwhile wait and are sent after.

Files in the data folder: `bus.lock` (never removed) and `bus.json` (port, secret, process id; readable by its owner).
"""

import asyncio
import contextlib
import os
import random
import secrets
import time
from pathlib import Path
from typing import ClassVar

import filelock
import msgspec
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
    framed,
    pack,
    prove,
    proved,
)
from app.core.bus_owner import GREETING_SECONDS, NONCE_BYTES, Owner

log = structlog.get_logger(__name__)

BEAT_SECONDS = 1.0
"""Between two heartbeats of the owner; `MAX_SILENT_BEATS` of them without an answer mean that a process hangs."""
FIRST_RETRY, LAST_RETRY = 0.01, 0.25
"""Seconds between attempts to own or to join the bus, doubled each time, with jitter."""
START_SECONDS = 2.0
"""How long `start` waits for the first connection before it lets the service start without."""
PARTING_SECONDS = 0.3
"""How long the other ends may take to read the last bytes when this process leaves."""


class Endpoint(msgspec.Struct, frozen=True):
    """The endpoint file: where the owner listens, and the secret that proves membership."""

    port: int
    token: str
    pid: int


class LinkError(OSError):
    """The owner could not be joined, or was lost."""


class _Peer:
    """A process's connection to the owner."""

    def __init__(self, transport: "LoopbackTransport", receiver: Receiver, endpoint: Endpoint) -> None:
        self._transport, self._receiver, self._endpoint = transport, receiver, endpoint
        self.link = Link(self._on_frame, lambda _: None)
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._owner_proved = False
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.others: set[str] = set()
        self.complete = False

    async def join(self) -> None:
        """Connect and prove membership; raises `OSError`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(GREETING_SECONDS):
            await loop.create_connection(lambda: self.link, "127.0.0.1", self._endpoint.port)
        self.link.send(pack(Hello(self._receiver.origin, self._nonce)))
        await asyncio.wait(
            {self.joined, self.link.closed}, timeout=GREETING_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not self.joined.done():
            raise LinkError(f"the owner of the bus did not let this process join: {self.link.reason}")

    async def run(self, beat_seconds: float) -> None:
        """Until the connection ends, which raises `LinkError`."""
        while not self.link.closed.done():
            await asyncio.wait({self.link.closed}, timeout=beat_seconds)
            if not self.link.beat():
                self.link.abort("it gave no sign of life")
        raise LinkError(f"the owner of the bus was lost: {self.link.reason}")

    def send(self, item: Outgoing) -> None:
        """Send an event (framed) to everybody, by way of the owner."""
        self.link.send(item.frame)
        if item.confirmation:
            item.confirmation.expect(self.others)

    def _on_frame(self, link: Link, frame: Frame, _raw: bytes) -> None:
        if not self._owner_proved:
            self._check_owner(frame)
        elif isinstance(frame, Members):
            self._on_members(frame)
        elif not self.joined.done():
            link.abort("it sent events before its welcome")
        elif isinstance(frame, Envelope):
            ack = self._receiver.deliver(frame)
            if ack:
                link.send(pack(ack))
        elif isinstance(frame, Ack):
            self._receiver.acknowledge(frame)
        elif isinstance(frame, Ping):
            self._transport.arrived(frame.relayed)
            link.send(pack(Pong()))
        elif isinstance(frame, Bye):
            link.reason = "it has left"
            link.close()

    def _check_owner(self, frame: Frame) -> None:
        token, origin = self._endpoint.token, self._receiver.origin
        if not isinstance(frame, Challenge) or len(frame.nonce) != NONCE_BYTES:
            self.link.abort("it does not speak the bus's language")
        elif not proved(frame.proof, prove(token, "owner", origin, self._nonce, frame.nonce)):
            self.link.abort("a stranger listens on its port")
        else:
            self._owner_proved = True
            self.link.trust()
            self.link.send(pack(Proof(prove(token, "peer", origin, self._nonce, frame.nonce))))

    def _on_members(self, frame: Members) -> None:
        self.link.origin = frame.origins[0] if frame.origins else ""
        others = set(frame.origins) - {self._receiver.origin}
        gone, self.others, self.complete = self.others - others, others, frame.complete
        for origin in gone:
            self._receiver.peer_gone(origin)
        if not self.joined.done():
            self.joined.set_result(None)
            self._transport.entered(self)


class LoopbackTransport:
    """Carries events between the processes that share a data folder."""

    kind: ClassVar[str] = "loopback"

    def __init__(self, data_dir: Path, *, beat_seconds: float = BEAT_SECONDS) -> None:
        """`data_dir` is created if missing; it must be on a local disk, where file locks work."""
        self._endpoint_path = data_dir / "bus.json"
        # No fallback to locks that are mere files: those outlive a killed process.
        self._lock = filelock.FileLock(data_dir / "bus.lock", mode=0o600, thread_local=False, fallback_to_soft=False)
        self._beat_seconds = beat_seconds
        self._receiver: Receiver | None = None
        self._task: asyncio.Task[None] | None = None
        self._owner: Owner | None = None
        self._peer: _Peer | None = None
        self._others: set[str] = set()
        """Who else was connected to the owner that was lost: they are expected at the next one."""
        self._outbox = Outbox()
        self._dropped = 0
        self._last_error: str | None = None
        self._ready = asyncio.Event()
        self._partings: list[Link] = []

    @property
    def has_peers(self) -> bool:
        """False only for an owner whom nobody is connected to."""
        return self._owner is None or self._owner.has_peers

    @property
    def connected(self) -> bool:
        """Whether every process that may exist can be reached."""
        if self._owner:
            return self._owner.connected
        peer = self._peer
        if peer is None or not peer.complete or not peer.link.open:
            return False
        return time.monotonic() - peer.link.heard < MAX_SILENT_BEATS * self._beat_seconds

    async def start(self, receiver: Receiver) -> None:
        """Own the bus or join its owner; goes on in the background if that takes longer than `START_SECONDS`."""
        self._receiver = receiver
        self._task = asyncio.create_task(self._run(receiver), name="bus")
        try:
            await asyncio.wait_for(self._ready.wait(), START_SECONDS)
        except TimeoutError:
            log.warning("this process could not join the event bus yet, caches are bypassed", reason=self._last_error)

    def send(self, item: Outgoing) -> None:
        """Send now, or after the next connection."""
        item = Outgoing(item.seq, framed(item.frame), item.confirmation)
        if self._owner:
            self._owner.send(item)
            return
        # Kept even when it is sent at once, until the owner says that it was relayed: the owner may die before.
        dropped = self._outbox.append(item)
        if self._peer:
            self._peer.send(item)
        else:
            self._dropped += dropped

    def arrived(self, seq: int) -> None:
        """The owner has relayed our events up to `seq`."""
        self._outbox.discard_until(seq)

    def entered(self, peer: _Peer) -> None:
        """The owner has let us in: whatever waits is sent, before anything that is published from now on."""
        assert self._receiver is not None  # noqa: S101 (set by `start`)
        self._peer = peer
        self._entered("this process has joined the event bus")
        for item in self._outbox:
            peer.send(item)

    def health(self) -> dict[str, object]:
        """Whether this process owns the bus, and how it does."""
        peers = self._owner.peers if self._owner else len(self._peer.others) if self._peer else 0
        waiting = len(self._outbox) if not self._owner and not self._peer else 0
        return {
            "role": "owner" if self._owner else "peer" if self._peer else "none",
            "connected": self.connected,
            "peers": peers,
            "queued": waiting,
            "dropped": self._dropped,
            "last_error": self._last_error,
        }

    async def stop(self, flush_seconds: float) -> None:
        """Let queued events leave, say good-bye, and free the lock for the next owner."""
        deadline = time.monotonic() + flush_seconds
        while self._unsent() and time.monotonic() < deadline:  # noqa: ASYNC110 (the sockets announce no such event)
            await asyncio.sleep(0.005)
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        if self._partings:
            await asyncio.wait([link.closed for link in self._partings], timeout=PARTING_SECONDS)
        for link in self._partings:
            link.abort("it did not hang up")
        self._partings = []

    def _unsent(self) -> int:
        if self._owner:
            return self._owner.unsent
        return self._peer.link.unsent if self._peer else len(self._outbox)

    # ------------------------------------------------------------------ owning and joining

    async def _run(self, receiver: Receiver) -> None:
        retry = FIRST_RETRY
        while True:
            try:
                if self._try_lock():
                    await self._own(receiver)
                else:
                    await self._join(receiver)
            except (OSError, msgspec.MsgspecError) as error:
                self._failed(error)
            except Exception as error:  # whatever it was: without this task the process would be deaf for good
                log.exception("the event bus failed and is set up anew")
                self._failed(error)
            if self._ready.is_set():
                self._ready.clear()
                retry = FIRST_RETRY
            await asyncio.sleep(retry * random.uniform(0.5, 1.5))  # noqa: S311 (jitter, not a secret)
            retry = min(retry * 2, LAST_RETRY)

    def _failed(self, error: Exception) -> None:
        self._last_error = type(error).__name__
        if self._ready.is_set():
            log.warning("this process is off the event bus, caches are bypassed", reason=str(error))

    def _entered(self, reason: str) -> None:
        assert self._receiver is not None  # noqa: S101 (set by `start`)
        self._last_error = None
        log.info(reason)
        self._ready.set()
        self._receiver.peers_changed(reason)

    def _try_lock(self) -> bool:
        self._endpoint_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        return True

    async def _own(self, receiver: Receiver) -> None:
        token = secrets.token_hex(32)
        owner = Owner(receiver, token, self._others, self._beat_seconds)
        try:
            self._write_endpoint(Endpoint(await owner.open(), token, os.getpid()))
            self._owner, self._others = owner, set()
            self._entered("this process owns the event bus")
            for item in self._outbox:
                owner.send(item)
            self._outbox.clear()
            await owner.run()
        finally:
            # In this order, so that the others find the lock free when they see the connection end.
            self._owner = None
            with contextlib.suppress(OSError):
                self._endpoint_path.unlink(missing_ok=True)
            self._lock.release()
            self._partings = owner.close()

    async def _join(self, receiver: Receiver) -> None:
        peer = _Peer(self, receiver, self._read_endpoint())
        try:
            await peer.join()
            await peer.run(self._beat_seconds)
        finally:
            if self._peer:
                self._peer, self._others = None, peer.others - {peer.link.origin}
                peer.link.send(pack(Bye()))
                self._partings = [peer.link]
                receiver.peers_changed("this process is off the event bus")
            else:
                peer.link.abort("not joined")

    def _read_endpoint(self) -> Endpoint:
        return msgspec.json.decode(self._endpoint_path.read_bytes(), type=Endpoint)

    def _write_endpoint(self, endpoint: Endpoint) -> None:
        draft = self._endpoint_path.with_name(f"bus.json.{os.getpid()}")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(endpoint))
        draft.replace(self._endpoint_path)
