"""A program that fetches, reads and checks one large list beside the service, as it sees it itself; see `list_process`.

Reading a list takes ten times the memory that the list has in the end, and a process that had it once keeps it. So a
short-lived program does: it builds the list, says what is in it, and hands it over in parts as the service asks.
"""

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Final

import msgspec

from app.core.child_program import Pipes
from app.core.staged_lists import BuiltList, ListHere, part_of

NICENESS: Final = 5
"""The service goes first."""


class Fetch(msgspec.Struct, tag=True, frozen=True):
    """Get the newest list, if it is not the one whose stamp is `known`."""

    known: tuple[str, str] | None = None


class Part(msgspec.Struct, tag=True, frozen=True):
    """Hand over a part of it; the answer is the part itself."""

    number: int


class Built(msgspec.Struct, tag=True, frozen=True):
    """There is a list."""

    built: BuiltList


class Same(msgspec.Struct, tag=True, frozen=True):
    """There is nothing newer than what is known."""


class Refused(msgspec.Struct, tag=True, frozen=True):
    """There is no list; `kind` names the error of the feature, which the service raises."""

    kind: str
    message: str
    retry_after: float | None = None


Question = Fetch | Part
Reply = Built | Same | Refused
encode = msgspec.msgpack.Encoder().encode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
_decode_question = msgspec.msgpack.Decoder(Question).decode


class ListRefusedError(Exception):
    """There is no list, and why: what a program's fetch raises, and the service's. Anything else ends the program."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.kind)
        self.refused = refused


Get = Callable[[tuple[str, str] | None], Awaitable[ListHere | None]]
"""Fetches, reads and builds the newest list; None if it is the known one. Raises `ListRefusedError`."""


class ListProgram:
    """Answers one service: this thread reads, another works."""

    def __init__(self, pipes: Pipes, begin: Callable[[bytes], Get]) -> None:
        """`begin` makes of the setup what fetches the list."""
        self._pipes, self._begin = pipes, begin
        self._asked: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        self._get: Get | None = None
        self._found: ListHere | None = None

    def run(self) -> None:
        """Never returns: the process ends with its input, whatever it does."""
        threading.Thread(target=self._work, name="list", daemon=True).start()
        for asked in self._pipes.questions():
            self._asked.put(asked)
        os._exit(0)

    def _work(self) -> None:
        try:
            while True:
                number, body = self._asked.get()
                self._pipes.answer(number, self._answer(body))
        except Exception:  # noqa: BLE001 (the service takes the end of this program for what it is)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _answer(self, body: bytes) -> bytes:
        if self._get is None:
            self._get = self._begin(body)
            return b""
        question = _decode_question(body)
        if isinstance(question, Part):
            assert self._found is not None  # noqa: S101 (a list comes first)
            return part_of(self._found.data, question.number)
        return encode(self._fetch(self._get, question))

    def _fetch(self, get: Get, question: Fetch) -> Reply:
        try:
            self._found = asyncio.run(_awaited(get, question.known))
        except ListRefusedError as error:
            return error.refused
        return Built(self._found.built) if self._found is not None else Same()


async def _awaited(get: Get, known: tuple[str, str] | None) -> ListHere | None:
    return await get(known)


def serve(begin: Callable[[bytes], Get]) -> None:
    """The program."""
    pipes = Pipes.standard()
    if sys.platform != "win32":
        os.nice(NICENESS)
    ListProgram(pipes, begin).run()
