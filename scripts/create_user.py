#!/usr/bin/env python3
"""Makes an account, the first administrator above all.

    .venv/bin/python scripts/create_user.py asha@example.com --admin
    .venv/bin/python scripts/create_user.py desk@example.com --operator --name "The desk"
    echo "$PASSWORD" | .venv/bin/python scripts/create_user.py bot@example.com --username bot

It reads the same settings as the service and may run beside it. The password is asked for, or read from the first line
of standard input; it is never an argument, where other users of the machine could see it.
"""

import argparse
import getpass
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import SecretStr  # noqa: E402 (the path comes first)

from app.audit.trail import ChainedAuditTrail  # noqa: E402
from app.auth.accounts import Accounts, NewAccount  # noqa: E402
from app.auth.models import UserDocument  # noqa: E402
from app.auth.passwords import Passwords  # noqa: E402
from app.auth.schemas.accounts import RegisterBody  # noqa: E402
from app.core.audit import SYSTEM, Act  # noqa: E402
from app.core.clock import SystemClock  # noqa: E402
from app.core.errors import DomainError  # noqa: E402
from app.core.maintenance import run_program, tool_database  # noqa: E402
from app.core.migrations import check_migrations  # noqa: E402
from app.core.security import Role  # noqa: E402
from app.core.settings import Settings  # noqa: E402
from app.lifespan import DOCUMENTS  # noqa: E402


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Make an account. The password is asked for, or read from stdin.")
    parser.add_argument("email")
    parser.add_argument("--username", help="to sign in with instead of the e-mail address")
    parser.add_argument("--name", help="how the person is called")
    role = parser.add_mutually_exclusive_group()
    role.add_argument("--role", type=Role, choices=list(Role), default=Role.USER, help="what it may do (user)")
    role.add_argument(
        "--admin",
        action="store_const",
        const=Role.ADMIN,
        dest="role",
        help="--role admin: may manage users and read every audit entry",
    )
    role.add_argument("--operator", action="store_const", const=Role.OPERATOR, dest="role", help="--role operator")
    return parser.parse_args()


def read_password() -> str:
    """The password, typed twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise SystemExit("The two passwords differ; nothing was made.")
    return password


async def create(settings: Settings, body: RegisterBody, role: Role) -> UserDocument:
    """Store the account in the service's database, and write down that it was made here."""
    clock, passwords = SystemClock(), Passwords()
    try:
        async with tool_database(settings) as database:
            await check_migrations(database.db, DOCUMENTS)
            await database.register(DOCUMENTS)
            new = NewAccount(body.email, body.password.get_secret_value(), body.name, body.username, role=role)
            user = await Accounts(clock=clock, passwords=passwords).create(new)
            trail = ChainedAuditTrail(database.db, clock)
            details = {"by": "scripts/create_user.py", "role": role.value}
            try:
                await trail.record(
                    Act("auth.sign_up", user.id, SYSTEM, target=("account", str(user.id)), details=details)
                )
            except DomainError as error:
                print(f"The account is made, but {error.detail}", file=sys.stderr)
            await trail.drain()
            return user
    finally:
        passwords.close()


def main() -> None:
    """Make the account that the command line describes; exit status 1 and a sentence when that is not possible."""
    wanted = arguments()
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run

    async def work(settings: Settings) -> int:
        body = RegisterBody(
            email=wanted.email, password=SecretStr(read_password()), name=wanted.name, username=wanted.username
        )
        user = await create(settings, body, wanted.role)
        print(f"Made the account {user.email} ({user.role}), id {user.id}.")
        return 0

    run_program(work)


if __name__ == "__main__":
    main()
