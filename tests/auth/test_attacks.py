"""What attackers and careless clients send, over HTTP: refused with the right status, and never a 5xx."""

import asyncio
import base64
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from jose import jwt

from tests.auth.test_api import DIALECTS, SHORT, V1, bearer, check_problem, new_email
from tests.support.clocks import wait_for_minute
from tests.support.people import PASSWORD, Person
from tests.support.service import ServiceProcess

pytestmark = pytest.mark.timeout(180)
"""Services or programs are started here, for which a busy machine needs its time."""

MakeUser = Callable[..., Awaitable[Person]]


def part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def tampered(token: str) -> dict[str, str]:
    header, body, signature = token.split(".")
    claims = jwt.get_unverified_claims(token)
    other_session = claims | {"sid": secrets.token_hex(12)}
    longer = claims | {"exp": claims["exp"] + 86_400}
    return {
        "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "alg none with the signature": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.{signature}",
        "no signature": f"{header}.{body}.",
        "another signature": f"{header}.{body}.{'A' * len(signature)}",
        "another key": jwt.encode(claims, "x" * 32, algorithm="HS256"),
        "an empty key": jwt.encode(claims, "", algorithm="HS256"),
        "another algorithm": jwt.encode(claims, "x" * 32, algorithm="HS512"),
        "another session": f"{header}.{part(other_session)}.{signature}",
        "a longer life": f"{header}.{part(longer)}.{signature}",
        "twice": f"{token}.{signature}",
        "brackets": f"{base64.urlsafe_b64encode(b'[' * 1400).decode().rstrip('=')}.{body}.{signature}",
        "nothing like a token": "x" * 8000,
    }


async def test_tampered_access_tokens_are_refused(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    for name, token in tampered(person.token).items():
        answer = await client.get(f"{V1}/me", headers=bearer(token))
        assert answer.status_code == 401, (name, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer"), name
    assert (await person.client.get(f"{V1}/me")).status_code == 200


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Basic dXNlcjpwYXNz", "Token abc", "Bearer \xe9\xff", "Bearer a b c"]
)
async def test_without_a_usable_header_nobody_is_known(
    client: httpx.AsyncClient, dialect: str, header: str | None
) -> None:
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    check_problem(await client.get(f"{dialect}/me", headers=headers), 401)


async def test_tokens_are_not_interchangeable(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    check_problem(await client.get(f"{V1}/me", headers=bearer(person.tokens["refresh_token"])), 401)
    check_problem(await client.post(f"{V1}/refresh", json={"refresh_token": person.token}), 401)
    check_problem(await client.post(f"{V1}/logout", json={"refresh_token": person.token}), 401)
    assert (await person.client.get(f"{V1}/me")).status_code == 200


async def test_tokens_in_other_places_are_not_read(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    token = (await make_user()).token
    check_problem(await client.get(f"{V1}/me", params={"access_token": token, "token": token}), 422)
    check_problem(await client.get(f"{V1}/me", headers={"Cookie": f"access_token={token}"}), 401)


async def test_invented_refresh_tokens_are_refused(client: httpx.AsyncClient) -> None:
    for path in ("refresh", "logout"):
        check_problem(await client.post(f"{V1}/{path}", json={"refresh_token": secrets.token_urlsafe(32)}), 401)


OPERATORS = [{"$gt": ""}, {"$ne": None}, {"$regex": ".*"}, ["a@example.com"], 5, True, None, {"$where": "1"}]


@pytest.mark.parametrize("value", OPERATORS, ids=repr)
async def test_operators_never_reach_the_database(client: httpx.AsyncClient, value: Any) -> None:
    bodies = [
        (f"{V1}/login", {"email": value, "password": PASSWORD}),
        (f"{SHORT}/login", {"username": value, "password": PASSWORD}),
        (f"{V1}/login", {"email": new_email(), "password": value}),
        (f"{V1}/refresh", {"refresh_token": value}),
        (f"{V1}/logout", {"refresh_token": value}),
        (f"{V1}/register", {"email": value, "password": PASSWORD}),
        (f"{V1}/signup", {"email": new_email(), "password": value}),
    ]
    for path, body in bodies:
        problem = check_problem(await client.post(path, json=body), 422)
        assert problem["errors"][0]["loc"][0] == "body"


BAD_REGISTRATIONS = {
    "unknown field": ({"is_active": False}, "is_active"),
    "a role of one's choice": ({"role": "admin"}, "role"),
    "id of one's choice": ({"_id": "6b02893a002b26997921d778"}, "_id"),
    "operator as a key": ({"$set": {"role": "admin"}}, "$set"),
    "no address": ({"email": "asha"}, "email"),
    "address without a dot": ({"email": "asha@example"}, "email"),
    "address with a name": ({"email": "Asha <asha@example.com>"}, "email"),
    "address with a line break": ({"email": "asha@example.com\nBcc: all@example.com"}, "email"),
    "address with NUL": ({"email": "as\0ha@example.com"}, "email"),
    "long address": ({"email": f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.com"}, "email"),
    "short password": ({"password": "123456789"}, "password"),
    "long password": ({"password": "x" * 129}, "password"),
    "password with a control character": ({"password": "correct\x07horse battery"}, "password"),
    "password with half a surrogate pair": ({"password": "correct horse \ud800"}, "password"),
    "password is the address": ({"email": "somebody@example.com", "password": "SomeBody@example.com"}, "password"),
    "short username": ({"username": "ab"}, "username"),
    "long username": ({"username": "a" * 33}, "username"),
    "username like an address": ({"username": "asha@example.com"}, "username"),
    "username with a space": ({"username": "asha rao"}, "username"),
    "username of another script": ({"username": "\u0430sha"}, "username"),
    "long name": ({"name": "x" * 101}, "name"),
    "name with an escape": ({"name": "Asha\x1b[31m"}, "name"),
    "name with half a surrogate pair": ({"name": "Asha \udfff"}, "name"),
    "mobile of letters": ({"mobile": "+91 CALL ME"}, "mobile"),
    "short mobile": ({"mobile": "12345"}, "mobile"),
    "mobile as a number": ({"mobile": 919876543210}, "mobile"),
}


@pytest.mark.parametrize(("changes", "field"), BAD_REGISTRATIONS.values(), ids=BAD_REGISTRATIONS.keys())
async def test_bad_registrations_name_the_field(client: httpx.AsyncClient, changes: dict[str, Any], field: str) -> None:
    # ensure_ascii keeps half surrogate pairs as escapes, as a hostile client would send them.
    body = json.dumps({"email": new_email(), "password": PASSWORD} | changes)
    for path in (f"{V1}/register", f"{SHORT}/register"):
        answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})
        problem = check_problem(answer, 422)
        assert ["body", field] in [error["loc"] for error in problem["errors"]]
        assert str(changes.get("password", PASSWORD)) not in json.dumps(problem)


@pytest.mark.parametrize(
    "identity",
    [{}, {"email": "a@example.com", "username": "asha"}, {"email": None}, {"email": "a@example.com", "x": 1}],
)
async def test_login_wants_one_identity_and_nothing_else(client: httpx.AsyncClient, identity: dict[str, Any]) -> None:
    for dialect in DIALECTS:
        check_problem(await client.post(f"{dialect}/login", json={**identity, "password": PASSWORD}), 422)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"username": "asha"},
        {"username": "asha", "password": ""},
        {"username": "", "password": PASSWORD},
        {"username": "as\0ha", "password": PASSWORD},
        {"username": "asha", "password": "x" * 129},
        {"username": "asha", "password": PASSWORD, "grant_type": "client_credentials"},
        {"username": "asha", "password": PASSWORD, "extra": "1"},
        {"username[$gt]": "", "password": PASSWORD},
    ],
)
async def test_bad_forms_are_refused(client: httpx.AsyncClient, form: dict[str, str]) -> None:
    check_problem(await client.post(f"{V1}/signin", data=form), 422)


async def test_json_sent_to_the_form_and_a_form_sent_to_json(client: httpx.AsyncClient) -> None:
    body = {"username": "asha", "password": PASSWORD}
    check_problem(await client.post(f"{V1}/signin", json=body), 422)
    check_problem(await client.post(f"{V1}/login", data=body), 422)


@pytest.mark.parametrize("path", [f"{V1}/login", f"{V1}/register", f"{V1}/signup", f"{SHORT}/register"])
async def test_a_password_of_a_megabyte_is_not_hashed(client: httpx.AsyncClient, path: str) -> None:
    check_problem(await client.post(path, json={"email": new_email(), "password": "x" * 2**20}), 413)
    # Under the limit for bodies, over that for passwords.
    problem = check_problem(await client.post(path, json={"email": new_email(), "password": "é" * 10_000}), 422)
    assert problem["errors"][0]["loc"] == ["body", "password"]


async def test_a_form_of_a_megabyte_is_not_read(client: httpx.AsyncClient) -> None:
    form = {"username": "asha", "password": "x" * 2**20}
    check_problem(await client.post(f"{V1}/signin", data=form), 413)
    check_problem(await client.post(f"{V1}/signin", files={"username": b"x" * 2**20}), 413)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 20_000, b'{"email":' * 5_000, b"\xff\xfe", b"null", b"NaN", b'"x"'])
async def test_what_is_no_json_object_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    for path in (f"{V1}/login", f"{V1}/register", f"{V1}/refresh"):
        answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})
        check_problem(answer, 422)


async def test_the_two_names_of_an_account_share_one_limit(
    make_service: Callable[..., ServiceProcess], make_user: MakeUser
) -> None:
    service = make_service(AUTH_RATE_LIMIT_PER_MINUTE="5", AUTH_ADDRESS_RATE_LIMIT_PER_MINUTE="100").start()
    client = (await make_user(service.url)).client
    await asyncio.to_thread(wait_for_minute, 12)
    email, username = new_email(), f"u{secrets.token_hex(6)}"
    body = {"email": email, "username": username, "password": PASSWORD}
    assert (await client.post(f"{V1}/register", json=body)).status_code == 201
    found = []
    for name in [email, username] * 3:
        answer = await client.post(f"{V1}/signin", data={"username": name, "password": "not the password"})
        found.append(answer.status_code)
    assert found == [401] * 5 + [429]


async def test_attempts_are_limited_per_account_and_per_address_whatever_the_outcome(
    make_service: Callable[..., ServiceProcess], make_user: MakeUser
) -> None:
    limits = {"AUTH_RATE_LIMIT_PER_MINUTE": "5", "AUTH_ADDRESS_RATE_LIMIT_PER_MINUTE": "20"}
    service = make_service(**limits).start()
    person = await make_user(service.url)
    await asyncio.to_thread(wait_for_minute, 15)

    async def login(identifier: str, password: str, dialect: str = V1) -> httpx.Response:
        return await person.client.post(f"{dialect}/login", json={"email": identifier, "password": password})

    async def signin(identifier: str, password: str) -> httpx.Response:
        return await person.client.post(f"{V1}/signin", data={"username": identifier, "password": password})

    # Each dialect, each spelling and even the right password count for the same account.
    answers = [
        await login(person.email, "not the password"),
        await login(person.email.upper(), "not the password", SHORT),
        await signin(person.email, PASSWORD),
        await signin(f" {person.email}", "not the password"),
        await login(person.email, "not the password"),
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 200, 401, 401]
    # From then on the right password tells nothing either: who guesses cannot know which guess was good.
    for blocked in (await login(person.email, PASSWORD), await signin(person.email, PASSWORD)):
        check_problem(blocked, 429)
        assert int(blocked.headers["retry-after"]) >= 1
        assert blocked.headers["ratelimit-limit"] == "5"
    # Those two were counted for the address: 13 more attempts may come from it, whomever they are for.
    others = [(await login(new_email(), "not the password")).status_code for _ in range(14)]
    assert others == [401] * 13 + [429]
    # A session that exists is not touched by any of this.
    assert (await person.client.get(f"{V1}/me")).status_code == 200
    refresh = {"refresh_token": person.tokens["refresh_token"]}
    assert (await person.client.post(f"{V1}/refresh", json=refresh)).status_code == 200
