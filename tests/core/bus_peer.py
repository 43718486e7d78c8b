"""A process with a bus, for the bus's tests: told what to do on standard input, saying what it sees on standard output.

One JSON object a line, both ways. Arguments: the transport's kind, where it is, the heartbeat in seconds, and how many
seconds Redis may take to answer, and the others to come back.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import structlog
import uvloop

from app.core.bus import Bus, Transport
from app.core.bus_loopback import LoopbackTransport
from app.core.bus_redis import RedisTransport
from app.core.events import AlertStored, KeyChanged, PeersChanged

CHANNEL = "arrow:test:events"


def say(**what: object) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


class Peer:
    def __init__(self, transport: Transport) -> None:
        self.name = f"{os.getpid():024x}"
        self.bus = Bus(transport)
        self.handler_seconds = 0.0
        self.bus.subscribe(AlertStored, lambda event: say(got=event.seq, by=event.user_id, size=len(event.body)))
        self.bus.subscribe(PeersChanged, lambda event: say(changed=event.reason))
        self.bus.subscribe(KeyChanged, self.on_key)

    def on_key(self, event: KeyChanged) -> None:
        time.sleep(self.handler_seconds)
        say(key=event.digest)

    async def publish(self, order: dict[str, float]) -> None:
        body = b"x" * int(order.get("size", 10))
        longest = 0.0
        for number in range(int(order["first"]), int(order["first"] + order["count"])):
            began = time.perf_counter()
            await self.bus.publish(AlertStored(self.name, "s", "a", number, body))
            longest = max(longest, time.perf_counter() - began)
            if order.get("pause"):
                await asyncio.sleep(order["pause"])
        say(published=longest)

    async def revoke(self, digest: str) -> None:
        began = time.perf_counter()
        await self.bus.publish(KeyChanged(digest), confirm=True)
        say(revoked=time.perf_counter() - began, digest=digest, peers=self.bus.health()["peers"])

    async def run(self) -> None:
        began = time.perf_counter()
        await self.bus.start()
        say(ready=time.perf_counter() - began)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tasks = set()
        while line := await reader.readline():
            order = json.loads(line)
            match order["do"]:
                case "publish":
                    tasks.add(asyncio.create_task(self.publish(order)))
                case "revoke":
                    tasks.add(asyncio.create_task(self.revoke(order["digest"])))
                case "slow":
                    self.handler_seconds = order["seconds"]
                case "health":
                    say(health=self.bus.health())
                case "stop":
                    break
        began = time.perf_counter()
        await self.bus.stop()
        say(stopped=time.perf_counter() - began)


def main() -> None:
    kind, where, beat_seconds, patience = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    transport: Transport
    if kind == "redis":
        transport = RedisTransport(
            where, CHANNEL, beat_seconds=beat_seconds, command_seconds=patience, return_seconds=patience
        )
    else:
        transport = LoopbackTransport(Path(where), beat_seconds=beat_seconds)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Peer(transport).run())


if __name__ == "__main__":
    main()
