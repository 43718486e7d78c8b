"""`/api/v1/auth/sessions` over HTTP."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.people import PASSWORD, Person

SESSIONS = "/api/v1/auth/sessions"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"

MakeUser = Callable[..., Awaitable[Person]]


async def sign_in(client: httpx.AsyncClient, person: Person, user_agent: str = FIREFOX) -> dict[str, Any]:
    body = {"email": person.email, "password": PASSWORD}
    answer = await client.post("/api/v1/auth/login", json=body, headers={"User-Agent": user_agent})
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


async def alive(client: httpx.AsyncClient, *signed_in: dict[str, Any]) -> list[bool]:
    """Which of these still work; refresh and access tokens agree."""
    found = []
    for tokens in signed_in:
        me = await client.get("/api/v1/auth/me", headers=bearer(tokens))
        refreshed = await client.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
        assert me.status_code == refreshed.status_code
        assert me.status_code in {200, 401}
        found.append(me.status_code == 200)
    return found


async def test_my_sessions(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    other = await sign_in(client, person)
    answer = await person.client.get(SESSIONS)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "x-next-cursor" not in answer.headers
    newest, first = answer.json()
    assert set(first) == {
        "id", "current", "device", "user_agent", "address", "method", "created_at", "last_used_at", "expires_at",
    }  # fmt: skip
    assert (newest["current"], first["current"]) == (False, True)
    assert (newest["device"], newest["user_agent"]) == ("Firefox on Linux", FIREFOX)
    assert first["device"] == first["user_agent"]
    assert {newest["address"], first["address"]} == {"127.0.0.1"}
    for session in (newest, first):
        created, expires = (datetime.fromisoformat(session[name]) for name in ("created_at", "expires_at"))
        assert expires - created == timedelta(days=7)
    for secret in (*other.values(), *person.tokens.values()):
        assert len(str(secret)) < 30 or secret not in answer.text


async def test_pages(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    await sign_in(client, person)
    whole = [session["id"] for session in (await person.client.get(SESSIONS)).json()]
    first = await person.client.get(SESSIONS, params={"limit": 1})
    assert first.headers["link"].endswith('rel="next"')
    second = await person.client.get(SESSIONS, params={"limit": 1, "cursor": first.headers["x-next-cursor"]})
    assert [session["id"] for session in (*first.json(), *second.json())] == whole
    assert "x-next-cursor" not in second.headers
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "nonsense"}):
        assert (await person.client.get(SESSIONS, params=wrong)).status_code == 422


async def test_ending_one(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    other = await sign_in(client, person)
    newest, current = (await person.client.get(SESSIONS)).json()
    answer = await person.client.delete(f"{SESSIONS}/{newest['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await alive(client, other) == [False]
    assert [session["id"] for session in (await person.client.get(SESSIONS)).json()] == [current["id"]]
    assert (await person.client.delete(f"{SESSIONS}/{newest['id']}")).status_code == 204
    # The current one: that is to sign out.
    assert (await person.client.delete(f"{SESSIONS}/{current['id']}")).status_code == 204
    assert await alive(client, person.tokens) == [False]


async def test_anothers_session_does_not_exist(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person, victim = await make_user(), await make_user()
    (theirs,) = (await victim.client.get(SESSIONS)).json()
    details = set()
    for id_ in (theirs["id"], "6b02893a002b26997921d778", "nonsense", "%00", "$ne"):
        answer = await person.client.delete(f"{SESSIONS}/{id_}")
        assert answer.status_code == 404, id_
        details.add(answer.json()["detail"])
    assert details == {"There is no session with this id."}
    assert await alive(client, victim.tokens) == [True]


@pytest.mark.parametrize(("query", "kept"), [("", False), ("?keep_current=true", True)])
async def test_ending_all(client: httpx.AsyncClient, make_user: MakeUser, query: str, kept: bool) -> None:
    person, stranger = await make_user(), await make_user()
    other = await sign_in(client, person)
    answer = await person.client.delete(f"{SESSIONS}{query}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await alive(client, other, person.tokens, stranger.tokens) == [False, kept, True]
    await sign_in(client, person)


async def test_who_may(client: httpx.AsyncClient, user: Person) -> None:
    for method, path in (("GET", SESSIONS), ("DELETE", SESSIONS), ("DELETE", f"{SESSIONS}/6b02893a002b26997921d778")):
        assert (await client.request(method, path)).status_code == 401
    assert (await user.client.delete(f"{SESSIONS}?keep_current=perhaps")).status_code == 422
    assert await alive(client, user.tokens) == [True]
