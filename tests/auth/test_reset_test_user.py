"""`scripts/reset_test_user.py`: an account to try things with, whatever was done to it before."""

import asyncio
import json
import re
import secrets
import shlex
import subprocess
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from beanie import PydanticObjectId, init_beanie

from app.auth.digests import KeyedDigests
from app.auth.guard import SignInGuard
from app.auth.models import DOCUMENTS, SecondFactorDocument, UserDocument
from app.auth.places import SignInPlaces
from app.auth.sessions import Client
from app.core.clock import SystemClock
from app.core.errors import RateLimitedError
from app.core.maintenance import tool_database
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings
from tests.support.administrators import signed_in
from tests.support.people import Person
from tests.support.scripts import run_script
from tests.support.service import FULL_PRICE, ServiceProcess

pytestmark = pytest.mark.timeout(180)
"""Services or programs are started here, for which a busy machine needs its time."""

SCRIPT = "reset_test_user.py"
HERE = Client("192.0.2.7", "pytest")


def password_in(done: subprocess.CompletedProcess[str]) -> str:
    found = re.search(r"shown this once: (\S+)", done.stdout)
    assert found, done.stdout + done.stderr
    return found[1]


async def run(
    env: dict[str, str], *arguments: str, typed: str = "", cold: bool = False
) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run_script, SCRIPT, env, *arguments, typed=typed, cold=cold)


async def test_what_it_prints_signs_in_when_pasted(service: ServiceProcess):
    email = f"test-{secrets.token_hex(4)}@example.com"

    made = await run(service.env, email, "--url", service.url + "/", cold=True)
    again = await run(service.env, email, "--url", service.url)

    assert (made.returncode, again.returncode) == (0, 0), made.stderr + again.stderr
    assert made.stdout.startswith(f"Made the account {email} (user)")
    assert again.stdout.startswith(f"Reset the account {email} (user)")
    assert password_in(made) != password_in(again)
    commands = [done.stdout.partition("To sign in:\n")[2] for done in (made, again)]
    old, new = [
        await asyncio.to_thread(subprocess.run, ["sh", "-c", text], capture_output=True, text=True, timeout=80)
        for text in commands
    ]
    assert json.loads(old.stdout)["status"] == 401
    assert json.loads(new.stdout)["token_type"] == "bearer"
    assert "--data" not in commands[0]  # it is the command that was run, to the letter
    assert shlex.split(commands[0])[2] == f"{service.url}/api/v1/auth/login"


async def test_the_running_service_hears_of_it_at_once(service: ServiceProcess, user: Person):
    assert (await user.client.get("/api/v1/auth/me")).status_code == 200  # the session is cached now

    done = await run(service.env, user.email, "--password", typed="another fine passphrase\n")

    assert done.returncode == 0, done.stderr
    assert "another fine passphrase" not in done.stdout + done.stderr
    assert (await user.client.get("/api/v1/auth/me")).status_code == 401
    async with signed_in(service.url, user.email, "another fine passphrase") as back:
        assert (await back.client.get("/api/v1/auth/me")).json()["email"] == user.email


@pytest_asyncio.fixture
async def strict(service: ServiceProcess) -> AsyncIterator[Settings]:
    """The running service's settings, with the limits that it has by default; the documents are at its database."""
    url, name = service.env.get("MONGODB_URL"), service.env.get("DATABASE_NAME", "arrow")
    settings = Settings.load(
        environment="test", data_dir=service.data_dir, mongodb_url=url, database_name=name, _env_file=None
    )
    async with tool_database(settings) as database:
        await init_beanie(database.db, document_models=DOCUMENTS)
        yield settings


async def refuses(settings: Settings, account: PydanticObjectId) -> bool:
    """Whether who signs in to `account` has to wait after failures, all else (as after a restart) forgotten."""
    try:
        await guard(settings).admit("password", account, HERE)
    except RateLimitedError:
        return True
    return False


def guard(settings: Settings) -> SignInGuard:
    clock = SystemClock()
    places = SignInPlaces(clock=clock, digests=KeyedDigests.of(settings))
    return SignInGuard(clock=clock, limiter=RateLimiter(None, "test"), settings=settings, places=places)


async def test_everything_that_was_in_the_way_is_gone(
    service: ServiceProcess, client: httpx.AsyncClient, user: Person, strict: Settings
):
    account = PydanticObjectId((await user.client.get("/api/v1/auth/me")).json()["id"])
    made = await user.client.post("/api/v1/auth/tokens", json={"name": "bot", "scopes": ["account:read"]})
    bot = {"Authorization": f"Bearer {made.json()['token']}"}
    assert (await client.get("/api/v1/auth/me", headers=bot)).status_code == 200
    now = SystemClock().now()
    await SecondFactorDocument(id=account, secret="sealed", created_at=now, confirmed_at=now).insert()
    someone_else = PydanticObjectId()
    for tried in (account, someone_else):
        trier = guard(strict)
        for _ in range(strict.auth_rate_limit_per_minute):
            await trier.failed(await trier.admit("password", tried, HERE))
        assert await refuses(strict, tried)
    change = {"$set": {"is_active": False, "role": "operator"}}
    await UserDocument.get_pymongo_collection().update_one({"_id": account}, change)

    refused = await run(service.env, user.email)
    done = await run(service.env, user.email.upper(), "--yes")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "has the role operator" in refused.stderr, "it may be somebody's own account"

    assert done.returncode == 0, done.stderr
    async with signed_in(service.url, user.email, password_in(done)) as back:
        me = (await back.client.get("/api/v1/auth/me")).json()
        trail = (await back.client.get("/api/v1/audit")).json()
    assert (me["id"], me["role"], me["is_active"]) == (str(account), "operator", True)
    assert not await refuses(strict, account)
    assert await refuses(strict, someone_else)
    assert (await client.get("/api/v1/auth/me", headers=bot)).status_code == 401
    [entry] = [row for row in trail if row["action"] == "admin.user_update"]
    assert (entry["actor"]["kind"], entry["details"]["by"]) == ("system", "scripts/reset_test_user.py")


async def test_what_the_api_would_refuse_is_refused(service: ServiceProcess):
    done = await run(service.env, "--password", typed="short\n")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("password: A password needs at least 10 characters")


@pytest.mark.parametrize("environment", ["production", "staging"])
async def test_there_are_no_test_accounts_where_people_work(
    service: ServiceProcess, client: httpx.AsyncClient, environment: str
):
    real = {"ENVIRONMENT": environment, "SECRET_KEY": secrets.token_hex(32), **FULL_PRICE}
    email = f"test-{secrets.token_hex(4)}@example.com"

    done = await run(service.env | real, email, "--password", typed="a long enough passphrase\n")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"There are no test accounts in {environment}")
    login = {"email": email, "password": "a long enough passphrase"}
    assert (await client.post("/api/v1/auth/login", json=login)).status_code == 401


async def test_it_says_where_it_works_and_where_the_service_listens(service: ServiceProcess):
    email = f"test-{secrets.token_hex(4)}@example.com"
    done = await run(service.env | {"PORT": "8123"}, email)
    assert "curl -s http://127.0.0.1:8123/api/v1/auth/login" in done.stdout
    if service.embedded:
        assert f"Working on the embedded database in {service.data_dir}." in done.stderr
