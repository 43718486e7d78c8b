"""Ending tasks for certain.

PyMongo can swallow a cancellation that comes while it connects: it raises its own error instead, and whoever takes that
for a database that is away goes on as if nobody had asked it to end. So who ends a task has to ask again, and who
catches `PyMongoError` in a loop has to look.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

_PATIENCE = 0.5


def raise_if_cancelled() -> None:
    """Raise the `CancelledError` that was swallowed on its way to the present task, if there was one."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel `tasks` until they have ended, however they do; only for those that do nothing long at their end."""
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_PATIENCE)
