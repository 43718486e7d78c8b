"""`scripts/create_user.py`, run beside a running service as a person would run it."""

import secrets
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

from tests.support.administrators import administrator
from tests.support.people import PASSWORD
from tests.support.service import ROOT, ServiceProcess

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def create_user(service: ServiceProcess) -> Run:
    def run(*arguments: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "create_user.py"), *arguments]
        return subprocess.run(
            command, env=service.env, input=f"{password}\n", capture_output=True, text=True, timeout=30, check=False
        )

    return run


async def test_the_first_administrator_is_made_beside_the_running_service(
    create_user: Run, client: httpx.AsyncClient
) -> None:
    name = f"root_{secrets.token_hex(4)}"
    result = create_user(f"{name}@Example.com", "--admin", "--username", name.upper(), "--name", "Root")
    assert result.returncode == 0, result.stderr
    assert f"{name}@example.com (admin)" in result.stdout
    assert PASSWORD not in result.stdout + result.stderr
    answer = await client.post("/api/auth/login", json={"username": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    me = (await client.get("/api/auth/me", headers=headers)).json()
    assert (me["role"], me["name"], me["username"]) == ("admin", "Root", name)

    again = create_user(f"{name}@example.com")
    assert (again.returncode, again.stdout) == (1, "")
    assert "already" in again.stderr
    assert (await client.get("/health/ready")).status_code == 200


async def test_it_is_written_down_who_was_given_which_role(service: ServiceProcess):
    async with administrator(service, "operator") as operator:
        me = (await operator.client.get("/api/v1/auth/me")).json()
        trail = (await operator.client.get("/api/v1/audit")).json()

    assert me["role"] == "operator"
    [entry] = [row for row in trail if row["action"] == "auth.sign_up"]
    assert (entry["actor"]["kind"], entry["outcome"]) == ("system", "success")
    assert entry["details"] == {"by": "scripts/create_user.py", "role": "operator"}


@pytest.mark.parametrize(
    ("arguments", "password", "complaint"),
    [
        (["no-address"], PASSWORD, "email: "),
        (["asha@example.com"], "short", "password: A password needs at least 10 characters"),
        (["asha@example.com", "--username", "a b"], PASSWORD, "username: "),
    ],
)
def test_what_the_api_would_refuse_is_refused(
    create_user: Run, arguments: list[str], password: str, complaint: str
) -> None:
    result = create_user(*arguments, password=password)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
