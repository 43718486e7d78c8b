"""The feed client against the simulator, over real sockets: what it follows, and what it makes of nonsense."""

import asyncio
import json
import time
from typing import Any

import msgspec
from websockets.asyncio.server import serve

from app.integrations.angel_one.frames import Mode
from app.integrations.angel_one.subscriptions import FeedLimits
from tests.integrations.angel_one.following import SHARP, Follower, following, health_says, key, ltp, tried, until
from tests.integrations.angel_one.signing_in import sign_ins
from tests.integrations.angel_one.talking import NIFTY, NIFTY_KEY
from tests.simulators.angel_one import INDICES, AngelOneSimulator

# What it follows


async def test_frames_of_what_is_wanted_arrive(angel_one: AngelOneSimulator):
    async with following(angel_one) as follower:
        await angel_one.feed.subscribed([NIFTY_KEY])
        await angel_one.tick(last_price=2_450_055)
        await follower.until_frames(1)
        assert follower.prices == [2_450_055]
        await health_says(follower, state="live", connections=1, subscribed=1, frames=1)
        health = follower.client.health()
        assert health.bad_frames == {}
        assert health.last_frame_at is not None
        assert (health.reconnects, health.last_error) == (0, None)
    await angel_one.feed.until(lambda: not angel_one.feed.connections)


async def test_what_is_wanted_changes_without_a_new_connection(angel_one: AngelOneSimulator):
    first, second, third = (index.token for index in INDICES[:3])
    async with following(angel_one, [ltp(first), ltp(second)]) as follower:
        await angel_one.feed.subscribed([key(first), key(second)])
        (connection,) = angel_one.feed.connections
        follower.want(ltp(second), ltp(third, Mode.QUOTE))
        wanted = {key(second), key(third, Mode.QUOTE)}
        await angel_one.feed.until(lambda: connection.subscriptions == wanted)
        assert [request["action"] for request in connection.requests] == [1, 0, 1]
        follower.want()
        await angel_one.feed.until(lambda: not angel_one.feed.connections)
        assert follower.client.health().state == "paused"
        follower.want(ltp(first))
        await angel_one.feed.subscribed([key(first)])
    assert angel_one.feed.handshakes == 2
    assert sign_ins(angel_one) == (1, 0)


async def test_it_takes_as_many_connections_as_it_needs_and_disturbs_none(angel_one: AngelOneSimulator):
    limits = FeedLimits(per_connection=2, per_request=1)
    tokens = [index.token for index in INDICES]
    async with following(angel_one, [ltp(token) for token in tokens], limits=limits) as follower:
        await angel_one.feed.subscribed(key(token) for token in tokens)
        assert sorted(len(connection.subscriptions) for connection in angel_one.feed.connections) == [2, 2, 2]
        assert sign_ins(angel_one) == (1, 0)
        # One beyond the limits is left out, and said; the others go on.
        follower.want(*(ltp(token) for token in tokens), ltp("2885"))
        await asyncio.sleep(0.02)
        await health_says(follower, left_out=1, subscribed=6)
        # The first leaves: the new one takes its place, and the rest stays where it is.
        before = {id(connection): set(connection.subscriptions) for connection in angel_one.feed.connections}
        follower.want(*(ltp(token) for token in tokens[1:]), ltp("2885"))
        await angel_one.feed.subscribed([key("2885")])
        await angel_one.feed.until(
            lambda: not any(key(tokens[0]) in c.subscriptions for c in angel_one.feed.connections)
        )
        changes = [before[id(connection)] ^ connection.subscriptions for connection in angel_one.feed.connections]
        assert sorted(map(len, changes)) == [0, 0, 2]
        assert follower.client.health().left_out == 0
    assert angel_one.feed.handshakes == 3


async def test_a_heartbeat_keeps_a_quiet_connection(angel_one: AngelOneSimulator):
    # Several times, if need be: one that stood still for so long has every reason to take a connection for dead.
    for left in reversed(range(5)):
        await angel_one.feed.until(lambda: not angel_one.feed.connections)
        async with following(angel_one, timing=SHARP) as follower:
            await angel_one.feed.subscribed([NIFTY_KEY])
            connection = angel_one.feed.connections[-1]
            await angel_one.feed.until(lambda one=connection: one.pings >= 6 or one not in angel_one.feed.connections)
            if connection in angel_one.feed.connections:
                await until(follower, "silent")  # no frame for long, though it lives
            if angel_one.feed.connections != [connection] and left:
                continue
            assert angel_one.feed.connections == [connection]
            await follower.sees_ticks()
            while follower.client.health().state != "live":  # it was too long ago already
                await follower.sees_ticks()
            return


async def test_who_stood_still_takes_no_connection_for_dead(angel_one: AngelOneSimulator):
    """A laptop that slept, a host that was paused: nothing was heard, for nobody listened."""
    timing = msgspec.structs.replace(SHARP, stale_after=1.0, beat_every=10.0)
    # Several times, if need be: a machine that is slow in between gives reason enough, too.
    for left in reversed(range(5)):
        await angel_one.feed.until(lambda: not angel_one.feed.connections)
        async with following(angel_one, timing=timing) as follower:
            await follower.sees_ticks()
            connection = angel_one.feed.connections[-1]
            time.sleep(2 * timing.stale_after)  # noqa: ASYNC251 (the whole process stands still)
            await angel_one.feed.until(lambda one=connection: one.pings or one not in angel_one.feed.connections)
            await follower.sees_ticks()
            if angel_one.feed.connections == [connection]:
                return
            assert left, "it takes connections for dead"


# Faults of what comes


async def test_garbage_is_counted_and_the_rest_arrives(angel_one: AngelOneSimulator):
    angel_one.feed.faults.malformed = 1.0
    async with following(angel_one) as follower:
        await angel_one.feed.subscribed([NIFTY_KEY])
        for price in range(2_450_000, 2_450_500, 5):
            await angel_one.tick(last_price=price)
        await follower.until_frames(100)
        assert follower.prices == list(range(2_450_000, 2_450_500, 5))
        assert sum(follower.client.health().bad_frames.values()) == 100
        await angel_one.feed.connections[0].send("no json")
        await angel_one.feed.connections[0].send('{"errorCode": "E1002", "errorMessage": "whose?"}')
        await follower.sees_ticks()
        health = follower.client.health()
        assert health.bad_frames["text"] == 1
        assert health.last_error == "feed: request refused (E1002)"
    assert angel_one.feed.handshakes == 1


async def test_cut_frames_are_counted_and_never_half_read(angel_one: AngelOneSimulator):
    async with following(angel_one, [ltp(NIFTY.token, Mode.SNAP_QUOTE)]) as follower:
        await angel_one.feed.subscribed([key(NIFTY.token, Mode.SNAP_QUOTE)])
        angel_one.feed.faults.truncated = 1.0
        for _ in range(20):
            await angel_one.tick()
        angel_one.feed.faults.truncated = 0.0
        await angel_one.tick(last_price=2_450_055)
        await follower.until_frames(1)
        assert follower.prices == [2_450_055]
        assert sum(follower.client.health().bad_frames.values()) == 20


async def test_repeats_and_late_frames_are_delivered_as_they_come(angel_one: AngelOneSimulator):
    angel_one.feed.faults.duplicates = 2
    async with following(angel_one) as follower:
        await angel_one.feed.subscribed([NIFTY_KEY])
        await angel_one.tick(last_price=5)
        angel_one.feed.faults.duplicates, angel_one.feed.faults.out_of_order = 0, True
        await angel_one.tick(last_price=10)
        await angel_one.tick(last_price=15)
        await follower.until_frames(5)
        assert follower.prices == [5, 5, 5, 15, 10]


async def test_a_message_beyond_all_measure_ends_the_connection_only(angel_one: AngelOneSimulator):
    async with following(angel_one) as follower:
        await angel_one.feed.subscribed([NIFTY_KEY])
        await angel_one.feed.connections[0].send(bytes(100_000))
        await tried(angel_one, 2)
        await follower.sees_ticks()
        assert follower.client.health().reconnects == 1


async def test_a_bad_token_does_not_take_its_request_with_it(angel_one: AngelOneSimulator):
    """A server that refuses each request in which the bad token stands, as the vendor's does."""
    held: set[str] = set()
    refused: list[int] = []
    done = asyncio.Event()

    async def refusing(socket: Any) -> None:
        async for message in socket:
            if message == "ping":
                await socket.send("pong")
                continue
            request = json.loads(message)
            tokens = [token for group in request["params"]["tokenList"] for token in group["tokens"]]
            if "bad" in tokens:
                refused.append(len(tokens))
                error = {"correlationID": request["correlationID"], "errorCode": "E1002", "errorMessage": "?"}
                await socket.send(json.dumps(error))
            else:
                held.update(tokens)
            if len(held) == 99 and refused[-1:] == [1]:
                done.set()

    tokens = [*map(str, range(1000, 1099)), "bad"]
    async with serve(refusing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with following(angel_one, map(ltp, tokens), url=f"ws://127.0.0.1:{port}/smart-stream") as follower:
            await asyncio.wait_for(done.wait(), 30)
            await asyncio.sleep(0.05)
            assert held == set(tokens[:-1])
            await health_says(follower, subscribed=99)
            assert len(refused) == len(set(refused)) <= 8  # halves, and the bad one alone is not asked for again


async def test_a_burst_leaves_others_their_turn(angel_one: AngelOneSimulator):
    most = 0

    async def others(follower: Follower) -> None:
        nonlocal most
        while True:
            before = len(follower.frames)
            await asyncio.sleep(0)
            most = max(most, len(follower.frames) - before)

    async with following(angel_one) as follower:
        await angel_one.feed.subscribed([NIFTY_KEY])
        beside = asyncio.create_task(others(follower))
        for price in range(5000):
            await angel_one.tick(last_price=1 + price)
        await follower.until_frames(5000)
        beside.cancel()
        assert follower.prices == list(range(1, 5001))
    assert 1 < most <= 256
