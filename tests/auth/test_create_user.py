"""`scripts/create_user.py`, run beside a running service as a person would run it."""

import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from app.core.maintenance import place_of
from app.core.settings import Settings
from tests.support.administrators import administrator, signed_in
from tests.support.people import PASSWORD, Person, alert
from tests.support.scripts import run_script
from tests.support.service import FULL_PRICE, ServiceProcess

pytestmark = pytest.mark.timeout(180)
"""Services or programs are started here, for which a busy machine needs its time."""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def create_user(service: ServiceProcess) -> Run:
    def run(
        *arguments: str, password: str = PASSWORD, cold: bool = False, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        return run_script("create_user.py", service.env | settings, *arguments, typed=f"{password}\n", cold=cold)

    return run


async def test_the_first_administrator_is_made_beside_the_running_service(
    create_user: Run, client: httpx.AsyncClient
) -> None:
    name = f"root_{secrets.token_hex(4)}"
    result = create_user(f"{name}@Example.com", "--admin", "--username", name.upper(), "--name", "Root", cold=True)
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


async def test_an_account_that_is_there_gets_another_role_at_once(
    create_user: Run, service: ServiceProcess, user: Person
) -> None:
    assert (await user.client.get("/api/v1/admin/users")).status_code == 403  # cached with its role now

    made = create_user(user.email.upper(), "--admin", "--yes", password="nobody asks for it")

    assert made.returncode == 0, made.stderr
    assert f"{user.email} is there already: its role was user, and is admin now" in made.stdout
    assert (await user.client.get("/api/v1/admin/users")).status_code == 200, "the same session"
    again = create_user(user.email, "--admin")
    assert (again.returncode, "nothing was changed" in again.stdout) == (0, True)
    refused = create_user(user.email, "--operator", "--name", "Another")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "nothing was changed" in refused.stderr
    trail = (await user.client.get("/api/v1/audit")).json()
    mine = (await user.client.get("/api/v1/auth/me")).json()["id"]  # an administrator sees everybody's
    [entry] = [row for row in trail if row["action"] == "admin.user_update" and row["target"]["id"] == mine]
    assert entry["actor"]["kind"] == "system"
    assert entry["details"] == {"by": "scripts/create_user.py", "role": "user → admin"}
    async with signed_in(service.url, user.email, user.password) as back:  # with the password from before
        assert (await back.client.get("/api/v1/auth/me")).json()["role"] == "admin"


async def test_a_forgotten_password_is_replaced_on_the_machine_even_in_production(
    create_user: Run, service: ServiceProcess, user: Person, client: httpx.AsyncClient
) -> None:
    settings = {"ENVIRONMENT": "production", "SECRET_KEY": secrets.token_hex(32), **FULL_PRICE}
    wrong = {"email": user.email, "password": "not the password"}
    assert (await client.post("/api/v1/auth/login", json=wrong)).status_code == 401
    assert (await user.client.get("/api/v1/auth/me")).status_code == 200

    done = create_user(user.email, "--reset-password", password="another fine passphrase", **settings)

    assert done.returncode == 0, done.stderr
    assert f"The account {user.email} has a new password; sessions that ended: 1." in done.stdout
    assert "another fine passphrase" not in done.stdout + done.stderr
    assert (await user.client.get("/api/v1/auth/me")).status_code == 401
    old = {"email": user.email, "password": user.password}
    assert (await client.post("/api/v1/auth/login", json=old)).status_code == 401
    async with signed_in(service.url, user.email, "another fine passphrase") as back:
        trail = (await back.client.get("/api/v1/audit")).json()
    [entry] = [row for row in trail if row["action"] == "auth.password_reset"]
    assert (entry["actor"]["kind"], entry["outcome"]) == ("system", "success")
    assert entry["details"] == {"by": "scripts/create_user.py", "sessions_ended": 1}

    bad = create_user(user.email, "--reset-password", password="short", **settings)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "A password needs at least 10 characters" in bad.stderr
    nobody = create_user("nobody@example.com", "--reset-password", **settings)
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "There is no account with the address nobody@example.com here" in nobody.stderr


def test_it_says_which_database_it_works_on_and_makes_none_for_a_password(create_user: Run, tmp_path: Path) -> None:
    wrong = {"DATA_DIR": str(tmp_path / "typo"), "MONGODB_URL": ""}
    done = create_user("asha@example.com", "--reset-password", **wrong)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Working on a new embedded database in {tmp_path / 'typo'}." in done.stderr
    assert "there is no embedded database in" in done.stderr
    assert not (tmp_path / "typo" / "embedded").exists()


def test_a_servers_credentials_are_not_shown() -> None:
    url = SecretStr("mongodb://arrow:hidden@db1:27017,db2:27017/?replicaSet=rs")
    settings = Settings.load(secret_key="s" * 40, mongodb_url=url, database_name="desk", _env_file=None)
    assert place_of(settings) == "the database desk on db1:27017,db2:27017"


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


@pytest.fixture
async def planted(user: Person) -> Person:
    """What `user` may be: somebody who signed up with another's address, and left more behind than a password."""
    user.keys["token"] = (
        await user.client.post("/api/v1/auth/tokens", json={"name": "bot", "scopes": ["account:read"]})
    ).json()["token"]
    await user.bind()
    return user


async def works(planted: Person) -> list[bool]:
    """Session, API token and strategy key."""
    bearer = {"Authorization": f"Bearer {planted.keys['token']}"}
    return [
        (await planted.client.get("/api/v1/auth/me")).status_code == 200,
        (await planted.client.get("/api/v1/auth/me", headers=bearer)).status_code == 200,
        (await planted.client.post(f"/data/{planted.keys['My Strategy']}", json=alert())).status_code < 300,
    ]


async def test_an_account_that_anybody_may_have_made_gets_no_power(create_user: Run, planted: Person) -> None:
    for role in ("--admin", "--operator"):
        refused = create_user(planted.email, role)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"Anybody may have made the account {planted.email}" in refused.stderr
        assert "--reset-password" in refused.stderr
        assert "Nothing was changed." in refused.stderr
    assert (await planted.client.get("/api/v1/auth/me")).json()["role"] == "user"
    assert await works(planted) == [True] * 3


async def test_a_reset_on_the_machine_leaves_nothing_of_whoever_made_the_account(
    create_user: Run, service: ServiceProcess, planted: Person
) -> None:
    assert await works(planted) == [True] * 3

    done = create_user(planted.email, "--reset-password", password="another fine passphrase")

    assert done.returncode == 0, done.stderr
    assert "API tokens: 1, strategy keys: 1, second factor: there was none." in done.stdout
    assert await works(planted) == [False] * 3
    made = create_user(planted.email, "--admin")
    assert (made.returncode, "is admin now" in made.stdout) == (0, True), made.stderr
    async with signed_in(service.url, planted.email, "another fine passphrase") as owner:
        me = (await owner.client.get("/api/v1/auth/me")).json()
        trail = (await owner.client.get("/api/v1/audit", params={"action": "auth.taken_over"})).json()
    assert me["role"] == "admin"
    [entry] = [row for row in trail if row["target"]["id"] == me["id"]]  # an administrator sees everybody's
    told = [entry["details"][name] for name in ("method", "sessions_ended", "strategy_keys_ended")]
    assert (entry["actor"]["kind"], told) == ("system", ["script", 1, 1])
    # It is an account like any other now: a further reset leaves the programs of its owner alone.
    async with signed_in(service.url, planted.email, "another fine passphrase") as owner:
        key = await owner.bind()
        again = create_user(planted.email, "--reset-password", password="a third fine passphrase")
        assert (again.returncode, "strategy keys" in again.stdout) == (0, False)
        assert (await owner.client.post(f"/data/{key}", json=alert())).status_code < 300


async def test_who_was_made_on_the_machine_may_be_given_more(create_user: Run) -> None:
    email = f"desk-{secrets.token_hex(4)}@example.com"
    assert create_user(email).returncode == 0
    more = create_user(email, "--operator")
    assert (more.returncode, "is operator now" in more.stdout) == (0, True), more.stderr
