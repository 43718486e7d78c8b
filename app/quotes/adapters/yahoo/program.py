"""`python -m app.quotes.adapters.yahoo.program`: answers questions with `yfinance`, in two threads.

A process of its own, because the library with what it imports takes as much memory as the rest of the service.
What is said there is in `messages`; it ends when the service does.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.core.child_program import Pipes
from app.quotes.adapters.yahoo.library import Library, sorted_error
from app.quotes.adapters.yahoo.messages import (
    AT_ONCE,
    AskHistory,
    AskQuotes,
    Done,
    Found,
    Question,
    Reply,
    Setup,
    decode_question,
    encode,
)


class Program:
    """Answers one service."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="yahoo")
        self._library: Library | None = None

    def run(self) -> None:
        """Until there are no more questions."""
        for number, body in self._pipes.questions():
            question = decode_question(body)
            if isinstance(question, Setup):
                self._answer(number, question)  # at once: what follows needs it
            else:
                self._threads.submit(self._answer, number, question)

    def _answer(self, number: int, question: Question) -> None:
        try:
            message = encode(self._reply(question))
        except Exception as error:  # noqa: BLE001 (what the library raises has no end: each kind of it is sorted)
            message = encode(sorted_error(error))
        self._pipes.answer(number, message)

    def _reply(self, question: Question) -> Reply:
        if isinstance(question, Setup):
            if self._library is not None:
                self._library.close()
            self._library = Library(question.base_url, Path(question.cache_dir), question.timeouts)
            return Done()
        assert self._library is not None  # noqa: S101 (a setup comes first)
        match question:
            case AskHistory():
                return self._library.history(
                    question.symbol, question.interval, question.start, question.end, question.zone
                )
            case AskQuotes():
                return Found(self._library.quotes(question.symbols))


if __name__ == "__main__":
    try:
        Program(Pipes.standard()).run()
    finally:
        os._exit(0)  # whatever its threads still wait for
