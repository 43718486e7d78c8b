"""The feed client against the simulator, over real sockets: connections that break, and that are refused."""

import asyncio
import ssl
import time
from http import HTTPStatus

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from app.integrations.angel_one.link import Timing
from app.integrations.angel_one.subscriptions import FeedLimits
from tests.integrations.angel_one.following import (
    SHARP,
    STAYS_AWAY,
    Follower,
    following,
    health_says,
    key,
    ltp,
    tried,
    until,
)
from tests.integrations.angel_one.signing_in import credentials, sign_ins
from tests.integrations.angel_one.talking import NIFTY, NIFTY_KEY
from tests.simulators.angel_one import INDICES, AngelOneSimulator
from tests.support.certificates import Certificate, make_certificate

# Faults of the connection


async def test_a_half_open_connection_is_noticed(angel_one: AngelOneSimulator):
    async with following(angel_one, timing=SHARP) as follower:
        await follower.sees_ticks()
        dead, before = angel_one.feed.connections[-1], angel_one.feed.handshakes
        dead.go_silent()
        await angel_one.feed.until(lambda: angel_one.feed.handshakes > before)
        dead.abort()
        await angel_one.feed.until(lambda: dead not in angel_one.feed.connections)
        await follower.sees_ticks()
        assert follower.client.health().last_error == "feed: silent"
        assert follower.client.health().reconnects >= 1
    assert sign_ins(angel_one) == (1, 0)


async def test_unanswered_heartbeats_and_no_frames_mean_a_dead_connection(angel_one: AngelOneSimulator):
    angel_one.feed.faults.mute_pong = True
    async with following(angel_one, timing=SHARP) as follower:
        await angel_one.feed.until(lambda: angel_one.feed.handshakes >= 2)
        angel_one.feed.faults.mute_pong = False
        await follower.sees_ticks()
        assert follower.client.health().last_error == "feed: silent"


async def test_frames_alone_are_a_sign_of_life(angel_one: AngelOneSimulator):
    angel_one.feed.faults.mute_pong = True
    async with following(angel_one, timing=SHARP) as follower:
        await angel_one.feed.subscribed([NIFTY_KEY])
        for _ in range(40):
            await angel_one.tick()
            await asyncio.sleep(0.02)
        await follower.until_frames(40)
    assert angel_one.feed.handshakes == 1


async def test_a_connection_that_lives_and_brings_nothing_is_made_anew_ever_more_rarely(angel_one: AngelOneSimulator):
    timing = Timing(stale_after=30.0, quiet_after=0.1, beat_every=0.02, first_wait=0.001)
    async with following(angel_one, timing=timing) as follower:
        await angel_one.feed.until(lambda: angel_one.feed.handshakes >= 3)
        times = angel_one.feed.handshake_times
        assert times[1] - times[0] >= 0.09  # noticed some milliseconds late
        assert times[2] - times[1] >= 0.19
        assert follower.client.health().last_error == "feed: no data"
        while not follower.frames:
            await angel_one.tick()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_a_lost_connection_comes_back_with_its_subscriptions(angel_one: AngelOneSimulator, ending: str):
    async with following(angel_one, [ltp(index.token) for index in INDICES]) as follower:
        for count in (1, 2, 3):
            await angel_one.feed.subscribed(key(index.token) for index in INDICES)
            assert angel_one.feed.handshakes == count
            (connection,) = angel_one.feed.connections
            await connection.close() if ending == "close" else connection.abort()
            await angel_one.feed.until(lambda lost=connection: lost not in angel_one.feed.connections)
        await follower.sees_ticks()
        health = follower.client.health()
        assert health.reconnects == 3
        assert health.last_error == ("feed: closed (1011)" if ending == "close" else "feed: closed (1006)")
    assert sign_ins(angel_one) == (1, 0)


async def test_tries_become_rarer_until_a_frame_has_come(angel_one: AngelOneSimulator):
    angel_one.feed.faults.refuse = 503
    async with following(angel_one, timing=Timing(first_wait=0.02, last_wait=60)) as follower:
        await tried(angel_one, 6)
        times = angel_one.feed.handshake_times
        assert times[5] - times[0] > 0.02 * (1 + 2 + 4 + 8 + 16) / 2 - 0.01
        await health_says(follower, last_error="feed: handshake 503")
        angel_one.feed.faults.refuse = None
        await follower.sees_ticks()
        with capture_logs() as logged:
            before = angel_one.feed.handshakes
            angel_one.feed.connections[0].abort()
            await tried(angel_one, before + 1)
        [wait] = [entry["next_try_seconds"] for entry in logged if "next_try_seconds" in entry]
        assert wait <= 0.1  # it would be 0.64 s and more


# What was missed


async def test_each_connection_says_what_it_missed_and_when(angel_one: AngelOneSimulator):
    first, second = (index.token for index in INDICES[:2])
    limits = FeedLimits(per_connection=1)
    async with following(angel_one, [ltp(first), ltp(second)], limits=limits) as follower:
        await angel_one.feed.subscribed([key(first), key(second)])
        # At the beginning: until they were asked for. The other end may hear of it first.
        await told(follower, 2)
        assert sorted(tokens.pop() for tokens, _, _ in follower.losses) == sorted([first, second])
        follower.losses.clear()

        await angel_one.tick(INDICES[1])
        await follower.until_frames(1)
        (away,) = (one for one in angel_one.feed.connections if key(first) in one.subscriptions)
        angel_one.feed.faults.refuse = 503
        away.abort()
        await angel_one.feed.until(lambda: away not in angel_one.feed.connections)
        lost_at = now_ms()
        for _ in range(30):
            await angel_one.tick(INDICES[1])  # the other one brings what it always brought
            await asyncio.sleep(0.01)
        assert follower.losses == []
        sure = follower.client.health().sure_until
        assert sure is not None
        assert sure.timestamp() * 1000 <= lost_at + 250
        angel_one.feed.faults.refuse = None
        await told(follower, 1)
        [(tokens, start, end)] = follower.losses
        assert tokens == {first}
        assert end - start >= 300
        assert end - now_ms() <= 0
        follower.losses.clear()


async def test_a_half_open_connection_missed_all_since_it_was_last_heard(angel_one: AngelOneSimulator):
    timing = Timing(stale_after=0.4, beat_every=60.0, first_wait=0.01, last_wait=0.04)
    async with following(angel_one, timing=timing) as follower:
        await follower.sees_ticks()
        follower.losses.clear()
        heard = now_ms()
        angel_one.feed.connections[-1].go_silent()
        await told(follower, 1)
        tokens, start, end = follower.losses[0]
        assert tokens == {NIFTY.token}
        assert start <= heard
        assert end - start >= 390


async def test_a_quiet_connection_missed_nothing(angel_one: AngelOneSimulator):
    async with following(angel_one) as follower:
        await angel_one.feed.subscribed([NIFTY_KEY])
        await told(follower, 1)
        (connection,) = angel_one.feed.connections
        await angel_one.feed.until(lambda: connection.pings >= 6)
        assert len(follower.losses) == 1


async def test_what_is_away_at_the_end_is_told(angel_one: AngelOneSimulator):
    angel_one.feed.faults.refuse = 503
    async with following(angel_one) as follower:
        await tried(angel_one, 1)
        assert follower.losses == []
    assert [tokens for tokens, _, _ in follower.losses] == [{NIFTY.token}]


async def told(follower: Follower, times: int) -> None:
    async with asyncio.timeout(30):
        while len(follower.losses) < times:
            await asyncio.sleep(0.002)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# Refused handshakes


async def test_expired_tokens_are_refreshed_under_way(angel_one: AngelOneSimulator):
    async with following(angel_one) as follower:
        await follower.sees_ticks()
        angel_one.sessions.expire()
        await angel_one.feed.connections[0].close()
        await tried(angel_one, 3)
        await follower.sees_ticks()
        assert follower.client.health().last_error == "feed: handshake 401"
        assert sign_ins(angel_one) == (1, 1)
        angel_one.sessions.expire(refresh_too=True)
        await angel_one.feed.connections[0].close()
        await tried(angel_one, 5)
        await follower.sees_ticks()
    assert sign_ins(angel_one) == (2, 1)  # two early deaths: it is not refreshed again


async def test_a_storm_of_401_is_no_storm_of_sign_ins(angel_one: AngelOneSimulator):
    angel_one.feed.faults.refuse = 401
    async with following(angel_one, session={"renew_pause": 30.0}) as follower:
        await health_says(follower, last_error="rate limited (new tokens refused)")
        async with asyncio.timeout(30):
            while angel_one.feed.handshakes < 4:  # it may have passed: asked again, with the same tokens
                await asyncio.sleep(0.002)
        angel_one.feed.faults.refuse = None
        await follower.sees_ticks()
    assert sign_ins(angel_one) == (1, 0)  # new tokens must live for a while before they are blamed


async def test_after_a_spell_of_403_it_is_back_soon(angel_one: AngelOneSimulator):
    """The pause before tokens are renewed again is not one before the next connection."""
    angel_one.feed.faults.refuse = 403
    timing = Timing(first_wait=0.001, last_wait=0.002, busy_wait=0.01)
    async with following(angel_one, timing=timing, session={"renew_pause": 1200.0}) as follower:
        async with asyncio.timeout(30):
            while angel_one.feed.handshakes < 5:
                await asyncio.sleep(0.002)
        assert follower.client.health().last_error == "feed: handshake 403"
        angel_one.feed.faults.refuse = None
        await follower.sees_ticks()
    assert sign_ins(angel_one) == (1, 0)


@pytest.mark.parametrize(("status", "refreshes"), [(403, True), (429, False)])
async def test_a_handshake_that_is_forbidden_waits(angel_one: AngelOneSimulator, status: int, refreshes: bool):
    angel_one.feed.faults.refuse = status
    async with following(angel_one, timing=Timing(first_wait=0.001, last_wait=0.002, busy_wait=0.1)) as follower:
        await tried(angel_one, 3)
        times = angel_one.feed.handshake_times
        assert times[2] - times[0] > 0.19
        angel_one.feed.faults.refuse = None
        await follower.sees_ticks()
        assert follower.client.health().last_error == f"feed: handshake {status}"
    assert (sign_ins(angel_one) != (1, 0)) is refreshes


async def test_a_refused_sign_in_is_shown_and_not_hammered(angel_one: AngelOneSimulator):
    wrong = credentials(angel_one, password="0000")
    async with following(angel_one, session={"account": wrong}) as follower:
        await until(follower, "refused")
        follower.client.wake()
        await asyncio.sleep(0.1)
        assert follower.client.health().last_error == "sign-in refused (AB1007)"
    assert sign_ins(angel_one) == (1, 0)
    assert angel_one.feed.handshakes == 0


async def test_nobody_there(angel_one: AngelOneSimulator):
    async with following(angel_one, url="ws://127.0.0.1:9/smart-stream", timing=STAYS_AWAY) as follower:
        await health_says(follower, state="backing off", last_error="feed: unreachable")


async def test_redirects_are_not_followed(angel_one: AngelOneSimulator):
    def elsewhere(connection: ServerConnection, _request: Request) -> Response:
        redirect = connection.respond(HTTPStatus.FOUND, "")
        redirect.headers["Location"] = angel_one.feed.url
        return redirect

    async with serve(lambda _socket: asyncio.sleep(0), "127.0.0.1", 0, process_request=elsewhere) as server:
        port = server.sockets[0].getsockname()[1]
        address = f"ws://127.0.0.1:{port}/smart-stream"
        async with following(angel_one, url=address, timing=STAYS_AWAY) as follower:
            await health_says(follower, state="backing off", last_error="feed: handshake 302")
    assert angel_one.feed.handshakes == 0


async def test_a_half_open_connection_does_not_hold_up_the_end(angel_one: AngelOneSimulator):
    turns = 0

    async def look() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.05)
            turns += 1

    async with following(angel_one) as follower:
        await follower.sees_ticks()
        angel_one.feed.connections[-1].go_silent()
        looking = asyncio.create_task(look())
    looking.cancel()
    assert turns < 150  # not by the clock, which goes on while the machine stands still; the library waits ten seconds


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_certificates_are_verified(certificate: Certificate):
    async with AngelOneSimulator(rates={}, tls=certificate.server_context()) as simulator:
        async with following(simulator, timing=STAYS_AWAY) as distrusting:
            await health_says(distrusting, state="backing off", last_error="feed: tls")
        assert simulator.feed.handshakes == 0
        trusting = ssl.create_default_context(cafile=certificate.authority)
        async with following(simulator, tls=trusting) as follower:
            await follower.sees_ticks()
        other_name = simulator.feed.url.replace("127.0.0.1", "127.0.0.2")
        async with following(simulator, tls=trusting, url=other_name, timing=STAYS_AWAY) as misled:
            await until(misled, "backing off")
            assert misled.client.health().last_error in {"feed: tls", "feed: unreachable"}
