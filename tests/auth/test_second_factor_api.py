"""The second factor over HTTP: turned on, asked for at every sign-in in two steps, and turned off."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.auth.second_factor_kit import App
from tests.auth.test_api import SHORT, V1, bearer, check_problem, check_tokens
from tests.support.people import PASSWORD, Person
from tests.support.service import ServiceProcess

MakeUser = Callable[..., Awaitable[Person]]
FACTOR = f"{V1}/2fa"
SECOND = f"{V1}/login/second-factor"


async def enrol(person: Person) -> tuple[App, list[str]]:
    """Turn it on. Its present code is used by that; `app.code(steps=1)` is good already, and unused."""
    answer = await person.client.post(f"{FACTOR}/enroll", json={"password": PASSWORD})
    assert answer.status_code == 200, answer.text
    app = App(answer.json()["otpauth_uri"])
    answer = await person.client.post(f"{FACTOR}/confirm", json={"code": app.code()})
    assert answer.status_code == 200, answer.text
    codes: list[str] = answer.json()["recovery_codes"]
    return app, codes


def check_challenge(answer: httpx.Response) -> str:
    """The token of an answer that asks for the second factor."""
    problem = check_problem(answer, 401)
    assert (problem["type"], problem["title"]) == (
        "urn:arrow:problem:second-factor-required",
        "Second factor required",
    )
    assert problem["expires_in"] == 300
    assert problem["methods"] == ["totp", "recovery_code"]
    assert answer.headers["cache-control"] == "no-store"
    assert "access_token" not in answer.text
    token: str = problem["challenge_token"]
    return token


async def test_from_enrolment_to_the_two_steps(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    before = await person.client.get(FACTOR)
    assert (before.status_code, before.json()) == (200, {"enabled": False, "since": None, "recovery_codes_left": 0})
    begun = await person.client.post(f"{FACTOR}/enroll", json={"password": PASSWORD})
    assert begun.headers["cache-control"] == "no-store"
    assert set(begun.json()) == {"secret", "otpauth_uri", "qr_svg", "expires_in"}
    assert begun.json()["qr_svg"].startswith("<svg ")
    assert begun.json()["secret"] in begun.json()["otpauth_uri"]
    # Begun is not on: the password is enough until a code has come back.
    check_tokens(await client.post(f"{V1}/login", json={"email": person.email, "password": PASSWORD}))

    app, codes = await enrol(person)

    assert len(codes) == 10
    status = (await person.client.get(FACTOR)).json()
    assert (status["enabled"], status["recovery_codes_left"]) == (True, 10)
    # Each dialect asks, for the right password only.
    credentials = {"email": person.email, "password": PASSWORD}
    check_challenge(await client.post(f"{SHORT}/login", json=credentials))
    token = check_challenge(await client.post(f"{V1}/login", json=credentials))
    wrong = check_problem(await client.post(f"{V1}/login", json=credentials | {"password": "not the password"}), 401)
    assert "challenge_token" not in wrong
    # A challenge is no access token.
    check_problem(await client.get(f"{V1}/me", headers=bearer(token)), 401)

    check_problem(await client.post(SECOND, json={"challenge_token": token, "code": app.wrong()}), 401)
    code = app.code(steps=1)
    tokens = check_tokens(await client.post(SECOND, json={"challenge_token": token, "code": code}))

    me = await client.get(f"{V1}/me", headers=bearer(tokens["access_token"]))
    assert me.json()["email"] == person.email
    # Neither the challenge nor the code works again.
    check_problem(await client.post(SECOND, json={"challenge_token": token, "code": codes[0]}), 401)
    token = check_challenge(await client.post(f"{V1}/login", json=credentials))
    check_problem(await client.post(SECOND, json={"challenge_token": token, "code": code}), 401)
    check_tokens(await client.post(SECOND, json={"challenge_token": token, "code": codes[0]}))
    assert (await person.client.get(FACTOR)).json()["recovery_codes_left"] == 9


async def test_a_code_may_come_along_with_the_password(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    _, codes = await enrol(person)
    form = {"username": person.email, "password": PASSWORD}
    body = {"email": person.email, "password": PASSWORD}

    check_challenge(await client.post(f"{V1}/signin", data=form))
    check_tokens(await client.post(f"{V1}/signin", data=form | {"client_secret": codes[0]}))
    check_tokens(await client.post(f"{V1}/login", json=body | {"code": codes[1]}))
    for again in (
        await client.post(f"{V1}/signin", data=form | {"client_secret": codes[0]}),
        await client.post(f"{SHORT}/login", json=body | {"code": codes[1]}),
    ):
        assert "access_token" not in check_problem(again, 401)
    # With a wrong password a code is not even looked at.
    check_problem(await client.post(f"{V1}/login", json=body | {"password": "not it", "code": codes[2]}), 401)
    check_tokens(await client.post(f"{V1}/login", json=body | {"code": codes[2]}))


async def test_a_recovery_code_signs_in_once(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    _, codes = await enrol(person)
    credentials = {"email": person.email, "password": PASSWORD}
    tokens = [check_challenge(await client.post(f"{V1}/login", json=credentials)) for _ in range(3)]

    answers = await asyncio.gather(
        *(client.post(SECOND, json={"challenge_token": token, "code": codes[4].lower()}) for token in tokens)
    )

    assert sorted(answer.status_code for answer in answers) == [200, 401, 401]
    check_tokens(next(answer for answer in answers if answer.is_success))


async def test_five_wrong_codes_end_the_challenge(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    app, codes = await enrol(person)
    token = check_challenge(await client.post(f"{V1}/login", json={"email": person.email, "password": PASSWORD}))

    for code in (app.wrong(), "x", "0000-0000-0000-0000", " ' ", "$ne"):
        check_problem(await client.post(SECOND, json={"challenge_token": token, "code": code}), 401)

    check_problem(await client.post(SECOND, json={"challenge_token": token, "code": codes[0]}), 401)
    assert (await person.client.get(FACTOR)).json()["recovery_codes_left"] == 10


async def test_it_takes_more_than_a_stolen_token(make_user: MakeUser) -> None:
    """Whoever has an access token alone can neither turn it on nor off, nor get at the recovery codes."""
    person = await make_user()
    refused = await person.client.post(f"{FACTOR}/enroll", json={"password": "not the password"})
    assert [error["loc"] for error in check_problem(refused, 422)["errors"]] == [["body", "password"]]
    check_problem(await person.client.post(f"{FACTOR}/confirm", json={"code": "123456"}), 409)
    check_problem(await person.client.post(f"{FACTOR}/recovery-codes", json={"code": "123456"}), 409)
    check_problem(await person.client.post(f"{FACTOR}/disable", json={"password": PASSWORD, "code": "123456"}), 409)
    app, codes = await enrol(person)

    check_problem(await person.client.post(f"{FACTOR}/enroll", json={"password": PASSWORD}), 409)
    check_problem(await person.client.post(f"{FACTOR}/recovery-codes", json={"code": app.wrong()}), 422)
    for password, code, field in (("not the password", codes[0], "password"), (PASSWORD, app.wrong(), "code")):
        answer = await person.client.post(f"{FACTOR}/disable", json={"password": password, "code": code})
        assert [error["loc"] for error in check_problem(answer, 422)["errors"]] == [["body", field]]
        assert code not in answer.text
    assert (await person.client.get(FACTOR)).json()["recovery_codes_left"] == 10


async def test_new_recovery_codes_and_off(client: httpx.AsyncClient, make_user: MakeUser) -> None:
    person = await make_user()
    app, codes = await enrol(person)
    answer = await person.client.post(f"{FACTOR}/recovery-codes", json={"code": codes[0]})
    assert answer.status_code == 200, answer.text
    new = answer.json()["recovery_codes"]
    assert len(set(new) - set(codes)) == 10

    answer = await person.client.post(f"{FACTOR}/disable", json={"password": PASSWORD, "code": codes[1]})
    check_problem(answer, 422)  # replaced by the new ones
    answer = await person.client.post(f"{FACTOR}/disable", json={"password": PASSWORD, "code": app.code(steps=1)})
    assert (answer.status_code, answer.content) == (204, b"")

    assert (await person.client.get(FACTOR)).json()["enabled"] is False
    check_tokens(await client.post(f"{V1}/login", json={"email": person.email, "password": PASSWORD}))


BODIES: list[tuple[str, dict[str, Any]]] = [
    (f"{FACTOR}/enroll", {}),
    (f"{FACTOR}/enroll", {"password": PASSWORD, "user_id": "6b02893a002b26997921d778"}),
    (f"{FACTOR}/enroll", {"password": {"$ne": ""}}),
    (f"{FACTOR}/confirm", {"code": 123456}),
    (f"{FACTOR}/confirm", {"code": ["123456"]}),
    (f"{FACTOR}/confirm", {"code": "1" * 65}),
    (f"{FACTOR}/recovery-codes", {"code": {"$gt": ""}}),
    (f"{FACTOR}/disable", {"password": PASSWORD}),
    (f"{FACTOR}/disable", {"code": "123456"}),
    (SECOND, {"code": "123456"}),
    (SECOND, {"challenge_token": "A" * 43}),
    (SECOND, {"challenge_token": {"$ne": ""}, "code": "123456"}),
    (SECOND, {"challenge_token": "A" * 600, "code": "123456"}),
    (SECOND, {"challenge_token": "A" * 43, "code": {"$regex": ".*"}}),
    (SECOND, {"challenge_token": "A" * 43, "code": "123456", "method": "totp"}),
]


async def test_bodies_of_another_form_are_refused(user: Person) -> None:
    for path, body in BODIES:
        answer = await user.client.post(path, json=body)
        assert answer.status_code == 422, (path, body, answer.text)
        check_problem(answer, 422)


async def test_a_challenge_of_nobody(client: httpx.AsyncClient) -> None:
    check_problem(await client.post(SECOND, json={"challenge_token": "A" * 43, "code": "123456"}), 401)


async def test_nothing_of_it_is_in_the_log(
    service: ServiceProcess, client: httpx.AsyncClient, make_user: MakeUser
) -> None:
    person = await make_user()
    app, codes = await enrol(person)
    token = check_challenge(await client.post(f"{V1}/login", json={"email": person.email, "password": PASSWORD}))
    check_tokens(await client.post(SECOND, json={"challenge_token": token, "code": codes[0]}))

    log = service.log_text()
    assert "second factor changed" in log
    for secret in (app.totp.secret, token, *codes, *(code.replace("-", "") for code in codes)):
        assert secret not in log
