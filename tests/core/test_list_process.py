"""Programs that fetch a list beside the service: what they hand over, and the ways in which nothing comes."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.core.list_process import ListLostError, ListProcess
from app.core.list_program import ListRefusedError
from tests.core.list_stub import DATA
from tests.support.service import wait_for_end

ROOT = Path(__file__).resolve().parents[2]
STUB = "tests.core.list_stub"


def programs(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Those that run now."""
    found = []
    for child in (parent or psutil.Process()).children():
        try:
            if STUB in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


async def test_a_list_is_handed_over_in_parts_and_the_program_ends():
    process = ListProcess(STUB, b"list:of a secret address")
    async with process.fetch() as new:
        assert new is not None
        [child] = programs()
        # Whatever the setup holds can be read by nobody who looks at processes.
        assert "secret" not in " ".join(child.cmdline())
        assert "secret" not in str(child.environ())
        parts = [await new.part(number) for number in range(new.built.parts)]
    assert (b"".join(parts), len(parts), new.built.rows) == (DATA, 3, 30)
    assert programs() == []
    async with process.fetch(new.built.stamp) as same:
        assert same is None


@pytest.mark.parametrize(
    ("setup", "why"), [(b"exit:3", "ended"), (b"kill", "ended"), (b"stuck", "stuck"), (b"unknown", "ended")]
)
async def test_a_program_that_is_lost_is_no_list(setup: bytes, why: str):
    with pytest.raises(ListLostError) as lost:
        async with ListProcess(STUB, setup, seconds=0.3 if why == "stuck" else 30).fetch():
            raise AssertionError("there is a list")
    assert lost.value.why == why
    assert programs() == []


async def test_it_says_why_there_is_none():
    with pytest.raises(ListRefusedError) as caught:
        async with ListProcess(STUB, b"refuse:closed today").fetch():
            raise AssertionError("there is a list")
    refused = caught.value.refused
    assert (refused.kind, refused.message, refused.retry_after) == ("away", "closed today", 7.0)


async def test_one_that_ends_between_two_parts_is_lost():
    async def fetch() -> None:
        async with ListProcess(STUB, b"list").fetch() as new:
            assert new is not None
            await new.part(0)
            programs()[0].kill()
            await asyncio.to_thread(until, lambda: not programs())
            await new.part(1)  # no new one is asked, which would have no list

    with pytest.raises(ListLostError):
        await fetch()
    assert programs() == []


async def test_who_does_not_wait_any_more_ends_it():
    async def fetch() -> None:
        async with ListProcess(STUB, b"stuck").fetch():
            raise AssertionError("there is a list")

    fetching = asyncio.create_task(fetch())
    await asyncio.to_thread(until, programs)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert programs() == []


def test_it_ends_with_a_service_that_is_killed():
    with subprocess.Popen([sys.executable, "-m", STUB, "parent"], cwd=ROOT) as service:
        until(lambda: programs(psutil.Process(service.pid)))
        [child] = programs(psutil.Process(service.pid))
        until(lambda: child.num_threads() > 1)  # it works
        service.kill()
        assert wait_for_end([child], 30) == []
