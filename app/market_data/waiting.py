"""Waiting for the database no longer than one wants to."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import pymongo

_T = TypeVar("_T")
_GRACE: Final = 0.5


async def within(seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, which waits for PyMongo; raises `TimeoutError` after `seconds`, and what `work` raises.

    The driver is told the time and ends by itself. It is never cancelled, not when we are either: it can swallow a
    cancellation and go on, or lose the socket that it was just opening. So what was sent may still be carried out.
    """
    with pymongo.timeout(seconds):
        task = asyncio.ensure_future(work)  # takes the limit with it
    try:
        await asyncio.wait([task], timeout=seconds + _GRACE)
    finally:
        task.add_done_callback(_forget)
    if not task.done():
        raise TimeoutError
    return task.result()


def _forget(task: "asyncio.Future[Any]") -> None:
    """Whoever waits has it already, or nobody waits any more: an exception counts as seen."""
    if not task.cancelled():
        task.exception()
