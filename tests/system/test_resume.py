"""Resuming the stream over many alerts, and deliveries while the database stands still: the whole service."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.people import Person, alert
from tests.support.service import ServiceProcess

MANY = 700


async def subscribe(
    socket: ClientConnection, person: Person, since: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What is replayed, and the acknowledgement."""
    await socket.send(json.dumps({"action": "auth", "token": person.token}))
    await socket.send(json.dumps({"action": "subscribe", "channel": "alerts", "since": since}))
    replayed = []
    async with asyncio.timeout(40):
        while (message := json.loads(await socket.recv()))["type"] != "subscribed":
            assert message["type"] in {"authenticated", "alert"}, message
            if message["type"] == "alert":
                replayed.append(message)
    return replayed, message


async def test_resuming_over_more_alerts_than_one_replay_holds_misses_none(
    service: ServiceProcess, make_user: Callable[..., Awaitable[Person]]
):
    person = await make_user()
    key = await person.bind()
    limit = asyncio.Semaphore(16)

    async def post(number: int) -> dict[str, Any]:
        async with limit:
            answer = await person.client.post(f"/data/{key}", json=alert(alert_id=f"n{number}"))
            assert answer.status_code == 201
            stored: dict[str, Any] = answer.json()
            return stored

    first = await post(0)
    stored = {row["id"] for row in await asyncio.gather(*[post(number) for number in range(1, MANY)])}
    seen: set[str] = set()
    since, rounds, truncated = first["seq"], 0, True
    while truncated:
        rounds += 1
        assert rounds < 10, "resuming does not get on"
        async with connect(service.ws_url) as socket:
            replayed, acknowledged = await subscribe(socket, person, since)
        seen |= {message["data"]["id"] for message in replayed}
        since, truncated = acknowledged["seq"], acknowledged["truncated"]
    assert rounds > 1
    assert stored <= seen


async def test_an_alert_that_became_visible_late_is_replayed(user: Person, service: ServiceProcess):
    key = await user.bind()
    earlier = (await user.client.post(f"/data/{key}", json=alert(alert_id="late"))).json()
    async with connect(service.ws_url) as socket:
        # The client's position is already beyond the alert's number.
        replayed, _ = await subscribe(socket, user, earlier["seq"] + 5_000_000)
    assert earlier["id"] in {message["data"]["id"] for message in replayed}


@pytest.mark.embedded
async def test_a_delivery_is_answered_in_time_while_the_database_stands_still(
    make_service: Callable[..., ServiceProcess], make_user: Callable[..., Awaitable[Person]]
):
    service = make_service().start()
    person = await make_user(service.url)
    warm, cold = await person.bind("warm"), await person.bind("cold")
    assert (await person.client.post(f"/data/{warm}", json=alert())).status_code == 201
    database = service.database_pid()
    os.kill(database, signal.SIGSTOP)
    try:
        began = time.monotonic()
        # At once: a database that hangs for long is replaced.
        answers = await asyncio.gather(
            *(person.client.post(f"/data/{key}", json=alert(alert_id="stalled")) for key in (warm, cold))
        )
        # TradingView hangs up after three seconds, and sends again only what was answered with 5xx.
        assert [answer.status_code for answer in answers] == [503, 503]
        assert time.monotonic() - began < 18  # without a deadline it would be the driver's: 20 s and more
        assert all(answer.headers["Retry-After"] for answer in answers)
    finally:
        os.kill(database, signal.SIGCONT)
    async with asyncio.timeout(40):
        while (await person.client.post(f"/data/{cold}", json=alert(alert_id="stalled"))).status_code not in {200, 201}:
            await asyncio.sleep(0.2)


async def test_forwarded_addresses_are_not_believed_even_where_uvicorn_would(
    make_service: Callable[..., ServiceProcess], make_user: Callable[..., Awaitable[Person]]
):
    """uvicorn believes X-Forwarded-For from loopback by default; here TRUSTED_PROXIES alone decides."""
    service = make_service(WEBHOOK_ALLOWED_IPS="tradingview").start()
    person = await make_user(service.url)
    key = await person.bind()
    for spoofed in ("52.89.214.238", "52.89.214.238:443", "[::1]:80, 52.89.214.238:443"):
        answer = await person.client.post(f"/data/{key}", json=alert(), headers={"X-Forwarded-For": spoofed})
        assert answer.status_code == 403, spoofed
        assert "127.0.0.1" in answer.json()["detail"]


async def test_no_route_reads_an_endless_body(client: httpx.AsyncClient):
    async def endless() -> Any:
        for _ in range(64):
            yield b"x" * 65_536

    document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method in set(operations) & {"post", "put", "patch", "delete"}:
            target = path.replace("{secret_key}", "k" * 43)
            target = re.sub(r"\{\w+\}", "0" * 24, target)
            taken = operations[method].get("requestBody", {}).get("content", {"application/json": {}})
            headers = {"Content-Type": next(iter(taken))}
            answer = await client.request(method, target, content=endless(), headers=headers)
            assert answer.status_code in {401, 404, 413}, (method, path, answer.status_code)
