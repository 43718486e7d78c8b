"""What the process that runs the feed does beside it, part by part."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import structlog

from app.core.cancelling import end

log = structlog.get_logger(__name__)


class Past(NamedTuple):
    """What is known of the process that ran the feed before."""

    at: datetime | None = None
    """When it was last heard of; None if there was none."""
    through: datetime | None = None
    """Until when it knew of no outage."""


class LeaderPart(Protocol):
    """Something that only the process with the feed does."""

    async def begin(self, past: Past) -> None:
        """Before the first tick: learn what is stored. May raise: then the feed does not begin here."""

    async def run(self) -> None:
        """Meanwhile, until cancelled."""

    async def finish(self, *, owned: bool) -> None:
        """At the end, after the last tick: store what is left. `owned` is False if another process leads already."""


async def _nothing() -> None:
    """Ends at once."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part made of functions of something that knows nothing of leading."""

    begin_with: Callable[[], Awaitable[object]] = _nothing
    run_with: Callable[[], Awaitable[object]] = _nothing
    finish_with: Callable[[], Awaitable[object]] = _nothing
    only_if_owned: bool = False
    """Whether the end is left out when another process leads already: it has newer rows."""

    async def begin(self, past: Past) -> None:  # noqa: ARG002 (the port's)
        """See the port."""
        await self.begin_with()

    async def run(self) -> None:
        """See the port."""
        await self.run_with()

    async def finish(self, *, owned: bool) -> None:
        """See the port."""
        if owned or not self.only_if_owned:
            await self.finish_with()


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Run `works` until all have ended; the first that fails ends the others, and its error is raised as it is."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        await end(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()):
                log.debug("part of a work failed, too", error=type(error).__name__)
