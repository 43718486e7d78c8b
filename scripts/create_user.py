#!/usr/bin/env python3
"""Makes an account, the first administrator above all; changes the role of one there is, or its forgotten password.

    .venv/bin/python scripts/create_user.py asha@example.com --admin
    .venv/bin/python scripts/create_user.py desk@example.com --operator --name "The desk"
    echo "$PASSWORD" | .venv/bin/python scripts/create_user.py bot@example.com --username bot
    .venv/bin/python scripts/create_user.py asha@example.com --reset-password

It reads the same settings as the service, says which database they lead to, and may run beside the service, which hears
of it at once. The password is asked for, or read from the first line of standard input; it is never an argument, where
other users of the machine could see it.

--admin, --operator or --role with the address of an account that exists changes its role; no password is asked for.
An account whose owner has not proven yet to read the mail of its address (by a code or a reset) may be anybody's: it
gets a role above user with --yes only, or after --reset-password.

--reset-password gives an account that exists a new one, for where no mail can be sent: it ends all its sessions, and
forgets failed attempts to sign in. Its second factor, its API tokens and the keys of its strategies stay, except where
its owner has proven nothing yet: then somebody else may have put them there, and they end.
"""

import argparse
import getpass
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import SecretStr  # noqa: E402 (the path comes first)

from app.auth.accounts import NewAccount  # noqa: E402
from app.auth.mailed_tokens import Purpose  # noqa: E402
from app.auth.models import UserDocument  # noqa: E402
from app.auth.schemas.accounts import RegisterBody, normalise_email  # noqa: E402
from app.auth.take_over import Evicted  # noqa: E402
from app.core.audit import SYSTEM, Act  # noqa: E402
from app.core.errors import StartupError  # noqa: E402
from app.core.events import AccountChanged  # noqa: E402
from app.core.maintenance import place_of, run_program  # noqa: E402
from app.core.security import Role  # noqa: E402
from app.core.settings import Settings  # noqa: E402
from app.lifespan import DOCUMENTS  # noqa: E402
from app.lifespan.tools import AccountTools, account_tools  # noqa: E402

BY = "scripts/create_user.py"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("email")
    parser.add_argument("--username", help="to sign in with instead of the e-mail address")
    parser.add_argument("--name", help="how the person is called")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--role", type=Role, choices=list(Role), help="what it may do (user)")
    what.add_argument(
        "--admin",
        action="store_const",
        const=Role.ADMIN,
        dest="role",
        help="--role admin: may manage users and read every audit entry",
    )
    what.add_argument("--operator", action="store_const", const=Role.OPERATOR, dest="role", help="--role operator")
    what.add_argument("--reset-password", action="store_true", help="a new password for an account that exists")
    parser.add_argument("--yes", action="store_true", help="the role also where anybody may have made the account")
    wanted = parser.parse_args()
    if wanted.reset_password and (wanted.username or wanted.name):
        parser.error("--username and --name are for new accounts")
    try:
        wanted.email = normalise_email(wanted.email)
    except ValueError as error:
        raise SystemExit(f"email: {error}") from None
    return wanted


def read_password() -> str:
    """The password, typed twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise SystemExit("The two passwords differ; nothing was done.")
    return password


async def create(settings: Settings, body: RegisterBody, role: Role) -> str:
    """Store the account in the service's database, and write down that it was made here."""
    async with account_tools(settings, DOCUMENTS) as tools:
        password = body.password.get_secret_value()
        new = NewAccount(body.email, password, body.name, body.username, role=role, owner_proven=True)
        user = await tools.accounts.create(new)
        await tools.trail.note(_act("auth.sign_up", user, role=role.value))
        return f"Made the account {user.email} ({user.role}), id {user.id}."


async def change_role(settings: Settings, email: str, role: Role, *, refuse: bool, anybodys: bool) -> str | None:
    """Give the account another role, everywhere at once; None if there is none with this address.

    `refuse`: if there is one, it is an error, because more was asked for than a role. `anybodys`: also where nobody
    has proven to own the account.
    """
    async with account_tools(settings, DOCUMENTS) as tools:
        user = await tools.accounts.find(email)
        if user is None:
            return None
        if refuse:
            raise StartupError(
                f"There is an account with the address {email} already, and --username and --name are for new ones; "
                "nothing was changed."
            )
        change = {"$set": {"role": role.value, "updated_at": tools.clock.now()}}
        if role not in {Role.USER, user.role} and not user.owner_proven and not anybodys:
            raise StartupError(
                f"Anybody may have made the account {email}, and may be signed in to it: its owner has not proven yet "
                "to read mail at this address. --reset-password ends whatever works for the account now and sets a new "
                "password; after it (or after a sign-in with a code by mail) it can have this role. --yes gives it "
                "the role as it is. Nothing was changed."
            )
        await UserDocument.get_pymongo_collection().update_one({"_id": user.id}, change)
        # Even if it had the role: whoever stored it may have died before they could announce it.
        await tools.bus.publish(AccountChanged(user_id=str(user.id), is_active=user.is_active), confirm=True)
        if user.role is role:
            return f"The account {user.email} is there already and has the role {role}: nothing was changed."
        await tools.trail.note(_act("admin.user_update", user, role=f"{user.role.value} → {role.value}"))
        return (
            f"The account {user.email} is there already: its role was {user.role}, and is {role} now. "
            f"Its password stays; id {user.id}."
        )


async def reset_password(settings: Settings, email: str, password: str) -> str:
    """Give the account a new password; whoever used the old one is out when this returns."""
    async with account_tools(settings, DOCUMENTS, must_exist=True) as tools:
        user = await tools.accounts.find(email)
        if user is None:
            raise StartupError(f"There is no account with the address {email} here; nothing was changed.")
        await tools.accounts.set_password(user, password)
        evicted = None if user.owner_proven else await tools.take_overs.evict(user.id, "script", actor=SYSTEM)
        ended = await _let_in_again(tools, user) + (evicted.sessions if evicted else 0)
        if evicted:
            await tools.accounts.vouch(user.id)
        await tools.trail.note(_act("auth.password_reset", user, sessions_ended=ended))
        hint = _also_ended(evicted) if evicted else ""
        if not user.is_active:
            hint += " It is deactivated: an administrator has to activate it before it can sign in."
        return f"The account {user.email} has a new password; sessions that ended: {ended}.{hint}"


def _also_ended(evicted: Evicted) -> str:
    return (
        " Nobody had proven to own it, so these ended, too: "
        f"API tokens: {evicted.api_tokens}, strategy keys: {evicted.strategy_keys}, "
        f"second factor: {'removed' if evicted.second_factor else 'there was none'}."
    )


async def _let_in_again(tools: AccountTools, user: UserDocument) -> int:
    """End what the old password opened, and forget what was in its owner's way; how many sessions that were."""
    ended = await tools.sessions.revoke_all(user.id, "the password was reset on the service's machine")
    await tools.mailed_tokens.drop(Purpose.PASSWORD_RESET, user.id)
    await tools.guard.forgive(user.id)
    # Somebody else may have signed in with the old one: their places are no better than any other from now on.
    await tools.places.forget(user.id)
    return ended


def _act(action: str, user: UserDocument, **details: str | int) -> Act:
    return Act(action, user.id, SYSTEM, target=("account", str(user.id)), details={"by": BY, **details})


def main() -> None:
    """Do what the command line says; exit status 1 and a sentence when that is not possible."""
    wanted = arguments()
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run

    async def work(settings: Settings) -> int:
        print(f"Working on {place_of(settings)}.", file=sys.stderr, flush=True)
        print(await do(settings))
        return 0

    async def do(settings: Settings) -> str:
        if wanted.reset_password:
            return await reset_password(settings, wanted.email, read_password())
        new_only = wanted.username is not None or wanted.name is not None
        role: Role | None = wanted.role
        if role and (done := await change_role(settings, wanted.email, role, refuse=new_only, anybodys=wanted.yes)):
            return done
        body = RegisterBody(
            email=wanted.email, password=SecretStr(read_password()), name=wanted.name, username=wanted.username
        )
        return await create(settings, body, role or Role.USER)

    run_program(work)


if __name__ == "__main__":
    main()
