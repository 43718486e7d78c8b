"""Counts the messages that a process sends to its database and its broker, and kills it at one of them.

Those that come back need not be counted: a process that dies before it sends its next message leaves the same behind,
whether the answer to the one before had reached it or not.
"""

import asyncio
import os
import signal
from contextlib import suppress

from tests.support.tcp_proxy import TcpProxy

_HOUSEKEEPING = (b"hello", b"ismaster", b"isMaster", b"endSessions")


class Tripwire:
    """Shared by the proxies of one process."""

    def __init__(self) -> None:
        self._victim = 0
        self._left = 0
        self.messages: list[str] = []
        """What was counted since it was armed."""
        self.tripped = asyncio.Event()

    def arm(self, victim: int, message: int) -> None:
        """Kill the process `victim` when it sends its message number `message`, which is lost then."""
        self._victim, self._left = victim, message
        self.messages, self.tripped = [], asyncio.Event()

    def disarm(self) -> None:
        """Let everything pass."""
        self._victim = 0

    def passes(self, what: str) -> bool:
        """Count a message; whether it may go on."""
        if not self._victim:
            return True
        self.messages.append(what)
        self._left -= 1
        if self._left:
            return not self.tripped.is_set()
        with suppress(ProcessLookupError):
            os.kill(self._victim, signal.SIGKILL)
        self.tripped.set()
        return False


class WatchedProxy(TcpProxy):
    """Passes on what the wire lets pass. `framed`: messages of MongoDB, by their length; else pieces as they come."""

    def __init__(self, target: int, wire: Tripwire, name: str, *, framed: bool) -> None:
        super().__init__(target)
        self._wire, self._name, self._framed = wire, name, framed

    async def _pump(  # type: ignore[override]
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        outward = gate is self._there
        with suppress(OSError, asyncio.IncompleteReadError):
            while data := await self._next(reader):
                await gate.wait()
                counts = outward and not (self._framed and any(word in data for word in _HOUSEKEEPING))
                if counts and not self._wire.passes(f"to {self._name}"):
                    return
                writer.write(data)
                await writer.drain()

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        if not self._framed:
            return await reader.read(65536)
        head = await reader.readexactly(4)
        return head + await reader.readexactly(int.from_bytes(head, "little") - 4)
