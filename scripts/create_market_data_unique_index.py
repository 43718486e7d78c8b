#!/usr/bin/env python3
"""Builds the indexes of stored ticks, the unique one too, on a collection that was made without them.

    .venv/bin/python scripts/create_market_data_unique_index.py --dry-run   only say what is there twice
    .venv/bin/python scripts/create_market_data_unique_index.py             resolve it, and build the indexes

A new installation does not need it: the service builds its indexes by itself. It is for ticks that another program
stored in `market_data`. Rows of one symbol at one time that say the same are repeats: all but the first are deleted;
rows that say different things are different ticks and get the next free milliseconds. Then it counts the ticks of each
symbol anew, from which `latest`, `symbols` and `statistics` are answered.

It reads the same settings as the service, which must not be running meanwhile. Export the data first
(scripts/export_data.py). Broken off, it is simply run again.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.core.clock import SystemClock  # noqa: E402 (the path comes first)
from app.core.maintenance import exclusive, place_of, run_program, tool_database  # noqa: E402
from app.core.settings import Settings  # noqa: E402
from app.market_data.unique_ticks import Report, UniqueTicks  # noqa: E402


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="change no tick, and build no unique index")
    return parser.parse_args()


def told(report: Report) -> str:
    """What was done, for a person."""
    lines = [
        f"{report.rows:,} ticks of {report.symbols:,} symbols: {report.deleted:,} repeats deleted, "
        f"{report.moved:,} ticks moved by milliseconds."
    ]
    if report.indexed:
        lines.append("All indexes are there, symbol_receivedAt_unique too.")
    else:
        lines.append(
            f"{report.unusable:,} rows have no symbol or no time: look for them with "
            '{"$or": [{"symbol": {"$not": {"$type": "string"}}}, {"received_at": {"$not": {"$type": "date"}}}]}, '
            "mend or delete them, and run this again. Until then the unique index is missing."
        )
    return "\n".join(lines)


def main() -> None:
    """Do as the command line says; exit status 1 when something is left to be mended."""
    wanted = arguments()
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run

    async def work(settings: Settings) -> int:
        print(f"Ticks in {place_of(settings)}")
        async with (
            tool_database(settings, must_exist=True) as database,
            exclusive(database, settings, SystemClock(), "create_market_data_unique_index"),
        ):
            ticks = UniqueTicks(database.db, tell=print)
            found = await ticks.look()
            print(
                f"{found.rows:,} ticks: {len(found.repeats):,} repeats, {len(found.clashes):,} different ticks at one "
                f"time, {found.unusable:,} rows without symbol or time"
            )
            if wanted.dry_run:
                await ticks.forget()
                return 0
            report = await ticks.build(found)
            print(told(report))
            return 0 if report.indexed else 1

    run_program(work)


if __name__ == "__main__":
    main()
