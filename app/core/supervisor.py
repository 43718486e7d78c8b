"""Named background tasks that are restarted when they fail and are seen in `/health`."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import structlog

from app.core.clock import Clock, SystemClock

log = structlog.get_logger(__name__)

FIRST_BACKOFF, LAST_BACKOFF = 0.5, 30.0
"""Seconds between restarts: doubled each time, with jitter; back to the first after a minute of health."""
HEALTHY_AFTER = 60.0


@dataclass(slots=True)
class _Task:
    name: str
    run: Callable[[], Awaitable[None]]
    state: Literal["waiting", "running", "backing off", "finished", "stopped"] = "waiting"
    restarts: int = 0
    last_error: str | None = None
    since: datetime | None = None
    handle: asyncio.Task[None] | None = None


class Supervisor:
    """Runs tasks until `stop`; a task that raises is started again with exponential backoff and jitter."""

    def __init__(
        self, clock: Clock | None = None, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """`sleep` waits so many seconds between a failure and the next start."""
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._tasks: dict[str, _Task] = {}
        self._started = False

    def add(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Supervise `run` under `name`; started at once if the supervisor is running, else by `start`."""
        if name in self._tasks:
            raise ValueError(f"there is a task named {name} already")
        self._tasks[name] = _Task(name, run)
        if self._started:
            self._launch(self._tasks[name])

    def start(self) -> None:
        """Start every task that was added."""
        self._started = True
        for task in self._tasks.values():
            self._launch(task)

    def _launch(self, task: _Task) -> None:
        task.handle = asyncio.create_task(self._supervise(task), name=task.name)

    async def _supervise(self, task: _Task) -> None:
        backoff = FIRST_BACKOFF
        while True:
            task.state, task.since = "running", self._clock.now()
            began = self._clock.monotonic()
            try:
                await task.run()
            except asyncio.CancelledError as error:
                own = asyncio.current_task()
                if not self._started or (own is not None and own.cancelling()):
                    task.state = "stopped"
                    raise
                # Something that the task waited for was cancelled, not the task: it must not end in silence.
                self._note_failure(task, error)
            except Exception as error:  # noqa: BLE001 (supervision: whatever it was, it is noted and tried again)
                self._note_failure(task, error)
            else:
                task.state = "finished"
                return
            if not self._started:  # it failed at its end
                task.state = "stopped"
                return
            if self._clock.monotonic() - began > HEALTHY_AFTER:
                backoff = FIRST_BACKOFF
            task.state, task.since = "backing off", self._clock.now()
            await self._sleep(backoff * random.uniform(0.75, 1.25))  # noqa: S311 (jitter, not a secret)
            backoff = min(backoff * 2, LAST_BACKOFF)

    def _note_failure(self, task: _Task, error: BaseException) -> None:
        # The kind only: /health is public, and what a driver says names hosts and queries. The log has the rest.
        task.last_error = type(error).__name__
        task.restarts += 1
        log.error("background task failed", task=task.name, restarts=task.restarts, exc_info=error)

    async def stop(self, deadline: float = 5.0) -> None:
        """Cancel all tasks, newest first, and wait up to `deadline` seconds for them to end."""
        self._started = False
        handles = [task.handle for task in reversed(self._tasks.values()) if task.handle]
        for handle in handles:
            handle.cancel()
        if not handles:
            return
        _, late = await asyncio.wait(handles, timeout=deadline)
        if late:
            log.warning("background tasks did not end in time", tasks=[handle.get_name() for handle in late])

    def health(self) -> dict[str, dict[str, Any]]:
        """State, restarts and last error of each task."""
        return {
            task.name: {
                "state": task.state,
                "restarts": task.restarts,
                "last_error": task.last_error,
                "since": task.since,
            }
            for task in self._tasks.values()
        }

    @property
    def healthy(self) -> bool:
        """Whether every task runs (or has finished by itself)."""
        return all(task.state in {"running", "finished"} for task in self._tasks.values())
