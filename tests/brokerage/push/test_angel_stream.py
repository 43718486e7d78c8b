"""Angel One's order stream, over a real WebSocket: heard, reconnected, and ended with its session."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest_asyncio

from app.brokerage.adapters.angel_one import mapping
from app.brokerage.push.angel_stream import AngelOrderStream, Counts, Timing
from app.brokerage.push.streams import AngelOrderStreams
from app.brokerage.words import BookedOrder, OrderState
from app.core.cancelling import end
from app.core.errors import UnavailableError
from tests.brokerage.accounts.kit import Desk
from tests.brokerage.push.order_stream import OrderStream

QUICK = Timing(beat_every=0.2, dead_after=30.0, first_wait=0.02, last_wait=0.05, refused_wait=0.05, open_timeout=30.0)
"""Comes back soon; and takes nobody for dead who is only slow."""


@pytest_asyncio.fixture
async def server(desk: Desk) -> AsyncIterator[OrderStream]:
    async with OrderStream(desk.angel) as made:
        yield made


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def streams_of(desk: Desk, server: OrderStream, timing: Timing) -> AngelOrderStreams:
    def make(account_id: str, counts: Counts) -> AngelOrderStream:
        return AngelOrderStream(
            account_id,
            url=server.url,
            sessions=desk.here.sessions,
            news=desk.recorder,
            read=mapping.order_of,
            clock=desk.clock,
            counts=counts,
            timing=timing,
        )

    return AngelOrderStreams(store=desk.here.store, clock=desk.clock, bus=desk.here.bus, make=make, look_every=0.1)


@asynccontextmanager
async def following(desk: Desk, server: OrderStream, timing: Timing = QUICK) -> AsyncIterator[AngelOrderStreams]:
    streams = streams_of(desk, server, timing)
    task = asyncio.create_task(streams.run())
    try:
        yield streams
    finally:
        await end([task])
        assert task.cancelled()


def buy(desk: Desk, tag: str = "arrowtag01", price: Decimal = Decimal(1000)) -> Any:
    terms: dict[str, Any] = {"product": "CNC", "price_type": "LIMIT", "price": price, "tag": tag, "variety": "NORMAL"}
    return desk.angel.book.place("NSE", "RELIANCE", "BUY", 10, **terms)


def heard(desk: Desk) -> list[BookedOrder]:
    return [order for _, orders in desk.recorder.observed for order in orders]


async def test_every_change_of_an_order_is_heard_and_fills_are_looked_for(desk: Desk, server: OrderStream) -> None:
    account = await desk.angelone()
    async with following(desk, server) as streams:
        await until(lambda: streams.health()["connected"] == 1)
        assert desk.recorder.looked == [account["id"]]  # what was said before
        order = buy(desk)
        await until(lambda: heard(desk))
        (first,) = heard(desk)
        assert (first.broker_order_id, first.tag, first.symbol) == (order.order_id, "arrowtag01", "RELIANCE")
        assert first.state is OrderState.OPEN
        assert {account_id for account_id, _ in desk.recorder.observed} == {account["id"]}
        assert desk.recorder.looked == [account["id"]]
        desk.angel.book.fill(order.order_id, 4)
        await until(lambda: len(desk.recorder.looked) == 2)
        desk.angel.book.fill(order.order_id)
        await until(lambda: heard(desk)[-1].state is OrderState.COMPLETE)
        assert [one.filled_quantity for one in heard(desk)] == [0, 4, 10]
        health = streams.health()
        assert (health["unreadable"], health["messages"]) == (0, 4)
    header = server.headers[0]
    assert header["x-feed-token"] == desk.angel.sessions.issued[-1].feed
    assert header["x-client-code"] == desk.angel.account.client_code
    await until(lambda: not server.connections or server.connections[0].close_code is not None)


async def test_a_connection_that_breaks_is_made_anew_and_the_book_looked_at(desk: Desk, server: OrderStream) -> None:
    account = await desk.angelone()
    async with following(desk, server) as streams:
        await until(lambda: streams.health()["connected"] == 1)
        for connections in (2, 3):
            (lost,) = server.connections
            lost.transport.abort()
            await until(lambda lost=lost: server.connections and lost not in server.connections)
            await until(lambda count=connections: len(desk.recorder.looked) == count)
        assert server.handshakes == 3
        await until(lambda: streams.health()["connected"] == 1)
        buy(desk)
        await until(lambda: heard(desk))
    assert set(desk.recorder.looked) == {account["id"]}


async def test_a_connection_that_is_half_open_is_noticed(desk: Desk, server: OrderStream) -> None:
    await desk.angelone()
    async with following(desk, server, QUICK._replace(dead_after=0.5)) as streams:
        await until(lambda: streams.health()["connected"] == 1 and server.connections)
        deaf, handshakes = server.connections[-1], server.handshakes
        deaf.transport.pause_reading()
        await until(lambda: server.handshakes > handshakes)


async def test_tokens_that_are_refused_end_the_session_and_the_next_one_is_followed(
    desk: Desk, server: OrderStream
) -> None:
    await desk.angelone()
    desk.clock.move(minutes=10)
    desk.angel.sessions.expire(refresh_too=True)
    async with following(desk, server) as streams:
        # Refused, over; signed in anew by the authenticator's code, and followed.
        await until(lambda: len(desk.recorder.observed) or len(desk.angel.sessions.issued) > 1 or server.handshakes)
        await until(lambda: "ended" in desk.changes())
        desk.clock.move(seconds=40)
        await desk.here.keeper.sweep()
        await until(lambda: streams.health()["connected"] == 1)
    assert len(desk.angel.sessions.issued) == 2


async def test_too_many_connections_are_no_end_of_the_session(desk: Desk, server: OrderStream) -> None:
    account = await desk.angelone()
    server.refuse = 429
    async with following(desk, server) as streams:
        await until(lambda: server.handshakes >= 3)
        server.refuse = None
        await until(lambda: streams.health()["connected"] == 1)
    assert (await desk.row(account))["session_live"]


async def test_redirects_are_not_followed(desk: Desk, server: OrderStream) -> None:
    await desk.angelone()
    async with OrderStream(desk.angel) as elsewhere:
        server.redirect = elsewhere.url
        async with following(desk, server):
            await until(lambda: server.handshakes >= 3)
        assert elsewhere.handshakes == 0


async def test_what_cannot_be_read_or_stored_is_looked_for(desk: Desk, server: OrderStream) -> None:
    await desk.angelone()
    async with following(desk, server) as streams:
        await until(lambda: streams.health()["connected"] == 1)
        looked = len(desk.recorder.looked)
        for number, text in enumerate(("{", '{"orderData": {"orderid": "1", "quantity": "x"}}', "[" * 3000), 1):
            await server.connections[0].send(text)
            await until(lambda number=number: len(desk.recorder.looked) == looked + number)
        assert streams.health()["unreadable"] >= 2
        await server.connections[0].send('{"orderData": 7}')
        await server.connections[0].send("pong")
        desk.recorder.failing = UnavailableError("The database is away.")
        buy(desk)
        await until(lambda: len(desk.recorder.looked) >= looked + 4)
        desk.recorder.failing = None
        buy(desk, "arrowtag02")
        await until(lambda: heard(desk))


async def test_removed_accounts_are_followed_no_more_and_others_addresses_never(
    desk: Desk, server: OrderStream
) -> None:
    account = await desk.angelone()
    other = desk.angel.base_url.replace("127.0.0.1", "localhost")
    desk.settings.broker_api_url_allowlist.append(other)
    elsewhere = await desk.angelone("bob", api_url=other)
    assert elsewhere["api_url"] == other
    async with following(desk, server) as streams:
        await until(lambda: streams.health()["connected"] == 1)
        assert streams.health()["streams"] == 1
        assert elsewhere["id"] not in desk.recorder.looked
        await desk.ask("DELETE", f"/brokerages/{account['id']}", status=204)
        await until(lambda: streams.health()["streams"] == 0 and not server.connections)
