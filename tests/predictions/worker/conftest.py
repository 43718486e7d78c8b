"""Workers around a stub in a process of its own; none of them is left behind."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest_asyncio

from app.core.clock import SystemClock
from app.predictions.worker import TrainingWorker

KEY = b"a key that signs models in tests, 2"
STUB = "tests.predictions.worker.stub"


@pytest_asyncio.fixture
async def make_worker() -> AsyncIterator[Callable[..., TrainingWorker]]:
    """Makes workers with settings of their own, and sees that their processes have gone after the test."""
    made: list[TrainingWorker] = []
    before = {child.pid for child in psutil.Process().children()}

    def make(**options: Any) -> TrainingWorker:
        made.append(TrainingWorker(**{"key": KEY, "clock": SystemClock(), "program": STUB, **options}))
        return made[-1]

    yield make
    for worker in made:
        await worker.close()
    # Zombies are children too. Those of children are not looked at: a browser for other tests starts some at any time.
    assert {child.pid for child in psutil.Process().children()} <= before
