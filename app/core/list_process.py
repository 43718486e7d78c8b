"""A program that fetches, reads and checks one large list beside the service, as the service sees it.

The program is `list_program`. It lives as long as one fetch: started for it, ended with it, and killed when it takes
too long or the service ends.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from app.core.child_process import ChildLostError, ChildProcess, Lost
from app.core.list_program import Built, Fetch, ListRefusedError, Part, Refused, Reply, decode_reply, encode
from app.core.staged_lists import BuiltList

FETCH_SECONDS: Final = 330.0
"""For the whole list: what is slower than this is not waited for."""
_PART_SECONDS: Final = 30.0
# The program's memory goes with it: what its threads' arenas would leave unused is saved at once.
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}


class ListLostError(Exception):
    """The program ended without a list, took too long, or never began."""

    def __init__(self, why: Lost) -> None:
        super().__init__(why)
        self.why: Lost = why


class _ListThere:
    """A list that the program has."""

    def __init__(self, built: BuiltList, child: ChildProcess) -> None:
        self.built, self._child = built, child

    async def part(self, number: int) -> bytes:
        """See `staged_lists.NewList`. Raises `ChildLostError`."""
        return await self._child.ask(encode(Part(number)), _PART_SECONDS)


class ListProcess:
    """Fills `staged_lists.ListSource` with the program `module`. Belongs to one event loop."""

    def __init__(self, module: str, setup: bytes, *, seconds: float = FETCH_SECONDS) -> None:
        """`setup` goes to the program's standard input, so that nothing of it is in its command line or environment."""
        self._module, self._setup, self._seconds = module, setup, seconds

    @asynccontextmanager
    async def fetch(self, known: tuple[str, str] | None = None) -> AsyncIterator[_ListThere | None]:
        """See `staged_lists.ListSource`. Raises `ListLostError` and `ListRefusedError`, also while parts are read."""
        child = ChildProcess(
            self._module, self._setup, environment=_ENVIRONMENT, online=True, idle_seconds=None, once=True
        )
        try:
            reply = await self._ask(child, Fetch(known))
            if isinstance(reply, Refused):
                raise ListRefusedError(reply)
            yield _ListThere(reply.built, child) if isinstance(reply, Built) else None
        except ChildLostError as error:
            raise ListLostError(error.why) from None
        finally:
            await child.close()

    async def _ask(self, child: ChildProcess, question: Fetch) -> Reply:
        try:
            reply: Reply = decode_reply(await child.ask(encode(question), self._seconds))
        except msgspec.DecodeError:
            raise ListLostError("nonsense") from None
        return reply
