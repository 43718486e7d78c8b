"""Accounts as people use them, over HTTP and with real mails: a code, a second factor, a bot, an attack."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pyotp
import pytest

from tests.support.administrators import administrator, run_script
from tests.support.http import NO_TLS
from tests.support.people import PASSWORD, Person, alert, sign_up
from tests.support.service import ServiceProcess
from tests.support.smtp_server import Received, SmtpServer

V1 = "/api/v1/auth"
SIX_DIGITS = re.compile(r"(?<!\d)\d{6}(?!\d)")
TOKEN = re.compile(r"(?m)^\s*([A-Za-z0-9_-]{43})\s*$")


@pytest.fixture(scope="module")
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture(scope="module")
def mailing(tmp_path_factory: pytest.TempPathFactory, smtp: SmtpServer) -> Iterator[ServiceProcess]:
    """A service that mails, behind a proxy (tests come from many addresses), with the real limit for guesses."""
    process = ServiceProcess(
        tmp_path_factory.mktemp("accounts"),
        SMTP_HOST="127.0.0.1",
        SMTP_PORT=str(smtp.port),
        SMTP_TLS="none",
        TRUSTED_PROXIES="127.0.0.1",
        AUTH_RATE_LIMIT_PER_MINUTE="5",
        ALLOWED_ORIGINS="https://app.example.com",
    )
    try:
        yield process.start()
    finally:
        process.close()


@pytest.fixture
async def asha(mailing: ServiceProcess) -> AsyncIterator[Person]:
    """Somebody at home, at an address of her own."""
    person = await sign_up(mailing.url, address=next(_homes))
    yield person
    await person.client.aclose()


_homes = (f"203.0.113.{number}" for number in range(1, 255))


def stranger(mailing: ServiceProcess, number: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=mailing.url,
        timeout=50,
        headers={"X-Forwarded-For": f"198.51.{number // 250}.{number % 250 + 1}"},
        verify=NO_TLS,
    )


async def mail(smtp: SmtpServer, to: str, subject: str) -> Received:
    """The newest mail to somebody whose subject has these words."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := [received for received in smtp.to(to) if subject in received.subject.lower()]:
            return found[-1]
        await asyncio.sleep(0.02)
    raise AssertionError(f"no mail about {subject}: {[received.subject for received in smtp.to(to)]}")


def code_in(received: Received) -> str:
    [code] = SIX_DIGITS.findall(received.text)
    assert SIX_DIGITS.findall(received.html) == [code]
    found: str = code
    return found


async def test_a_code_by_mail_signs_in_once(smtp: SmtpServer, asha: Person):
    assert (await asha.client.post(f"{V1}/request-otp", json={"email": asha.email})).status_code == 202
    body = {"email": asha.email, "otp": code_in(await mail(smtp, asha.email, "code"))}

    first, again = [await asha.client.post(f"{V1}/otp-login", json=body) for _ in range(2)]

    assert (first.status_code, again.status_code) == (200, 401)
    tokens = first.json()
    assert {"access_token", "token_type", "refresh_token", "expires_in"} == set(tokens)
    me = await asha.client.get(f"{V1}/me", headers={"Authorization": f"Bearer {tokens['access_token']}"})
    assert (me.json()["email"], me.json()["is_verified"]) == (asha.email, True)


async def test_a_newer_code_kills_the_older(smtp: SmtpServer, asha: Person):
    codes = []
    for number in range(2):
        await asha.client.post(f"{V1}/request-otp", json={"email": asha.email})
        while len([received for received in smtp.to(asha.email) if "code" in received.subject.lower()]) <= number:
            await asyncio.sleep(0.02)
        codes.append(code_in(await mail(smtp, asha.email, "code")))
    assert codes[0] != codes[1]  # one in a million

    statuses = [
        (await asha.client.post(f"{V1}/otp-login", json={"email": asha.email, "otp": code})).status_code
        for code in codes
    ]
    assert statuses == [401, 200]


async def test_a_code_dies_after_five_wrong_tries_from_wherever(
    mailing: ServiceProcess, smtp: SmtpServer, asha: Person
):
    """Brute force from many addresses at once: at most five tries count, and the right code is worthless after them."""
    await asha.client.post(f"{V1}/request-otp", json={"email": asha.email})
    right = code_in(await mail(smtp, asha.email, "code"))
    wrong = [f"{(int(right) + step) % 1_000_000:06d}" for step in range(1, 25)]

    async def guess(number: int) -> int:
        async with stranger(mailing, number) as client:
            answer = await client.post(f"{V1}/otp-login", json={"email": asha.email, "otp": wrong[number]})
            return answer.status_code

    statuses = await asyncio.gather(*(guess(number) for number in range(24)))

    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 6  # five a minute, and one where the minute turns
    late = await asha.client.post(f"{V1}/otp-login", json={"email": asha.email, "otp": right})
    assert late.status_code == (401 if statuses.count(401) >= 5 else 200)


async def test_guessing_the_password_from_everywhere_leaves_the_owner_at_home_alone(
    mailing: ServiceProcess, asha: Person
):
    async def guess(number: int) -> int:
        async with stranger(mailing, 300 + number) as client:
            answer = await client.post(f"{V1}/login", json={"email": asha.email, "password": f"wrong {number} wrong"})
            return answer.status_code

    statuses = await asyncio.gather(*(guess(number) for number in range(30)))
    async with stranger(mailing, 400) as client:
        refused = await client.post(f"{V1}/login", json={"email": asha.email, "password": PASSWORD})
    home = await asha.client.post(f"{V1}/login", json={"email": asha.email, "password": PASSWORD})

    assert statuses.count(401) <= 6
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) <= 15 * 60
    assert home.status_code == 200


async def test_the_answer_and_its_time_tell_nothing_about_an_address(mailing: ServiceProcess):
    """The quickest of interleaved requests, without what a busy machine adds; each pair has an address of its own.

    The more there are, the less is left of chance: as many are asked for as it takes.
    """
    people: list[Person] = []
    for path, body in (
        ("request-otp", {}),
        ("password/forgot", {}),
        ("otp-login", {"otp": "123456"}),
        ("login", {"password": "wrong wrong wrong"}),
    ):
        taken: dict[str, list[float]] = {"known": [], "unknown": []}
        texts: dict[str, set[str]] = {"known": set(), "unknown": set()}
        for number in range(32):
            if number == len(people):
                people.append(await sign_up(mailing.url, address=f"192.0.2.{number + 1}"))
            known = people[number].email
            async with stranger(mailing, 500 + number) as client:
                await client.get("/health/live")  # the connection is there
                for kind, email in (("known", known), ("unknown", f"no-{known}")):
                    began = time.perf_counter()
                    answer = await client.post(f"{V1}/{path}", json={"email": email, **body})
                    taken[kind].append(time.perf_counter() - began)
                    texts[kind].add(f"{answer.status_code} {answer.json()['detail']}")
            ratio = min(taken["known"]) / min(taken["unknown"])
            if number >= 7 and 0.5 < ratio < 2:
                break
        assert 0.4 < ratio < 2.5, (path, ratio)
        assert texts["known"] == texts["unknown"]
    for person in people:
        await person.client.aclose()


async def test_a_second_factor_makes_signing_in_two_steps(smtp: SmtpServer, asha: Person):
    enrolment = (await asha.client.post(f"{V1}/2fa/enroll", json={"password": PASSWORD})).json()
    assert enrolment["otpauth_uri"].startswith("otpauth://totp/")
    assert enrolment["qr_svg"].startswith("<svg")
    app = pyotp.parse_uri(enrolment["otpauth_uri"])
    assert isinstance(app, pyotp.TOTP)
    confirmed = await asha.client.post(f"{V1}/2fa/confirm", json={"code": app.now()})
    recovery = confirmed.json()["recovery_codes"]
    await mail(smtp, asha.email, "two-step")

    for first_step in (await password_step(asha), await otp_step(smtp, asha)):
        assert first_step.status_code == 401
        problem = first_step.json()
        assert problem["type"].endswith("second-factor-required")
        assert "access_token" not in problem
        second = {"challenge_token": problem["challenge_token"], "code": recovery.pop()}
        tokens = await asha.client.post(f"{V1}/login/second-factor", json=second)
        assert tokens.status_code == 200
        assert (await asha.client.post(f"{V1}/login/second-factor", json=second)).status_code == 401

    form = {"username": asha.email, "password": PASSWORD, "client_secret": recovery.pop()}
    assert (await asha.client.post(f"{V1}/signin", data=form)).status_code == 200


async def password_step(person: Person) -> httpx.Response:
    return await person.client.post(f"{V1}/login", json={"email": person.email, "password": PASSWORD})


async def otp_step(smtp: SmtpServer, person: Person) -> httpx.Response:
    await person.client.post(f"{V1}/request-otp", json={"email": person.email})
    body = {"email": person.email, "otp": code_in(await mail(smtp, person.email, "code"))}
    return await person.client.post(f"{V1}/otp-login", json=body)


async def test_a_sign_in_begun_before_a_reset_does_not_succeed_after_it(smtp: SmtpServer, asha: Person):
    enrolment = (await asha.client.post(f"{V1}/2fa/enroll", json={"password": PASSWORD})).json()
    confirmed = await asha.client.post(f"{V1}/2fa/confirm", json={"code": pyotp.TOTP(enrolment["secret"]).now()})
    challenge = (await password_step(asha)).json()["challenge_token"]

    await asha.client.post(f"{V1}/password/forgot", json={"email": asha.email})
    found = TOKEN.search((await mail(smtp, asha.email, "password")).text)
    assert found
    body = {"token": found[1], "new_password": "another long passphrase"}
    assert (await asha.client.post(f"{V1}/password/reset", json=body)).status_code == 204

    late = {"challenge_token": challenge, "code": confirmed.json()["recovery_codes"][0]}
    assert (await asha.client.post(f"{V1}/login/second-factor", json=late)).status_code == 401
    assert (await asha.client.get(f"{V1}/me")).status_code == 401  # every session ended


async def test_whoever_waits_in_anothers_account_is_out_when_the_owner_comes(mailing: ServiceProcess, smtp: SmtpServer):
    """Somebody signs up with an address that is not theirs, plants what they can, and waits for its owner's proof."""
    email = f"owner-{time.monotonic_ns()}@example.com"
    thief = await sign_up(mailing.url, email, address="198.51.77.1")
    key = await thief.bind()
    made = await thief.client.post(f"{V1}/tokens", json={"name": "waits", "scopes": ["account:read"]})
    enrolment = (await thief.client.post(f"{V1}/2fa/enroll", json={"password": PASSWORD})).json()
    totp = pyotp.TOTP(enrolment["secret"])
    assert (await thief.client.post(f"{V1}/2fa/confirm", json={"code": totp.now()})).is_success
    assert (await thief.client.post(f"/data/{key}", json=alert())).status_code == 201

    async with httpx.AsyncClient(
        base_url=mailing.url, headers={"X-Forwarded-For": "203.0.113.99"}, verify=NO_TLS
    ) as owner:
        await owner.post(f"{V1}/request-otp", json={"email": email})
        body = {"email": email, "otp": code_in(await mail(smtp, email, "code"))}
        tokens = await owner.post(f"{V1}/otp-login", json=body)

        assert tokens.status_code == 200, tokens.text
        mine = {"Authorization": f"Bearer {tokens.json()['access_token']}"}
        assert (await owner.get(f"{V1}/me", headers=mine)).json()["is_verified"] is True
        trail = (await owner.get("/api/v1/audit", headers=mine)).json()
    bot = {"Authorization": f"Bearer {made.json()['token']}"}
    refused = [
        await thief.client.get(f"{V1}/me"),
        await thief.client.get(f"{V1}/me", headers=bot),
        await thief.client.post(f"{V1}/refresh", json={"refresh_token": thief.tokens["refresh_token"]}),
        await thief.client.post(f"{V1}/login", json={"email": email, "password": PASSWORD, "code": totp.now()}),
        await thief.client.post(f"/data/{key}", json=alert(comment="still here")),
    ]
    assert {answer.status_code for answer in refused[:4]} == {401}
    assert refused[4].status_code in {401, 403, 404}
    actions = [row["action"] for row in trail]
    assert {"auth.taken_over", "strategy_key.revoke"} <= set(actions)
    assert (await mail(smtp, email, "password was changed")).text
    await thief.client.aclose()


async def test_a_bot_does_what_its_token_says_until_it_is_revoked(asha: Person):
    key = await asha.bind()
    made = await asha.client.post(f"{V1}/tokens", json={"name": "screen", "scopes": ["alerts:read"]})
    bot = {"Authorization": f"Bearer {made.json()['token']}"}
    await asha.client.post(f"/data/{key}", json=alert())

    assert len((await asha.client.get("/data/", headers=bot)).json()) == 1
    assert (await asha.client.post("/alerts/bind_key", json={"name": "x"}, headers=bot)).status_code == 403
    assert (await asha.client.delete(f"{V1}/tokens/{made.json()['id']}")).status_code == 204
    assert (await asha.client.get("/data/", headers=bot)).status_code == 401


async def test_a_returned_refresh_token_ends_the_session_and_is_told(smtp: SmtpServer, asha: Person):
    body = {"refresh_token": asha.tokens["refresh_token"]}
    assert (await asha.client.post(f"{V1}/refresh", json=body)).status_code == 200

    assert (await asha.client.post(f"{V1}/refresh", json=body)).status_code == 401

    assert (await asha.client.get(f"{V1}/me")).status_code == 401
    told = [received for received in [*smtp.to(asha.email)] if "confirm" not in received.subject.lower()]
    deadline = time.monotonic() + 30
    while not told and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        told = [received for received in smtp.to(asha.email) if "confirm" not in received.subject.lower()]
    assert len(told) == 1


async def test_a_sign_in_from_elsewhere_is_told(mailing: ServiceProcess, smtp: SmtpServer, asha: Person):
    async with stranger(mailing, 700) as elsewhere:
        answer = await elsewhere.post(f"{V1}/login", json={"email": asha.email, "password": PASSWORD})
    assert answer.status_code == 200

    received = await mail(smtp, asha.email, "sign-in")

    assert "198.51.2.201" in received.text
    assert answer.json()["access_token"] not in received.raw.decode()


async def test_everything_is_in_the_trail_and_the_trail_is_whole(mailing: ServiceProcess, asha: Person):
    await asha.bind()
    headers = {"X-Request-ID": "trace-me-1"}
    wrong = {"email": asha.email, "password": "wrong wrong wrong"}
    await asha.client.post(f"{V1}/login", json=wrong, headers=headers)

    rows: list[dict[str, Any]] = (await asha.client.get("/api/v1/audit")).json()

    assert [(row["action"], row["outcome"]) for row in rows] == [
        ("auth.sign_in", "failure"),
        ("strategy_key.bind", "success"),
        ("auth.sign_in", "success"),
        ("auth.sign_up", "success"),
    ]
    assert rows[0]["request_id"] == "trace-me-1"
    assert rows[0]["address"] == asha.client.headers["X-Forwarded-For"]
    assert "wrong wrong" not in str(rows)
    verified = await asyncio.to_thread(run_script, "verify_audit.py", mailing.env)
    assert verified.returncode == 0, verified.stdout + verified.stderr


async def test_what_a_deactivated_account_had_stops_at_once(mailing: ServiceProcess, asha: Person):
    key = await asha.bind()
    made = await asha.client.post(f"{V1}/tokens", json={"name": "bot", "scopes": ["alerts:read"]})
    bot = {"Authorization": f"Bearer {made.json()['token']}"}
    me = (await asha.client.get(f"{V1}/me")).json()

    async with administrator(mailing) as admin:
        path = f"/api/v1/admin/users/{me['id']}"
        assert (await admin.client.patch(path, json={"is_active": False})).status_code == 200
        assert (await asha.client.get(f"{V1}/me")).status_code == 401
        assert (await asha.client.get("/data/", headers=bot)).status_code == 401
        assert (await asha.client.post(f"/data/{key}", json=alert())).status_code == 403
        assert (await password_step(asha)).status_code == 403

        assert (await admin.client.patch(path, json={"is_active": True})).status_code == 200
        assert (await asha.client.post(f"/data/{key}", json=alert())).status_code == 201


async def test_an_outage_of_the_mail_server_loses_nothing_and_slows_nobody(
    mailing: ServiceProcess, smtp: SmtpServer, asha: Person
):
    smtp.stop()
    try:
        began = time.monotonic()
        assert (await asha.client.post(f"{V1}/request-otp", json={"email": asha.email})).status_code == 202
        assert time.monotonic() - began < 10  # less than a try may take
        async with asyncio.timeout(30):
            while mailing.health()["mail"]["status"] != "degraded":
                await asyncio.sleep(0.05)
        assert mailing.health()["status"] == "degraded"
    finally:
        smtp.start()

    body = {"email": asha.email, "otp": code_in(await mail(smtp, asha.email, "code"))}

    assert (await asha.client.post(f"{V1}/otp-login", json=body)).status_code == 200


async def test_answers_to_everybody_carry_the_security_headers(mailing: ServiceProcess):
    """Of every kind: a page, JSON, an error, a redirect's neighbour, a body that was not read."""
    async with httpx.AsyncClient(base_url=mailing.url, timeout=30, verify=NO_TLS) as client:
        answers = [
            await client.get("/"),
            await client.get("/docs"),
            await client.get("/none"),
            await client.get(f"{V1}/me"),
            await client.post(f"{V1}/login", content=b"x" * 100_000),
            await client.post(f"{V1}/login", json={}),
            await client.options("/data/", headers={"Origin": "https://evil.example", **_PREFLIGHT}),
        ]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff", answer.request.url
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Request-ID"]


_PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize(("origin", "allowed"), [("https://app.example.com", True), ("https://evil.example", False)])
async def test_only_the_origins_that_were_named_may_read(mailing: ServiceProcess, origin: str, allowed: bool):
    async with httpx.AsyncClient(base_url=mailing.url, timeout=30, verify=NO_TLS) as client:
        preflight = await client.options(f"{V1}/me", headers={"Origin": origin, **_PREFLIGHT})
        answer = await client.get("/", headers={"Origin": origin})

    assert preflight.is_success is allowed
    for got in (preflight, answer):
        assert got.headers.get("access-control-allow-origin") == (origin if allowed else None)


async def test_the_second_factors_code_may_come_as_swagger_ui_sends_it(asha: Person):
    """In a Basic header, with an empty client id (RFC 6749, section 2.3.1)."""
    enrolment = (await asha.client.post(f"{V1}/2fa/enroll", json={"password": PASSWORD})).json()
    confirmed = await asha.client.post(f"{V1}/2fa/confirm", json={"code": pyotp.TOTP(enrolment["secret"]).now()})
    form = {"grant_type": "password", "username": asha.email, "password": PASSWORD}
    async with httpx.AsyncClient(
        base_url=str(asha.client.base_url), headers={"X-Forwarded-For": "203.0.113.250"}, verify=NO_TLS
    ) as ui:
        without = await ui.post(f"{V1}/signin", data=form)
        given = await ui.post(f"{V1}/signin", data=form, auth=("", confirmed.json()["recovery_codes"][0]))

    assert (without.status_code, given.status_code) == (401, 200)
    assert without.json()["type"].endswith("second-factor-required")


async def test_kinds_of_401_can_be_told_apart(asha: Person):
    wrong = await asha.client.post(f"{V1}/login", json={"email": asha.email, "password": "wrong wrong wrong"})
    await asha.client.post(f"{V1}/logout", json={"refresh_token": asha.tokens["refresh_token"]})
    ended = await asha.client.get(f"{V1}/me")
    none = await asha.client.get(f"{V1}/me", headers={"Authorization": "Bearer nonsense"})

    kinds = [answer.json()["type"].rsplit(":", 1)[-1] for answer in (wrong, ended, none)]
    assert kinds == ["wrong-credentials", "session-ended", "unauthorized"]
    assert wrong.json()["error"] == "invalid_grant"


@pytest.mark.parametrize("path", ["/api/v1/audit?user_id=x", f"{V1}/sessions?foo=1", "/data/?strategy=x"])
async def test_a_filter_that_does_not_exist_is_not_ignored(asha: Person, path: str):
    answer = await asha.client.get(path)

    assert answer.status_code == 422
    assert "not known here" in answer.json()["detail"]


async def test_a_refused_administrators_act_is_in_the_trail(asha: Person):
    path = "/api/v1/admin/users/0123456789abcdef01234567"
    assert (await asha.client.patch(path, json={"role": "admin"})).status_code == 403

    [row] = (await asha.client.get("/api/v1/audit?outcome=refused")).json()

    assert (row["action"], row["target"]["id"]) == ("access.refused", path)
