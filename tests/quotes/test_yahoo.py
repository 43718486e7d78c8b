"""Yahoo through the library, over real sockets: what comes back, and one kind of error for whatever goes wrong."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bokeh_sampledata.stocks
import httpx
import msgspec
import psutil
import pytest
import pytest_asyncio

from app.core.candles import Timeframe
from app.core.market_calendar import IST
from app.quotes.adapters.yahoo import Yahoo, YahooProcess
from app.quotes.adapters.yahoo.messages import Timeouts
from app.quotes.errors import (
    NonsenseError,
    NoSuchSymbolError,
    NothingFoundError,
    RateLimitedError,
    SourceError,
    UnreachableError,
)
from app.quotes.naming import resolve
from app.quotes.ports import Bar, Symbol
from tests.quotes.kit import PATIENT, ago, yahoo_of
from tests.simulators.yahoo import YahooMarket, YahooSimulator
from tests.simulators.yahoo.simulator import CHART, CRUMB, QUOTE
from tests.support.clocks import StandingClock
from tests.support.http import NO_TLS

APPLE, RELIANCE, NIFTY = Symbol("AAPL", indian=False), resolve("RELIANCE"), resolve("NIFTY50")


def api(simulator: YahooSimulator) -> Counter[str]:
    """Calls of charts and quotes, without those for cookies and crumbs."""
    return Counter({path: count for path, count in simulator.calls.items() if path.startswith(("/v7/", "/v8/"))})


async def test_real_days_come_back_as_they_were_traded_and_as_they_are_worth(yahoo: Yahoo, clock: StandingClock):
    fetched = await yahoo.candles(APPLE, Timeframe.D1, ago(clock, days=7000))
    real = bokeh_sampledata.stocks.AAPL
    bars = [bar for bar in fetched.bars if bar.closed]
    count = len(bars)
    assert count > 3000
    assert fetched.currency == "USD"
    assert fetched.dropped == 0
    for name in ("open", "close"):
        assert [getattr(bar.raw, name) for bar in bars] == pytest.approx(real[name][-count:], rel=1e-6)
    assert [bar.raw.volume for bar in bars] == pytest.approx(real["volume"][-count:], abs=2)
    assert [bar.split for bar in bars if bar.split] == [2.0, 2.0]
    # The sample's own adjusted closes are an independent measure of what a holder has earned.
    ours = bars[-1].adjusted.close / bars[0].adjusted.close
    theirs = real["adj_close"][-1] / real["adj_close"][-count]
    assert ours == pytest.approx(theirs, rel=2e-3)


async def test_days_of_india_begin_at_the_opening_and_todays_is_forming(yahoo: Yahoo, clock: StandingClock):
    fetched = await yahoo.candles(RELIANCE, Timeframe.D1, ago(clock, days=60))
    assert {bar.start.astimezone(IST).strftime("%H:%M") for bar in fetched.bars} == {"09:15"}
    assert [bar.closed for bar in fetched.bars] == [True] * (len(fetched.bars) - 1) + [False]
    assert fetched.bars[-1].start.date() == clock.now().date()


async def test_the_cookie_is_kept_for_its_host_and_sent_with_quotes(yahoo: Yahoo, simulator: YahooSimulator):
    """As Yahoo's: with a domain, so that a client that does not take this host's is refused."""
    assert await yahoo.quotes([RELIANCE])
    assert simulator.calls[CRUMB] == 1
    async with httpx.AsyncClient(base_url=simulator.base_url, verify=NO_TLS) as client:
        told = (await client.get("/")).headers["set-cookie"]
        assert re.fullmatch(
            r"A3=d=\w+&S=AQAAA; Expires=\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT; Max-Age=31536000; "
            r"Domain=127\.0\.0\.1; Path=/; HttpOnly",
            told,
        )
        name, _, value = told.partition(";")[0].partition("=")
        answers = [
            (await client.get(CRUMB, headers={"Cookie": f"{name}={given}"})).status_code for given in (value, "d=0")
        ]
    assert answers == [200, 401]


@pytest.mark.parametrize(("timeframe", "minutes"), [(Timeframe.M1, 1), (Timeframe.M5, 5), (Timeframe.M15, 15)])
async def test_minutes(yahoo: Yahoo, clock: StandingClock, timeframe: Timeframe, minutes: int):
    fetched = await yahoo.candles(NIFTY, timeframe, ago(clock, days=2))
    assert all((bar.start.astimezone(IST).minute - 15) % minutes == 0 for bar in fetched.bars)
    *closed, forming = fetched.bars
    assert all(bar.closed for bar in closed)
    assert not forming.closed
    assert forming.start <= clock.now() < forming.end


async def test_trades_that_come_late_leave_no_half_formed_bar_closed(
    process: YahooProcess, clock: StandingClock, tmp_path: Path
):
    lag = timedelta(minutes=12)
    market = YahooMarket(lambda: clock.now() - lag, years=1)
    async with YahooSimulator(market, now=clock.now, lag=lag) as simulator:
        yahoo = await yahoo_of(process, simulator, clock, tmp_path)
        fetched = await yahoo.candles(NIFTY, Timeframe.M5, ago(clock, days=1))
    # 11:02:30 less twelve minutes: the bar of 10:50 is over by the clock, and has half a minute of trades in it.
    assert fetched.bars[-1].start.astimezone(IST).strftime("%H:%M") == "10:50"
    assert not fetched.bars[-1].closed


async def test_hours_that_yahoo_begins_at_the_hour_begin_at_a_quarter_past(
    process: YahooProcess, yahoo: Yahoo, clock: StandingClock, tmp_path: Path
):
    right = await yahoo.candles(RELIANCE, Timeframe.H1, ago(clock, days=20))
    async with YahooSimulator(YahooMarket(clock.now, years=2), now=clock.now, at_hour=True) as simulator:
        other = await yahoo_of(process, simulator, clock, tmp_path)
        made = await other.candles(RELIANCE, Timeframe.H1, ago(clock, days=20))
    first = max(right.bars[0].start, made.bars[0].start)
    assert {bar.start.astimezone(IST).minute for bar in made.bars} == {15}

    def closes(bars: tuple[Bar, ...]) -> dict[Any, float]:
        return {bar.start: bar.adjusted.close for bar in bars if bar.start >= first}

    assert closes(made.bars) == closes(right.bars)


async def test_many_quotes_are_one_request_and_the_unknown_are_left_out(yahoo: Yahoo, simulator: YahooSimulator):
    symbols = [RELIANCE, NIFTY, resolve("NOSUCH"), APPLE]
    found = await yahoo.quotes(symbols)
    assert set(found) == {"RELIANCE.NS", "^NSEI", "AAPL"}
    assert api(simulator) == {QUOTE: 1}
    quote = found["RELIANCE.NS"]
    assert quote.currency == "INR"
    assert quote.market_state == "OPEN"
    assert quote.low is not None
    assert quote.high is not None
    assert quote.low <= quote.price <= quote.high
    assert found["AAPL"].market_state == "CLOSED"
    assert found["^NSEI"].market_cap is None


async def test_a_crumb_that_has_expired_is_replaced(yahoo: Yahoo, simulator: YahooSimulator):
    await yahoo.quotes([RELIANCE])
    simulator.renew_crumb()
    assert set(await yahoo.quotes([RELIANCE])) == {"RELIANCE.NS"}
    assert simulator.calls[CRUMB] == 2


async def test_a_crumb_that_never_holds_is_an_error_and_no_loop(yahoo: Yahoo, simulator: YahooSimulator):
    simulator.fail("expired", times=50, on=QUOTE)
    with pytest.raises(UnreachableError, match="401"):
        await yahoo.quotes([RELIANCE])
    assert api(simulator)[QUOTE] == 2


async def test_charts_do_without_a_crumb(yahoo: Yahoo, simulator: YahooSimulator, clock: StandingClock):
    simulator.fail("too_many", times=50, on=CRUMB)
    assert (await yahoo.candles(RELIANCE, Timeframe.D1, ago(clock, days=30))).bars


@pytest.mark.parametrize(("retry_after", "waits", "told"), [(None, 30, False), (7, 7, True)])
async def test_429_is_heard_and_not_answered_with_more_requests(
    yahoo: Yahoo, simulator: YahooSimulator, clock: StandingClock, retry_after: int | None, waits: float, *, told: bool
):
    simulator.fail("too_many", times=50, on="RELIANCE.NS", retry_after=retry_after)
    with pytest.raises(RateLimitedError) as caught:
        await yahoo.candles(RELIANCE, Timeframe.D1, ago(clock, days=30))
    assert caught.value.retry_after == waits
    assert caught.value.told is told
    assert api(simulator) == {f"{CHART}RELIANCE.NS": 1}


FAULTS: list[tuple[str, dict[str, Any], type[SourceError]]] = [
    ("unavailable", {}, UnreachableError),
    ("html", {"status": 502}, UnreachableError),
    ("reset", {}, UnreachableError),
    ("not_http", {}, UnreachableError),
    ("truncated", {}, UnreachableError),
    ("huge", {"megabytes": 17}, UnreachableError),
    ("slow", {"seconds": 600}, UnreachableError),
    ("drip", {}, UnreachableError),
    ("garbage", {}, NonsenseError),
    ("cut_json", {}, NonsenseError),
    ("empty", {}, NonsenseError),
    ("nested", {}, NonsenseError),
    ("empty_frame", {}, NothingFoundError),
    ("no_result", {}, NothingFoundError),
]


@pytest.mark.parametrize(("fault", "options", "kind"), FAULTS, ids=[fault for fault, _, _ in FAULTS])
async def test_faults_of_charts(
    process: YahooProcess,
    yahoo: Yahoo,
    simulator: YahooSimulator,
    clock: StandingClock,
    tmp_path: Path,
    fault: str,
    options: dict[str, Any],
    kind: type[SourceError],
):
    simulator.fail(fault, times=10, on="RELIANCE.NS", **options)
    if fault in {"slow", "drip"}:
        yahoo = await yahoo_of(process, simulator, clock, tmp_path, Timeouts(0.5, 1.0, 30.0))
    with pytest.raises(kind) as caught:
        await yahoo.candles(RELIANCE, Timeframe.D1, ago(clock, days=30))
    assert "RELIANCE" not in caught.value.detail
    simulator.heal()
    await process.point(msgspec.structs.replace(process._setup, timeouts=PATIENT))
    # Nothing of it is remembered.
    assert (await yahoo.candles(RELIANCE, Timeframe.D1, ago(clock, days=30))).bars


async def test_an_unknown_symbol_costs_one_request(yahoo: Yahoo, simulator: YahooSimulator, clock: StandingClock):
    for symbol in (resolve("NOSUCH"), Symbol("NOSUCH", indian=False)):
        with pytest.raises(NoSuchSymbolError):
            await yahoo.candles(symbol, Timeframe.D1, ago(clock, days=30))
        assert api(simulator) == {f"{CHART}{symbol.name}": 1}
        simulator.calls.clear()


async def test_what_the_library_keeps_is_in_the_given_folder(yahoo: Yahoo, clock: StandingClock, tmp_path: Path):
    await yahoo.candles(RELIANCE, Timeframe.D1, ago(clock, days=30))
    assert (tmp_path / "yahoo" / "tkr-tz.db").exists()


# The program


@pytest_asyncio.fixture
async def own(simulator: YahooSimulator, tmp_path: Path) -> AsyncIterator[YahooProcess]:
    """A program for one test alone."""
    made = YahooProcess(cache_dir=tmp_path / "own", base_url=simulator.base_url, timeouts=PATIENT, idle_seconds=0.3)
    yield made
    await made.close()


async def test_a_program_that_dies_or_is_stuck_or_idle_is_replaced(own: YahooProcess, simulator: YahooSimulator):
    assert own.pid is None  # it is started when it is needed
    await asyncio.gather(own.quotes(("TCS.NS",)), own.quotes(("INFY.NS",)))
    first = own.pid  # None if it has gone already
    # Without questions it goes, and its memory with it.
    async with asyncio.timeout(30):
        while own.pid is not None or (first is not None and psutil.pid_exists(first)):
            await asyncio.sleep(0.02)
    # It dies while it is asked.
    simulator.fail("half_open", on=QUOTE)
    asked = asyncio.create_task(own.quotes(("TCS.NS",)))
    async with asyncio.timeout(30):
        while not simulator.requests or simulator.calls[QUOTE] < 3:
            await asyncio.sleep(0.02)
    second = own.pid
    assert second is not None
    assert second != first
    os.kill(second, signal.SIGKILL)
    with pytest.raises(UnreachableError, match="program ended"):
        await asked
    # It is stuck: longer than a question may take it is not waited for.
    simulator.fail("half_open", on=QUOTE)
    await own.point(msgspec.structs.replace(own._setup, timeouts=Timeouts(10.0, 60.0, 3.0)))
    with pytest.raises(UnreachableError, match="timeout"):
        await own.quotes(("TCS.NS",))
    assert own.pid is None
    simulator.heal()
    await own.point(msgspec.structs.replace(own._setup, timeouts=PATIENT))
    assert [row["symbol"] for row in await own.quotes(("TCS.NS",))] == ["TCS.NS"]


def test_the_program_ends_with_its_input_and_gets_no_secrets(tmp_path: Path):
    program = [sys.executable, "-c", "import asyncio, os, sys\n" + SERVICE, str(tmp_path)]
    env = {**os.environ, "SECRET_KEY": "never-to-be-passed-on"}
    done = subprocess.run(program, capture_output=True, text=True, timeout=55, env=env, check=False)
    pid, environment = done.stdout.split("PID ")[1].split("\n", 1)
    assert done.returncode == -signal.SIGKILL
    assert "PATH=" in environment
    assert "never-to-be-passed-on" not in environment
    deadline = time.monotonic() + 30
    while psutil.pid_exists(int(pid)):
        assert time.monotonic() < deadline, "left behind"
        time.sleep(0.05)


SERVICE = """
from pathlib import Path
from app.quotes.adapters.yahoo import YahooProcess
async def main():
    process = YahooProcess(cache_dir=Path(sys.argv[1]), base_url="http://127.0.0.1:9")
    try:
        await process.quotes(("TCS.NS",))
    except Exception:
        pass
    print("PID", process.pid)
    print(Path(f"/proc/{process.pid}/environ").read_text(), flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
"""A service that is killed while its program runs."""
