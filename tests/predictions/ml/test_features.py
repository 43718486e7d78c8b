"""What models see of a bar: known when it closed, at any price, whatever the market did."""

from itertools import pairwise

import numpy as np
import pytest

from app.predictions.ml.bars import Bars, bars_of
from app.predictions.ml.errors import InvalidSeriesError, TooFewBarsError
from app.predictions.ml.features import FEATURES, LEAST_VOLATILITY, VOLATILITY_BARS, features, volatility
from app.predictions.ml.values import MAXIMUM_BARS, TrainRequest, minimum_bars
from tests.predictions.ml.series import COLUMNS, changed, cut, invented, real


def table(bars: Bars) -> np.ndarray:
    return features(bars, volatility(bars.close))


def part(bars: Bars, count: int) -> Bars:
    return Bars(*(column[:count] for column in bars))


@pytest.mark.parametrize("request_", [real("AAPL"), real("IBM"), invented()], ids=["AAPL", "IBM", "invented"])
def test_no_feature_looks_ahead(request_: TrainRequest) -> None:
    """Computed on the history as it was then, every value is bit for bit what it is computed on all of it."""
    bars = bars_of(request_)
    whole, sigma = table(bars), volatility(bars.close)
    for count in (250, 251, 333, 700, 1000, len(bars.close) - 1):
        then = part(bars, count)
        np.testing.assert_array_equal(volatility(then.close), sigma[:count])
        np.testing.assert_array_equal(table(then), whole[:count])


def test_every_feature_reacts_to_its_own_bar() -> None:
    """Otherwise the test above would hold for a table of constants."""
    bars = bars_of(invented())
    bar = 600
    moved = Bars(*(column.copy() for column in bars))
    moved.open[bar] *= 1.01
    moved.high[bar] *= 1.05
    moved.close[bar] *= 1.04
    moved.volume[bar] *= 3
    before, after = table(bars), table(moved)
    np.testing.assert_array_equal(before[:bar], after[:bar])
    same = [name for name, old, new in zip(FEATURES, before[bar], after[bar], strict=True) if old == new]
    assert same == []


def test_volatility_is_the_exponential_mean_of_squared_returns() -> None:
    close = bars_of(real()).close
    returns = [float(np.log(later / earlier)) for earlier, later in pairwise(close)]
    mean = sum(one**2 for one in returns[:VOLATILITY_BARS]) / VOLATILITY_BARS
    expected = [mean**0.5]
    for one in returns[VOLATILITY_BARS:]:
        mean += (one**2 - mean) * 2 / (VOLATILITY_BARS + 1)
        expected.append(mean**0.5)
    sigma = volatility(close)
    assert np.isnan(sigma[:VOLATILITY_BARS]).all()
    np.testing.assert_allclose(sigma[VOLATILITY_BARS:], expected, rtol=1e-9)


def test_the_level_of_prices_and_volumes_does_not_matter() -> None:
    request = real()
    dear = changed(request, **{name: [1000 * one for one in getattr(request, name)] for name in COLUMNS})
    np.testing.assert_allclose(table(bars_of(dear))[250:], table(bars_of(request))[250:], atol=1e-6)


def test_features_are_known_after_the_warm_up_and_bounded() -> None:
    rows = table(bars_of(real()))[200:]
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() <= 8
    assert (rows.std(axis=0) > 0.1).all()


def test_a_market_that_stands_still_is_neutral() -> None:
    """TA-Lib calls that an RSI of 0, which is "oversold" to whoever takes it as it comes."""
    bars = bars_of(invented())
    still = Bars(*(column.copy() for column in bars))
    for column in still[1:5]:
        column[600:700] = bars.close[599]
    still.volume[600:700] = 0
    rows = table(still)
    assert np.isfinite(rows[250:]).all()
    quiet = dict(zip(FEATURES, rows[690], strict=True))
    names = (
        "rsi_14",
        "return_1",
        "return_20",
        "body",
        "gap",
        "close_in_range",
        "bollinger_position",
        "relative_volume",
    )
    assert {name: round(float(quiet[name]), 9) for name in names} == dict.fromkeys(names, 0.0)
    assert volatility(still.close).min(initial=1.0, where=~np.isnan(volatility(still.close))) >= LEAST_VOLATILITY


def test_an_index_without_volume_can_be_learnt_from() -> None:
    request = real()
    rows = table(bars_of(changed(request, volume=[0.0] * len(request.volume))))[250:]
    assert np.isfinite(rows).all()
    assert (rows[:, FEATURES.index("relative_volume")] == 0).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"close": [1.0]}, "differ in length"),
        ({"high": "nan"}, "missing or not positive"),
        ({"low": "zero"}, "missing or not positive"),
        ({"volume": "nan"}, "volume"),
        ({"starts": "twice"}, "order of their times"),
        ({"horizon_bars": 0}, "horizon"),
        ({"horizon_bars": 61}, "horizon"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_candles_that_are_none_are_refused(fields: dict[str, object], words: str) -> None:
    """A NaN inside gives TA-Lib's indicators finite, wrong values after it: it has to stop here."""
    request = invented()
    (name, what), *_ = fields.items()
    if isinstance(what, str):
        column = list(getattr(request, name))
        column[500] = {"nan": float("nan"), "zero": 0.0, "twice": column[499]}[what]
        what = column
    with pytest.raises(InvalidSeriesError, match=words):
        bars_of(changed(request, **{name: what}))


def test_a_price_that_hardly_moves_is_refused() -> None:
    request = invented()
    flat = [request.close[number // 3 * 3] for number in range(len(request.close))]
    with pytest.raises(InvalidSeriesError, match="did not change"):
        bars_of(changed(request, close=flat))


def test_short_histories_are_refused_and_long_ones_cut() -> None:
    request = invented()
    needed = minimum_bars(1)
    assert len(bars_of(cut(request, needed)).close) == needed
    with pytest.raises(TooFewBarsError, match=f"has {needed - 1} closed candles of 1D.* needs {needed}"):
        bars_of(cut(request, needed - 1))
    long = bars_of(invented(bars=MAXIMUM_BARS + 100))
    assert len(long.close) == MAXIMUM_BARS
    assert long.starts[0] == 100 * 86_400
