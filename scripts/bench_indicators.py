#!/usr/bin/env python3
"""What indicators and signals cost, in ratios of one run: `.venv/bin/python scripts/bench_indicators.py`.

1. All indicators of one series by TA-Lib's own calls, as anybody would write them, without any guard;
2. the same by `core.indicators` with its guards, and the ratio (aim: at most 1.3, where the series is long enough for
   the 30 µs that some guards take whatever its length);
3. a whole signal: indicators, rules, levels, backtest with charges, and 1,000 random draws;
4. how long the event loop of the service waits while signals are made in threads, one after another.

The parts take turns, and the best of each counts: whatever else the machine does comes and goes.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import talib  # noqa: E402

from app.core.candles import CandleSeries  # noqa: E402
from app.core.charges import ChargeEngine  # noqa: E402
from app.core.indicators.compute import Columns, Floats, columns, compute  # noqa: E402
from app.signals.analysis import analyse  # noqa: E402 (these too: the path comes first)

AIM = 1.3


def invented(count: int) -> Columns:
    """A random walk with volume."""
    chance = np.random.default_rng(6)
    close = 1400 * np.exp(np.cumsum(chance.normal(0.0002, 0.012, count)))
    opens = np.concatenate(([1400.0], close[:-1])) * np.exp(chance.normal(0, 0.002, count))
    high = np.maximum(opens, close) * (1 + np.abs(chance.normal(0, 0.004, count)))
    low = np.minimum(opens, close) * (1 - np.abs(chance.normal(0, 0.004, count)))
    return columns(opens, high, low, close, chance.integers(10_000, 9_000_000, count).astype(float))


def plainly(bars: Columns) -> list[Floats]:
    """The same indicators without a guard."""
    close, prices = bars.close, (bars.high, bars.low, bars.close)
    found = [talib.SMA(close, length) for length in (20, 50, 200)]
    found += [talib.EMA(close, length) for length in (20, 50)]
    upper, middle, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    weighted = talib.TYPPRICE(*prices) * bars.volume
    found += [talib.RSI(close, 14), *talib.MACD(close, 12, 26, 9), upper, middle, lower]
    found += [(close - lower) / (upper - lower), talib.ATR(*prices, 14), talib.ADX(*prices, 14)]
    found += [talib.PLUS_DI(*prices, 14), talib.MINUS_DI(*prices, 14), talib.MOM(close, 10), talib.ROC(close, 10)]
    return [*found, talib.OBV(close, bars.volume), talib.SUM(weighted, 20) / talib.SUM(bars.volume, 20)]


def best(parts: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each part's quickest round; the parts take turns."""
    found = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, part in parts.items():
            begin = time.perf_counter()
            part()
            found[name] = min(found[name], time.perf_counter() - begin)
    return found


def series_of(bars: Columns) -> CandleSeries:
    """As the service hands candles around."""
    last = datetime(2026, 11, 20, 3, 45, tzinfo=UTC)
    starts = [last - timedelta(days=back) for back in range(len(bars) - 1, -1, -1)]
    parts = [tuple(part.tolist()) for part in (bars.open, bars.high, bars.low, bars.close, bars.volume)]
    opens, high, low, close, volume = parts
    return CandleSeries(
        "RELIANCE.NS", "1D", starts, opens, high, low, close, volume, True, "yahoo", last, False, "INR"
    )  # fmt: skip


async def stalls(series: CandleSeries, engine: ChargeEngine, seconds: float) -> tuple[int, list[float]]:
    """Signals made in threads meanwhile, and by how much the loop was late at each of its ticks."""
    late: list[float] = []
    made, done = 0, False

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        while not done:
            begin = loop.time()
            await asyncio.sleep(0.002)
            late.append(loop.time() - begin - 0.002)

    watching = asyncio.create_task(tick())
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await asyncio.to_thread(analyse, series, engine)
        made += 1
    done = True
    await watching
    return made, sorted(late)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bars", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=3.0, help="of the measurement of the event loop")
    options = parser.parse_args()

    ratios = {}
    for count in (1_500, options.bars):
        bars = invented(count)
        found = best({"plain": partial(plainly, bars), "guarded": partial(compute, bars)}, options.rounds)
        ratios[count] = found["guarded"] / found["plain"]
        print(
            f"21 indicators over {count:>6,} candles: TA-Lib's own calls {found['plain'] * 1e6:7.0f} µs, "
            f"guarded {found['guarded'] * 1e6:7.0f} µs, ratio {ratios[count]:.2f}"
            f"{f' (aim: {AIM} at most)' if count == options.bars else ''}"
        )

    engine, series = ChargeEngine(), series_of(invented(1_500))
    whole = best({"signal": lambda: analyse(series, engine)}, max(options.rounds // 10, 5))
    print(f"a whole signal with its backtest over 1,500 candles: {whole['signal'] * 1e3:.1f} ms")

    made, late = asyncio.run(stalls(series, engine, options.seconds))
    middle, high = late[len(late) // 2], late[int(len(late) * 0.99)]
    print(
        f"the event loop while {made} signals are made in a thread ({made / options.seconds:.0f}/s): late by "
        f"{middle * 1e3:.1f} ms (median), {high * 1e3:.1f} ms (99 of 100), {late[-1] * 1e3:.1f} ms at most"
    )
    return 0 if ratios[options.bars] <= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
