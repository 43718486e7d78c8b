#!/usr/bin/env python3
"""Verifies that no audit entry was changed, removed or put in.

    .venv/bin/python scripts/verify_audit.py
    .venv/bin/python scripts/verify_audit.py --anchor NUMBER:HASH

It reads the same settings as the service and may run beside it; nothing is changed. Each entry holds the hash of the
one before, and a head the hash of the newest: whatever was done to the entries by somebody who did not do it to all of
them is found.

Who may write to the database can, however, make a whole new chain that fits. Only what you keep elsewhere finds that:
note the last line of the output (NUMBER:HASH) on another machine from time to time, and give it as --anchor later. All
entries up to that one are then proven to be the same ones. With AUDIT_RETENTION_DAYS set, note it more often than that.

Exit status: 0 all is in order; 1 it is not (what was found first is named), or it could not be verified; 2 wrong
arguments. Entries that a crash left in the head alone are in order: the service puts them in their place.
"""

import argparse
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.audit.verification import Report, verify  # noqa: E402 (the path comes first)
from app.core.clock import SystemClock  # noqa: E402
from app.core.maintenance import place_of, refuse_during_maintenance, run_program, tool_database  # noqa: E402
from app.core.settings import Settings  # noqa: E402

SHOWN = 20


def anchor(text: str) -> tuple[int, str]:
    """The number and hash in `NUMBER:HASH`."""
    match = re.fullmatch(r"(\d{1,18}):([0-9a-fA-F]{64})", text.strip())
    if not match:
        raise argparse.ArgumentTypeError("write it as this program printed it: NUMBER:HASH, 64 hexadecimal digits")
    return int(match[1]), match[2].lower()


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--anchor",
        dest="anchors",
        type=anchor,
        action="append",
        default=[],
        metavar="NUMBER:HASH",
        help="an entry that was noted earlier and has to be in the chain; may be given several times",
    )
    return parser.parse_args()


def show(report: Report) -> None:
    """Say what was found."""
    if report.count and report.first_at and report.last_at:
        print(
            f"{report.count:,} entries, {report.first_at:%Y-%m-%d %H:%M:%S} to {report.last_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    else:
        print("No entries.")
    head = report.head
    if head and head.base.number:
        print(f"Entries up to {head.base.number:,} have expired.")
    if report.expired_left:
        print(f"{report.expired_left:,} of them are still there: the next run of the retention job deletes them.")
    if report.only_in_head:
        print(
            f"The last {report.only_in_head:,} are in the head alone, as a crash leaves them: nothing is lost, "
            "the next start of the service puts them in their place."
        )
    for defect in report.defects[:SHOWN]:
        print(f"NOT IN ORDER: {defect}")
    if len(report.defects) > SHOWN:
        print(f"... and {len(report.defects) - SHOWN:,} more")
    if report.defects:
        print("The audit trail is not in order.")
    else:
        print("The audit trail is in order.")
    if head and not report.defects:
        print(f"{head.number}:{head.hash}")


def main() -> None:
    """Verify as the command line says."""
    wanted = arguments()
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run

    async def work(settings: Settings) -> int:
        print(f"Working on {place_of(settings)}.", file=sys.stderr, flush=True)
        async with tool_database(settings, must_exist=True) as database:
            await refuse_during_maintenance(database.db, SystemClock())
            report = await verify(database.db, wanted.anchors)
        show(report)
        return 1 if report.defects else 0

    run_program(work)


if __name__ == "__main__":
    main()
