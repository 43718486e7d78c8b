#!/usr/bin/env python3
"""Makes a test account, or makes the one there is usable again: for development and tests alone.

    .venv/bin/python scripts/reset_test_user.py
    .venv/bin/python scripts/reset_test_user.py bot@example.com
    echo "$PASSWORD" | .venv/bin/python scripts/reset_test_user.py --password

The account gets a new password, which is shown this once (or the one that you type or pipe in), is activated, and loses
its second factor, its sessions, its API tokens and what failed attempts have earned it. Its role, its strategies with
their keys, and its alerts stay. The service may run meanwhile, and hears of it at once. An account with a role other
than user is reset with --yes only.
"""

import argparse
import getpass
import json
import os
import secrets
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dotenv import dotenv_values  # noqa: E402 (the path comes first)
from pydantic import SecretStr  # noqa: E402

from app.auth.accounts import NewAccount  # noqa: E402
from app.auth.models import SecondFactorDocument, UserDocument  # noqa: E402
from app.auth.schemas.accounts import SignupBody  # noqa: E402
from app.core.audit import SYSTEM, Act  # noqa: E402
from app.core.errors import StartupError  # noqa: E402
from app.core.events import AccountChanged  # noqa: E402
from app.core.maintenance import place_of, run_program  # noqa: E402
from app.core.security import Role  # noqa: E402
from app.core.settings import Settings  # noqa: E402
from app.lifespan import DOCUMENTS  # noqa: E402
from app.lifespan.tools import AccountTools, account_tools  # noqa: E402

DEFAULT_EMAIL = "test@example.com"
LOOPBACK = ("127.0.0.1", "::1")
"""Where tests on this machine come from: what failed there is forgotten too."""


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("email", nargs="?", default=DEFAULT_EMAIL, help="default: %(default)s")
    parser.add_argument(
        "--password", action="store_true", help="ask for the password (or read it from stdin) instead of making one"
    )
    parser.add_argument("--url", help="where the service runs, for the line to paste (this machine, PORT)")
    parser.add_argument("--yes", action="store_true", help="also where the account is an operator's or administrator's")
    return parser.parse_args()


def read_password() -> str:
    """The password, typed twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise StartupError("The two passwords differ; nothing was changed.")
    return password


async def make_or_reset(
    tools: AccountTools, email: str, password: str, *, of_any_role: bool
) -> tuple[UserDocument, bool]:
    """The account, ready to sign in, and whether it is new."""
    user = await tools.accounts.find(email)
    if user is None:
        user = await tools.accounts.create(NewAccount(email, password))
        await tools.trail.note(_act("auth.sign_up", user))
        return user, True
    if user.role is not Role.USER and not of_any_role:
        raise StartupError(
            f"{email} has the role {user.role}, so it may be somebody's own account; --yes resets it nevertheless. "
            "Nothing was done."
        )
    # The password first: with the old one no further session can begin.
    await tools.accounts.set_password(user, password)
    await SecondFactorDocument.get_pymongo_collection().delete_one({"_id": user.id})
    await tools.guard.forgive(user.id, *LOOPBACK)
    await UserDocument.get_pymongo_collection().update_one(
        {"_id": user.id}, {"$set": {"is_active": True, "updated_at": tools.clock.now()}}
    )
    await tools.bus.publish(AccountChanged(user_id=str(user.id), is_active=True), confirm=True)
    await tools.sessions.revoke_all(user.id, "the test account was reset")
    await tools.api_tokens.revoke_all(user.id)
    await tools.trail.note(_act("admin.user_update", user))
    return user, False


def _act(action: str, user: UserDocument) -> Act:
    details = {"by": "scripts/reset_test_user.py", "role": user.role.value}
    return Act(action, user.id, SYSTEM, target=("account", str(user.id)), details=details)


def own_url() -> str:
    """Where `scripts/run` starts the service here: PORT as it reads it."""
    port = os.environ.get("PORT") or dotenv_values(".env").get("PORT") or "8000"
    return f"http://127.0.0.1:{port}"


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
        if settings.environment not in {"development", "test"}:
            where = f"{settings.environment} (ENVIRONMENT={settings.environment})"
            raise StartupError(f"There are no test accounts in {where}; nothing was done.")
        made = None if wanted.password else secrets.token_urlsafe(12)
        body = SignupBody(email=wanted.email, password=SecretStr(made or read_password()))
        print(f"Working on {place_of(settings)}.", file=sys.stderr, flush=True)
        async with account_tools(settings, DOCUMENTS) as tools:
            user, new = await make_or_reset(tools, body.email, body.password.get_secret_value(), of_any_role=wanted.yes)
        report(user, new=new, made=made, url=wanted.url or own_url())
        return 0

    run_program(work)


if __name__ == "__main__":
    main()
