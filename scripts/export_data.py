#!/usr/bin/env python3
"""Writes everything the service stores into one file, for `import_data.py` or to keep as a backup.

    .venv/bin/python scripts/export_data.py
    .venv/bin/python scripts/export_data.py --output /backup/arrow.bson.gz
    .venv/bin/python scripts/export_data.py --collections alerts strategies

It reads the same settings as the service and may run beside it. From a replica set (Atlas too) the file is then the
state of one moment; from the embedded database or a single server, documents that change meanwhile may be in it as they
were before or after: stop the service first if that matters. The file holds password hashes: only you can read it.
"""

import argparse
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.core.clock import SystemClock  # noqa: E402 (the path comes first)
from app.core.embedded import EmbeddedDatabaseVersionError, installed_version  # noqa: E402
from app.core.embedded_files import EmbeddedFiles  # noqa: E402
from app.core.maintenance import run_program, tool_database  # noqa: E402
from app.core.settings import Settings  # noqa: E402
from app.core.transfer import Exported, export_database  # noqa: E402
from app.core.transfer_file import TransferError  # noqa: E402


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: arrow-export-TIME.bson.gz here")
    parser.add_argument("--collections", nargs="+", default=[], metavar="NAME", help="only these")
    parser.add_argument("--no-snapshot", action="store_true", help="on a replica set: do not read as of one moment")
    return parser.parse_args()


def show(collection: str, count: int) -> None:
    """The progress, in place."""
    if sys.stderr.isatty():
        print(f"\r{collection}: {count:,}\033[K", end="", file=sys.stderr, flush=True)


def version_procedure(settings: Settings, output: Path) -> str:
    """What to do about files that another version of the embedded database wrote; empty if its marker is lost too."""
    folder = EmbeddedFiles(settings.data_dir).root
    try:
        written = (folder / "version").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    python, here = shlex.quote(sys.executable), installed_version()
    file, old, kept = (shlex.quote(str(path)) for path in (output, folder, f"{folder}-{written}"))
    export, load = (shlex.quote(str(ROOT / "scripts" / name)) for name in ("export_data.py", "import_data.py"))
    return (
        f"The data in {folder} was written by SecantusDB {written}; {here} is installed and may not read it.\n"
        "With the service stopped, take it over by way of a file:\n"
        f"  {python} -m pip install SecantusDB=={written}\n"
        f"  {python} {export} --output {file}\n"
        f"  mv {old} {kept}\n"
        f"  {python} -m pip install SecantusDB=={here}\n"
        f"  {python} {load} {file}\n"
        "(The second line may also be run in the older Arrow's environment.) "
        f"Keep {kept} until you have seen that all is there."
    )


def report(path: Path, done: Exported) -> None:
    """Say what was written."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    for collection, count in done.counts.items():
        print(f"{collection}: {count:,}")
    moment = "as of one moment" if done.snapshot else "read one after another, not as of one moment"
    print(f"Wrote {sum(done.counts.values()):,} documents ({done.size:,} bytes; {moment}) to {path}")


def main() -> None:
    """Export as the command line says; exit status 1 and a sentence when that is not possible."""
    wanted = arguments()
    name = wanted.output or Path(f"arrow-export-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.bson.gz")
    output = Path.cwd() / name
    os.chdir(ROOT)  # .env and a relative DATA_DIR mean the same as for scripts/run

    async def work(settings: Settings) -> int:
        files = EmbeddedFiles(settings.data_dir)
        if not settings.mongodb_url and not (files.storage.is_dir() and any(files.storage.iterdir())):
            raise TransferError(f"there is no embedded database in {files.root}: check DATA_DIR and MONGODB_URL")
        try:
            async with tool_database(settings) as database:
                done = await export_database(
                    database,
                    output,
                    SystemClock(),
                    collections=wanted.collections,
                    snapshot=not wanted.no_snapshot,
                    progress=show,
                )
        except EmbeddedDatabaseVersionError as error:
            raise TransferError(version_procedure(settings, output) or str(error)) from None
        report(output, done)
        return 0

    run_program(work)


if __name__ == "__main__":
    main()
