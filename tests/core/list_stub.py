"""`python -m tests.core.list_stub`: a program that has a list, or fails in one of the ways in which programs do.

Its setup says which; with `parent` as its argument it is the service, which fetches a list that never comes.
"""

import asyncio
import os
import sys

from app.core.list_process import ListProcess
from app.core.list_program import Get, ListRefusedError, Refused, serve
from app.core.staged_lists import PART, BuiltList, ListHere

DATA = b"secret".join(bytes([number]) * 100_000 for number in range(30))
"""Three parts."""


def begin(setup: bytes) -> Get:
    """What does as the setup says."""
    what, _, argument = setup.decode().partition(":")
    if what not in {"list", "exit", "kill", "refuse", "stuck"}:
        raise ValueError("no setup of ours")

    async def get(known: tuple[str, str] | None) -> ListHere | None:
        if what == "exit":
            os._exit(int(argument))
        if what == "kill":
            os.kill(os.getpid(), 9)
        if what == "refuse":
            raise ListRefusedError(Refused("away", argument, 7.0))
        if what == "stuck":
            await asyncio.sleep(600)
        if known == ("tag", "date"):
            return None
        return ListHere(BuiltList.of(DATA, rows=30, stamp=("tag", "date")), DATA)

    return get


async def parent() -> None:
    """Fetch what never comes."""
    async with ListProcess("tests.core.list_stub", b"stuck").fetch():
        pass


if __name__ == "__main__":
    assert len(DATA) > 2 * PART
    if "parent" in sys.argv:
        asyncio.run(parent())
    else:
        serve(begin)
