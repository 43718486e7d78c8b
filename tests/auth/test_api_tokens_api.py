"""`/api/v1/auth/tokens` over HTTP, and what API tokens open: REST and the live stream."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from app.core.security import Scope
from tests.support.http import NO_TLS
from tests.support.people import PASSWORD, Person, alert
from tests.support.service import ServiceProcess

TOKENS, ME = "/api/v1/auth/tokens", "/api/v1/auth/me"

MakeUser = Callable[..., Awaitable[Person]]


async def make_token(person: Person, *scopes: str, **more: Any) -> dict[str, Any]:
    answer = await person.client.post(TOKENS, json={"name": "bot", "scopes": scopes or ["account:read"], **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


@asynccontextmanager
async def bot(service: ServiceProcess, token: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=service.url, timeout=30, headers=headers, verify=NO_TLS) as client:
        yield client


async def test_made_listed_used_revoked(service: ServiceProcess, user: Person) -> None:
    answer = await user.client.post(TOKENS, json={"name": " Hall ", "scopes": ["account:read"], "expires_in_days": 7})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert set(made) == {"id", "name", "token", "prefix", "scopes", "created_at", "expires_at"}
    assert re.fullmatch(r"arrow_[A-Za-z0-9_-]{43}", made["token"])
    assert (made["name"], made["scopes"], made["prefix"]) == ("Hall", ["account:read"], made["token"][:12])
    listed = await user.client.get(TOKENS)
    assert listed.headers["cache-control"] == "no-store"
    assert made["token"] not in listed.text
    (shown,) = listed.json()
    del made["token"]
    assert shown == {**made, "live": True, "last_used_at": None, "revoked_at": None}
    token = answer.json()["token"]
    async with bot(service, token) as program:
        assert (await program.get(ME)).json()["email"] == user.email
        gone = await user.client.delete(f"{TOKENS}/{made['id']}")
        assert (gone.status_code, gone.content) == (204, b"")
        refused = await program.get(ME)
        assert refused.status_code == 401
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    assert (await user.client.get(TOKENS)).json() == []
    (ended,) = (await user.client.get(TOKENS, params={"include_ended": True})).json()
    assert ended["id"] == made["id"]
    assert not ended["live"]
    assert ended["revoked_at"]
    assert token not in service.log_text()


async def test_what_a_token_may_and_what_it_may_not(service: ServiceProcess, user: Person) -> None:
    reader, writer = await make_token(user, "alerts:read"), await make_token(user, "alerts:write")
    await user.bind()
    body = alert(strategy_name="My Strategy")
    async with bot(service, reader["token"]) as reads, bot(service, writer["token"]) as writes:
        assert (await writes.post("/data/", json=body)).status_code == 201
        assert len((await reads.get("/data/")).json()) == 1
        for refused in (await reads.post("/data/", json=body), await writes.get("/data/"), await reads.get(ME)):
            assert refused.status_code == 403
            assert "insufficient_scope" in refused.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", TOKENS),
        ("POST", TOKENS),
        ("DELETE", TOKENS),
        ("DELETE", f"{TOKENS}/6b02893a002b26997921d778"),
        ("GET", "/api/v1/auth/sessions"),
        ("DELETE", "/api/v1/auth/sessions"),
    ],
)
async def test_a_token_cannot_manage_what_signs_in(
    service: ServiceProcess, client: httpx.AsyncClient, user: Person, method: str, path: str
) -> None:
    made = await make_token(user, *Scope)
    body = {"name": "another", "scopes": ["alerts:read"]} if method == "POST" else None
    async with bot(service, made["token"]) as program:
        assert (await program.get(ME)).status_code == 200
        assert (await program.request(method, path, json=body)).status_code == 403
        assert (await program.get(ME)).status_code == 200
    assert (await client.request(method, path, json=body)).status_code == 401
    assert [token["id"] for token in (await user.client.get(TOKENS)).json()] == [made["id"]]


async def test_anothers_token_does_not_exist(service: ServiceProcess, make_user: MakeUser) -> None:
    person, victim = await make_user(), await make_user()
    theirs = await make_token(victim)
    details = set()
    for id_ in (theirs["id"], "6b02893a002b26997921d778", "nonsense", theirs["prefix"]):
        answer = await person.client.delete(f"{TOKENS}/{id_}")
        assert answer.status_code == 404
        details.add(answer.json()["detail"])
    assert len(details) == 1
    assert (await person.client.get(TOKENS, params={"include_ended": True})).json() == []
    assert (await person.client.delete(TOKENS)).status_code == 204
    async with bot(service, theirs["token"]) as program:
        assert (await program.get(ME)).status_code == 200


async def test_all_at_once(service: ServiceProcess, user: Person) -> None:
    made = [await make_token(user) for _ in range(3)]
    assert (await user.client.delete(TOKENS)).status_code == 204
    for token in made:
        async with bot(service, token["token"]) as program:
            assert (await program.get(ME)).status_code == 401
    assert (await user.client.get(TOKENS)).json() == []
    # Sessions are another matter.
    assert (await user.client.get(ME)).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["admin:write"]},
        {"scopes": {"$gt": ""}},
        {"name": ""},
        {"name": {"$gt": ""}},
        {"name": "a\u0000"},
        {"expires_in_days": 366},
        {"expires_in_days": 0},
        {"expires_in_days": 1.5},
        {"role": "admin"},
    ],
)
async def test_wrong_bodies(user: Person, wrong: dict[str, Any]) -> None:
    answer = await user.client.post(TOKENS, json={"name": "bot", "scopes": ["alerts:read"]} | wrong)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"][:2] == ["body", next(iter(wrong))]


async def test_wrong_tokens_are_refused_alike(client: httpx.AsyncClient, user: Person) -> None:
    token = (await make_token(user))["token"]
    swapped = token[:-1] + ("A" if token[-1] != "A" else "B")
    details = set()
    for wrong in (swapped, token[:-1], f"{token}x", "arrow_", f"arrow_{'x' * 43}"):
        answer = await client.get(ME, headers={"Authorization": f"Bearer {wrong}"})
        assert answer.status_code == 401, wrong
        details.add(answer.json()["detail"])
    assert len(details) == 1


async def test_a_token_on_the_live_stream(service: ServiceProcess, user: Person) -> None:
    alerts, orders = await make_token(user, "alerts:read"), await make_token(user, "orders:read")
    key = await user.bind()

    async def ask(socket: Any, **message: Any) -> dict[str, Any]:
        await socket.send(json.dumps(message))
        answer: dict[str, Any] = json.loads(await socket.recv())
        return answer

    async with connect(service.ws_url) as hears, connect(f"{service.ws_url}?token={orders['token']}") as other:
        assert json.loads(await other.recv())["type"] == "authenticated"
        answer = await ask(hears, action="auth", token=alerts["token"])
        assert (answer["type"], answer["expires_at"][:10]) == ("authenticated", alerts["expires_at"][:10])
        assert (await ask(hears, action="subscribe", channel="alerts"))["type"] == "subscribed"
        assert (await ask(hears, action="subscribe", channel="orders"))["code"] == "insufficient_scope"
        assert (await ask(other, action="subscribe", channel="alerts"))["code"] == "insufficient_scope"
        assert (await ask(other, action="subscribe", channel="orders"))["type"] == "subscribed"
        assert (await user.client.post(f"/data/{key}", json=alert())).status_code == 201
        assert json.loads(await hears.recv())["type"] == "alert"
        assert (await user.client.delete(f"{TOKENS}/{alerts['id']}")).status_code == 204
        assert json.loads(await hears.recv())["code"] == "session_ended"
        assert (await ask(hears, action="auth", token=alerts["token"]))["code"] == "unauthorized"
        assert (await ask(other, action="ping"))["type"] == "pong"
    for token in (alerts["token"], orders["token"]):
        assert token not in service.log_text()


async def test_the_end_of_sessions_leaves_tokens(
    service: ServiceProcess, client: httpx.AsyncClient, user: Person
) -> None:
    """A person who signs out everywhere does not stop their programs; each has an end of its own."""
    made = await make_token(user)
    assert (await user.client.delete("/api/v1/auth/sessions")).status_code == 204
    assert (await user.client.get(ME)).status_code == 401
    async with bot(service, made["token"]) as program:
        assert (await program.get(ME)).status_code == 200
    again = await client.post("/api/v1/auth/login", json={"email": user.email, "password": PASSWORD})
    headers = {"Authorization": f"Bearer {again.json()['access_token']}"}
    assert (await client.delete(TOKENS, headers=headers)).status_code == 204
    async with bot(service, made["token"]) as program:
        assert (await program.get(ME)).status_code == 401
