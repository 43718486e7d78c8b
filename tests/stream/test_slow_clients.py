"""A client that does not read: it harms nobody, costs little, is told what it missed, and is closed in the end."""

import asyncio
import json
import tracemalloc
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from app.core.outbox import Channel
from app.stream.conversation import Limits
from app.stream.wire import WRITE_BUFFER
from tests.stream.server import Client, Server

MESSAGES = 2000
READERS = 49


async def publish_paced(server: Server, owner: str, slow: Any) -> int:
    """Publish as fast as the clients that do read can follow; the most that waited for `slow` at any time."""
    others = [subscriber for subscriber in server.hub._subscribers if subscriber is not slow]
    most = 0
    for number in range(MESSAGES):
        server.hub.publish(Channel.ALERTS, b'{"n":%d,"pad":"%s"}' % (number, b"x" * 400), owner=owner, seq=number + 1)
        most = max(most, slow.pending)
        while max(subscriber.pending for subscriber in others) > 100:
            await asyncio.sleep(0.001)
    return most


async def read_all(client: Client) -> list[int]:
    """The numbers in every message, until the last one; decoded only where they stand, for speed."""
    numbers: list[int] = []
    async with asyncio.timeout(120):
        while not numbers or numbers[-1] != MESSAGES - 1:
            text = str(await client.connection.recv())
            assert text.startswith('{"type":"alert"'), text
            numbers.append(int(text.split('{"n":', 1)[1].split(",", 1)[0]))
    return numbers


@pytest.mark.timeout(180)
async def test_one_client_that_never_reads_among_fifty() -> None:
    with Server(Limits(stall_seconds=180)) as server:
        token = server.accounts.token("ann")
        owner = server.accounts.user_id(token)
        async with AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(server.connect(max_queue=None)) for _ in range(READERS)]
            stalled = await stack.enter_async_context(server.connect_without_reading())
            for client in [*readers, stalled]:
                await client.sign_in(token)
                await client.subscribe("alerts")
            slow = await server.do(lambda: list(server.hub._subscribers)[-1])

            reading = [asyncio.create_task(read_all(client)) for client in readers]
            most = await server.run(publish_paced(server, owner, slow), 120)
            for numbers in await asyncio.gather(*reading):
                assert numbers == list(range(MESSAGES))
            assert most == 256
            assert server.hub.counts[Channel.ALERTS].offered == (READERS + 1) * MESSAGES

            # What the sleeper gets when it wakes up: what was on its way, then how many it missed, then the rest.
            numbers, missed = await drain(stalled)
            assert missed
            assert len(numbers) + sum(notice["count"] for notice in missed) == MESSAGES
            assert numbers == sorted(numbers)
            assert numbers[-256:] == list(range(MESSAGES - 256, MESSAGES))
            first = missed[0]
            assert first["channel"] == "alerts"
            assert first["since"] == numbers.index(MESSAGES - 256)  # the seq of the last one before the gap
            assert server.hub.health()["missed"] == sum(notice["count"] for notice in missed)


async def drain(client: Client) -> tuple[list[int], list[dict[str, Any]]]:
    numbers: list[int] = []
    missed: list[dict[str, Any]] = []
    while not numbers or numbers[-1] != MESSAGES - 1:
        message = await client.receive()
        if message["type"] == "missed":
            missed.append(message)
        else:
            numbers.append(message["data"]["n"])
    return numbers, missed


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_slow_client_gets_the_newest_price_per_symbol(loop: str) -> None:
    symbols, ticks, size = 10, 5000, 4000
    with Server(Limits(stall_seconds=60), loop=loop) as server:
        async with server.connect_without_reading() as client:
            await client.subscribe("ticks")
            slow = await server.do(lambda: next(iter(server.hub._subscribers)))

            async def publish() -> tuple[int, int]:
                most = 0
                tracemalloc.start()
                for number in range(ticks):
                    data = b'{"n":%d,"pad":"%s"}' % (number, b"x" * size)
                    server.hub.publish(Channel.TICKS, data, key=f"S{number % symbols}")
                    most = max(most, slow.pending)
                    await asyncio.sleep(0)
                grown = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                return most, grown

            most, grown = await server.run(publish())
            assert most <= symbols
            assert grown < 4_000_000  # 20 MB were published; what others in this process hold on to is counted, too
            [connection] = server.uvicorn.server_state.connections
            assert connection.transport.get_write_buffer_size() < WRITE_BUFFER + 2 * size

            newest: dict[int, int] = {}
            received = missed = 0
            while len(newest) < symbols or min(newest.values()) < ticks - symbols:
                message = await client.receive()
                if message["type"] == "missed":
                    missed += message["count"]
                    continue
                number = message["data"]["n"]
                assert number > newest.get(number % symbols, -1)
                newest[number % symbols] = number
                received += 1
            assert received + missed == ticks
            # What was in buffers is old by now; it was kept small, so that nearly all else is new.
            assert received < symbols + 20


async def test_a_client_that_accepts_nothing_is_closed() -> None:
    with Server(Limits(stall_seconds=0.5)) as server:
        async with server.connect_without_reading() as stalled, server.connect() as client:
            await stalled.subscribe("ticks")
            # So little that the kernel takes it, however late this test gets to read it.
            few = [f"S{number}" for number in range(10)]
            await client.subscribe("ticks", symbols=few)

            def flood() -> None:
                for number in range(200):
                    server.hub.publish(Channel.TICKS, b'"%s"' % (b"x" * 1000), key=f"S{number}")

            await server.do(flood)
            for _ in few:
                assert (await client.receive())["type"] == "tick"
            await server.until(lambda: server.service.counts["stalled"] == 1)
            assert server.hub.health()["clients"] == 1
            # Its socket is closed too, though it never read the rest.
            await server.until(lambda: len(server.uvicorn.server_state.connections) == 1)
        assert await close_code(stalled) in {1006, 1013}  # 1013 if it could still be told


async def test_a_quiet_client_is_not_taken_for_a_stalled_one() -> None:
    with Server(Limits(stall_seconds=0.2)) as server:
        async with server.connect() as client:
            await client.subscribe("ticks")
            await asyncio.sleep(0.7)
            await server.publish("ticks", 1, key="A")
            assert (await client.receive())["data"] == 1


async def test_a_client_that_sends_and_never_reads_cannot_fill_the_service() -> None:
    with Server(Limits(messages_per_second=100_000, message_burst=100_000, stall_seconds=60)) as server:
        async with server.connect_without_reading() as client:
            ping = json.dumps({"action": "ping", "id": "x" * 128})

            async def send_pings() -> None:
                for _ in range(3000):
                    await client.connection.send(ping)

            await asyncio.wait_for(send_pings(), 30)
            await asyncio.sleep(0.1)
            outbox = await server.do(lambda: next(iter(server.hub._subscribers)))
            assert len(outbox._replies) <= 65
        async with server.connect() as other:
            await other.nothing_more()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_stalled_client_does_not_hold_up_the_shutdown(loop: str) -> None:
    with Server(Limits(stall_seconds=60), loop=loop) as server:
        async with server.connect_without_reading() as stalled, server.connect() as client:
            await stalled.subscribe("ticks")
            await client.subscribe(
                "ticks", symbols=["S0"]
            )  # it has read all when the end comes: half a second is given

            def flood() -> None:
                for number in range(500):  # more than the kernel would take without `TransportMiddleware`
                    server.hub.publish(Channel.TICKS, b'"%s"' % (b"x" * 20_000), key=f"S{number}")

            await server.do(flood)
            await asyncio.to_thread(server.stop)  # uvicorn alone would wait for ever
            assert await close_code(client) == 1012


async def close_code(client: Client) -> int | None:
    """How the connection ended, after everything that came before its end."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(30):
            async for _ in client.connection:
                pass
    return client.connection.close_code
