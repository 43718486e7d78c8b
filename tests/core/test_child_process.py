"""Programs beside the service: questions, answers, and the many ways in which there is none."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
import pytest_asyncio

from app.core.child_process import ChildLostError, ChildProcess

Make = Callable[..., ChildProcess]


@pytest_asyncio.fixture
async def make_child() -> AsyncIterator[Make]:
    made: list[ChildProcess] = []

    def make(module: str = "tests.core.child_echo", setup: bytes = b"setup:1", **options: Any) -> ChildProcess:
        made.append(ChildProcess(module, setup, **options))
        return made[-1]

    yield make
    for child in made:
        await child.close()
        assert child.pid is None


async def test_questions_are_answered_each_by_its_number(make_child: Make):
    child = make_child()
    assert child.pid is None
    assert not child.ready
    slow, quick = await asyncio.gather(child.ask(b"later:0.2", 40), child.ask(b"echo:2", 40))
    assert (slow, quick) == (b"later:0.2", b"setup:1|echo:2")
    assert child.ready
    assert len(await child.ask(b"large:5000000", 40)) == 5_000_000


async def test_answers_before_the_last_are_heard_in_order(make_child: Make):
    child, heard = make_child(), []
    exchange = await child.begin(b"count:5", heard.append)
    assert await exchange.reply == b"done"
    assert heard == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_listener_that_fails_ends_nothing(make_child: Make):
    def fails(body: bytes) -> None:
        raise IndexError(body)

    child, loop, errors = make_child(), asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    try:
        exchange = await child.begin(b"count:2", fails)
        assert await exchange.reply == b"done"
    finally:
        loop.set_exception_handler(None)
    assert [type(error) for error in errors] == [IndexError, IndexError]
    assert await child.ask(b"echo", 40)


async def test_who_goes_leaves_the_others_their_answers(make_child: Make):
    child = make_child()
    goes = asyncio.create_task(child.ask(b"later:0.1", 40))
    stays = asyncio.create_task(child.ask(b"later:0.2", 40))
    await asyncio.sleep(0)
    goes.cancel()
    assert await stays == b"later:0.2"
    assert goes.cancelled()


@pytest.mark.parametrize(
    ("question", "why", "status"),
    [
        (b"exit:3", "ended", 3),
        (b"kill:9", "ended", -9),
        (b"garbage", "nonsense", -9),
        (b"mute", "ended", -9),
    ],
)
async def test_one_that_is_lost_is_told_to_all_and_replaced(make_child: Make, question: bytes, why: str, status: int):
    child = make_child()
    first = await child.begin(b"later:600")
    pid = child.pid
    with pytest.raises(ChildLostError) as caught:
        await child.ask(question, 40)
    with pytest.raises(ChildLostError, match=why):
        await first.reply
    assert (caught.value.why, caught.value.status) == (why, status)
    assert not psutil.pid_exists(pid or 0)
    assert await child.ask(b"echo", 40) == b"setup:1|echo"
    assert child.pid != pid


async def test_one_that_runs_once_is_not_replaced(make_child: Make):
    child = make_child(once=True)
    assert await child.ask(b"echo", 20) == b"setup:1|echo"
    for question in (b"exit:3", b"echo"):
        with pytest.raises(ChildLostError, match="ended"):
            await child.ask(question, 20)
    assert child.pid is None


async def test_one_that_takes_too_long_is_ended(make_child: Make):
    child = make_child()
    await child.start()
    with pytest.raises(ChildLostError, match="stuck"):
        await child.ask(b"later:600", 0.2)
    assert child.pid is None


@pytest.mark.parametrize(("setup", "seconds", "why"), [(b"exit:1", 30, "ended"), (b"later:600", 0.8, "stuck")])
async def test_one_that_does_not_get_ready_is_told(make_child: Make, setup: bytes, seconds: float, why: str):
    child = make_child(setup=setup, start_seconds=seconds)
    outcomes = await asyncio.gather(*(child.ask(b"echo", 40) for _ in range(3)), return_exceptions=True)
    assert [outcome.why for outcome in outcomes if isinstance(outcome, ChildLostError)] == [why] * 3
    assert child.pid is None


async def test_a_new_setup_holds_from_the_next_start(make_child: Make):
    child = make_child()
    await child.start()
    child.setup = b"setup:2"
    assert await child.ask(b"echo", 40) == b"setup:1|echo"
    await child.end()
    assert await child.ask(b"echo", 40) == b"setup:2|echo"


async def test_closed_it_does_not_start_again(make_child: Make):
    child = make_child()
    await child.close()
    with pytest.raises(ChildLostError, match="closed"):
        await child.ask(b"echo", 40)


async def test_it_gets_what_it_needs_and_no_secret(make_child: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_KEY", "of the service")
    monkeypatch.setenv("https_proxy", "http://proxy")
    for online in (False, True):
        said = await make_child(online=online, environment={"OWN": "its own"}).ask(b"environment", 40)
        assert b"its own" in said
        assert b"'PATH'" in said
        assert b"of the service" not in said
        assert (b"http://proxy" in said) is online
