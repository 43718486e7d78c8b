"""Who subscribes to prices gets those that are known at once, and then what happens live."""

import asyncio
from collections.abc import Iterator

import pytest
from pymongo.errors import ConnectionFailure

from app.core.errors import UnavailableError
from app.stream.conversation import Limits
from tests.stream.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Limits(snapshot_seconds=60)) as running:
        running.known.rows = {"A": {"price": 1}, "B": {"price": 2}}
        yield running


async def test_the_newest_of_each_symbol_comes_after_the_acknowledgement(server: Server) -> None:
    async with server.connect() as some, server.connect() as every:
        answer = await some.subscribe("ticks", symbols=["b", "unknown"])
        message = await some.receive()
        assert (message["type"], message["data"], message["seq"]) == ("tick", {"price": 2}, answer["seq"])
        await some.nothing_more()
        await every.subscribe("ticks")
        assert [(await every.receive())["data"] for _ in range(2)] == [{"price": 1}, {"price": 2}]


async def test_what_happens_meanwhile_comes_after_it(server: Server) -> None:
    gate = await server.do(asyncio.Event)
    server.known.gate = gate
    async with server.connect() as client:
        await client.subscribe("ticks", symbols=["A"])
        await asyncio.to_thread(server.known.asking.wait, 30)
        await server.publish("ticks", {"price": 3}, key="A")
        await server.do(gate.set)
        assert [(await client.receive())["data"] for _ in range(2)] == [{"price": 1}, {"price": 3}]


@pytest.mark.parametrize("error", [ConnectionFailure("away"), UnavailableError("away")])
async def test_without_the_database_the_subscription_stands(server: Server, error: Exception) -> None:
    server.known.error = error
    async with server.connect() as client:
        await client.subscribe("ticks", symbols=["A"])
        await server.publish("ticks", {"price": 3}, key="A")
        assert (await client.receive())["data"] == {"price": 3}


async def test_nobody_waits_for_it_longer_than_that() -> None:
    with Server(Limits(snapshot_seconds=0.5)) as server:
        await _subscribe_without_an_answer(server)


async def _subscribe_without_an_answer(server: Server) -> None:
    server.known.gate = await server.do(asyncio.Event)
    async with server.connect() as client:
        await client.subscribe("ticks", symbols=["A"])
        await server.publish("ticks", {"price": 3}, key="A")
        assert (await client.receive())["data"] == {"price": 3}


async def test_other_channels_have_none(server: Server) -> None:
    async with server.connect_as("ann", "candles") as client:
        await client.nothing_more()
    assert not server.known.asking.is_set()
