#!/usr/bin/env python3
"""Makes an account, the first administrator above all.

    .venv/bin/python scripts/create_user.py asha@example.com --admin
    echo "$PASSWORD" | .venv/bin/python scripts/create_user.py bot@example.com --username bot

It reads the same settings as the service and may run beside it. The password is asked for, or read from the first line
of standard input; it is never an argument, where other users of the machine could see it.
"""

import argparse
import asyncio
import getpass
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import SecretStr, ValidationError  # noqa: E402 (the path comes first)

from app.auth.accounts import Accounts, NewAccount  # noqa: E402
from app.auth.models import UserDocument  # noqa: E402
from app.auth.passwords import Passwords  # noqa: E402
from app.auth.schemas import RegisterBody  # noqa: E402
from app.core.clock import SystemClock  # noqa: E402
from app.core.database import Database  # noqa: E402
from app.core.embedded import EmbeddedDatabase  # noqa: E402
from app.core.errors import DomainError, StartupError  # noqa: E402
from app.core.logging import configure_logging  # noqa: E402
from app.core.migrations import check_migrations  # noqa: E402
from app.core.security import Role  # noqa: E402
from app.core.settings import Settings, SettingsError  # noqa: E402
from app.lifespan import DOCUMENTS  # noqa: E402


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Make an account. The password is asked for, or read from stdin.")
    parser.add_argument("email")
    parser.add_argument("--username", help="to sign in with instead of the e-mail address")
    parser.add_argument("--name", help="how the person is called")
    parser.add_argument("--admin", action="store_true", help="may manage users and read every audit entry")
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
    """Store the account in the service's database."""
    # As a tool it may attach to the embedded database of a service that runs.
    embedded = None if settings.mongodb_url else EmbeddedDatabase(settings.data_dir, role="tool")
    database = Database(settings, embedded)
    passwords = Passwords()
    try:
        await database.connect()
        await check_migrations(database.db, DOCUMENTS)
        await database.register(DOCUMENTS)
        new = NewAccount(body.email, body.password.get_secret_value(), body.name, body.username, role=role)
        return await Accounts(clock=SystemClock(), passwords=passwords).create(new)
    finally:
        passwords.close()
        await database.close()


def main() -> None:
    """Make the account that the command line describes; exit status 1 and a sentence when that is not possible."""
    wanted = arguments()
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run
    try:
        settings = Settings.load()
        configure_logging(settings.model_copy(update={"log_level": "WARNING", "log_file": None}))
        body = RegisterBody(
            email=wanted.email, password=SecretStr(read_password()), name=wanted.name, username=wanted.username
        )
        user = asyncio.run(create(settings, body, Role.ADMIN if wanted.admin else Role.USER))
    except ValidationError as error:
        problems = (
            f"{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}" for problem in error.errors()
        )
        raise SystemExit("\n".join(problems)) from None
    except DomainError as error:
        raise SystemExit(error.detail) from None
    except (SettingsError, StartupError) as error:
        raise SystemExit(str(error)) from None
    print(f"Made the account {user.email} ({user.role}), id {user.id}.")


if __name__ == "__main__":
    main()
