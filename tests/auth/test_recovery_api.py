"""Verifying, resetting and changing over HTTP, with mails read back from a real SMTP server."""

import asyncio
import re
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.auth.test_api import V1, bearer, check_problem, check_tokens, new_email
from tests.support.clocks import wait_for_minute
from tests.support.http import NO_TLS
from tests.support.people import PASSWORD, Person, sign_up
from tests.support.service import ServiceProcess
from tests.support.smtp_server import Received, SmtpServer

pytestmark = pytest.mark.timeout(180)
"""Services or programs are started here, for which a busy machine needs its time."""

NEW = "a quite different phrase"
TOKEN = re.compile(r"^\s*([A-Za-z0-9_-]{43})\s*$", re.MULTILINE)


@pytest.fixture(scope="module")
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture(scope="module")
def mailing(smtp: SmtpServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that sends its mails to `smtp`."""
    options = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(smtp.port), "SMTP_TLS": "none"}
    process = ServiceProcess(tmp_path_factory.mktemp("recovery"), MAIL_FROM="Arrow <arrow@example.com>", **options)
    try:
        yield process.start()
    finally:
        process.close()


async def mail_about(smtp: SmtpServer, email: str, words: str, number: int = 1) -> Received:
    """The mail to this address, the `number`-th with these words in its subject, as soon as it is there."""
    count = 0
    while number:
        count += 1
        mail = await smtp.wait_for(email, count=count)
        number -= words in mail.subject
    return mail


@pytest_asyncio.fixture
async def person(mailing: ServiceProcess, smtp: SmtpServer) -> AsyncIterator[Person]:
    """Somebody who signed up, and got the mail that asks whether the address is theirs."""
    somebody = await sign_up(mailing.url)
    await mail_about(smtp, somebody.email, "Confirm")
    yield somebody
    await somebody.client.aclose()


async def login(person: Person, password: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=str(person.client.base_url), timeout=30, verify=NO_TLS) as anonymous:
        return await anonymous.post(f"{V1}/login", json={"email": person.email, "password": password})


def token_in(mail: Received) -> str:
    """The one token in a mail: a line of its own in the text, and somewhere in the HTML."""
    [token] = TOKEN.findall(mail.text)
    assert mail.html.count(token) == 1
    assert token not in str(mail.message["Subject"])
    return str(token)


async def test_a_forgotten_password_is_reset_by_mail(smtp: SmtpServer, person: Person, mailing: ServiceProcess):
    answer = await person.client.post(f"{V1}/password/forgot", json={"email": person.email.upper()})
    assert answer.status_code == 202
    assert answer.headers["cache-control"] == "no-store"
    token = token_in(await mail_about(smtp, person.email, "Reset"))
    body = {"token": token, "new_password": NEW}

    weak = check_problem(
        await person.client.post(f"{V1}/password/reset", json=body | {"new_password": person.email}), 422
    )
    assert weak["errors"][0]["loc"] == ["body", "new_password"]
    answer = await person.client.post(f"{V1}/password/reset", json=body)
    assert (answer.status_code, answer.content) == (204, b"")

    check_problem(await person.client.get(f"{V1}/me"), 401)
    refresh = {"refresh_token": person.tokens["refresh_token"]}
    check_problem(await person.client.post(f"{V1}/refresh", json=refresh), 401)
    check_problem(await login(person, PASSWORD), 401)
    tokens = check_tokens(await login(person, NEW))
    me = await person.client.get(f"{V1}/me", headers=bearer(tokens["access_token"]))
    assert me.json()["is_verified"] is True
    again = check_problem(await person.client.post(f"{V1}/password/reset", json=body), 422)
    assert again["errors"][0]["loc"] == ["body", "token"]
    notice = await mail_about(smtp, person.email, "changed")
    assert "127.0.0.1" in notice.text
    assert token not in mailing.log_text()


async def test_an_address_is_verified_by_mail(smtp: SmtpServer, person: Person):
    answer = await person.client.post(f"{V1}/verify-email/resend", json={"email": person.email})
    assert answer.status_code == 202
    token = token_in(await mail_about(smtp, person.email, "Confirm", 2))

    older = {"token": token_in(await mail_about(smtp, person.email, "Confirm"))}
    check_problem(await person.client.post(f"{V1}/verify-email", json=older), 422)
    wrong = check_problem(await person.client.post(f"{V1}/verify-email", json={"token": token[:-1] + "!"}), 422)
    assert wrong["errors"][0]["loc"] == ["body", "token"]
    answer = await person.client.post(f"{V1}/verify-email", json={"token": f" {token}\n"})  # as it is pasted
    assert (answer.status_code, answer.content) == (204, b"")

    assert (await person.client.get(f"{V1}/me")).json()["is_verified"] is True
    check_problem(await person.client.post(f"{V1}/verify-email", json={"token": token}), 422)


async def test_a_change_goes_on_with_new_tokens(smtp: SmtpServer, person: Person):
    other = check_tokens(await login(person, PASSWORD))
    body = {"current_password": PASSWORD, "new_password": f" {NEW} "}

    wrong = check_problem(
        await person.client.post(f"{V1}/password/change", json=body | {"current_password": "not the password"}), 422
    )
    assert wrong["errors"] == [
        {
            "loc": ["body", "current_password"],
            "msg": "This is not the current password; nothing was changed",
            "type": "value_error",
        }
    ]
    tokens = check_tokens(await person.client.post(f"{V1}/password/change", json=body))

    for dead in (person.tokens, other):
        check_problem(await person.client.get(f"{V1}/me", headers=bearer(dead["access_token"])), 401)
        check_problem(await person.client.post(f"{V1}/refresh", json={"refresh_token": dead["refresh_token"]}), 401)
    assert (await person.client.get(f"{V1}/me", headers=bearer(tokens["access_token"]))).status_code == 200
    check_problem(await login(person, NEW), 401)  # the spaces around a password are part of it
    check_tokens(await login(person, f" {NEW} "))
    await mail_about(smtp, person.email, "changed")


async def test_no_mail_goes_to_an_unknown_address(smtp: SmtpServer, person: Person):
    unknown = new_email()
    answers = [
        await person.client.post(f"{V1}/{path}", json={"email": email})
        for path in ("password/forgot", "verify-email/resend")
        for email in (unknown, person.email)
    ]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    # Mails leave in order, so what was asked for first would be there by now.
    await mail_about(smtp, person.email, "Confirm", 2)
    assert smtp.to(unknown) == []


@pytest.mark.parametrize("path", ["password/forgot", "verify-email/resend"])
async def test_asking_takes_the_same_time_for_every_address(client: httpx.AsyncClient, path: str):
    known = new_email()
    assert (await client.post(f"{V1}/signup", json={"email": known, "password": PASSWORD})).status_code == 201
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(30):
        for is_known in (True, False) if turn % 2 else (False, True):
            body = {"email": known if is_known else new_email()}
            began = time.perf_counter()
            assert (await client.post(f"{V1}/{path}", json=body)).status_code == 202
            times[is_known].append(time.perf_counter() - began)
    ratio = statistics.median(times[True]) / statistics.median(times[False])
    assert 0.4 < ratio < 2.5, times


async def test_production_without_a_mail_server_and_with_limits(make_service: Callable[..., ServiceProcess]):
    limits = {"AUTH_RATE_LIMIT_PER_MINUTE": "3", "AUTH_ADDRESS_RATE_LIMIT_PER_MINUTE": "100"}
    service = make_service(ENVIRONMENT="production", SECRET_KEY=secrets.token_hex(32), **limits).start()
    person = await sign_up(service.url)  # an account can be made all the same
    await asyncio.to_thread(wait_for_minute, 15)
    change = f"{V1}/password/change"
    try:
        details = set()
        for path in ("password/forgot", "verify-email/resend"):
            for email in (person.email, new_email()):
                answers = [await person.client.post(f"{V1}/{path}", json={"email": email}) for _ in range(4)]
                assert [answer.status_code for answer in answers] == [503] * 3 + [429]
                assert int(answers[3].headers["retry-after"]) >= 1
                details.add(check_problem(answers[0], 503)["detail"])
        assert len(details) == 1

        # The password can be changed, though nobody can be told; right or wrong, attempts are counted.
        body = {"current_password": PASSWORD, "new_password": NEW}
        tokens = check_tokens(await person.client.post(change, json=body))
        headers = bearer(tokens["access_token"])
        found = [(await person.client.post(change, json=body, headers=headers)).status_code for _ in range(3)]
        assert found == [422] * 2 + [429]
        assert (await person.client.get(f"{V1}/me", headers=headers)).status_code == 200
    finally:
        await person.client.aclose()


BODIES: dict[str, dict[str, Any]] = {
    "verify-email": {"token": "x" * 43},
    "verify-email/resend": {"email": "asha@example.com"},
    "password/forgot": {"email": "asha@example.com"},
    "password/reset": {"token": "x" * 43, "new_password": NEW},
    "password/change": {"current_password": PASSWORD, "new_password": NEW},
}


async def test_nothing_but_short_text_is_taken(user: Person):
    for value in ({"$gt": ""}, {"$ne": None}, ["x"], 5, True, None, "\0", "x" * 5000):
        for path, body in BODIES.items():
            for field in body:
                answer = await user.client.post(f"{V1}/{path}", json=body | {field: value})
                problem = check_problem(answer, 422)
                assert problem["errors"][0]["loc"] == ["body", field], (path, value)
    for path, body in BODIES.items():
        answer = await user.client.post(f"{V1}/{path}", json=body | {"user_id": "6b02893a002b26997921d778"})
        assert check_problem(answer, 422)["errors"][0]["loc"] == ["body", "user_id"]


async def test_changing_needs_a_session(client: httpx.AsyncClient, user: Person):
    body = BODIES["password/change"]
    check_problem(await client.post(f"{V1}/password/change", json=body), 401)
    headers = bearer(user.tokens["refresh_token"])
    check_problem(await client.post(f"{V1}/password/change", json=body, headers=headers), 401)
    assert (await user.client.get(f"{V1}/me")).status_code == 200
