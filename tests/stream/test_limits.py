"""How many may connect, how fast they may talk, and how the service says goodbye."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.core.client_address import network_of
from app.stream.conversation import Limits
from tests.stream.server import Server


async def refused(server: Server) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as caught:
        async with server.connect():
            pass
    return caught.value


async def test_connections_per_address() -> None:
    with Server(Limits(max_connections_per_address=3)) as server:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.connect()) for _ in range(3)]
            response = (await refused(server)).response
            assert response.status_code == 429
            assert response.headers["Content-Type"] == "application/problem+json"
            assert int(response.headers["Retry-After"]) > 0
            assert b"At most 3 WebSocket connections per address." in response.body
            await clients[0].connection.close()
            await server.until(lambda: server.service.health()["clients"] == 2)
            await server.until(lambda: sum(server.service._addresses.values()) == 2)
            replacement = await stack.enter_async_context(server.connect())
            await replacement.nothing_more()
            await clients[1].nothing_more()
        assert server.service.counts["refused"] == 1


async def test_connections_in_all() -> None:
    with Server(Limits(max_connections=2)) as server:
        async with server.connect(), server.connect():
            response = (await refused(server)).response
            assert response.status_code == 503
            assert int(response.headers["Retry-After"]) > 0
        await server.until(lambda: server.service.health()["clients"] == 0)
        await server.until(lambda: not server.service._addresses)
        async with server.connect() as client:
            await client.nothing_more()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("unknown", "unknown"),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_too_many_messages_are_ignored_after_one_word() -> None:
    with Server(Limits(messages_per_second=2, message_burst=10)) as server:
        began = time.monotonic()
        async with server.connect() as client:
            await client.subscribe("ticks")
            for number in range(200):
                await client.send({"action": "ping", "id": number})
            answers: list[dict[str, Any]] = []
            # What came too fast is not held against the client for longer than its rate says: it is heard again, though
            # it goes on to send as fast as it may.
            while all(answer.get("id") != "end" for answer in answers):
                await asyncio.sleep(0.6)
                await client.send({"action": "ping", "id": "end"})
                await server.publish("ticks", "so far", key="A")
                while (answer := await client.receive())["type"] != "tick":
                    answers.append(answer)
            pongs = [answer["id"] for answer in answers if answer["type"] == "pong"]
            errors = [answer["code"] for answer in answers if answer["type"] == "error"]
            assert pongs[:9] == list(range(9))
            assert set(errors) == {"rate_limited"}
            assert 1 <= len(errors) <= len(pongs) <= 10 + 2 * (time.monotonic() - began)


async def test_everybody_is_told_of_a_restart_and_nobody_new_is_let_in() -> None:
    with Server() as server:
        async with server.connect() as one, server.connect_as("ann", "alerts") as other:
            await server.run(server.service.close())
            for client in (one, other):
                with pytest.raises(ConnectionClosed):
                    await client.receive()
                assert client.connection.close_code == 1012
                assert "restarts" in str(client.connection.close_reason)
            assert (await refused(server)).response.status_code == 503
            assert server.hub.health()["clients"] == 0


async def test_a_shutdown_of_the_server_ends_connections_at_once() -> None:
    with Server() as server:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.connect_as("ann", "alerts")) for _ in range(20)]
            await asyncio.to_thread(server.stop)
            for client in clients:
                with pytest.raises(ConnectionClosed):
                    await client.receive()
                assert client.connection.close_code == 1012
        assert server.hub.health()["clients"] == 0


async def test_a_huge_message_ends_only_its_own_connection() -> None:
    with Server() as server:
        async with server.connect() as client, server.connect() as other:
            with pytest.raises(ConnectionClosed):
                await client.ask("x" * 20_000_000)  # above what the server itself takes
            await other.nothing_more()
