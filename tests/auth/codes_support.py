"""What the tests of one-time secrets, codes, places and the guard share."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.auth.digests import KeyedDigests
from app.auth.models import DOCUMENTS
from tests.support.mongodb import Db, empty_database

SECRET_KEY = secrets.token_hex(32)
ROOT = Path(__file__).parents[2]


def make_digests() -> KeyedDigests:
    return KeyedDigests(SECRET_KEY)


class CommandLog(CommandListener):
    """What is asked of the database, by the names of the commands and collections."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.asked.append(f"{event.command_name} {event.command.get(event.command_name)}")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """As expected."""

    def failed(self, event: CommandFailedEvent) -> None:
        """The caller sees it."""

    @contextmanager
    def kept(self) -> Iterator[list[str]]:
        """The commands of the block."""
        self.asked = kept = []
        yield kept
        self.asked = []


LOG = CommandLog()


@asynccontextmanager
async def codes_database(url: str) -> AsyncIterator[Db]:
    """An empty database with the feature's documents; `LOG` sees what is asked of it."""
    async with empty_database(url, DOCUMENTS, event_listeners=[LOG]) as db:
        yield db


async def in_processes(processes: int, url: str, database: str, *words: str) -> list[int]:
    """What so many processes print that run `tests.auth.taking_process`, started together once all are ready."""
    command = (sys.executable, "-m", "tests.auth.taking_process", url, database, SECRET_KEY, *words)
    running = [
        await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        answers = await asyncio.gather(*(process.communicate(b"go\n") for process in running))
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [int(out) for out, _ in answers]
