#!/usr/bin/env python3
"""Makes a test account, or makes the one there is usable again: for development, never in production.

    .venv/bin/python scripts/reset_test_user.py
    .venv/bin/python scripts/reset_test_user.py bot@example.com
    echo "$PASSWORD" | .venv/bin/python scripts/reset_test_user.py --password

The account gets a new password, which is shown this once (or the one that you type or pipe in), is activated, and loses
its second factor, its sessions, its API tokens and what failed attempts have earned it. Its role, its strategies with
their keys, and its alerts stay. The service may run meanwhile, and hears of it at once.
"""

import argparse
import getpass
import json
import os
import secrets
import shlex
import sys
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import SecretStr  # noqa: E402 (the path comes first)

from app.audit.trail import ChainedAuditTrail  # noqa: E402
from app.auth.accounts import Accounts, NewAccount  # noqa: E402
from app.auth.api_tokens import ApiTokens  # noqa: E402
from app.auth.digests import KeyedDigests  # noqa: E402
from app.auth.models import SecondFactorDocument, SignInGuardDocument, UserDocument  # noqa: E402
from app.auth.passwords import Passwords  # noqa: E402
from app.auth.schemas.accounts import SignupBody  # noqa: E402
from app.auth.sessions import Sessions  # noqa: E402
from app.auth.tokens import AccessTokens  # noqa: E402
from app.core.audit import SYSTEM, Act  # noqa: E402
from app.core.bus import Bus  # noqa: E402
from app.core.client_address import network_of  # noqa: E402
from app.core.clock import SystemClock  # noqa: E402
from app.core.errors import StartupError  # noqa: E402
from app.core.events import AccountChanged  # noqa: E402
from app.core.maintenance import run_program, tool_database  # noqa: E402
from app.core.migrations import check_migrations  # noqa: E402
from app.core.settings import Settings  # noqa: E402
from app.lifespan import DOCUMENTS  # noqa: E402
from app.lifespan.ground import transport_of  # noqa: E402

DEFAULT_EMAIL = "test@example.com"
OWN_NETWORKS = {f"network:{network_of(address)}" for address in ("127.0.0.1", "::1")}
"""What guards call the networks that tests on this machine come from."""


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("email", nargs="?", default=DEFAULT_EMAIL, help="default: %(default)s")
    parser.add_argument(
        "--password", action="store_true", help="ask for the password (or read it from stdin) instead of making one"
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the service runs, for the line to paste")
    return parser.parse_args()


def read_password() -> str:
    """The password, typed twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise StartupError("The two passwords differ; nothing was changed.")
    return password


class TestAccount:
    """The account, and everything that goes with it."""

    def __init__(self, settings: Settings, bus: Bus, passwords: Passwords, trail: ChainedAuditTrail) -> None:
        self._settings = settings
        self._bus = bus
        self._trail = trail
        self._clock = SystemClock()
        self._accounts = Accounts(clock=self._clock, passwords=passwords)
        life = timedelta(minutes=1)  # no session begins here
        tokens = AccessTokens(secret_key=settings.secret_key.get_secret_value(), lifetime=life, clock=self._clock)
        self._sessions = Sessions(clock=self._clock, bus=bus, tokens=tokens, lifetime=life, audit=trail)
        self._api_tokens = ApiTokens(clock=self._clock, bus=bus, audit=trail)

    async def make_or_reset(self, email: str, password: str) -> tuple[UserDocument, bool]:
        """The account, ready to sign in, and whether it is new."""
        user = await self._accounts.find(email)
        if user is None:
            user = await self._accounts.create(NewAccount(email, password))
            await self._record(Act("auth.sign_up", user.id, SYSTEM), user)
            return user, True
        # The password first: with the old one no further session can begin.
        await self._accounts.set_password(user, password)
        await SecondFactorDocument.get_pymongo_collection().delete_one({"_id": user.id})
        await self._forgive(user)
        await UserDocument.get_pymongo_collection().update_one(
            {"_id": user.id}, {"$set": {"is_active": True, "updated_at": self._clock.now()}}
        )
        await self._sessions.revoke_all(user.id, "the test account was reset")
        await self._api_tokens.revoke_all(user.id)
        await self._bus.publish(AccountChanged(user_id=str(user.id), is_active=True), confirm=True)
        await self._record(Act("admin.user_update", user.id, SYSTEM), user)
        return user, False

    async def _forgive(self, user: UserDocument) -> None:
        """Forget the failed attempts of this account, from wherever they came. They are few: each lives for a day."""
        whose = KeyedDigests.of(self._settings).make("sign-in-guard", str(user.id))[:32]
        guards = SignInGuardDocument.get_pymongo_collection()
        async for row in guards.find({}, {"_id": 1}):
            if f":{whose}:" in row["_id"] or row["_id"] in OWN_NETWORKS:
                await guards.delete_one({"_id": row["_id"]})

    async def _record(self, act: Act, user: UserDocument) -> None:
        details = {"by": "scripts/reset_test_user.py", "role": user.role.value}
        await self._trail.record(
            Act(act.action, act.account_id, act.actor, target=("account", str(user.id)), details=details)
        )


async def reset(settings: Settings, body: SignupBody) -> tuple[UserDocument, bool]:
    """Do it in the service's database, as one of the service's processes."""
    passwords, bus = Passwords(), Bus(transport_of(settings))
    try:
        async with tool_database(settings) as database:
            await check_migrations(database.db, DOCUMENTS)
            await database.register(DOCUMENTS)
            await bus.start()  # the service's processes hear of it
            trail = ChainedAuditTrail(database.db, SystemClock())
            account = TestAccount(settings, bus, passwords, trail)
            done = await account.make_or_reset(body.email, body.password.get_secret_value())
            await trail.drain()
            return done
    finally:
        await bus.stop()
        passwords.close()


def report(user: UserDocument, *, new: bool, made: str | None, url: str) -> None:
    """What was done, and what to paste; `made` is the password, if it was made here."""
    print(f"{'Made' if new else 'Reset'} the account {user.email} ({user.role}), id {user.id}.")
    if made:
        print(f"Its password, shown this once: {made}")
    print("To sign in:")
    body = shlex.quote(json.dumps({"email": user.email, "password": made or "YOUR PASSWORD"}))
    print(f"  curl -s {shlex.quote(url.rstrip('/') + '/api/v1/auth/login')} \\")
    print(f"    -H 'Content-Type: application/json' -d {body}")


def main() -> None:
    """Do what the command line says; exit status 1 and a sentence when that is not possible."""
    wanted = arguments()
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run

    async def work(settings: Settings) -> int:
        if settings.environment == "production":
            raise StartupError("There are no test accounts in production (ENVIRONMENT=production); nothing was done.")
        made = None if wanted.password else secrets.token_urlsafe(12)
        body = SignupBody(email=wanted.email, password=SecretStr(made or read_password()))
        user, new = await reset(settings, body)
        report(user, new=new, made=made, url=wanted.url)
        return 0

    run_program(work)


if __name__ == "__main__":
    main()
