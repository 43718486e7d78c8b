"""The trail over HTTP, of a running service, and `scripts/verify_audit.py` beside it."""

import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.support.people import PASSWORD, Person
from tests.support.service import ROOT, ServiceProcess

pytestmark = pytest.mark.timeout(180)
"""Services or programs are started here, for which a busy machine needs its time."""

MakeUser = Callable[..., Awaitable[Person]]
Program = Callable[..., subprocess.CompletedProcess[str]]
AUDIT = "/api/v1/audit"


@pytest.fixture
def program(service: ServiceProcess) -> Program:
    def run(name: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
        return subprocess.run(
            command, env=service.env, input=given, capture_output=True, text=True, timeout=80, check=False
        )

    return run


async def trail(person: Person, **query: Any) -> list[dict[str, Any]]:
    answer = await person.client.get(AUDIT, params=query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()
    return rows


async def test_what_somebody_did_is_in_their_trail_and_in_nobody_elses(make_user: MakeUser) -> None:
    asha, bela = await make_user(), await make_user()
    bound = await asha.client.post("/alerts/bind_key", json={"name": "Audited"}, headers={"User-Agent": "a-test/1"})
    key = bound.json()
    rows = await trail(asha)
    actions = [row["action"] for row in rows]
    assert actions[0] == "strategy_key.bind"
    assert actions.count("auth.sign_up") == 1
    bind = rows[0]
    assert (bind["outcome"], bind["user_agent"], bind["address"]) == ("success", "a-test/1", "127.0.0.1")
    assert bind["request_id"] == bound.headers["X-Request-ID"]
    assert bind["actor"]["kind"] == "session"
    assert bind["actor"]["user_id"] == bind["account_id"]
    assert {(row["number"], row["hash"]) for row in rows} == {(None, None)}
    assert bind["target"] == {"kind": "strategy_key", "id": key["id"]}
    assert key["secret_key"] not in str(rows)
    assert asha.token not in str(rows)

    assert await trail(asha, request_id=bind["request_id"]) == [bind]
    assert await trail(asha, action="strategy_key.bind", start=bind["at"], end=bind["at"]) == [bind]
    assert "Audited" not in str(await trail(bela))
    assert bind["id"] not in {row["id"] for row in await trail(bela)}
    assert await trail(bela, request_id=bind["request_id"]) == []
    refused = await bela.client.get(AUDIT, params={"account_id": bind["account_id"]})
    assert (refused.status_code, refused.json()["status"]) == (403, 403)


async def test_pages_lead_to_all_of_it(user: Person) -> None:
    for number in range(5):
        await user.bind(f"Strategy {number}")
    whole = await trail(user)
    found: list[dict[str, Any]] = []
    url: str | None = f"{AUDIT}?limit=2&outcome=success"
    while url:
        answer = await user.client.get(url)
        found += answer.json()
        assert ("X-Next-Cursor" in answer.headers) == ("next" in answer.links)
        url = answer.links["next"]["url"] if "next" in answer.links else None
    assert found == [row for row in whole if row["outcome"] == "success"]
    assert len(found) >= 6


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("action=$ne", "action"),
        ("action=" + "a" * 65, "action"),
        ("outcome=maybe", "outcome"),
        ("account_id=1", "account_id"),
        ("actor_id[$ne]=1&actor_id=%00", "actor_id"),
        ("request_id=", "request_id"),
        ("start=yesterday", "start"),
        ("start=2026-11-22T00:00:00Z&end=2026-11-21T00:00:00Z", "query"),
        ("limit=0", "limit"),
        ("cursor=AAAA", "cursor"),
    ],
)
async def test_what_no_filter_is(user: Person, query: str, field: str) -> None:
    answer = await user.client.get(f"{AUDIT}?{query}")
    assert answer.status_code == 422
    assert field in answer.json()["detail"]


async def test_nothing_without_a_token_and_nothing_but_reading(client: httpx.AsyncClient, user: Person) -> None:
    assert (await client.get(AUDIT)).status_code == 401
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await user.client.request(method, AUDIT)).status_code == 405


async def test_an_administrator_reads_every_trail(
    make_user: MakeUser, client: httpx.AsyncClient, program: Program
) -> None:
    asha = await make_user()
    [mine] = (await trail(asha))[:1]
    email = f"root-{mine['id']}@example.com"
    made = program("create_user.py", email, "--admin", given=f"{PASSWORD}\n")
    assert made.returncode == 0, made.stderr
    signed_in = await client.post("/api/auth/login", json={"email": email, "password": PASSWORD})
    headers = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
    hers = await client.get(AUDIT, params={"account_id": mine["account_id"]}, headers=headers)
    [same] = [row for row in hers.json() if row["id"] == mine["id"]]
    assert same == {**mine, "number": same["number"], "hash": same["hash"]}
    assert (type(same["number"]), len(same["hash"])) == (int, 64)
    everybody = (await client.get(AUDIT, params={"limit": 1000}, headers=headers)).json()
    assert len({row["account_id"] for row in everybody}) > 1


async def test_the_program_verifies_beside_the_service(user: Person, program: Program) -> None:
    await user.bind()
    first = program("verify_audit.py")
    assert first.returncode == 0, first.stdout + first.stderr
    lines = first.stdout.splitlines()
    assert "The audit trail is in order." in lines
    noted = lines[-1]
    assert re.fullmatch(r"\d+:[0-9a-f]{64}", noted)

    await user.bind("Another")
    number = noted.partition(":")[0]
    other = program("verify_audit.py", "--anchor", f"{number}:{'0' * 64}", "--anchor", noted)
    assert other.returncode == 1
    assert other.stdout.count("NOT IN ORDER") == 1
    assert f"NOT IN ORDER: entry {number}: it is not the one that was noted" in other.stdout
    assert program("verify_audit.py", "--anchor", "x").returncode == 2
