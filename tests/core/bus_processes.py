"""Processes and Redis servers for the bus's tests; every wait is bounded."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from app.core.bus import Bus, Envelope
from app.core.bus_loopback import LoopbackTransport
from app.core.events import AlertStored, Event, KeyChanged, PeersChanged, SessionRevoked
from tests.support.redis_servers import RedisServer

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("bus_peer.py")
BEATS = {"loopback": 20.0, "redis": 1.0}
"""Seconds. Who stands still for four of them is cut off, and what is published meanwhile is lost to it: no busy machine
takes so long. A peer that ends is noticed at once; only through Redis, at the next beat."""
PATIENCE = 25.0


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until the condition holds, looking often."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


class PeerProcess:
    """A process that runs bus_peer.py, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self._reader = asyncio.create_task(self._read())

    @property
    def name(self) -> str:
        return f"{self.process.pid:024x}"

    async def _read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            self.said.append(json.loads(line))

    def tell(self, **order: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order).encode() + b"\n")

    def heard(self, word: str) -> list[Any]:
        return [line[word] for line in self.said if word in line]

    def got_from(self, other: "PeerProcess") -> list[int]:
        return [line["got"] for line in self.said if line.get("by") == other.name]

    async def until_got(self, other: "PeerProcess", number: int) -> None:
        await until(lambda: len(self.got_from(other)) >= number)

    async def until_heard(self, word: str, times: int = 1) -> None:
        await until(lambda: len(self.heard(word)) >= times)

    async def published(self, order: int = 0) -> float:
        """The longest that one `publish` of an order took, in seconds."""
        await self.until_heard("published", order + 1)
        longest: float = self.heard("published")[order]
        return longest

    async def health(self) -> dict[str, Any]:
        before = len(self.heard("health"))
        self.tell(do="health")
        await until(lambda: len(self.heard("health")) > before)
        last: dict[str, Any] = self.heard("health")[-1]
        return last

    async def until_health(self, seconds: float = 30.0, **expected: object) -> None:
        deadline = time.monotonic() + seconds
        while not expected.items() <= (last := await self.health()).items():
            assert time.monotonic() < deadline, last
            await asyncio.sleep(0.02)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reader
        if self.process.stdin:
            self.process.stdin.close()


Launch = Callable[..., Any]


@pytest_asyncio.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Starts peer processes; all are killed after the test."""
    processes: list[PeerProcess] = []

    async def start(
        kind: str = "loopback", where: str | None = None, beat: float | None = None, patience: float = PATIENCE
    ) -> PeerProcess:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SCRIPT), kind, where or str(tmp_path), str(beat or BEATS[kind]), str(patience)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        peer = PeerProcess(process)
        processes.append(peer)
        await until(lambda: peer.heard("ready"))
        return peer

    yield start
    for peer in processes:
        await peer.close()


@pytest_asyncio.fixture
async def make_bus(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts buses in this process that talk through real sockets. `joined`: waits until they have found one another,
    for which `Bus.start` itself has only so much time."""
    buses: list[Bus] = []

    async def make(beat: float = BEATS["loopback"], *, joined: bool = True) -> tuple[Bus, list[Event]]:
        bus, seen = Bus(LoopbackTransport(tmp_path, beat_seconds=beat)), list[Event]()
        for kind in (AlertStored, KeyChanged, SessionRevoked, PeersChanged):
            bus.subscribe(kind, seen.append)
        await bus.start()
        buses.append(bus)
        if joined:
            await until(lambda: bus.health()["role"] != "none")
        return bus, seen

    yield make
    for bus in buses:
        await bus.stop()


@pytest.fixture
def redis_port() -> Iterator[int]:
    """A running Redis server's port."""
    with RedisServer() as server:
        yield server.port


def envelope(seq: int, event: Event, *, confirm: bool = False, origin: str = "other") -> Envelope:
    return Envelope(origin, seq, confirm, msgspec.Raw(msgspec.msgpack.encode(event)))
