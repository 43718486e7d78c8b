"""The bus over a loopback socket: real processes that are killed and stopped, and strangers at the door."""

import asyncio
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import filelock
import msgspec
import pytest

from app.core.bus_link import HEADER, Challenge, Hello, Members, Proof, pack, prove
from app.core.bus_loopback import Endpoint
from app.core.bus_owner import GREETING_SECONDS
from app.core.events import AlertStored, KeyChanged, PeersChanged
from tests.core.bus_processes import Launch, envelope, until

pytestmark = pytest.mark.timeout(180)

ALERT = AlertStored("a" * 24, "b" * 24, "c" * 24, 1, b'{"price":1.5}')


async def test_a_process_alone_owns_the_bus_and_sends_nothing(tmp_path: Path, make_bus: Any) -> None:
    bus, seen = await make_bus()
    await bus.publish(ALERT)
    await bus.publish(KeyChanged("d"), confirm=True)
    await until(lambda: bus.connected)
    assert bus.health()["role"] == "owner"
    assert bus._seq == 0
    assert [type(event) for event in seen] == [PeersChanged, AlertStored, KeyChanged]
    assert stat.S_IMODE((tmp_path / "bus.json").stat().st_mode) == 0o600
    await bus.stop()
    assert not (tmp_path / "bus.json").exists()


async def test_processes_exchange_events_in_order(launch: Launch) -> None:
    peers = [await launch() for _ in range(3)]
    for peer in peers:
        await peer.until_health(peers=2, connected=True)
        peer.tell(do="publish", first=1, count=300)
    for peer in peers:
        for other in peers:
            await peer.until_got(other, 300)
            assert peer.got_from(other) == list(range(1, 301))
    assert [(await peer.health())["role"] for peer in peers] == ["owner", "peer", "peer"]
    for peer in reversed(peers):
        peer.tell(do="stop")
        await peer.until_heard("stopped")


async def test_the_owner_is_killed_in_the_middle_and_no_event_is_lost(launch: Launch) -> None:
    owner, *survivors = [await launch() for _ in range(3)]
    for peer in survivors:
        await peer.until_health(peers=2, connected=True)
        peer.tell(do="publish", first=1, count=250, pause=0.002)
    await until(lambda: len(owner.got_from(survivors[0])) > 80)
    owner.signal(signal.SIGKILL)
    for peer in survivors:
        await peer.until_health(peers=1, connected=True)
    for peer, other in (survivors, survivors[::-1]):
        await peer.until_got(other, 250)
        assert peer.got_from(other) == list(range(1, 251))
        assert len(peer.heard("changed")) >= 2
    assert {(await peer.health())["role"] for peer in survivors} == {"owner", "peer"}


async def test_events_wait_while_the_owner_hangs_and_arrive_when_it_is_back(launch: Launch) -> None:
    owner, peer = await launch(beat=0.1), await launch(beat=0.1)
    await owner.until_health(peers=1)
    owner.signal(signal.SIGSTOP)
    await peer.until_health(connected=False, role="none")
    peer.tell(do="publish", first=1, count=5)
    await peer.until_health(queued=5, dropped=0)
    peer.tell(do="publish", first=6, count=4200, size=1)
    await peer.until_health(queued=4096, dropped=5 + 4200 - 4096)
    owner.signal(signal.SIGCONT)
    await owner.until_health(peers=1, connected=True)
    await owner.until_got(peer, 4096)
    assert owner.got_from(peer) == list(range(110, 4206))
    await peer.until_health(peers=1, connected=True, queued=0, last_error=None)


async def test_a_peer_that_never_reads_delays_nobody(launch: Launch) -> None:
    owner, stalled, reader = [await launch() for _ in range(3)]
    await owner.until_health(peers=2, connected=True)
    stalled.signal(signal.SIGSTOP)
    for first in range(1, 451, 90):  # not more at a time than may wait for one that does read
        owner.tell(do="publish", first=first, count=90, size=64 << 10, pause=0.001)
        await reader.until_got(owner, first + 89)
    assert reader.got_from(owner) == list(range(1, 451))
    await owner.until_health(peers=1)
    stalled.signal(signal.SIGCONT)
    await owner.until_health(peers=2, connected=True)
    await stalled.until_health(peers=2, connected=True)
    assert len(stalled.heard("changed")) >= 3  # joined, lost, joined, and it may have noticed what it missed
    got = stalled.got_from(owner)
    assert got == sorted(set(got))
    owner.tell(do="publish", first=1000, count=1)
    await until(lambda: stalled.got_from(owner)[-1:] == [1000])


async def test_the_owner_leaves_and_another_takes_over(make_bus: Any) -> None:
    (first, _), (second, seen) = await make_bus(), await make_bus()
    await until(lambda: first.health()["peers"] == second.health()["peers"] == 1)
    await first.publish(ALERT)
    await first.stop()
    await until(lambda: second.health()["role"] == "owner")
    assert [type(event) for event in seen] == [PeersChanged, AlertStored, PeersChanged, PeersChanged]
    await until(lambda: second.connected)


async def test_a_confirmed_event_in_the_gap_waits_for_the_connection(make_bus: Any) -> None:
    (owner, _), (left, _), (right, seen) = await make_bus(), await make_bus(), await make_bus()
    await until(lambda: left.health()["peers"] == right.health()["peers"] == 2)
    await owner.stop()
    await left.publish(KeyChanged("gap"), confirm=True)
    await until(lambda: KeyChanged("gap") in seen)
    await until(lambda: left.connected and right.connected)
    assert seen.count(KeyChanged("gap")) == 1


async def test_an_event_too_big_for_the_wire_is_noticed_by_the_others(make_bus: Any) -> None:
    (first, _), (second, seen) = await make_bus(), await make_bus()
    await until(lambda: first.health()["peers"] == 1)
    await first.publish(KeyChanged("1"))
    await first.publish(AlertStored("u", "s", "a", 1, b"x" * (2 << 20)))
    await first.publish(KeyChanged("2"))
    await until(lambda: KeyChanged("2") in seen)
    assert [type(event) for event in seen[1:]] == [KeyChanged, PeersChanged, KeyChanged]
    assert first.health()["oversized"] == 1
    await until(lambda: second.connected)


async def test_a_process_that_stood_still_distrusts_its_caches_until_it_has_listened(make_bus: Any) -> None:
    (owner, _), (peer, _) = await make_bus(0.05), await make_bus(0.05)
    await until(lambda: owner.connected and owner.health()["peers"] == 1 and peer.connected)
    time.sleep(0.3)  # noqa: ASYNC251 (standing still is the point)
    assert not owner.connected
    assert not peer.connected
    await until(lambda: owner.connected and peer.connected and owner.health()["peers"] == 1)


async def connect(tmp_path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Endpoint]:
    await until((tmp_path / "bus.json").exists)
    endpoint = msgspec.json.decode((tmp_path / "bus.json").read_bytes(), type=Endpoint)
    return *(await asyncio.open_connection("127.0.0.1", endpoint.port)), endpoint


async def closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What the other end says before it closes."""
    said = b""
    try:
        async with asyncio.timeout(30):
            while part := await reader.read(65536):
                said += part
    except ConnectionError:
        pass
    writer.close()
    return said


INJECTED = pack(envelope(1, KeyChanged("injected")))
STRANGE = {
    "an event at once": INJECTED,
    "an event after a hello": pack(Hello("me", b"n" * 32)) + INJECTED,
    "a hello with a short nonce": pack(Hello("me", b"n")),
    "a frame too big": (1 << 30).to_bytes(HEADER, "big") + b"x" * 1000,
    "no frame at all": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "garbage in a frame": b"\x00\x00\x00\x03abc",
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE.keys())
async def test_strangers_are_refused(data: bytes, tmp_path: Path, make_bus: Any) -> None:
    bus, seen = await make_bus()
    took = []
    while not took or (min(took) > GREETING_SECONDS / 2 and len(took) < 5):  # at once, where the machine lets it
        reader, writer, endpoint = await connect(tmp_path)
        began = time.monotonic()
        writer.write(data)
        assert endpoint.token.encode() not in await closed(reader, writer)
        took.append(time.monotonic() - began)
    assert min(took) < GREETING_SECONDS / 2
    assert KeyChanged("injected") not in seen
    assert bus.health()["peers"] == 0


async def test_a_stranger_with_a_wrong_token_is_refused_and_a_silent_one_closed(tmp_path: Path, make_bus: Any) -> None:
    bus, seen = await make_bus()
    began = time.monotonic()
    silent = await connect(tmp_path)
    reader, writer, _ = await connect(tmp_path)
    writer.write(pack(Hello("me", b"n" * 32)))
    size = int.from_bytes(await reader.readexactly(HEADER), "big")
    challenge = msgspec.msgpack.decode(await reader.readexactly(size), type=Challenge)
    # Neither a made-up proof nor the owner's own, sent back, opens the door.
    writer.write(pack(Proof(challenge.proof)) + INJECTED)
    assert await closed(reader, writer) == b""
    reader, writer, _ = await connect(tmp_path)
    writer.write(pack(Hello("me", b"n" * 32)) + pack(Proof(prove("wrong", "peer", "me", b"n" * 32, b""))) + INJECTED)
    await closed(reader, writer)
    await closed(silent[0], silent[1])
    assert time.monotonic() - began > 0.9
    assert KeyChanged("injected") not in seen
    await until(lambda: bus.connected)
    assert bus.health()["peers"] == 0


async def test_a_stranger_on_the_owners_port_learns_and_injects_nothing(tmp_path: Path, make_bus: Any) -> None:
    """The owner died, and somebody else has got its port before a new owner could write the endpoint file."""
    received = bytearray()

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(4096))
        welcome = pack(Members(["owner"], True))
        writer.write(pack(Challenge(b"n" * 32, b"p" * 32)) + welcome + INJECTED)
        received.extend(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(pose, "127.0.0.1", 0)
    endpoint = Endpoint(server.sockets[0].getsockname()[1], "t" * 64, os.getpid())
    (tmp_path / "bus.json").write_bytes(msgspec.json.encode(endpoint))
    with filelock.FileLock(tmp_path / "bus.lock", thread_local=False):
        bus, seen = await make_bus(joined=False)
        await until(lambda: len(received) > 30)
        assert b"t" * 64 not in received
        assert not bus.connected
        assert seen == []
    server.close()
    await until(lambda: bus.connected)
    assert bus.health()["role"] == "owner"


async def test_a_crowd_of_strangers_does_not_keep_a_peer_out(tmp_path: Path, make_bus: Any) -> None:
    owner, _ = await make_bus()
    crowd = [await connect(tmp_path) for _ in range(100)]
    peer, _ = await make_bus()
    await until(lambda: peer.connected)
    assert owner.health()["peers"] == 1
    for reader, writer, _ in crowd:
        await closed(reader, writer)
