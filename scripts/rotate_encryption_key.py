#!/usr/bin/env python3
"""Seals everything that is stored encrypted with the newest of ENCRYPTION_KEYS.

    .venv/bin/python scripts/rotate_encryption_key.py
    .venv/bin/python scripts/rotate_encryption_key.py --check

To change the key: make a new one (openssl rand -base64 32), put it FIRST into ENCRYPTION_KEYS and leave the others
behind it, restart the service, and run this. When it says that nothing needs the other keys any more, take them out of
the setting and restart. It reads the same settings as the service, may run beside it, and may be repeated; the service
does the same by itself every hour. Credentials for brokers and the secrets of second factors are what is stored so.

--check changes nothing and tells what is still sealed with an older key.

Exit status: 0 nothing needs an older key; 1 something does, or no key opens it (its kind and number are named).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.auth.models import SecondFactorDocument  # noqa: E402 (the path comes first)
from app.brokerage.accounts.models import BrokerAccountDocument  # noqa: E402
from app.brokerage.accounts.reseal import BrokerReseal, Resealed  # noqa: E402
from app.core.clock import SystemClock  # noqa: E402
from app.core.encryption import UndecryptableError, Vault  # noqa: E402
from app.core.maintenance import place_of, refuse_during_maintenance, run_program, tool_database  # noqa: E402
from app.core.settings import Settings  # noqa: E402


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; tell what needs an older key")
    return parser.parse_args()


async def second_factors(vault: Vault, *, dry: bool) -> Resealed:
    """The secrets of authenticator apps, those that wait for their confirmation too."""
    counts = {"in_order": 0, "resealed": 0, "unreadable": 0, "changing": 0}
    collection = SecondFactorDocument.get_pymongo_collection()
    async for row in collection.find({}, {"secret": 1}, batch_size=50):
        counts[await _second_factor(vault, row, dry=dry)] += 1
    return Resealed(**counts)


async def _second_factor(vault: Vault, row: dict[str, Any], *, dry: bool) -> str:
    if not vault.outdated(row["secret"]):
        return "in_order"
    try:
        fresh = vault.rotate(row["secret"])
    except UndecryptableError:
        return "unreadable"
    if dry:
        return "resealed"
    # Only in place of what was read: it may be enrolled anew at this moment.
    place = {"_id": row["_id"], "secret": row["secret"]}
    result = await SecondFactorDocument.get_pymongo_collection().update_one(place, {"$set": {"secret": fresh}})
    return "resealed" if result.modified_count else "changing"


def show(what: str, found: Resealed, *, dry: bool) -> bool:
    """Say what was found; whether it needs nothing more."""
    sealed = "need an older key" if dry else "sealed with the newest key"
    print(f"{what}: {found.in_order:,} in order, {found.resealed:,} {sealed}")
    if found.unreadable:
        print(f"{what}: {found.unreadable:,} that none of the ENCRYPTION_KEYS opens; put their key back")
    if found.changing:
        print(f"{what}: {found.changing:,} were being changed; run this again")
    return not (found.unreadable or found.changing or (dry and found.resealed))


def main() -> None:
    """Seal as the command line says."""
    dry = bool(arguments().check)
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run

    async def work(settings: Settings) -> int:
        if not settings.encryption_keys:
            print("ENCRYPTION_KEYS is not set: nothing can be sealed, and nothing was.", file=sys.stderr)
            return 1
        vault = Vault([key.get_secret_value() for key in settings.encryption_keys])
        print(f"Working on {place_of(settings)}.", file=sys.stderr, flush=True)
        async with tool_database(settings, must_exist=True) as database:
            await refuse_during_maintenance(database.db, SystemClock())
            await database.register([SecondFactorDocument, BrokerAccountDocument])
            done = [
                show("credentials for brokers", await BrokerReseal(vault).reseal_all(dry=dry), dry=dry),
                show("second factors", await second_factors(vault, dry=dry), dry=dry),
            ]
        if not all(done):
            return 1
        if len(settings.encryption_keys) > 1:
            print("Nothing needs any but the first of ENCRYPTION_KEYS: the others can be taken out.")
        return 0

    run_program(work)


if __name__ == "__main__":
    main()
