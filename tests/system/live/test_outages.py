"""What goes wrong around the feed: the exchange's side, the database's, our own end. Nothing stored is lost or doubled.

Each of these mostly waits, so those that are to run are started together; each has a service of its own.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
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
from tests.system.live.kit import API, INDICES, NIFTY, Listener, Live, leaks, subscribed, until

pytestmark = pytest.mark.timeout(180)  # the first to be waited for may wait for all

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

    async def told() -> Any:
        return await live.get("statistics")

    await until(told, lambda told: told["total"] >= sent)
    counts = await live.stored_counts()
    statistics = await until(told, lambda told: told["by_symbol"] == counts)
    assert statistics["total"] == sent
    assert statistics["feed"]["lost"] == 0


async def seen_again(live: Live, *, seconds: float = 30) -> None:
    """A tick that is sent now arrives."""
    async with live.listening("NIFTY 50") as listener:
        await listener.hear(NIFTY, await live.send(NIFTY), seconds)


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
            assert (feed["state"], feed["status"]) == ("backing off", "degraded")
        assert (await live.client.get("/health/ready")).status_code == 200
        simulator.feed.faults.refuse = None
        simulator.sessions.expire()
        await live.following(40)

        feed = await until(live.feed, lambda feed: feed["state"] == "live")
        await seen_again(live)
        assert feed["reconnects"] == 1
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
    """A rate limit in plain text, 429, a proxy's page, an answer that is slow; meanwhile everything else is served."""
    live = Live(folder, subscribed=False)
    live.simulator.rest.fail(LOGIN, html(502), slow(2.0))
    async with live:
        first = await until(live.feed, lambda feed: feed.get("last_error"))
        assert (first["status"], first["last_error"]) == ("degraded", "unreachable (502)")
        assert await live.get("latest") == []
        await until(live.feed, lambda feed: feed["state"] == "connecting")
        await live.following()
        await until(live.feed, lambda feed: feed["state"] == "live")
        await seen_again(live)
        assert [request.path for request in live.simulator.rest.requests].count(LOGIN) == 2


@side_by_side
async def test_a_refused_sign_in_is_not_repeated(folder: Path):
    """The account would be locked. The feed says what to do, and the rest of the service goes on."""
    live = Live(folder, subscribed=False, env={"ANGEL_ONE_PASSWORD": "pin-of-somebody-else"})
    live.simulator.rest.fail(LOGIN, rate_limited(), too_many(1))
    async with live:
        early = await until(live.feed, lambda feed: feed.get("last_error"))
        assert early["last_error"] in {"rate limited (403)", "rate limited (429)"}
        feed = await until(live.feed, lambda feed: feed["state"] == "refused")
        assert (feed["status"], feed["last_error"]) == ("degraded", "sign-in refused (AB1007)")
        assert (await live.client.get("/health/ready")).status_code == 200
        assert (await live.get("statistics"))["total"] == 0
        assert [request.path for request in live.simulator.rest.requests].count(LOGIN) == 3
        assert "ANGEL_ONE_PASSWORD" in live.service.log_text() or "AB1007" in live.service.log_text()
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
        database = (await live.get("/health"))["database"]["embedded"]["pid"]
        await live.send_many(60)
        await until(live.counters, lambda told: told["stored"] == 60)
        sent = 60
        async with live.listening("NIFTY 50") as listener:
            psutil.Process(database).suspend()
            try:
                while not spilled(live):
                    # The stream does not wait for the database.
                    await listener.hear(NIFTY, await live.send(NIFTY))
                    await live.send_many(11)
                    await asyncio.sleep(0.02)
                    sent += 12
                async with live.listening("NIFTY 50") as newcomer:
                    await newcomer.hear(NIFTY, await live.send(NIFTY))
                feed = await live.feed()
            finally:
                with suppress(psutil.NoSuchProcess):  # one that is silent for ten seconds is killed and replaced
                    psutil.Process(database).resume()
        sent += 1
        assert (feed["status"], feed["storing"]["status"]) == ("degraded", "degraded")
        assert feed["storing"]["spill_bytes"] > 0
        await live.send_many(30)
        sent += 30

        await stored_as_sent(live, sent)
        counted = await until(live.counters, lambda told: told["stored"] == sent)
        assert counted["spilled"] > 0
        await until(live.feed, lambda feed: feed["storing"]["status"] == "ok" and not feed["storing"]["spill_bytes"])
        assert not spilled(live)


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
        await seen_again(live)
        await stored_as_sent(live, 902)


@pytest.mark.embedded
@side_by_side
async def test_kill_of_everything_loses_at_most_what_was_not_written_yet(folder: Path):
    async with Live(folder) as live:
        await live.send_many(300)
        await until(live.counters, lambda told: told["stored"] == 300)
        await live.send_many(60)
        await asyncio.to_thread(live.service.kill_all)
        await live.start()

        async def told() -> Any:
            return await live.get("statistics")

        counts = await live.stored_counts()
        assert 300 <= sum(counts.values()) <= 360
        await until(told, lambda told: told["by_symbol"] == counts)
        await seen_again(live)
        await until(told, lambda told: told["total"] == sum(counts.values()) + 1)


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

        [leader] = [pid for pid, feed in feeds.items() if feed["leading"]]
        survivor = listeners[1 - list(clients).index(leader)]
        before, told_before = await killed_in_mid_stream(live, leader)
        began = asyncio.get_running_loop().time()
        await live.following()
        took = asyncio.get_running_loop().time() - began
        after = await live.send_many(120)
        await survivor.hear(INDICES[-1], after[-1])

        async def told() -> Any:
            return await live.get("statistics")

        # A lease of six seconds, and the two that the others may take to look.
        assert took < 30
        statistics = await until(told, lambda told: told["feed"]["state"] == "live" and told["feed"]["stored"] >= 120)
        counts = await until(live.stored_counts, lambda counts: sum(counts.values()) >= statistics["total"])
        statistics = await until(told, lambda told: told["by_symbol"] == counts)
        assert max(before - SinkBounds().batch, told_before) + 120 <= statistics["total"] <= before + 120
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


async def killed_in_mid_stream(live: Live, leader: int) -> tuple[int, int]:
    """`kill -9` while ticks come: how many had been sent when the connection ended, and been told to be stored."""
    sent, stored = 60, 0
    while live.simulator.feed.connections:
        await live.send(INDICES[sent % len(INDICES)])
        sent += 1
        await asyncio.sleep(0.002)
        if sent == 400:
            stored = (await live.get("statistics"))["total"]
            os.kill(leader, signal.SIGKILL)
    return sent, stored
