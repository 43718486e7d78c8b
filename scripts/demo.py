#!/usr/bin/env python3
"""The service beside simulated providers: what `scripts/demo` runs. Ctrl-C ends both.

Prices are made up. The exchange of the demo is open around the clock: its calendar is a file in the demo's data folder,
given to the service by MARKET_CALENDAR_FILE. Of the environment and `.env` only what has nothing to do with the
providers is used.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.simulators.angel_one import AngelOneSimulator  # noqa: E402 (the path comes first)
from tests.simulators.angel_one.calendar import write_calendar  # noqa: E402
from tests.simulators.angel_one.faults import CONTROL, add_options, carry_out  # noqa: E402
from tests.simulators.angel_one.market import EQUITIES, INDICES, Market  # noqa: E402
from tests.simulators.coingecko import CoinGeckoSimulator  # noqa: E402
from tests.simulators.coinmarketcap import CoinMarketCapSimulator  # noqa: E402
from tests.simulators.yahoo import YahooMarket, YahooSimulator  # noqa: E402


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the person who runs it wants."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="The service with simulated live prices.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between ticks of an index (default: 0.5)")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "demo", help="the demo's data folder")
    add_options(parser)
    return parser.parse_args(arguments)


def environment(options: argparse.Namespace, *providers: dict[str, str]) -> dict[str, str]:
    """The environment of the service; `providers`: the settings of the simulated ones."""
    calendar = options.data / "market_calendar.json"
    write_calendar(calendar)
    return {
        **os.environ,
        "DATA_DIR": str(options.data),
        "MARKET_CALENDAR_FILE": str(calendar),
        "ENVIRONMENT": "development",
        "PAPER_ALWAYS_OPEN": "true",
        "ANGEL_ONE_SYMBOLS": "NSE:2885,NSE:1594",  # RELIANCE and INFY, beside the indices
        **{name: value for settings in providers for name, value in settings.items()},
    }


def greeting(url: str, faults: str) -> str:
    """What to look at; `faults`: where these are ordered."""
    return f"""
Simulated prices are streaming. Look at
  {url}/docs                                                       everything, to try out
  {url}/api/v1/market-data/latest                                  the newest ticks
  {url}/api/v1/market-data/chart/NIFTY%2050?timeframe=1m&format=html   a chart
  {url}/api/v1/cryptocurrencies/?limit=10                          coins, synced every five minutes
  {url}/api/v1/cryptocurrencies/BTC/chart?interval=1d&format=html      a year of one
  {url}/api/market/quote/RELIANCE                                  a share, as Yahoo would tell it
  {url}/api/signals/RELIANCE/chart?format=html                     what the rules say of it
  {url}/api/predictions/generate/RELIANCE                          POST, signed in: what models expect
  {url}/health                                                     how feed and syncs do
Let something go wrong (and curl -X DELETE the same to end it):
  curl {faults} -d '{{"fault": "half-open"}}'
Ctrl-C ends the demo. Its data stay in the demo's folder until you delete it.
"""


async def demo(options: argparse.Namespace) -> int:
    """Run both until the service ends; gives its exit status."""
    options.data = options.data.resolve()
    options.data.mkdir(parents=True, exist_ok=True)
    market = Market(seed=int(datetime.now(UTC).timestamp()), always=True)
    async with (
        AngelOneSimulator(market=market, rates={}, instrument_rows=500) as simulator,
        CoinGeckoSimulator() as gecko,
        CoinMarketCapSimulator() as cap,
        YahooSimulator(YahooMarket(american=False)) as yahoo,
    ):
        command = ["-m", "uvicorn", "app.main:app", "--host", options.host, "--port", str(options.port)]
        command += ["--ws", "websockets-sansio", "--no-access-log", "--no-proxy-headers", "--no-server-header"]
        env = environment(options, simulator.environment(), gecko.environment(), cap.environment(), yahoo.environment())
        service = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, env=env)
        # Ctrl-C reaches the service by itself; a SIGTERM of whoever supervises the demo is passed on.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _end, service)
        prices = asyncio.create_task(simulator.stream((*INDICES, *EQUITIES), every=options.every))
        faults = asyncio.create_task(carry_out(simulator, options))
        try:
            sys.stdout.write(greeting(f"http://{options.host}:{options.port}", f"{simulator.rest_url}{CONTROL}"))
            sys.stdout.flush()
            return await service.wait()
        finally:
            prices.cancel()
            faults.cancel()
            _end(service)
            await service.wait()


def _end(service: asyncio.subprocess.Process) -> None:
    if service.returncode is None:
        with suppress(ProcessLookupError):
            service.terminate()


def main() -> int:
    """Ctrl-C reaches the service, too: it ends by itself."""
    try:
        return asyncio.run(demo(options_of()))
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
