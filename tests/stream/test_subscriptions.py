"""What is delivered to whom, in which form and order."""

import json
from typing import Any

import pytest

from app.core.outbox import POLICIES, Channel
from tests.stream.server import Client, Server, parse_time


async def received(client: Client, count: int) -> list[dict[str, Any]]:
    return [await client.receive() for _ in range(count)]


async def test_a_private_message_reaches_only_its_owners_connections(server: Server) -> None:
    async with (
        server.connect_as("ann", "alerts", "orders", "signals", "jobs", "candles") as ann,
        server.connect_as("ann", "alerts", "orders", "signals", "jobs", "candles") as ann_too,
        server.connect_as("bob", "alerts", "orders", "signals", "jobs", "candles") as bob,
        server.connect() as nobody,
    ):
        await nobody.subscribe("ticks")
        owner = server.accounts.user_id("ann-0")
        for channel in ("alerts", "orders", "signals", "jobs", "candles"):
            assert await server.publish(channel, {"of": "ann"}, owner=owner) == 2
        for client in (ann, ann_too):
            kinds = [message["type"] for message in await received(client, 5)]
            assert kinds == ["alert", "order", "signal", "job", "candle"]
        for client in (bob, nobody):
            await client.nothing_more()


async def test_a_message_without_owner_reaches_everybody_signed_in(server: Server) -> None:
    async with (
        server.connect_as("ann", "candles") as ann,
        server.connect_as("bob", "candles") as bob,
        server.connect_as("bob") as not_subscribed,
    ):
        assert await server.publish("candles", {"close": 1}, key="NIFTY 50:1m", symbol="NIFTY 50") == 2
        for client in (ann, bob):
            assert (await client.receive())["data"] == {"close": 1}
        await not_subscribed.nothing_more()


async def test_single_symbols(server: Server) -> None:
    async with server.connect() as some, server.connect() as every:
        answer = await some.subscribe("ticks", symbols=["NIFTY 50", "A", "A"])
        assert answer["symbols"] == ["A", "NIFTY 50"]
        answer = await some.subscribe("ticks", symbols=["B"])
        assert answer["symbols"] == ["A", "B", "NIFTY 50"]
        answer = await every.subscribe("ticks")
        assert "symbols" not in answer
        for number, symbol in enumerate(["A", "C", "NIFTY 50", "B", "a"]):
            await server.publish("ticks", number, key=symbol)
        assert [message["data"] for message in await received(some, 3)] == [0, 2, 3]
        assert [message["data"] for message in await received(every, 5)] == [0, 1, 2, 3, 4]
        answer = await some.ask({"action": "unsubscribe", "channel": "ticks", "symbols": ["A", "unknown"]})
        assert answer["symbols"] == ["B", "NIFTY 50"]
        await server.publish("ticks", 5, key="A")
        await server.publish("ticks", 6, key="B")
        assert (await some.receive())["data"] == 6


@pytest.mark.parametrize("channel", [channel for channel, policy in POLICIES.items() if policy.by_symbol])
async def test_a_symbol_may_be_written_in_any_case(server: Server, channel: Channel) -> None:
    """Its messages name it in capitals: whoever asked for it in small letters would wait for ever."""
    async with server.connect_as("ann") as client:
        answer = await client.subscribe(channel, symbols=["nifty 50", " Nifty 50 ", "NIFTY 50", "banknifty"])
        assert answer["symbols"] == ["BANKNIFTY", "NIFTY 50"], "what is really followed, each once"
        assert (await client.subscribe(channel, symbols=["Nifty 50"]))["symbols"] == ["BANKNIFTY", "NIFTY 50"]
        assert await server.publish(channel, 1, key="NIFTY 50") == 1
        assert (await client.receive())["data"] == 1
        answer = await client.ask({"action": "unsubscribe", "channel": channel, "symbols": ["nifty 50"]})
        assert answer["symbols"] == ["BANKNIFTY"]
        assert await server.publish(channel, 2, key="NIFTY 50") == 0
        assert await server.publish(channel, 3, key="BANKNIFTY") == 1
        assert (await client.receive())["data"] == 3


async def test_all_symbols_and_single_ones_together(server: Server) -> None:
    async with server.connect() as client:
        await client.subscribe("ticks", symbols=["A"])
        assert "symbols" not in await client.subscribe("ticks")
        assert "symbols" not in await client.subscribe("ticks", symbols=["B"])
        assert await server.publish("ticks", 1, key="A") == 1
        assert (await client.receive())["data"] == 1
        answer = await client.ask({"action": "unsubscribe", "channel": "ticks", "symbols": ["A"]})
        assert answer["code"] == "invalid_message"
        answer = await client.ask({"action": "unsubscribe", "channel": "ticks"})
        assert answer["type"] == "unsubscribed"
        assert await server.publish("ticks", 2, key="A") == 0
        await client.nothing_more()


async def test_the_last_symbol_ends_the_subscription(server: Server) -> None:
    async with server.connect() as client:
        await client.subscribe("ticks", symbols=["A"])
        answer = await client.ask({"action": "unsubscribe", "channel": "ticks", "symbols": ["A"]})
        assert "symbols" not in answer
        assert await server.publish("ticks", 1, key="A") == 0


async def test_unsubscribing_from_what_was_never_subscribed_is_no_error(server: Server) -> None:
    async with server.connect() as client:
        for channel in Channel:
            assert (await client.ask({"action": "unsubscribe", "channel": channel}))["type"] == "unsubscribed"


async def test_so_many_symbols_in_all(server: Server) -> None:
    async with server.connect() as client:
        for group in range(10):
            await client.subscribe("ticks", symbols=[f"S{group}-{number}" for number in range(200)])
        again = await client.subscribe("ticks", symbols=["s0-0", "S9-199", "s9-199 "])
        assert len(again["symbols"]) == 2000, "another spelling is no other symbol"
        answer = await client.ask({"action": "subscribe", "channel": "ticks", "symbols": ["one more"]})
        assert answer["code"] == "too_many_symbols"


async def test_a_message_has_its_envelope_and_a_growing_seq(server: Server) -> None:
    data = {"price": 24350.5, "name": "µ “quoted” \\ \u2028", "nested": [None, {"a": []}]}
    async with server.connect() as client:
        at = (await client.subscribe("ticks"))["seq"]
        for _ in range(20):
            await server.publish("ticks", data, key="A")
            message = await client.receive()
            assert set(message) == {"type", "channel", "seq", "ts", "data"}
            assert message["data"] == data
            assert message["seq"] > at
            at = message["seq"]
            parse_time(message["ts"])
        assert (await client.subscribe("ticks"))["seq"] >= at


async def test_a_burst_arrives_in_order(server: Server) -> None:
    async with server.connect_as("ann", "alerts") as client:
        owner = server.accounts.user_id("ann-0")

        def burst() -> None:
            for number in range(250):
                server.hub.publish(Channel.ALERTS, json.dumps(number).encode(), owner=owner, seq=number + 1)

        await server.do(burst)
        messages = await received(client, 250)
        assert [message["data"] for message in messages] == list(range(250))
        assert [message["seq"] for message in messages] == list(range(1, 251))


async def test_a_client_that_leaves_is_forgotten(server: Server) -> None:
    async with server.connect_as("ann", "alerts", "ticks"):
        health = await server.do(server.service.health)
        assert (health["clients"], health["authenticated"]) == (1, 1)
        assert health["subscriptions"] == {"ticks": 1, "alerts": 1}
    async with server.connect() as client:
        await client.subscribe("ticks")
        client.connection.transport.abort()
    await server.until(lambda: server.service.health()["clients"] == 0)
    assert (await server.do(server.service.health))["subscriptions"] == {}
