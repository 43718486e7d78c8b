"""Two workers behave as one from the first moment: revocations, sessions, live alerts and repeats."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection

from tests.support.http import NO_TLS
from tests.support.people import Person, alert, somebody
from tests.support.service import ServiceProcess
from tests.support.workers import one_client_each, socket_to

DELIVERIES = 50


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service of two workers, both ready."""
    service = ServiceProcess(tmp_path_factory.mktemp("pair"), workers=2)
    try:
        yield service.start()
    finally:
        service.close()


@pytest_asyncio.fixture
async def owner(pair: ServiceProcess) -> AsyncIterator[Person]:
    async with somebody(pair.url) as person:
        yield person


@pytest_asyncio.fixture
async def each(pair: ServiceProcess) -> AsyncIterator[dict[int, httpx.AsyncClient]]:
    """A client of each worker, by process id."""
    async with one_client_each(pair) as clients:
        yield clients


def signed_in(person: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.token}"}


async def hear(socket: ClientConnection, kind: str) -> dict[str, object]:
    """The next message of this type; others are passed over."""
    async with asyncio.timeout(30):
        while True:
            message: dict[str, object] = json.loads(await socket.recv())
            if message["type"] == kind:
                return message


async def health_of(each: dict[int, httpx.AsyncClient]) -> list[dict[str, Any]]:
    """What both say of themselves, once both are well and know of each other."""
    async with asyncio.timeout(30):
        while True:
            found = [(await client.get("/health")).json() for client in each.values()]
            if [(health["status"], health["bus"]["peers"]) for health in found] == [("ok", 1)] * 2:
                return found
            await asyncio.sleep(0.1)


async def test_both_workers_answer(pair: ServiceProcess, each: dict[int, httpx.AsyncClient]):
    both = await health_of(each)

    assert set(each) == set(pair.worker_pids())
    assert {health["bus"]["role"] for health in both} == {"owner", "peer"}


@pytest.mark.parametrize("first", [0, 1])
async def test_a_revoked_key_is_dead_in_both_at_once(owner: Person, each: dict[int, httpx.AsyncClient], first: int):
    here, there = list(each.values())[first], list(each.values())[1 - first]
    key = await owner.bind()
    for client in (here, there):  # both have it in their caches now
        assert (await client.post(f"/data/{key}", json=alert(comment="before"))).status_code in {200, 201}
    [info] = (await owner.client.get("/keys/")).json()

    revoked = await here.delete(f"/keys/{info['id']}", headers=signed_in(owner))
    after = [await there.post(f"/data/{key}", json=alert(quantity=n + 1)) for n in range(DELIVERIES)]
    after += [await here.post(f"/data/{key}", json=alert(quantity=n + 1)) for n in range(DELIVERIES)]

    assert revoked.status_code == 204
    assert Counter(answer.status_code for answer in after) == {404: 2 * DELIVERIES}
    assert (await there.get(f"/keys/{key}")).status_code == 404


async def test_a_new_key_works_in_both_although_it_was_tried_before(owner: Person, each: dict[int, httpx.AsyncClient]):
    """Unknown keys are remembered for some seconds; nobody's new key is among them."""
    one, other = each.values()
    for _ in range(5):
        key = (await one.post("/alerts/bind_key", json={"name": "S"}, headers=signed_in(owner))).json()["secret_key"]
        assert (await other.post(f"/data/{key}", json=alert(comment=key[:8]))).status_code == 201


@pytest.mark.parametrize("first", [0, 1])
async def test_a_logout_ends_the_access_token_in_both(owner: Person, each: dict[int, httpx.AsyncClient], first: int):
    here, there = list(each.values())[first], list(each.values())[1 - first]
    for client in (here, there):
        assert (await client.get("/api/v1/auth/me", headers=signed_in(owner))).status_code == 200

    ended = await here.post("/api/v1/auth/logout", json={"refresh_token": owner.tokens["refresh_token"]})
    after = [
        await client.get(path, headers=signed_in(owner))
        for client in (there, here)
        for path in ("/api/v1/auth/me", "/data/", "/keys/", "/alerts/rejected")
    ]

    assert ended.status_code == 204
    assert {answer.status_code for answer in after} == {401}


async def test_a_spent_refresh_token_ends_the_session_in_both(owner: Person, each: dict[int, httpx.AsyncClient]):
    one, other = each.values()
    spent = {"refresh_token": owner.tokens["refresh_token"]}
    renewed = await one.post("/api/v1/auth/refresh", json=spent)
    token = {"Authorization": f"Bearer {renewed.json()['access_token']}"}
    assert (await one.get("/api/v1/auth/me", headers=token)).status_code == 200

    again = await other.post("/api/v1/auth/refresh", json=spent)
    after = await one.get("/api/v1/auth/me", headers=token)

    assert (renewed.status_code, again.status_code, after.status_code) == (200, 401, 401)


@pytest.mark.parametrize("first", [0, 1])
async def test_an_alert_reaches_a_websocket_at_the_other_worker(
    pair: ServiceProcess, owner: Person, each: dict[int, httpx.AsyncClient], first: int
):
    here, there = list(each)[first], list(each)[1 - first]
    key = await owner.bind()
    async with socket_to(pair, there) as socket, somebody(pair.url) as stranger:
        await socket.send(json.dumps({"action": "auth", "token": owner.token}))
        await hear(socket, "authenticated")
        await socket.send(json.dumps({"action": "subscribe", "channel": "alerts"}))
        await hear(socket, "subscribed")

        theirs = await stranger.bind()
        await each[here].post(f"/data/{theirs}", json=alert(contract="SOMEBODY ELSE'S"))
        stored = [await each[here].post(f"/data/{key}", json=alert(quantity=n + 1)) for n in range(20)]
        heard = [(await hear(socket, "alert"))["data"] for _ in stored]

    assert [answer.status_code for answer in stored] == [201] * 20
    assert heard == [answer.json() for answer in stored]


async def test_a_logout_at_one_ends_the_subscription_at_the_other(
    pair: ServiceProcess, owner: Person, each: dict[int, httpx.AsyncClient]
):
    here, there = each
    key = await owner.bind()
    async with socket_to(pair, there) as socket:
        await socket.send(json.dumps({"action": "auth", "token": owner.token}))
        await socket.send(json.dumps({"action": "subscribe", "channel": "alerts"}))
        await hear(socket, "subscribed")

        await each[here].post("/api/v1/auth/logout", json={"refresh_token": owner.tokens["refresh_token"]})
        await each[here].post(f"/data/{key}", json=alert())
        ended = await hear(socket, "error")
        await socket.send(json.dumps({"action": "ping"}))
        rest = json.loads(await socket.recv())

    assert ended["code"] == "session_ended"
    assert rest["type"] == "pong"


@pytest.mark.parametrize("named_by", ["alert_id", "header", "body alone"])
async def test_one_event_delivered_to_both_makes_one_alert(
    pair: ServiceProcess, owner: Person, each: dict[int, httpx.AsyncClient], named_by: str
):
    key = await owner.bind()
    body = alert(**({"alert_id": "tv-1"} if named_by == "alert_id" else {}))
    headers = {"Idempotency-Key": "event 1"} if named_by == "header" else {}
    many = httpx.Limits(max_connections=40, max_keepalive_connections=40)
    async with httpx.AsyncClient(base_url=pair.url, timeout=30, limits=many, verify=NO_TLS) as flood:
        elsewhere = [client.post(f"/data/{key}", json=body, headers=headers) for client in each.values()]
        anywhere = [flood.post(f"/data/{key}", json=body, headers=headers) for _ in range(38)]
        answers = await asyncio.gather(*elsewhere, *anywhere)

    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 39}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len((await owner.client.get("/data/")).json()) == 1


async def test_health_tells_of_both(pair: ServiceProcess, each: dict[int, httpx.AsyncClient]):
    for health in await health_of(each):
        assert health["bus"]["connected"] is True
        assert health["database"]["mode"] == ("embedded" if pair.embedded else "server")
