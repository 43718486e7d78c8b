"""Outside the market's hours, and before anything runs at all."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.service import ROOT
from tests.system.live.kit import NIFTY, Live, until

pytestmark = pytest.mark.timeout(180)


@pytest_asyncio.fixture(scope="module")
async def closed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Live, Live]]:
    """On a holiday, two services: one that follows the feed nevertheless, and one as it comes."""
    always = Live(tmp_path_factory.mktemp("always"), always_open=False, env={"FEED_ALWAYS": "true"})
    usual = Live(tmp_path_factory.mktemp("usual"), always_open=False, subscribed=False)
    await asyncio.gather(always.__aenter__(), usual.__aenter__())
    yield always, usual
    await asyncio.gather(always.__aexit__(None, None, None), usual.__aexit__(None, None, None))


async def test_ticks_on_a_holiday_are_streamed_and_counted_but_not_stored(closed: tuple[Live, Live]):
    live, _ = closed
    async with live.listening("NIFTY 50") as listener:
        tick = await listener.hear(NIFTY, await live.send(NIFTY))
        tick = await listener.hear(NIFTY, await live.send(NIFTY))
    counted = await until(live.counters, lambda told: told["received"] == 2)
    status = await live.get("market-status")

    assert tick["after_hours"] is True
    assert (counted["after_hours"], counted["stored"]) == (2, 0)
    assert counted["state"] in {"live", "silent"}  # as it is called some seconds after the last tick
    assert (status["status"], status["is_open"], status["note"]) == ("closed", False, "Holiday")
    assert await live.stored("NIFTY 50") == []
    assert await live.get("candles/NIFTY 50") == []
    assert (await live.get("statistics"))["total"] == 0
    # What was seen is shown while the process lives, and says what it is.
    assert await live.get("latest", symbols="NIFTY 50") == [tick]


async def test_the_feed_pauses_while_the_market_is_closed(closed: tuple[Live, Live]):
    _, live = closed
    # Degraded until the list of instruments has come.
    feed = await until(live.feed, lambda feed: (feed["state"], feed["status"]) == ("paused", "ok"))
    assert (feed["status"], feed["leading"], feed["sign_ins"], feed["connections"]) == ("ok", True, 0, 0)
    await until(lambda: live.get("/health"), lambda health: health["status"] == "ok")
    assert (await until(live.counters, lambda told: told["state"] == "paused"))["received"] == 0
    assert live.simulator.feed.handshakes == 0
    assert [request.path for request in live.simulator.rest.requests if "auth" in request.path] == []


WATCH = """
import json, sys
seen, written = [], []
def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        seen.append(event)
    elif event == "os.mkdir" or (event == "open" and set(str(arguments[1] or "")) & set("wax+")):
        written.append(str(arguments[0]))
sys.addaudithook(watch)
import pkgutil, importlib
import app.main, app.market_data, app.integrations
for package in (app.market_data, app.integrations):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(json.dumps({
    "network": seen,
    "written": [path for path in written if ".pyc" not in path],
    "modules": sorted({name.split(".")[0] for name in sys.modules} & {"SmartApi", "logzero", "requests"}),
}))
"""


def test_nothing_uses_the_network_or_makes_a_folder_when_it_is_imported(tmp_path: Path):
    command = [sys.executable, "-c", WATCH]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (report["network"], report["written"]) == ([], [])
    assert "SmartApi" not in report["modules"]
    assert "logzero" not in report["modules"]
    assert list(tmp_path.iterdir()) == []
