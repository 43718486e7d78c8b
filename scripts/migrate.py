#!/usr/bin/env python3
"""Brings the stored data to the version of this code, or back to an older one.

    scripts/migrate               run the migrations that are pending
    scripts/migrate --status      list all, and which are in effect
    scripts/migrate --backward 1  undo the last one, before going back to an older version of Arrow

It reads the same settings as the service, which must not be running meanwhile. Export the data first
(scripts/export_data.py). A migration that was broken off is simply run again.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.core.clock import SystemClock  # noqa: E402 (the path comes first)
from app.core.maintenance import exclusive, run_program, tool_database  # noqa: E402
from app.core.migrations import MigrationError, Migrator  # noqa: E402
from app.core.settings import Settings  # noqa: E402
from app.lifespan import DOCUMENTS  # noqa: E402


def positive(text: str) -> int:
    """A number of migrations."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(
        prog="scripts/migrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="only list them")
    what.add_argument("--backward", type=positive, metavar="N", help="undo the last N")
    return parser.parse_args()


def main() -> None:
    """Migrate as the command line says; exit status 1 and a sentence when that is not possible."""
    wanted = arguments()
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run

    async def work(settings: Settings) -> int:
        clock = SystemClock()
        async with tool_database(settings) as database:
            migrator = Migrator(database.db, DOCUMENTS, clock=clock, tell=print)
            if wanted.status:
                print("\n".join(await migrator.status()) or "This version of Arrow has no migrations.")
                return 0
            async with exclusive(database, settings, clock, "scripts/migrate"):
                done = await (migrator.backward(wanted.backward) if wanted.backward else migrator.forward())
        print("Nothing to do." if not done else f"Migrations {'undone' if wanted.backward else 'run'}: {len(done)}")
        return 0

    async def explained(settings: Settings) -> int:
        try:
            return await work(settings)
        except MigrationError as error:
            if error.__cause__:  # for whoever wrote the migration
                traceback.print_exception(error.__cause__)
            raise

    run_program(explained)


if __name__ == "__main__":
    main()
