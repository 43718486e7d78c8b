"""The bus through a real Redis server, which is killed, restarted and stopped."""

import asyncio
import socket

import pytest

from app.core.bus import Bus
from app.core.bus_redis import RedisTransport
from app.core.events import Event, KeyChanged
from tests.core.bus_processes import PATIENCE, Launch, until
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.timeout(180)


async def test_redis_carries_events_in_order(redis_port: int, launch: Launch) -> None:
    url = f"redis://127.0.0.1:{redis_port}"
    alone = await launch("redis", url)
    await alone.until_health(connected=True, peers=0)
    peers = [alone, await launch("redis", url), await launch("redis", url)]
    for peer in peers:
        await peer.until_health(peers=2, connected=True)
        peer.tell(do="publish", first=1, count=300)
    for peer in peers:
        for other in peers:
            await peer.until_got(other, 300)
            assert peer.got_from(other) == list(range(1, 301))
        assert (await peer.health())["unreadable"] == 0
    peers[0].tell(do="stop")
    await peers[0].until_heard("stopped")
    await peers[1].until_health(peers=1, connected=True)


async def test_redis_goes_away_and_comes_back(launch: Launch) -> None:
    server = RedisServer()
    await asyncio.to_thread(server.start)
    try:
        peers = [await launch("redis", server.url), await launch("redis", server.url)]
        for peer in peers:
            await peer.until_health(peers=1, connected=True)
        server.kill()
        for peer in peers:
            await peer.until_health(connected=False)
            assert str((await peer.health())["last_error"]).isidentifier()  # no address, no message
            peer.tell(do="publish", first=1, count=50)
            await peer.until_health(queued=50)
        await asyncio.to_thread(server.start)
        for peer, other in (peers, peers[::-1]):
            await peer.until_health(connected=True, peers=1, last_error=None)
            await peer.until_got(other, 50)
            assert peer.got_from(other) == list(range(1, 51))
            assert len(peer.heard("changed")) >= 3  # joined, lost, joined
    finally:
        server.kill()


async def test_redis_down_at_the_start_and_hanging_later(launch: Launch) -> None:
    server = RedisServer()
    peer = await launch("redis", server.url, 0.1, 2.0)
    assert not (await peer.health())["connected"]
    await asyncio.to_thread(server.start)
    try:
        await peer.until_health(connected=True, peers=0)
        server.suspend()
        await peer.until_health(connected=False)
        peer.tell(do="revoke", digest="d")
        await peer.until_heard("revoked")  # although Redis does not answer
        server.resume()
        await peer.until_health(connected=True)
    finally:
        server.kill()


async def test_channels_are_separate_and_foreign_messages_ignored(redis_port: int) -> None:
    url, seen = f"redis://127.0.0.1:{redis_port}", list[Event]()
    here, there, also_here = [
        Bus(RedisTransport(url, to, command_seconds=PATIENCE)) for to in ("here", "there", "here")
    ]
    for bus in (there, also_here):
        bus.subscribe(KeyChanged, seen.append)
        await bus.start()
    await here.start()
    await until(lambda: all(bus.connected for bus in (here, there, also_here)) and here.health()["peers"] == 1)
    foreign = ValkeyServerClient(redis_port)
    assert foreign.publish("here", "not an event") == 2
    await here.publish(KeyChanged("d"), confirm=True)
    await until(lambda: seen)
    assert seen == [KeyChanged("d")]
    for bus in (here, there, also_here):
        await bus.stop()


def test_a_wrong_redis_address_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="scheme"):
        RedisTransport("http://localhost", "channel")


class ValkeyServerClient:
    """Just enough of a client to publish from outside."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)

    def publish(self, channel: str, text: str) -> int:
        with socket.create_connection(self._address, timeout=30) as sock:
            sock.sendall(f"PUBLISH {channel} '{text}'\r\n".encode())
            return int(sock.recv(64).strip(b":\r\n"))
