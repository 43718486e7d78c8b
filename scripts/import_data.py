#!/usr/bin/env python3
"""Brings a file of `export_data.py` into the service's database.

    .venv/bin/python scripts/import_data.py arrow-export.bson.gz
    .venv/bin/python scripts/import_data.py arrow-export.bson.gz --check

It reads the same settings as the service. The whole file is checked before anything is written, and what is there
afterwards is counted.

The database has to be empty, or say what to do with its data: --replace deletes it first; --merge leaves every document
that is there as it is and adds the ones that are missing. The service must not be running, since it would see (and
answer from) half of the data, and does not start before an import that was broken off is done again with --replace.
Only --merge may run beside it: that adds documents one by one, each whole, and changes none.

Exit status: 0 done; 1 not possible, and the reason in one line; 2 wrong arguments; 3 done, but some documents were left
out because another one holds a value that has to be unique. Those are listed.
"""

import argparse
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import bson  # noqa: E402 (the path comes first)
from bson.codec_options import CodecOptions, DatetimeConversion  # noqa: E402
from bson.json_util import CANONICAL_JSON_OPTIONS, dumps  # noqa: E402

from app.core.clock import SystemClock  # noqa: E402
from app.core.maintenance import exclusive, refuse_during_maintenance, run_program, tool_database  # noqa: E402
from app.core.settings import Settings  # noqa: E402
from app.core.transfer import Imported, Importer, Mode  # noqa: E402
from app.core.transfer_file import ExportFile, TransferError  # noqa: E402

LISTED = 20


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--replace", action="store_const", dest="mode", const=Mode.REPLACE, help="delete what is there")
    how.add_argument("--merge", action="store_const", dest="mode", const=Mode.MERGE, help="add what is missing")
    how.add_argument("--check", action="store_true", help="only check the file, and say what is in it")
    how.add_argument("--print", action="store_true", help="only print its documents, as canonical Extended JSON")
    parser.set_defaults(mode=Mode.EMPTY)
    return parser.parse_args()


def describe(file: ExportFile) -> None:
    """Say what is in a file that was checked."""
    header = file.header
    part = "" if header["complete"] else ", a part of it"
    print(
        f"Export of the database {header['database_name']} ({header['database_mode']}{part}) by Arrow "
        f"{header['service_version']}, {header['created_at']:%Y-%m-%d %H:%M:%S} UTC"
    )
    for collection, count in file.counts.items():
        print(f"{collection}: {count:,}")


def print_documents(file: ExportFile) -> None:
    """A line of JSON for each document."""
    options: CodecOptions[dict[str, object]] = CodecOptions(
        tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    for collection, document in file.documents():
        line = {"collection": collection, "document": bson.decode(document.raw, options)}
        print(dumps(line, json_options=CANONICAL_JSON_OPTIONS))


def show(collection: str, count: int) -> None:
    """The progress, in place."""
    if sys.stderr.isatty():
        print(f"\r{collection}: {count:,}\033[K", end="", file=sys.stderr, flush=True)


def report(file: ExportFile, done: Imported) -> int:
    """Say what was done; returns the exit status."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    for collection in file.counts:
        if collection in done.left_out:
            print(f"{collection}: not merged, for this database has its own; the file keeps the other one")
            continue
        there = done.present[collection]
        print(f"{collection}: {done.inserted[collection]:,} imported" + (f", {there:,} there already" if there else ""))
    if done.untouched:
        print(f"Not Arrow's, and left as they are: {', '.join(done.untouched)}")
    if done.migrate:
        print("The data is of an older version of Arrow: run scripts/migrate before you start the service.")
    for conflict in done.conflicts[:LISTED]:
        print(
            f"{conflict.collection} {conflict.id}: left out, another document has the same {conflict.index}",
            file=sys.stderr,
        )
    if len(done.conflicts) > LISTED:
        print(f"and {len(done.conflicts) - LISTED:,} more like these", file=sys.stderr)
    return 3 if done.conflicts else 0


def main() -> None:
    """Import as the command line says."""
    wanted = arguments()
    file = ExportFile(Path.cwd() / wanted.file)
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run
    try:
        if wanted.print:
            print_documents(file)
            return
        file.check()
    except TransferError as error:
        raise SystemExit(str(error)) from None
    except BrokenPipeError:
        os._exit(1)  # the reader has seen enough; nothing of ours is open
    if wanted.check:
        describe(file)
        return

    async def work(settings: Settings) -> int:
        from app.lifespan import DOCUMENTS  # all of the service, which takes a second: not for a damaged file

        clock = SystemClock()
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(tool_database(settings))
            if wanted.mode is Mode.MERGE:
                await refuse_during_maintenance(database.db, clock)
            else:
                await stack.enter_async_context(exclusive(database, settings, clock, "scripts/import_data.py"))
            done = await Importer(database, DOCUMENTS, clock, progress=show).run(file, wanted.mode)
        return report(file, done)

    run_program(work)


if __name__ == "__main__":
    main()
