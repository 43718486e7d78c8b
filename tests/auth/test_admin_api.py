"""Administration over HTTP: who may, what is refused, and what a deactivated account still can do: nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.administrators import administrator
from tests.support.people import Person, alert
from tests.support.service import ServiceProcess

USERS = "/api/v1/admin/users"
UNKNOWN = ["6b02893a002b26997921d778", "1", "xyz", "6b02893a002b26997921d77", "é", "$ne", "a" * 200]


@pytest_asyncio.fixture(scope="module")
async def admin(service: ServiceProcess) -> AsyncIterator[Person]:
    async with administrator(service) as person:
        yield person


async def id_of(person: Person) -> str:
    me = await person.client.get("/api/v1/auth/me")
    found: str = me.json()["id"]
    return found


async def test_others_may_not(service: ServiceProcess, user: Person):
    other = await id_of(user)
    async with administrator(service, "operator") as operator:
        for person, role in ((user, "user"), (operator, "operator")):
            calls = [
                await person.client.get(USERS),
                await person.client.get(f"{USERS}/{other}"),
                await person.client.get(f"{USERS}/{UNKNOWN[0]}"),
                await person.client.patch(f"{USERS}/{await id_of(person)}", json={"role": "admin"}),
                await person.client.patch(f"{USERS}/{other}", json={"is_active": False}),
            ]

            assert [(answer.status_code, answer.json()["detail"]) for answer in calls] == [
                (403, "This is for accounts with the role admin.")
            ] * len(calls)
            me = (await person.client.get("/api/v1/auth/me")).json()
            assert (me["role"], me["is_active"]) == (role, True)


async def test_nobody_without_a_token(client: httpx.AsyncClient):
    answers = [await client.get(USERS), await client.patch(f"{USERS}/{UNKNOWN[0]}", json={"role": "admin"})]
    assert [answer.status_code for answer in answers] == [401, 401]


async def test_an_account_is_found_and_shown_without_its_secrets(
    admin: Person, user: Person, make_user: Callable[[], Awaitable[Person]]
):
    await make_user()
    me = (await user.client.get("/api/v1/auth/me")).json()

    for q in (user.email, f"  {user.email[:14].upper()} ", me["id"]):
        found = await admin.client.get(USERS, params={"q": q})
        assert found.json() == [me]
        assert found.headers["cache-control"] == "no-store"
    one = await admin.client.get(f"{USERS}/{me['id']}")
    assert one.json() == {**me, "second_factor": False}
    assert "argon2" not in found.text + one.text


async def test_the_list_is_paged_newest_first(admin: Person, make_user: Callable[[], Awaitable[Person]]):
    people = [await make_user() for _ in range(3)]

    first = await admin.client.get(USERS, params={"limit": 2, "is_active": True})
    second = await admin.client.get(first.links["next"]["url"])

    emails = [row["email"] for row in first.json() + second.json()]
    assert emails[:3] == [person.email for person in reversed(people)]
    assert second.request.url.params["is_active"] == "true"


async def test_a_deactivated_account_can_do_nothing_and_comes_back_whole(
    admin: Person, user: Person, client: httpx.AsyncClient
):
    path, key = f"{USERS}/{await id_of(user)}", await user.bind()
    login = {"email": user.email, "password": user.password}
    assert (await client.post(f"/data/{key}", json=alert())).status_code == 201

    off = await admin.client.patch(path, json={"is_active": False})

    assert (off.status_code, off.json()["is_active"]) == (200, False)
    assert (await user.client.get("/api/v1/auth/me")).status_code == 401
    renewed = await client.post("/api/v1/auth/refresh", json={"refresh_token": user.tokens["refresh_token"]})
    assert renewed.status_code == 401
    assert (await client.post("/api/v1/auth/login", json=login)).status_code == 403
    refused = await client.post(f"/data/{key}", json=alert(comment="while paused"))
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
    assert refused.json()["detail"] == "This strategy is paused: its account is deactivated."
    assert (await client.get(f"/keys/{key}")).json() == {"name": "My Strategy"}
    assert (await admin.client.patch(path, json={"is_active": False})).status_code == 200

    assert (await admin.client.patch(path, json={"is_active": True})).json()["is_active"] is True
    assert (await client.post(f"/data/{key}", json=alert(comment="after"))).status_code == 201
    assert (await user.client.get("/api/v1/auth/me")).status_code == 401  # what was ended stays ended
    tokens = (await client.post("/api/v1/auth/login", json=login)).json()
    client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
    [kept] = (await client.get("/alerts/rejected")).json()
    assert (kept["status"], kept["reason"]) == (403, refused.json()["detail"])
    assert "while paused" in kept["body"]
    assert [row["comment"] for row in (await client.get("/data/")).json()] == ["after", None]


async def test_a_role_holds_from_the_next_request_on(admin: Person, user: Person):
    path = f"{USERS}/{await id_of(user)}"
    assert (await user.client.get(USERS)).status_code == 403

    for role, status in (("admin", 200), ("operator", 403), ("admin", 200), ("user", 403)):
        assert (await admin.client.patch(path, json={"role": role})).json()["role"] == role
        assert (await user.client.get(USERS)).status_code == status


async def test_an_administrator_cannot_lock_themselves_out(admin: Person):
    path = f"{USERS}/{await id_of(admin)}"
    for body in ({"is_active": False}, {"role": "user"}, {"second_factor": False}):
        answer = await admin.client.patch(path, json=body)
        assert (answer.status_code, "your own" in answer.json()["detail"]) == (409, True)
    assert (await admin.client.get(path)).json()["role"] == "admin"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"is_active": None},
        {"is_active": 0},
        {"is_active": "false"},
        {"is_verified": {"$ne": None}},
        {"role": "root"},
        {"role": None, "is_active": True},
        {"role": ["admin"]},
        {"second_factor": True},
        {"second_factor": 0},
        {"api_tokens": True},
        {"api_tokens": None},
        {"is_active": True, "email": "other@example.com"},
        {"hashed_password": "x"},
        [],
    ],
    ids=str,
)
async def test_a_body_that_makes_no_sense_changes_nothing(admin: Person, user: Person, body: Any):
    path = f"{USERS}/{await id_of(user)}"
    before = (await admin.client.get(path)).json()

    answer = await admin.client.patch(path, json=body)

    assert (answer.status_code, bool(answer.json()["errors"])) == (422, True)
    assert (await admin.client.get(path)).json() == before


async def test_what_does_not_exist_is_not_found(admin: Person):
    for item in UNKNOWN:
        assert (await admin.client.get(f"{USERS}/{item}")).status_code == 404
        assert (await admin.client.patch(f"{USERS}/{item}", json={"is_active": False})).status_code == 404


@pytest.mark.parametrize(
    "query",
    [{"q": "a"}, {"q": "  a "}, {"q": "a" * 300}, {"q": "a\x00b"}, {"role": "root"}, {"is_active": "perhaps"}],
    ids=str,
)
async def test_a_filter_that_makes_no_sense_is_refused(admin: Person, query: dict[str, str]):
    assert (await admin.client.get(USERS, params=query)).status_code == 422
