"""A service with one or several workers around the embedded database, as a process of its own.

Usage: embedded_worker.py DATA_DIR WORKERS ROLE. Each worker attaches and supervises; SIGTERM makes it write one more
document (what a flush at the end does) and leave. It says what happens as JSON lines and keeps its health in a file.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import structlog
from pymongo import AsyncMongoClient

from app.core.embedded import EmbeddedDatabase, EmbeddedDatabaseError


def say(event: str, **more: Any) -> None:
    """One line, written in one go so that workers do not mix theirs."""
    os.write(1, json.dumps({"event": event, "pid": os.getpid(), **more}).encode() + b"\n")


def tell_health(database: EmbeddedDatabase, path: Path) -> None:
    """Write it to `path` in one step."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(database.health()))
    draft.replace(path)


async def keep_telling(database: EmbeddedDatabase, path: Path) -> None:
    """Keep `path` up to date."""
    while True:
        await asyncio.sleep(0.03)
        tell_health(database, path)


async def work(data_dir: Path, role: Any) -> None:
    """The life of one worker."""
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    database = EmbeddedDatabase(data_dir, role=role)
    say("starting")
    try:
        uri = await database.start()
    except EmbeddedDatabaseError as error:
        say("refused", kind=type(error).__name__, message=str(error))
        return
    path = data_dir / f"health-{os.getpid()}.json"
    tell_health(database, path)  # whoever hears that it is up finds the file
    tasks = [
        asyncio.create_task(keep_telling(database, path)),
        asyncio.create_task(database.run()),
    ]
    say("up", uri=uri)
    await leave.wait()
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        await client.t.flushed.insert_one({"_id": os.getpid()})
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await database.stop()
    say("left")


def main(data_dir: str, role: str) -> None:
    """A worker's entry point."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(work(Path(data_dir), role))


if __name__ == "__main__":
    _, folder, count, role = sys.argv
    Path(folder).mkdir(parents=True, exist_ok=True)
    if count == "1":
        main(folder, role)
    else:
        spawn = multiprocessing.get_context("spawn")
        workers = [spawn.Process(target=main, args=(folder, role)) for _ in range(int(count))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if "--linger" in os.environ.get("WORKER_OPTIONS", ""):
            signal.pause()
