"""The program that runs `yfinance`, as the service sees it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from app.core.child_process import IDLE_SECONDS, ChildLostError, ChildProcess
from app.core.settings.quotes import YAHOO
from app.quotes import errors
from app.quotes.adapters.yahoo.messages import (
    AT_ONCE,
    AskHistory,
    AskQuotes,
    Done,
    Failure,
    Found,
    History,
    Question,
    Setup,
    Timeouts,
    decode_reply,
    encode,
)
from app.quotes.errors import BusyError, SourceError, UnreachableError
from app.quotes.ports import SourceName

log = structlog.get_logger(__name__)

T = TypeVar("T")

_NAME: Final = SourceName.YAHOO
# Its numbers are small: threads of its own would only be in each other's way.
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class YahooProcess:
    """Asks the program. Every method raises a `SourceError` for whatever is not an answer."""

    def __init__(
        self,
        *,
        cache_dir: Path,
        base_url: str = YAHOO,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """`cache_dir`: where the library keeps time zones and its cookie."""
        self._setup = Setup(base_url, str(cache_dir.absolute()), timeouts)
        self._child = ChildProcess(
            "app.quotes.adapters.yahoo.program",
            encode(self._setup),
            environment=_ONE_THREAD,
            online=True,
            idle_seconds=idle_seconds,
        )
        self._turns = asyncio.Semaphore(AT_ONCE)

    @property
    def pid(self) -> int | None:
        """Of the program; None while there is none."""
        return self._child.pid

    async def history(self, question: AskHistory) -> History:
        """Candles."""
        return await self._ask(question, History)

    async def quotes(self, symbols: tuple[str, ...]) -> list[dict[str, Any]]:
        """What Yahoo says of each symbol that it knows."""
        return (await self._ask(AskQuotes(symbols), Found)).rows

    async def point(self, setup: Setup) -> None:
        """Ask another server from now on, as a program that has just begun."""
        self._setup, self._child.setup = setup, encode(setup)
        if self._child.ready:
            await self._ask(setup, Done)

    async def _ask(self, question: Question, kind: type[T]) -> T:
        async with self._turn():
            try:
                # Each of its requests is bounded: what takes longer than all of them together does not end.
                reply = decode_reply(await self._child.ask(encode(question), self._setup.timeouts.whole))
            except ChildLostError as error:
                raise UnreachableError(_NAME, _LOST[error.why]) from None
        if isinstance(reply, Failure):
            raise _error_of(reply)
        assert isinstance(reply, kind)  # noqa: S101 (both sides are ours)
        return reply

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The program never has more to do than it does at once: what waits in it would look as if it were stuck."""
        try:
            async with asyncio.timeout(self._setup.timeouts.whole):
                await self._turns.acquire()
        except TimeoutError:
            raise BusyError(_NAME, "others are asked for first", retry_after=5) from None
        try:
            yield
        finally:
            self._turns.release()

    async def close(self) -> None:
        """End it."""
        await self._child.close()


_LOST: Final = {
    "not started": "program does not start",
    "ended": "program ended",
    "stuck": "timeout",
    "nonsense": "program ended",
    "closed": "program ended",
}


def _error_of(failure: Failure) -> SourceError:
    if failure.detail:
        log.warning("yahoo's answer could not be read", error=failure.detail)
    kind: type[SourceError] = getattr(errors, failure.kind)
    return kind(_NAME, failure.code, retry_after=failure.retry_after, told=failure.retry_after is not None)
