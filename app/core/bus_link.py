"""One connection of the loopback bus: frames on a TCP socket, and the proof that both ends belong to the service.

A frame is a length (4 bytes, big-endian) and that many bytes of msgpack. The ends prove to each other that they know
the secret of the endpoint file without ever sending it: each answers the other's random challenge with an HMAC-SHA-256.
So neither a stranger on the port, nor a stranger who caught the port of an owner that died, can inject an event.
"""

import asyncio
import hmac
import socket
import time
from collections.abc import Callable
from typing import cast

import msgspec

from app.core.bus import MAX_ENVELOPE, Ack, Envelope

HEADER = 4
MAX_GREETING = 256
"""Bytes of the largest frame before the other end has proved itself."""
MAX_FRAME = MAX_ENVELOPE
MAX_UNREAD = 16 << 20
"""Bytes that may wait for an end that does not read; beyond, it is disconnected. Larger than a replayed outbox."""
MAX_SILENT_BEATS = 4
"""Heartbeats without a sign of life, after which the other end counts as hung and is disconnected."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """Peer to owner, first of all: who I am, and prove that you are the owner."""

    origin: str
    nonce: bytes


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag="challenge"):
    """Owner to peer: my proof, and now prove that you may join."""

    nonce: bytes
    proof: bytes


class Proof(msgspec.Struct, frozen=True, array_like=True, tag="proof"):
    """Peer to owner: my proof."""

    proof: bytes


class Members(msgspec.Struct, frozen=True, array_like=True, tag="members"):
    """Owner to peers: who is connected (the owner first). The first one is the welcome."""

    origins: list[str]
    complete: bool
    """False while somebody is away who may come back."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """Owner to peer, each heartbeat."""

    relayed: int
    """The peer's events up to this number have left for everybody; it need not keep them any longer."""


class Pong(msgspec.Struct, frozen=True, array_like=True, tag="pong"):
    """Peer to owner: still there."""


class Bye(msgspec.Struct, frozen=True, array_like=True, tag="bye"):
    """Leaving in good order: nothing of mine is missing."""


Frame = Envelope | Ack | Hello | Challenge | Proof | Members | Ping | Pong | Bye

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)

OnFrame = Callable[["Link", Frame, bytes], None]
OnLost = Callable[["Link"], None]


def framed(payload: bytes) -> bytes:
    """The payload with its length in front."""
    return len(payload).to_bytes(HEADER, "big") + payload


def pack(frame: Frame) -> bytes:
    """A frame as it goes over the socket."""
    return framed(_encoder.encode(frame))


def prove(token: str, role: str, origin: str, peer_nonce: bytes, owner_nonce: bytes) -> bytes:
    """The answer to a challenge. The role is in it, so that one end's proof is no use to the other end."""
    message = b"|".join((role.encode(), origin.encode(), peer_nonce, owner_nonce))
    return hmac.digest(token.encode(), message, "sha256")


def proved(proof: bytes, expected: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(proof, expected)


class Link(asyncio.Protocol):
    """Frames in and out of one socket; closed on anything malformed, too big, or not read in time."""

    def __init__(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        self._on_frame, self._on_lost = on_frame, on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._limit = MAX_GREETING
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reason = "closed by the other end"
        self.origin = ""
        """The other end's name; trusted only once `trust` was called."""
        self.nonce = b""
        """Our challenge to the other end."""
        self.expected_proof = b""
        self.heard = time.monotonic()
        """When the other end last sent anything."""
        self.silent_beats = 0
        self.relayed = 0
        """Owner's side: the number of the other end's newest relayed event."""

    @property
    def open(self) -> bool:
        """Whether frames can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes not yet handed to the operating system."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def trust(self) -> None:
        """The other end has proved itself: events may come."""
        self._limit = MAX_FRAME

    def beat(self) -> bool:
        """Count a heartbeat; False when the other end has been silent for too many of them.

        Beats and not seconds are counted, so that a process which itself stood still does not blame the others.
        """
        self.silent_beats += 1
        return self.silent_beats <= MAX_SILENT_BEATS

    def send(self, data: bytes) -> None:
        """Send framed bytes; never blocks. An end that has left too much unread is disconnected."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNREAD:
            self.abort("it does not read what it is sent")

    def close(self) -> None:
        """Send what is buffered, then close."""
        if self._transport:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once."""
        if self.open:
            self.reason = reason
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`: cut the stream into frames."""
        self.heard = time.monotonic()
        self.silent_beats = 0
        buffer = self._buffer
        buffer += data
        start = 0
        while self.open and len(buffer) - start >= HEADER:
            size = int.from_bytes(buffer[start : start + HEADER], "big")
            if size > self._limit:
                self.abort("it sent a frame that is too big")
                break
            end = start + HEADER + size
            if len(buffer) < end:
                break
            raw = bytes(buffer[start:end])
            start = end
            try:
                frame = _decoder.decode(memoryview(raw)[HEADER:])
            except msgspec.MsgspecError:
                self.abort("it sent something that is not a frame")
                break
            self._on_frame(self, frame, raw)
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        if exc is not None:
            self.reason = f"{type(exc).__name__}: {exc}"
        if not self.closed.done():
            self.closed.set_result(None)
        self._on_lost(self)
