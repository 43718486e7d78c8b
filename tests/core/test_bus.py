"""The event bus: what it promises in one process, and what both transports promise between processes."""

import signal

import msgspec
import pytest

from app.core.bus import Bus, Envelope, NullTransport, Outbox, Outgoing
from app.core.events import AlertStored, Event, KeyChanged, PeersChanged, SessionRevoked, WireEvent
from tests.core.bus_processes import Launch, envelope

pytestmark = pytest.mark.timeout(180)

ALERT = AlertStored("a" * 24, "b" * 24, "c" * 24, 1, b'{"price":1.5}')


def test_every_event_either_travels_or_says_that_it_does_not() -> None:
    travelling = set(WireEvent.__args__)
    assert {kind for kind in Event.__subclasses__() if not kind.local_only} == travelling
    assert len({kind.__struct_config__.tag for kind in Event.__subclasses__()}) == len(Event.__subclasses__())


async def test_handlers_run_at_once_in_order_and_only_for_their_type() -> None:
    bus, seen = Bus(NullTransport()), list[object]()
    bus.subscribe(AlertStored, lambda event: seen.append(("first", event.seq)))
    bus.subscribe(AlertStored, lambda event: seen.append(("second", event.body)))
    bus.subscribe(KeyChanged, seen.append)
    await bus.start()
    await bus.publish(ALERT)
    await bus.publish(SessionRevoked("u", ["s"]), confirm=True)
    assert seen == [("first", 1), ("second", b'{"price":1.5}')]
    assert bus.connected
    assert bus.health()["kind"] == "none"
    await bus.stop()
    await bus.stop()
    assert not bus.connected


async def test_a_failing_handler_stops_nobody() -> None:
    bus, seen = Bus(NullTransport()), list[Event]()

    def fail(_: KeyChanged) -> None:
        raise RuntimeError("as intended")

    bus.subscribe(KeyChanged, fail)
    bus.subscribe(KeyChanged, seen.append)
    await bus.publish(KeyChanged("d"))
    assert seen == [KeyChanged("d")]


def test_a_coroutine_cannot_be_a_handler() -> None:
    async def handler(_: KeyChanged) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        Bus(NullTransport()).subscribe(KeyChanged, handler)  # type: ignore[arg-type]


def test_duplicates_are_ignored_and_gaps_noticed() -> None:
    bus, seen = Bus(NullTransport()), list[Event]()
    bus.subscribe(KeyChanged, seen.append)
    bus.subscribe(PeersChanged, seen.append)
    for seq in (7, 8, 8, 7, 9):
        bus.deliver(envelope(seq, KeyChanged(str(seq))))
    assert seen == [KeyChanged("7"), KeyChanged("8"), KeyChanged("9")]
    bus.deliver(envelope(12, KeyChanged("12")))
    assert [type(event) for event in seen[3:]] == [PeersChanged, KeyChanged]
    # A duplicate is confirmed (the first answer may be lost), our own event is neither handled nor confirmed.
    assert bus.deliver(envelope(12, KeyChanged("12"), confirm=True)) is not None
    assert bus.deliver(envelope(13, KeyChanged("13"), confirm=True, origin=bus.origin)) is None
    assert len(seen) == 5


def test_an_event_of_another_version_is_confirmed_and_harms_nothing() -> None:
    bus, seen = Bus(NullTransport()), list[Event]()
    bus.subscribe(KeyChanged, seen.append)
    unknown = Envelope("other", 1, True, msgspec.Raw(msgspec.msgpack.encode({"type": "FromTheFuture", "x": 1})))
    assert bus.deliver(unknown) is not None
    bus.deliver(envelope(2, KeyChanged("2")))
    assert seen == [KeyChanged("2")]
    assert bus.health()["unreadable"] == 1


def test_the_outbox_is_bounded_by_number_and_by_size() -> None:
    outbox = Outbox(max_items=3, max_bytes=100)
    assert [outbox.append(Outgoing(seq, b"12345678")) for seq in range(1, 6)] == [0, 0, 0, 1, 1]
    assert [item.seq for item in outbox] == [3, 4, 5]
    assert outbox.append(Outgoing(6, b"x" * 90)) == 2
    taken = outbox.take(5)
    assert [item.seq for item in taken] == [5, 6]
    outbox.restore(taken)
    outbox.discard_until(5)
    assert [item.seq for item in outbox] == [6]


@pytest.mark.parametrize("kind", ["loopback", "redis"])
async def test_confirm_waits_for_the_handlers_of_all_peers(
    kind: str, launch: Launch, request: pytest.FixtureRequest
) -> None:
    where = f"redis://127.0.0.1:{request.getfixturevalue('redis_port')}" if kind == "redis" else None
    peers = [await launch(kind, where) for _ in range(3)]
    for peer in peers:
        await peer.until_health(peers=2, connected=True)
    peers[0].tell(do="slow", seconds=0.2)
    peers[2].tell(do="slow", seconds=0.1)
    await peers[0].health()
    await peers[2].health()
    peers[1].tell(do="revoke", digest="one")
    await peers[1].until_heard("revoked")
    assert peers[1].heard("revoked")[0] >= 0.2
    for peer in peers:
        await peer.until_heard("key")
        assert peer.heard("key") == ["one"]
    # A process that stands still costs the half second, and no more: it is counted as one of them still.
    peers[2].signal(signal.SIGSTOP)
    peers[0].tell(do="slow", seconds=0)
    await peers[0].health()
    peers[1].tell(do="revoke", digest="two")
    await peers[1].until_heard("revoked", 2)
    assert peers[1].heard("revoked")[1] > 0.45
    assert peers[1].heard("peers")[1] == 2
    await peers[0].until_heard("key", 2)
    assert peers[0].heard("key") == ["one", "two"]
    # One that died costs nothing at all.
    peers[2].signal(signal.SIGKILL)
    for peer in peers[:2]:
        await peer.until_health(peers=1)
    for number in range(2, 12):  # the quickest of some: a busy machine may take its time for one
        peers[1].tell(do="revoke", digest=f"number {number}")
        await peers[1].until_heard("revoked", number + 1)
        if peers[1].heard("revoked")[number] < 0.45:
            break
    assert min(peers[1].heard("revoked")[2:]) < 0.45
