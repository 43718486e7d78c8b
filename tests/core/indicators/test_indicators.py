"""The indicators against a second implementation, and what TA-Lib is guarded against."""

import math
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import bokeh_sampledata.stocks
import numpy as np
import pytest

from app.core.indicators import CATALOG, NAMES, WARM_UP, sessions_of
from app.core.indicators.compute import Columns, columns, compute
from tests.core.indicators import oracle

_DAY = timedelta(days=1)


def invented(count: int, *, seed: int = 7, price: float = 100.0, traded: bool = True) -> Columns:
    chance = random.Random(seed)  # noqa: S311 (prices, not secrets)
    rows = []
    for _ in range(count):
        start = price * math.exp(chance.gauss(0, 0.004))
        price = start * math.exp(chance.gauss(0.0003, 0.012))
        high = max(start, price) * (1 + abs(chance.gauss(0, 0.004)))
        low = min(start, price) * (1 - abs(chance.gauss(0, 0.004)))
        rows.append((start, high, low, price, float(chance.randrange(1, 10_000_000)) if traded else 0.0))
    return columns(*zip(*rows, strict=True)) if rows else columns(*[[]] * 5)


def real() -> Columns:
    sample = bokeh_sampledata.stocks.AAPL
    return columns(sample["open"], sample["high"], sample["low"], sample["close"], sample["volume"])


def expected(bars: Columns) -> dict[str, Sequence[float | None]]:
    high, low, close, volume = (part.tolist() for part in (bars.high, bars.low, bars.close, bars.volume))
    made: dict[str, Sequence[float | None]] = {f"sma_{length}": oracle.sma(close, length) for length in (20, 50, 200)}
    made |= {f"ema_{length}": oracle.ema(close, length) for length in (20, 50)}
    made["rsi_14"] = oracle.rsi(close, 14)
    made["macd"], made["macd_signal"], made["macd_histogram"] = oracle.macd(close)
    upper, middle, lower = oracle.bollinger(close, 20, 2)
    made |= {"bollinger_upper": upper, "bollinger_middle": middle, "bollinger_lower": lower}
    made["bollinger_percent_b"] = [
        None if one is None or other is None else (value - other) / (one - other)
        for value, one, other in zip(close, upper, lower, strict=True)
    ]
    made["atr_14"] = oracle.atr(high, low, close, 14)
    made["adx_14"], made["plus_di_14"], made["minus_di_14"] = oracle.direction(high, low, close, 14)
    made["momentum_10"] = [None] * 10 + [after - before for before, after in zip(close, close[10:], strict=False)]
    made["roc_10"] = [None] * 10 + [
        after / before * 100 - 100 for before, after in zip(close, close[10:], strict=False)
    ]
    made["obv"] = oracle.obv(close, volume)
    made["vwap"] = oracle.vwap(high, low, close, volume, None if bars.session is None else bars.session.tolist())
    return made


@pytest.mark.parametrize("bars", [invented(900), real()], ids=["invented", "AAPL"])
def test_a_second_implementation_agrees(bars: Columns):
    made, wanted = compute(bars), expected(bars)
    assert made.keys() == wanted.keys() == set(NAMES)
    scale = float(bars.close.mean())
    recursive = {one.name for one in CATALOG if one.needs == WARM_UP}
    units = {one.name: one.unit for one in CATALOG}
    for name, values in made.items():
        assert values.dtype == np.float64
        assert len(values) == len(bars)
        known = [place for place, value in enumerate(wanted[name]) if value is not None]
        if name in recursive:
            known = [place for place in known if place >= WARM_UP]
        assert np.flatnonzero(np.isfinite(values)).tolist() == known, name
        # The averages began otherwise there, 250 bars before; of differences the price is the measure.
        tolerance = {"price": 4e-5 * scale if name == "ema_50" else 1e-7 * scale, "volume": 0}.get(units[name], 1e-5)
        for place in known:
            assert values[place] == pytest.approx(wanted[name][place], rel=1e-9, abs=tolerance), (name, place)


def test_the_average_price_of_a_session_begins_with_it():
    starts = [
        datetime(2026, 11, 16, 3, 45, tzinfo=UTC) + day * _DAY + minute * timedelta(minutes=15)
        for day in range(3)
        for minute in range(25)
    ]
    numbers = sessions_of(starts)
    assert numbers == [day for day in range(3) for _ in range(25)]
    bars = replace(invented(75), session=np.array(numbers))
    values, wanted = compute(bars)["vwap"].tolist(), expected(bars)["vwap"]
    # Nobody knows what of the first session is missing.
    assert all(math.isnan(value) for value in values[:25])
    assert values[25:] == pytest.approx(wanted[25:], rel=1e-12)
    assert values[25] == pytest.approx((bars.high[25] + bars.low[25] + bars.close[25]) / 3)


def test_what_is_never_closed_has_a_session_a_day():
    starts = [datetime(2026, 11, 16, 22, tzinfo=UTC) + hour * timedelta(hours=1) for hour in range(30)]
    assert sessions_of(starts) == [0] * 2 + [1] * 24 + [2] * 4


def test_a_price_that_stands_still_is_not_oversold():
    flat = columns(*[[50.0] * 400] * 4, [1000.0] * 400)
    made = compute(flat)
    for name in ("rsi_14", "bollinger_percent_b"):
        assert np.isnan(made[name]).all(), name
    assert made["sma_20"][-1] == made["ema_50"][-1] == made["bollinger_upper"][-1] == made["vwap"][-1] == 50
    assert made["atr_14"][-1] == made["macd"][-1] == made["adx_14"][-1] == made["momentum_10"][-1] == 0


def test_bands_of_a_price_that_has_come_to_rest_have_no_width():
    bars = invented(400)
    close = bars.close.copy()
    close[300:] = 1234.1
    made = compute(replace(bars, close=close, high=np.maximum(bars.high, close), low=np.minimum(bars.low, close)))
    assert np.isfinite(made["bollinger_percent_b"][250:319]).all()
    assert np.isnan(made["bollinger_percent_b"][319:]).all()


def test_a_fall_from_which_nothing_rises_is_oversold():
    close = [1000.0 - place for place in range(400)]
    falling = columns(close, [one + 0.5 for one in close], [one - 0.5 for one in close], close, [1.0] * 400)
    assert compute(falling)["rsi_14"][-1] == 0


def test_a_stretch_without_change_within_a_series_has_no_strength():
    bars = invented(600)
    close = bars.close.copy()
    close[400:430] = close[399]
    values = compute(replace(bars, close=close, high=np.maximum(bars.high, close), low=np.minimum(bars.low, close)))
    unknown = np.flatnonzero(np.isnan(values["rsi_14"][WARM_UP:])) + WARM_UP
    assert unknown.tolist() == list(range(413, 430))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_nothing_reaches_across_a_bar_without_a_price(bad: float):
    bars = invented(800)
    close, low = bars.close.copy(), bars.low.copy()
    close[300], low[300] = bad, bad
    made = compute(replace(bars, close=close, low=low))
    head = compute(bars.part(0, 300))
    tail = compute(bars.part(301, 800))
    for name in NAMES:
        assert math.isnan(made[name][300]), name
        np.testing.assert_array_equal(made[name][:300], head[name], name)
        np.testing.assert_array_equal(made[name][301:], tail[name], name)
    # TA-Lib alone would say 0 for the first of these.
    assert math.isnan(made["rsi_14"][301])
    assert math.isfinite(made["rsi_14"][301 + WARM_UP])


@pytest.mark.parametrize("count", [0, 1, 2, 19, 20, 249, 251])
def test_short_series_have_what_they_can_have(count: int):
    made = compute(invented(count))
    for one in CATALOG:
        assert len(made[one.name]) == count
        if count < one.needs:
            assert np.isnan(made[one.name]).all(), one.name
        elif count > max(one.needs, 20):
            assert math.isfinite(made[one.name][-1]), one.name


def test_other_types_of_numbers_are_taken():
    bars = invented(300)
    single = [part.astype(np.float32) for part in (bars.open, bars.high, bars.low, bars.close, bars.volume)]
    whole = columns(*[[100 + place % 7 for place in range(300)]] * 4, [10] * 300)
    assert math.isfinite(compute(columns(*single))["rsi_14"][-1])
    assert compute(whole)["sma_200"].dtype == np.float64


def test_columns_are_equally_long():
    with pytest.raises(ValueError, match="equally long"):
        columns([1.0], [1.0], [1.0], [1.0], [1.0, 2.0])


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        compute(invented(30), ["rsi_15"])


def test_only_what_is_asked_for_is_made():
    bars = invented(400)
    made = compute(bars, ["macd", "obv"])
    assert list(made) == ["macd", "obv"]
    np.testing.assert_array_equal(made["macd"], compute(bars)["macd"])


def test_where_nobody_reports_a_volume_nothing_is_made_of_it():
    made = compute(invented(300, traded=False))
    assert np.isnan(made["obv"]).all()
    assert np.isnan(made["vwap"]).all()


@pytest.mark.parametrize("price", [1e-12, 1e-6, 1e5])
def test_the_size_of_prices_does_not_matter(price: float):
    bars, usual = invented(600, price=price), invented(600)
    made, wanted = compute(bars), compute(usual)
    for name in ("rsi_14", "adx_14", "plus_di_14", "bollinger_percent_b", "roc_10"):
        np.testing.assert_allclose(made[name], wanted[name], rtol=1e-5, err_msg=name)


def test_the_past_does_not_change_with_what_follows():
    bars = invented(700)
    whole = compute(bars)
    for end in (260, 400, 555):
        part = compute(bars.part(0, end))
        for name in NAMES:
            np.testing.assert_array_equal(part[name], whole[name][:end], name)


def test_after_the_warm_up_the_beginning_is_forgotten():
    bars = invented(900)
    late = compute(bars.part(300, 900))
    early = compute(bars)
    for one in CATALOG:
        if one.needs == WARM_UP:
            tolerance = 2e-5 if one.name == "ema_50" else 1e-5
            np.testing.assert_allclose(
                late[one.name][WARM_UP:], early[one.name][300 + WARM_UP :], rtol=tolerance, atol=1e-6, err_msg=one.name
            )


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, app.core.indicators; print([name for name in ('numpy', 'talib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "[]"


def test_computing_loads_neither_pandas_nor_polars_and_leaves_them_to_whoever_wants_them():
    code = (
        "import sys, app.core.indicators.compute;"
        "print([name for name in ('pandas', 'polars') if name in sys.modules]);"
        "import pandas; print(pandas.Series([1.0]).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.split() == ["[]", "1.0"]
