"""Faults that a person orders of the simulated Angel One do what their names say, and end."""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.simulators.angel_one import INDICES, AngelOneSimulator
from tests.simulators.angel_one.faults import CONTROL, FAULTS, add_options, carry_out
from tests.simulators.angel_one.layout import LTP
from tests.simulators.angel_one.rest import LOGIN
from tests.support.http import NO_TLS

NIFTY = INDICES[0]


@pytest.fixture
async def simulator() -> AsyncIterator[AngelOneSimulator]:
    async with AngelOneSimulator(rates={}) as made:
        yield made


async def listening(simulator: AngelOneSimulator) -> ClientConnection:
    tokens, account = simulator.sessions.issue(), simulator.account
    headers = {
        "Authorization": f"Bearer {tokens.jwt}",
        "x-api-key": account.api_key,
        "x-client-code": account.client_code,
        "x-feed-token": tokens.feed,
    }
    client = await connect(simulator.feed.url, additional_headers=headers, compression=None)
    wanted = {"mode": LTP, "tokenList": [{"exchangeType": NIFTY.exchange, "tokens": [NIFTY.token]}]}
    await client.send(json.dumps({"correlationID": "x", "action": 1, "params": wanted}))
    await simulator.feed.subscribed([(LTP, NIFTY.exchange, NIFTY.token)])
    return client


async def order(simulator: AngelOneSimulator, fault: object) -> int:
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        answer = await client.post(simulator.rest_url + CONTROL, json={"fault": fault})
    return answer.status_code


async def heal(simulator: AngelOneSimulator) -> None:
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        await client.delete(simulator.rest_url + CONTROL)


async def sizes(simulator: AngelOneSimulator, client: ClientConnection, ticks: int, frames: int) -> list[int]:
    """Of the frames that come when so many ticks are sent: so many, and what else comes within a moment."""
    for _ in range(ticks):
        await simulator.tick(NIFTY)
    found = list[int]()
    while True:
        try:
            found.append(len(await asyncio.wait_for(client.recv(decode=False), 30 if len(found) < frames else 0.2)))
        except TimeoutError:
            return found


@pytest.mark.parametrize("fault", ["garbage", "wrong-size", "duplicates", "out-of-order", "slow", "half-open"])
async def test_frames_go_wrong_until_it_is_ended(simulator: AngelOneSimulator, fault: str) -> None:
    client = await listening(simulator)
    [right] = await sizes(simulator, client, 1, 1)
    assert await order(simulator, fault) == 200
    frames = {"garbage": 12, "wrong-size": 11, "duplicates": 33, "out-of-order": 10}
    found = await sizes(simulator, client, 11, frames.get(fault, 0))
    wrong = [size for size in found if size != right]
    assert {
        "garbage": len(found) > 11 and bool(wrong),
        "wrong-size": len(found) == 11 and bool(wrong),
        "duplicates": found == [right] * 33,
        "out-of-order": found == [right] * 10,
        "slow": found == [],
        "half-open": found == [],
    }[fault]
    await heal(simulator)
    if fault != "half-open":
        # What was still on its way may be wrong.
        assert set((await sizes(simulator, client, 4, 4))[-4:]) == {right}
        await client.close()
        return
    with pytest.raises(websockets.ConnectionClosed):
        await client.recv()


@pytest.mark.parametrize("fault", ["drop", "expired", "401", "403", "429"])
async def test_connections_break_and_what_refuses_refuses(simulator: AngelOneSimulator, fault: str) -> None:
    client = await listening(simulator)
    old = simulator.sessions.issued[-1]
    assert await order(simulator, fault) == 200
    with pytest.raises(websockets.ConnectionClosed):
        await client.recv()
    assert simulator.sessions.holds_feed(old.feed) == (fault != "expired")
    async with httpx.AsyncClient(verify=NO_TLS) as http:
        status = (await http.post(simulator.rest_url + LOGIN)).status_code
    if fault.isdigit():
        assert status == int(fault)
        with pytest.raises(websockets.InvalidStatus):
            await listening(simulator)
        await heal(simulator)
    client = await listening(simulator)
    assert len(await sizes(simulator, client, 2, 2)) == 2
    await client.close()


async def test_what_is_no_fault_is_refused_and_all_are_named(simulator: AngelOneSimulator) -> None:
    assert await order(simulator, "gremlins") == await order(simulator, None) == 422
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        named = (await client.get(simulator.rest_url + CONTROL)).json()
    assert named.keys() == FAULTS.keys()
    assert all(named.values())


async def test_by_options_at_their_times(simulator: AngelOneSimulator) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    await carry_out(simulator, parser.parse_args([]))
    began = time.monotonic()
    await carry_out(simulator, parser.parse_args(["--fault", "duplicates", "--after", "0.2"]))
    assert simulator.feed.faults.duplicates == 2
    assert time.monotonic() - began >= 0.19

    client, began = await listening(simulator), time.monotonic()
    await carry_out(simulator, parser.parse_args(["--fault", "half-open", "--after", "0", "--for", "0.2"]))
    assert time.monotonic() - began >= 0.19
    assert simulator.feed.faults.duplicates == 0
    with pytest.raises(websockets.ConnectionClosed):  # what was half-open breaks at the end
        await client.recv()
