"""Tasks end, also those in which a library swallows the first request to."""

import asyncio

import pytest

from app.core.cancelling import end, raise_if_cancelled


class Swallows:
    """Takes a cancellation for an error of its own, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def run(self) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.left -= 1
                if self.left < 0:
                    raise


async def test_who_swallows_a_cancellation_is_asked_again():
    stubborn, plain = Swallows(1), Swallows(0)
    tasks = [asyncio.create_task(one.run()) for one in (stubborn, plain)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end(tasks)

    assert all(task.cancelled() for task in tasks)
    assert stubborn.left == plain.left == -1


async def test_tasks_that_have_ended_are_left_alone():
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    await end([task])

    with pytest.raises(ValueError):  # noqa: PT011 (it is the one above)
        task.result()


async def test_a_swallowed_cancellation_can_be_found():
    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise_if_cancelled()
        return "went on"

    async def works_on() -> str:
        raise_if_cancelled()
        return "went on"

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await works_on() == "went on"
