"""`since`: what was stored comes first, then the acknowledgement, then what happens live."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.errors import ConnectionFailure

from app.core.events import SessionRevoked
from app.core.outbox import Channel
from app.stream.conversation import Limits
from tests.stream.server import Client, Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Limits(patience_seconds=60)) as running:
        yield running


@pytest.fixture
def impatient() -> Iterator[Server]:
    with Server(Limits(patience_seconds=0.5)) as running:
        yield running


async def open_alerts(server: Server, client: Client, rows: list[tuple[int, Any]]) -> str:
    """Sign in as somebody who has `rows` stored; their user id."""
    token = server.accounts.token("ann")
    owner = server.accounts.user_id(token)
    server.stored.rows[owner] = [(seq, json.dumps(data).encode()) for seq, data in rows]
    await client.sign_in(token)
    return owner


async def until_subscribed(client: Client) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    messages = []
    while (message := await client.receive())["type"] != "subscribed":
        messages.append(message)
    return messages, message


async def ask_since(client: Client, since: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    await client.send({"action": "subscribe", "channel": "alerts", "since": since, "id": 1})
    return await until_subscribed(client)


async def test_stored_messages_come_before_the_acknowledgement(server: Server) -> None:
    async with server.connect() as client:
        owner = await open_alerts(server, client, [(10, "a"), (20, "b"), (30, "c")])
        messages, answer = await ask_since(client, 10)
        assert [(message["seq"], message["data"]) for message in messages] == [(20, "b"), (30, "c")]
        assert all(set(message) == {"type", "channel", "seq", "ts", "data"} for message in messages)
        assert (answer["replayed"], answer["truncated"], answer["id"]) == (2, False, 1)
        assert answer["seq"] > 30
        assert server.stored.asked == [(owner, 10, 501)]
        await server.publish("alerts", "d", owner=owner)
        assert (await client.receive())["data"] == "d"


async def test_live_messages_wait_for_the_replay_and_are_not_repeated(server: Server) -> None:
    async with server.connect() as client:
        owner = await open_alerts(server, client, [(10, "a"), (20, "b")])
        server.stored.gate = asyncio.Event()
        await client.send({"action": "subscribe", "channel": "alerts", "since": 0})
        await asyncio.to_thread(server.stored.asking.wait, 30)
        # One of them is in the replay already; another only shares its seq, as two processes can.
        await server.publish("alerts", "b", owner=owner, seq=20)
        await server.publish("alerts", "B", owner=owner, seq=20)
        await server.publish("alerts", "c", owner=owner, seq=30)
        await server.do(server.stored.gate.set)
        messages, answer = await until_subscribed(client)
        assert [message["data"] for message in messages] == ["a", "b"]
        assert answer["replayed"] == 2
        assert [(await client.receive())["data"] for _ in range(2)] == ["B", "c"]
        await client.nothing_more()


async def test_other_channels_go_on_during_a_replay(server: Server) -> None:
    async with server.connect() as client:
        owner = await open_alerts(server, client, [])
        await client.subscribe("orders")
        await client.subscribe("ticks")
        server.stored.gate = asyncio.Event()
        await client.send({"action": "subscribe", "channel": "alerts", "since": 0})
        await asyncio.to_thread(server.stored.asking.wait, 30)
        await server.publish("alerts", "held", owner=owner)
        await server.publish("orders", "now", owner=owner)
        await server.publish("ticks", "now", key="A")
        assert {(await client.receive())["channel"] for _ in range(2)} == {"orders", "ticks"}
        await server.do(server.stored.gate.set)
        assert (await client.receive())["type"] == "subscribed"
        assert (await client.receive())["data"] == "held"


async def test_at_most_500_are_replayed_and_the_client_can_go_on_from_there(server: Server) -> None:
    async with server.connect() as client:
        await open_alerts(server, client, [(number, number) for number in range(1, 702)])
        messages, answer = await ask_since(client, 0)
        assert [message["data"] for message in messages] == list(range(1, 501))
        assert (answer["replayed"], answer["truncated"], answer["seq"]) == (500, True, 500)
        messages, answer = await ask_since(client, answer["seq"])
        assert [message["data"] for message in messages] == list(range(501, 702))
        assert (answer["replayed"], answer["truncated"]) == (201, False)


async def test_a_replay_of_large_messages_is_cut(server: Server) -> None:
    async with server.connect() as client:
        await open_alerts(server, client, [(number, "x" * 60_000) for number in range(1, 101)])
        messages, answer = await ask_since(client, 0)
        assert len(messages) == answer["replayed"] == answer["seq"] == 34
        assert answer["truncated"] is True


async def test_a_channel_that_is_not_stored_says_so(server: Server) -> None:
    async with server.connect() as client:
        await open_alerts(server, client, [])
        for channel in ("orders", "ticks"):
            answer = await client.subscribe(channel, since=5)
            assert (answer["replayed"], answer["truncated"]) == (0, True)


@pytest.mark.parametrize("error", [ConnectionFailure("secret host"), RuntimeError("secret"), None])
async def test_a_replay_that_fails_leaves_nothing_half_done(impatient: Server, error: Exception | None) -> None:
    server = impatient
    async with server.connect() as client:
        owner = await open_alerts(server, client, [(1, "a")])
        if error is None:  # it never answers
            server.stored.gate = asyncio.Event()
        server.stored.error = error
        answer = await client.ask({"action": "subscribe", "channel": "alerts", "since": 0, "id": "r"})
        assert (answer["type"], answer["id"]) == ("error", "r")
        assert answer["code"] == ("internal" if isinstance(error, RuntimeError) else "unavailable")
        assert "secret" not in answer["detail"]
        assert await server.publish("alerts", "live", owner=owner) == 0
        # A subscription that stood before stands after it.
        await client.subscribe("alerts")
        answer = await client.ask({"action": "subscribe", "channel": "alerts", "since": 0})
        assert answer["type"] == "error"
        assert await server.publish("alerts", "live", owner=owner) == 1
        assert (await client.receive())["data"] == "live"
        server.stored.error = server.stored.gate = None
        messages, _ = await ask_since(client, 0)
        assert [message["data"] for message in messages] == ["a"]


async def test_a_session_that_ends_during_its_replay_gets_nothing_of_it(server: Server) -> None:
    async with server.connect() as client:
        owner = await open_alerts(server, client, [(1, "a")])
        session = server.accounts.session_id("ann-0")
        server.stored.gate = asyncio.Event()
        await client.send({"action": "subscribe", "channel": "alerts", "since": 0})
        await asyncio.to_thread(server.stored.asking.wait, 30)
        await server.do(lambda: server.service.on_session_revoked(SessionRevoked(owner, [session])))
        await server.do(server.stored.gate.set)
        assert (await client.receive())["code"] == "session_ended"
        assert (await client.receive())["code"] == "unauthorized"
        await client.nothing_more()
        assert await server.do(lambda: server.hub.publish(Channel.ALERTS, b"1", owner=owner)) == 0


async def test_a_client_that_leaves_during_its_replay_is_forgotten_at_once(server: Server) -> None:
    async with server.connect() as client:
        await open_alerts(server, client, [(1, "a")])
        server.stored.gate = asyncio.Event()
        await client.send({"action": "subscribe", "channel": "alerts", "since": 0})
        await asyncio.to_thread(server.stored.asking.wait, 30)
    # Sooner than the replay gives up.
    await server.until(lambda: server.hub.health()["clients"] == 0)
