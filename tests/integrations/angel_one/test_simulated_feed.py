"""The simulator's feed: who may connect, what subscriptions bring, and each of its faults."""

import asyncio
import json

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.integrations.angel_one.frames import Exchange, FrameError, FrameParser, Ltp, Mode, SnapQuote
from app.integrations.angel_one.subscriptions import Action, Instrument, Subscription, requests
from tests.integrations.angel_one.talking import NIFTY, NIFTY_KEY, listening, nifty, subscribe
from tests.simulators.angel_one import INDICES, AngelOneSimulator

# The feed


async def test_handshakes_without_credentials_are_refused(angel_one: AngelOneSimulator):
    tokens, account = angel_one.sessions.issue(), angel_one.account
    right = {
        "Authorization": f"Bearer {tokens.jwt}",
        "x-api-key": account.api_key,
        "x-client-code": account.client_code,
        "x-feed-token": tokens.feed,
    }
    for change in ({"Authorization": tokens.jwt}, {"x-api-key": "x"}, {"x-client-code": "x"}, {"x-feed-token": "x"}):
        with pytest.raises(InvalidStatus) as refused:
            await connect(angel_one.feed.url, additional_headers=right | change)
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["x-error-message"]
    query = f"?clientCode={account.client_code}&apiKey={account.api_key}&feedToken={tokens.feed}"
    async with connect(angel_one.feed.url + query, ping_interval=None) as socket:
        await socket.send("ping")
        assert await socket.recv() == "pong"
    angel_one.sessions.expire()
    with pytest.raises(InvalidStatus) as refused:
        await connect(angel_one.feed.url, additional_headers=right)
    assert refused.value.response.headers["x-error-message"] == "Token Expired"
    angel_one.feed.faults.refuse = 503
    with pytest.raises(InvalidStatus) as refused:
        await connect(angel_one.feed.url)
    assert refused.value.response.status_code == 503


async def test_a_fourth_connection_is_refused(angel_one: AngelOneSimulator):
    async with listening(angel_one), listening(angel_one), listening(angel_one):
        with pytest.raises(InvalidStatus) as refused:
            async with listening(angel_one):
                pass
        assert refused.value.response.status_code == 429
    await angel_one.feed.until(lambda: not angel_one.feed.connections)


async def test_subscriptions_bring_ticks_of_their_mode_until_they_end(angel_one: AngelOneSimulator):
    parser = FrameParser()
    async with listening(angel_one) as socket:
        await subscribe(angel_one, socket)
        await socket.send(nifty(mode=Mode.SNAP_QUOTE).text())
        await angel_one.feed.subscribed([(Mode.SNAP_QUOTE, 1, NIFTY.token)])
        assert await angel_one.tick(last_price=2_450_055) == 2
        assert await angel_one.tick(INDICES[1]) == 0
        frames = [parser.parse(await socket.recv(decode=False)) for _ in range(2)]
        assert {type(frame) for frame in frames} == {Ltp, SnapQuote}
        assert {frame.last_price for frame in frames if isinstance(frame, Ltp)} == {2_450_055}
        await socket.send(nifty(Action.UNSUBSCRIBE).text())
        await angel_one.feed.until(lambda: NIFTY_KEY not in angel_one.feed.connections[0].subscriptions)
        assert await angel_one.tick() == 1
        assert [request["action"] for request in angel_one.feed.connections[0].requests] == [1, 1, 0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "E1001"),
        ("[]", "E1001"),
        ('{"action": 1, "params": {"mode": 1, "tokenList": []}}', "E1001"),
        (nifty().text().replace('"s1"', '"elevenchars"'), "E1001"),
        (nifty().text().replace('"mode":1', '"mode":9'), "E1002"),
        (nifty().text().replace('"exchangeType":1', '"exchangeType":6'), "E1002"),
        (nifty(mode=Mode.DEPTH).text().replace('"exchangeType":1', '"exchangeType":3'), "E1002"),
    ],
)
async def test_wrong_requests_are_refused(angel_one: AngelOneSimulator, text: str, code: str):
    async with listening(angel_one) as socket:
        await socket.send(text)
        refusal = json.loads(await socket.recv())

        assert refusal.keys() == {"correlationID", "errorCode", "errorMessage"}
        assert refusal["errorCode"] == code
        assert angel_one.feed.connections[0].subscriptions == set()


async def test_too_many_subscriptions_are_refused_whole(angel_one: AngelOneSimulator):
    def wanted(mode: Mode, count: int) -> list[Subscription]:
        return [Subscription(mode, Instrument(Exchange.NSE_CM, str(number))) for number in range(1, count + 1)]

    async with listening(angel_one) as socket:
        (connection,) = angel_one.feed.connections
        for request in (*requests(Action.SUBSCRIBE, wanted(Mode.LTP, 1000)), nifty()):
            await socket.send(request.text())
        assert json.loads(await socket.recv())["errorMessage"] == "Subscription limit exceeded."
        assert len(connection.subscriptions) == 1000
        for request in requests(Action.UNSUBSCRIBE, wanted(Mode.LTP, 1000)):
            await socket.send(request.text())
        (deep,) = requests(Action.SUBSCRIBE, wanted(Mode.DEPTH, 51))
        await socket.send(deep.text())
        assert json.loads(await socket.recv())["errorCode"] == "E1002"
        assert connection.subscriptions == set()


# Faults of the feed


async def test_frames_are_repeated_and_swapped(angel_one: AngelOneSimulator):
    parser = FrameParser()

    async def prices(socket: ClientConnection, count: int) -> list[int]:
        frames = [parser.parse(await socket.recv(decode=False)) for _ in range(count)]
        return [frame.last_price for frame in frames if isinstance(frame, Ltp)]

    async with listening(angel_one) as socket:
        await subscribe(angel_one, socket)
        angel_one.feed.faults.duplicates = 2
        await angel_one.tick(last_price=1)
        assert await prices(socket, 3) == [1, 1, 1]
        angel_one.feed.faults.duplicates = 0
        angel_one.feed.faults.out_of_order = True
        for price in (1, 2, 3, 4):
            await angel_one.tick(last_price=price)
        assert await prices(socket, 4) == [2, 1, 4, 3]


async def test_frames_are_broken(angel_one: AngelOneSimulator):
    parser = FrameParser()
    async with listening(angel_one) as socket:
        await subscribe(angel_one, socket)
        angel_one.feed.faults.malformed = 1.0
        await angel_one.tick()
        with pytest.raises(FrameError):
            parser.parse(await socket.recv(decode=False))
        assert isinstance(parser.parse(await socket.recv(decode=False)), Ltp)
        angel_one.feed.faults.malformed, angel_one.feed.faults.truncated = 0.0, 1.0
        await angel_one.tick()
        with pytest.raises(FrameError):
            parser.parse(await socket.recv(decode=False))


async def test_a_half_open_connection_says_nothing_and_stays(angel_one: AngelOneSimulator):
    async with listening(angel_one) as socket:
        await subscribe(angel_one, socket)
        angel_one.feed.connections[0].go_silent()
        await socket.send("ping")
        await angel_one.tick()
        waiter = await socket.ping()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.1)
        assert not waiter.done()
        assert socket.close_code is None


async def test_heartbeats_can_go_unanswered(angel_one: AngelOneSimulator):
    async with listening(angel_one) as socket:
        angel_one.feed.faults.mute_pong = True
        await socket.send("ping")
        await angel_one.feed.until(lambda: angel_one.feed.connections[0].pings == 1)
        angel_one.feed.faults.mute_pong = False
        await socket.send("ping")
        assert await socket.recv() == "pong"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.05)


async def test_connections_end_in_good_order_and_in_bad(angel_one: AngelOneSimulator):
    async with listening(angel_one) as socket:
        await angel_one.feed.connections[0].close(1012, "restart")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "restart")
    async with listening(angel_one) as socket:
        angel_one.feed.connections[0].abort()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is None


async def test_ticks_walk_and_their_fields_agree(angel_one: AngelOneSimulator):
    parser = FrameParser()
    async with listening(angel_one) as socket:
        await socket.send(nifty(mode=Mode.SNAP_QUOTE).text())
        await angel_one.feed.subscribed([(Mode.SNAP_QUOTE, 1, NIFTY.token)])
        stream = asyncio.create_task(angel_one.stream(every=0.001))
        frames = [parser.parse(await socket.recv(decode=False)) for _ in range(50)]
        stream.cancel()

    volume = 0
    for frame in frames:
        assert isinstance(frame, SnapQuote)
        assert frame.low <= min(frame.open, frame.last_price) <= max(frame.open, frame.last_price) <= frame.high
        assert frame.volume > volume
        volume = frame.volume
        assert frame.depth().buys[0].price < frame.last_price < frame.depth().sells[0].price
    assert len({frame.last_price for frame in frames if isinstance(frame, SnapQuote)}) > 5
