"""What goes wrong around the feed: the exchange's side, the database's, our own end. Nothing stored is lost or doubled.

Each of these mostly waits, so those that are to run are started together; each has a service of its own.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from bson import json_util
from pymongo import AsyncMongoClient

from app.market_data.sink import SinkBounds
from tests.simulators.angel_one.http import html, rate_limited, slow, too_many
from tests.simulators.angel_one.rest import LOGIN
from tests.support.workers import one_client_each, socket_to
from tests.system.live.kit import (
    API,
    INDICES,
    NIFTY,
    Listener,
    Live,
    agreed,
    follower,
    leaks,
    seen_again,
    subscribed,
    until,
)

pytestmark = pytest.mark.timeout(300)  # the first to be waited for may wait for all

SCENARIOS: dict[str, Callable[[Path], Coroutine[Any, Any, None]]] = {}


def side_by_side(run: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Makes a test of a function that gets a folder: it is begun with the others of this file."""

    async def test(outcomes: dict[str, asyncio.Task[None]]) -> None:
        await outcomes[run.__name__]

    SCENARIOS[run.__name__] = run
    test.__name__, test.__doc__ = run.__name__, run.__doc__
    return test


@pytest_asyncio.fixture(scope="module")
async def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, "asyncio.Task[None]"]]:
    """The runs of those scenarios that are to be tested, by their names."""
    names = [item.name for item in request.session.items if item.path == request.path]
    tasks = {
        name: asyncio.create_task(run(tmp_path_factory.mktemp(name)))
        for name, run in SCENARIOS.items()
        if name in names
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


async def stored_as_sent(live: Live, sent: int) -> None:
    """Every tick is stored, once, and the statistics say the same."""
    statistics = await until(lambda: agreed(live), lambda told: told and told["total"] >= sent, 90)
    assert statistics["total"] == sent
    assert statistics["feed"]["lost"] == 0


# On the exchange's side


@side_by_side
async def test_a_half_open_connection_is_noticed(folder: Path):
    """Nothing comes any more and nothing says so: after some seconds without a sign of life it is made anew."""
    async with Live(folder) as live:
        await seen_again(live)
        [connection] = live.simulator.feed.connections
        connection.go_silent()
        await live.simulator.feed.until(lambda: any(x is not connection for x in live.simulator.feed.connections), 30)
        await live.following()
        await until(live.feed, lambda feed: feed["state"] == "live")
        await seen_again(live)

        feed = await live.feed()
        assert (feed["reconnects"], feed["last_error"]) == (1, "feed: silent")
        assert feed["sign_ins"] == 1


@side_by_side
async def test_refusals_are_waited_out_and_nothing_secret_is_told(folder: Path):
    """A slow and a broken sign-in, 429, 403, then tokens that have expired in the middle of the day (401)."""
    log = folder / "debug.log"
    async with Live(folder, subscribed=False, env={"LOG_LEVEL": "DEBUG", "LOG_FILE": str(log)}) as live:
        simulator = live.simulator
        await live.following()
        await seen_again(live)
        for status in (429, 403):
            simulator.feed.faults.refuse = status
            for connection in list(simulator.feed.connections):
                connection.abort()
            word = f"feed: handshake {status}"
            feed = await until(live.feed, lambda feed, word=word: feed["last_error"] == word)
            # It is tried again and again, as long as the exchange refuses.
            assert feed["state"] in {"backing off", "connecting"}
            assert feed["status"] == "degraded"
        assert (await live.client.get("/health/ready")).status_code == 200
        simulator.feed.faults.refuse = None
        simulator.sessions.expire()
        await live.following(150)  # tokens that seem to die as soon as they are made are left alone for a while

        await seen_again(live)
        feed = await live.ticking()
        assert feed["reconnects"] >= 1
        assert feed["sign_ins"] == 1  # expired tokens are refreshed; a sign-in is not needed for that
        assert len(simulator.sessions.issued) >= 2
        await nothing_secret(live, log)


async def nothing_secret(live: Live, log: Path) -> None:
    """In no log, answer, row or file is anything of the account or of its tokens."""
    account, issued = live.account, live.simulator.sessions.issued
    secrets = [account.pin, account.api_key, account.totp_secret, account.client_code]
    secrets += [text for tokens in issued for text in (tokens.jwt, tokens.refresh, tokens.feed)]
    await live.get("statistics")
    await live.get("market-status")
    rows = await dump(live)
    await live.stop()

    files = [path for path in folder_of(live).rglob("*") if path.is_file()]
    assert {log, live.service.log_path} <= set(files)
    assert any("NIFTY 50" in row for row in rows)
    told = {str(path.relative_to(folder_of(live))): path.read_bytes() for path in files}
    assert b"signed in to angel one" in told[str(log.relative_to(folder_of(live)))]
    told |= {f"answer {number}": answer.content for number, answer in enumerate(live.answers)}
    told |= {"rows": "\n".join(rows).encode()}
    assert {name: found for name, text in told.items() if (found := leaks(text, secrets))} == {}
    assert leaks(" ".join(secrets).encode(), secrets) == secrets  # the search does find
    assert not list(folder_of(live).rglob("logs"))  # the SDK would make this folder


def folder_of(live: Live) -> Path:
    return live.service.folder


async def dump(live: Live) -> list[str]:
    """All that the database holds."""
    if live.service.embedded:
        port = (await live.get("/health"))["database"]["embedded"]["port"]
        url, name = f"mongodb://127.0.0.1:{port}/?directConnection=true", "arrow"
    else:
        url, name = live.service.env["MONGODB_URL"], live.service.env["DATABASE_NAME"]
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        db = client[name]
        return [json_util.dumps(row) for each in await db.list_collection_names() async for row in db[each].find()]


@side_by_side
async def test_a_sign_in_that_fails_is_told_and_tried_again(folder: Path):
    """A proxy's page as long as it lasts, then an answer that is slow; meanwhile everything else is served."""
    live = Live(folder, subscribed=False)
    live.simulator.rest.fail(LOGIN, html(502), times=1000)
    async with live:
        first = await until(live.feed, lambda feed: feed.get("last_error"))
        assert (first["status"], first["last_error"]) == ("degraded", "unreachable (502)")
        assert first["state"] in {"backing off", "connecting"}
        live.simulator.rest.heal()
        live.simulator.rest.fail(LOGIN, slow(2.0))
        assert await live.get("latest") == []
        await live.following()
        await seen_again(live)
        feed = await live.ticking()
        assert (feed["sign_ins"], feed["reconnects"]) == (1, 0)
        assert [request.path for request in live.simulator.rest.requests].count(LOGIN) >= 2


@side_by_side
async def test_a_refused_sign_in_is_not_repeated(folder: Path):
    """The account would be locked. The feed says what to do, and the rest of the service goes on."""
    live = Live(folder, subscribed=False, env={"ANGEL_ONE_PASSWORD": "pin-of-somebody-else"})
    live.simulator.rest.fail(LOGIN, rate_limited(), too_many(1))
    async with live:
        feed = await until(live.feed, lambda feed: feed["state"] == "refused")
        assert (feed["status"], feed["last_error"]) == ("degraded", "sign-in refused (AB1007)")
        assert (await live.client.get("/health/ready")).status_code == 200
        assert (await live.get("statistics"))["total"] == 0
        assert [request.path for request in live.simulator.rest.requests].count(LOGIN) == 3
        log = live.service.log_text()
        assert "ANGEL_ONE_PASSWORD" in log or "AB1007" in log
        assert log.index("rate limited (403)") < log.index("rate limited (429)")
        await live.stop()
        assert leaks(live.service.log_path.read_bytes(), ["pin-of-somebody-else", live.account.totp_secret]) == []


# The database's side, and our own end


@pytest.mark.embedded
@side_by_side
async def test_kill_of_the_database_in_mid_stream_loses_nothing(folder: Path):
    async with Live(folder) as live:
        database = (await live.get("/health"))["database"]["embedded"]["pid"]
        await live.send_many(200)
        stream = asyncio.create_task(streaming(live, 400))
        await asyncio.sleep(0)
        os.kill(database, signal.SIGKILL)
        await stream

        await stored_as_sent(live, 600)
        health = await live.get("/health")
        assert health["database"]["embedded"]["restarts"] >= 1
        await until(live.feed, lambda feed: feed["storing"]["status"] == "ok")


async def streaming(live: Live, count: int) -> None:
    """Ticks, a few at a time, with time in between for others."""
    for number in range(count):
        await live.send(INDICES[number % len(INDICES)])
        await asyncio.sleep(0.002)


@pytest.mark.embedded
@side_by_side
async def test_a_database_that_is_away_for_long_is_waited_for_on_the_disk(folder: Path):
    """It is suspended: it neither answers nor refuses."""
    async with Live(folder) as live:
        await live.send_many(60)
        await until(live.counters, lambda told: told["stored"] == 60)
        sent = 60
        async with live.listening("NIFTY 50") as listener:
            with away(live) as keep_away:
                while not (await keep_away())["storing"]["spill_bytes"]:
                    # The stream does not wait for the database.
                    await listener.hear(NIFTY, await live.send(NIFTY))
                    await live.send_many(11)
                    sent += 12
                async with live.listening("NIFTY 50") as newcomer:
                    await newcomer.hear(NIFTY, await live.send(NIFTY))
        sent += 1
        await live.send_many(30)
        sent += 30

        await stored_as_sent(live, sent)
        counted = await until(live.counters, lambda told: told["stored"] == sent)
        assert counted["spilled"] > 0
        await until(
            live.feed,
            lambda feed: (feed["storing"]["status"], feed["storing"]["spill_bytes"], spilled(live)) == ("ok", 0, []),
        )


@contextmanager
def away(live: Live) -> Iterator[Callable[[], Awaitable[Any]]]:
    """The database is suspended; each call of what is given sees to it, and gives the feed's line in `/health`.

    One that is silent for ten seconds is killed and replaced, so that its successor has to be suspended, too.
    """
    held: dict[int, psutil.Process] = {}

    async def keep_away() -> Any:
        feed, health = await live.feed(), await live.get("/health")
        # Without its line while a look at the database does not come back.
        pid = health.get("database", {}).get("embedded", {}).get("pid")
        if pid is not None and pid not in held:
            with suppress(psutil.NoSuchProcess):
                held[pid] = psutil.Process(pid)
                held[pid].suspend()
        if feed["storing"]["spill_bytes"] and len(held) == 1:  # its successor may be taking what waits
            assert (feed["status"], feed["storing"]["status"]) == ("degraded", "degraded")
        return feed

    try:
        yield keep_away
    finally:
        for process in held.values():
            with suppress(psutil.NoSuchProcess):
                process.resume()


def spilled(live: Live) -> list[Path]:
    """The files of ticks that could not be stored yet."""
    return [path for path in (live.service.data_dir / "spill").glob("ticks-*.bin") if path.stat().st_size]


@side_by_side
async def test_all_that_was_sent_before_sigterm_is_stored(folder: Path):
    """In mid-stream, in a burst. The counts go on after the next start."""
    async with Live(folder) as live:
        async with live.listening() as listener:
            await live.send_many(900)
            await listener.hear(NIFTY, await live.send(NIFTY))
        await live.stop()
        assert "Traceback" not in live.service.log_text()
        await live.start()

        await stored_as_sent(live, 901)
        again = await seen_again(live)
        await stored_as_sent(live, 901 + again)


@pytest.mark.embedded
@side_by_side
async def test_kill_of_everything_loses_at_most_what_was_not_written_yet(folder: Path):
    async with Live(folder) as live:
        await live.send_many(300)
        await until(live.counters, lambda told: told["stored"] == 300)
        await live.send_many(60)
        await asyncio.to_thread(live.service.kill_all)
        await live.start()

        kept = (await until(lambda: agreed(live), lambda told: told and told["total"] >= 300, 90))["total"]
        assert kept <= 360
        await seen_again(live)
        await until(lambda: agreed(live), lambda told: told and told["total"] > kept)


# Two processes


@side_by_side
async def test_two_workers_stream_the_same_and_one_takes_over_from_the_other(folder: Path):
    async with Live(folder, workers=2) as live, AsyncExitStack() as stack:
        clients = await stack.enter_async_context(one_client_each(live.service))
        listeners = [await listener_at(live, pid, stack) for pid in clients]
        for number in range(60):
            listing = INDICES[number % len(INDICES)]
            sent = await live.send(listing)
            first, second = [await listener.hear(listing, sent) for listener in listeners]
            assert first == second
        assert [x["seq"] for x in streamed(listeners[0])] == [x["seq"] for x in streamed(listeners[1])]
        assert len(live.simulator.feed.connections) == 1
        latest = [(await client.get(f"{API}/latest")).json() for client in clients.values()]
        assert latest[0] == latest[1]
        assert len(latest[0]) == len(INDICES)
        feeds = {pid: (await client.get("/health")).json()["feed"] for pid, client in clients.items()}
        assert sorted(feed["leading"] for feed in feeds.values()) == [False, True]

        before, told_before, leader = await killed_in_mid_stream(live)
        survivor = listeners[1 - list(clients).index(leader)]
        # A lease of six seconds, and the two that the others may take to look.
        await live.following()
        after = await live.send_many(120)
        await survivor.hear(INDICES[-1], after[-1])

        least = max(before - SinkBounds().batch, told_before) + 120
        statistics = await until(lambda: agreed(live), lambda told: told and told["total"] >= least, 90)
        assert statistics["total"] <= before + 120
        ids = [message["data"]["id"] for message in streamed(survivor)]
        assert len(set(ids)) == len(ids)


async def listener_at(live: Live, pid: int, stack: AsyncExitStack) -> Listener:
    """One who hears all ticks from the worker `pid`."""
    socket = await stack.enter_async_context(socket_to(live.service, pid))
    listener = await subscribed(socket)
    stack.push_async_callback(listener.close)
    return listener


def streamed(listener: Listener) -> list[Any]:
    """The messages about ticks, without those of the subscription, which carry its number.

    They are read after it stands, so a tick that came meanwhile may be among them and come by itself, too.
    """
    since = next(message["seq"] for message in listener.messages if message["type"] == "subscribed")
    return [message for message in listener.messages if message["type"] == "tick" and message["seq"] > since]


async def killed_in_mid_stream(live: Live) -> tuple[int, int, int]:
    """`kill -9` of the worker that has the feed, while ticks come.

    How many had been sent when its connection ended, how many been told to be stored, and which worker it was.
    """
    [connection] = live.simulator.feed.connections
    sent, stored, leader = 60, 0, 0
    while connection in live.simulator.feed.connections:
        await live.send(INDICES[sent % len(INDICES)])
        sent += 1
        await asyncio.sleep(0.002)
        if sent == 400:
            stored = (await live.get("statistics"))["total"]
            leader = follower(live)
            os.kill(leader, signal.SIGKILL)
    return sent, stored, leader
