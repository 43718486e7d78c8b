"""The load test itself works: its users find what they look for, and nothing fails."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.crypto.listing.kit import BASE, gecko, ranked, room_of
from tests.support.service import ROOT, free_port

NAMES = {"first page", "sorted page", "search", "one coin", "top", "all pages"}
USERS = 5


def name_of(scope: Scope) -> str:
    """What the load test calls a request."""
    path, query = scope["path"].removeprefix(BASE), scope["query_string"]
    if path == "/":
        marks = {b"sort_by=": "sorted page", b"q=": "search", b"limit=50": "first page"}
        return next((name for mark, name in marks.items() if mark in query), "all pages")
    return "top" if path.startswith("/top/") else "one coin"


async def locust(port: int, folder: Path) -> Process:
    """Start users without a page, until they are told to go; the result is on the standard output."""
    options = ["--headless", "--users", str(USERS), "--spawn-rate", "100", "--run-time", "90s", "--json", "--skip-log"]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", str(ROOT / "tests/load/locustfile.py")),
        *("--host", f"http://127.0.0.1:{port}", *options),
        cwd=folder,
        stdout=PIPE,
        stderr=PIPE,
    )


@pytest.mark.usefixtures("listing_db")
@pytest.mark.timeout(150)
async def test_a_short_load_without_failures(tmp_path: Path):
    answered: Counter[str] = Counter()
    async with room_of() as room:

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            await room.app(scope, receive, send)
            answered[name_of(scope)] += 1

        rows = ranked([gecko(f"coin-{number}", f"C{number}", price_change_24h="5") for number in range(90)])
        await room.synced(rows)
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(watched, port=port, log_level="error", lifespan="off", ws="none"))
        serving = asyncio.create_task(server.serve())
        process = await locust(port, tmp_path)
        talking = asyncio.create_task(process.communicate())
        place = 0
        while min(answered[name] for name in NAMES) < USERS and not talking.done():
            await asyncio.wait([talking], timeout=0.25)
            place = (place + 1) % len(rows)
            await room.synced(rows[place:] + rows[:place])  # the list changes under them
        process.terminate()
        out, err = (text.decode() for text in await talking)
        server.should_exit = True
        await serving

    assert process.returncode == 0, out + err
    measured = {row["name"]: row for row in json.loads(out)}
    assert set(measured) == NAMES, err
    assert sum(row["num_failures"] for row in measured.values()) == 0, err
    assert all(row["num_requests"] > 0 for row in measured.values())
