"""Measures of risk, against hand-made examples and other implementations."""

import math
import statistics
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.crypto import risk
from app.crypto.history_slots import Interval
from app.crypto.risk import Day, Return
from app.crypto.schemas.risk import CoinRisk, CorrelationMatrix
from tests.crypto.portfolio.kit import COINS, DAY, HOUR, MIDNIGHT, NOON, Desk, daily, listing_of, point, price_of, walk

RETURNS = st.floats(-0.9, 3.0, allow_nan=False)
PRICES = st.floats(1e-12, 1e9)


def days_of(values: list[float]) -> list[Day]:
    return [Day(MIDNIGHT - (len(values) - number) * DAY, value) for number, value in enumerate(values)]


# Returns


def test_returns_are_of_points_a_day_apart() -> None:
    points = [
        point(MIDNIGHT - 10 * DAY + 14 * HOUR, 100),  # the first day began in the afternoon
        point(MIDNIGHT - 9 * DAY, 200),
        point(MIDNIGHT - 8 * DAY + timedelta(minutes=5), 220),
        point(MIDNIGHT - 7 * DAY + 5 * HOUR, 110),  # late, and a day all the same
        point(MIDNIGHT - 4 * DAY, 100),  # two days are missing
        point(MIDNIGHT - 3 * DAY, 50),
        point(MIDNIGHT - 2 * DAY, "1e-400"),  # nothing that a double can hold
    ]
    days = risk.days_of(points)
    assert len(days) == 6
    found = risk.daily_returns(days)
    assert [one.value for one in found] == pytest.approx([0.1, -0.5, -0.5])
    assert [risk.day_number(MIDNIGHT) - one.day for one in found] == [8, 7, 3]
    assert risk.gaps_of(days) == 2


# Volatility


def test_volatility_by_hand() -> None:
    # Up and down by turns: log returns of +a and -a, whose deviation with n - 1 is a * sqrt(n / (n - 1)).
    returns = [math.exp(0.02) - 1, math.exp(-0.02) - 1] * 20
    expected = 0.02 * math.sqrt(40 / 39) * math.sqrt(365)
    assert risk.volatility(returns).value == pytest.approx(expected, rel=1e-12)
    assert risk.volatility([0.01] * 30).value == pytest.approx(0, abs=1e-12)


@given(st.lists(RETURNS, min_size=30, max_size=80))
def test_volatility_as_numpy_and_statistics_have_it(returns: list[float]) -> None:
    logs = np.log1p(np.array(returns))
    found = risk.volatility(returns)
    assert found.value == pytest.approx(float(np.std(logs, ddof=1)) * math.sqrt(365), rel=1e-9, abs=1e-12)
    assert found.value == pytest.approx(statistics.stdev(map(math.log1p, returns)) * 365**0.5, rel=1e-9, abs=1e-12)
    assert (found.reason, found.observations, found.needed) == (None, len(returns), 30)


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (0, "There are no daily returns yet; 30 are needed."),
        (1, "There is only 1 daily return yet; 30 are needed."),
        (29, "There are only 29 daily returns yet; 30 are needed."),
    ],
)
def test_too_few_are_refused_with_the_number(count: int, reason: str) -> None:
    assert risk.volatility([0.01] * count) == risk.Measure(None, reason, count, 30)


# Drawdown


def test_drawdown_by_hand() -> None:
    days = days_of([100, 120, 90, 60, 110, 120, 130, 104])
    found = risk.maximum_drawdown(days)
    assert found is not None
    assert found.depth == pytest.approx(0.5)
    assert (found.peak_at, found.trough_at, found.recovered_at) == (days[1].at, days[3].at, days[5].at)
    assert found.current == pytest.approx(0.2)
    still = risk.maximum_drawdown(days_of([5, 4, 3]))
    assert still is not None
    assert still.recovered_at is None
    assert still.current == still.depth == pytest.approx(0.4)
    rising = risk.maximum_drawdown(days_of([1, 2, 3]))
    assert rising is not None
    assert rising.depth == rising.current == 0
    assert risk.maximum_drawdown(days_of([1])) is None


@given(st.lists(PRICES, min_size=2, max_size=40))
def test_drawdown_is_the_worst_of_all_pairs(values: list[float]) -> None:
    days = days_of(values)
    found = risk.maximum_drawdown(days)
    assert found is not None
    worst = max(1 - after / before for place, before in enumerate(values) for after in values[place:])
    assert found.depth == pytest.approx(worst, rel=1e-12, abs=1e-15)
    by_time = {day.at: day.value for day in days}
    assert 1 - by_time[found.trough_at] / by_time[found.peak_at] == pytest.approx(found.depth, abs=1e-15)
    assert found.current == pytest.approx(1 - values[-1] / max(values), abs=1e-15)
    if found.recovered_at is not None and found.depth:
        assert by_time[found.recovered_at] >= by_time[found.peak_at]


# Tails


def test_tails_by_hand() -> None:
    # A hundred losses of 1 … 100 %: five are in the worst 5 %, so the value at risk is the sixth, their mean is 98 %.
    returns = [-(number + 1) / 100 for number in range(100)]
    Random(1).shuffle(returns)  # noqa: S311
    found = risk.tail(returns, 5)
    assert found.value_at_risk.value == 0.95
    assert found.expected_shortfall.value == pytest.approx(0.98)
    # Of 70 days 3.5 are in it: three whole ones and half of the fourth.
    found = risk.tail([-(number + 1) / 100 for number in range(70)], 5)
    assert found.value_at_risk.value == 0.67
    assert found.expected_shortfall.value == pytest.approx((0.70 + 0.69 + 0.68 + 0.67 / 2) / 3.5)
    # A value at risk of what only gains is negative.
    assert risk.tail([0.01] * 60, 5).value_at_risk.value == -0.01


@given(st.integers(0, 10_000), st.integers(250, 400), st.sampled_from(risk.TAIL_PERCENT))
def test_tails_as_the_definitions_have_them(seed: int, count: int, percent: int) -> None:
    random = Random(seed)  # noqa: S311
    returns = [round(random.gauss(0, 0.04), 3) for _ in range(count)]
    losses = np.array([-one for one in returns])
    found = risk.tail(returns, percent)
    # The smallest loss that is not exceeded on more than `percent` of the days.
    candidates = [loss for loss in losses if np.count_nonzero(losses > loss) * 100 <= percent * count]
    assert found.value_at_risk.value == pytest.approx(min(candidates))
    # Each day a hundred times: then `percent` of them is a whole number.
    many = np.sort(np.repeat(losses, 100))[::-1][: percent * count]
    assert found.expected_shortfall.value == pytest.approx(float(many.mean()), rel=1e-9)
    assert found.value_at_risk.value is not None
    assert found.expected_shortfall.value >= found.value_at_risk.value - 1e-12


def test_tails_need_enough_days_in_them() -> None:
    returns = [0.01] * 249
    assert risk.tail(returns[:59], 5).value_at_risk.value is None
    assert risk.tail(returns[:60], 5).value_at_risk.value is not None
    refused = risk.tail(returns, 1).expected_shortfall
    assert (refused.value, refused.needed) == (None, 250)
    assert refused.reason == "There are only 249 daily returns yet; 250 are needed."
    assert risk.tail([*returns, 0.02], 1).value_at_risk.value is not None


# Several coins


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(30, 60))
def test_correlations_as_numpy_has_them(seed: int, coins: int, days: int) -> None:
    random = Random(seed)  # noqa: S311
    aligned = [[random.gauss(0, 0.04) for _ in range(days)] for _ in range(coins)]
    found = np.array(risk.correlations(aligned), dtype=float)
    assert np.allclose(found, np.corrcoef(np.array(aligned)), atol=1e-12)
    assert np.allclose(found, found.T)
    assert np.linalg.eigvalsh(found).min() > -1e-9
    assert found[0][1] == pytest.approx(statistics.correlation(aligned[0], aligned[1]), abs=1e-12)


def test_what_does_not_move_has_no_correlation() -> None:
    moving = [0.01, -0.02] * 20
    opposite = [-2 * one for one in moving]
    matrix = risk.correlations([moving, [0.0] * 40, opposite, [1e-17, 0.0] * 20])
    assert matrix[0] == [1.0, None, pytest.approx(-1.0), None]
    assert matrix[1] == [None] * 4


def test_only_common_days_count() -> None:
    one = [Return(day, day / 100) for day in (1, 2, 3, 5, 8)]
    other = [Return(day, -day / 100) for day in (2, 3, 4, 8, 9)]
    assert risk.on_common_days([one, other]) == ([2, 3, 8], [[0.02, 0.03, 0.08], [-0.02, -0.03, -0.08]])
    assert risk.on_common_days([]) == ([], [])


def test_portfolio_returns_and_values_by_hand() -> None:
    assert risk.weighted([[0.1, -0.1], [0.0, 0.2]], [0.75, 0.25]) == pytest.approx([0.075, -0.025])
    first, second = days_of([100, 110, 99]), days_of([50, 50, 60])
    mixed = risk.mixed_values([first, second], [0.75, 0.25])
    assert [day.value for day in mixed] == pytest.approx([1, 1.075, 1.075 * 0.975])
    assert [day.value for day in risk.summed_values([first, second], [2, 1])] == [250, 270, 258]
    assert risk.mixed_values([], []) == risk.summed_values([], []) == []


# Over HTTP


async def fill(desk: Desk, slug: str, prices: list[float]) -> None:
    await desk.rows.pack(slug, Interval.D1, daily(prices))


async def test_the_risk_of_a_coin(desk: Desk) -> None:
    prices = walk(300, 5)
    desk.listing.put(price_of("bitcoin", "BTC", "67000"))
    await fill(desk, "bitcoin", prices)
    found = await desk.get(f"{COINS}/btc/risk")
    CoinRisk.model_validate(found)
    returns = np.diff(prices) / np.array(prices[:-1])
    assert found["coin"]["slug"] == "bitcoin"
    data = found["data"]
    assert (data["points"], data["returns"], data["gaps"], data["interval"]) == (300, 299, 0, "1d")
    assert data["first"] == (MIDNIGHT - 300 * DAY).isoformat().replace("+00:00", "Z")
    volatility = float(np.std(np.log1p(returns), ddof=1)) * math.sqrt(365)
    assert float(found["volatility"]["value"]) == pytest.approx(volatility, rel=1e-9)
    assert "sqrt(365)" in found["volatility"]["formula"]
    assert "Hull" in found["volatility"]["source"]
    worst = max(1 - after / before for place, before in enumerate(prices) for after in prices[place:])
    assert float(found["maximum_drawdown"]["value"]) == pytest.approx(worst, rel=1e-9)
    for measure, confidence in zip(found["value_at_risk"], (0.95, 0.99), strict=True):
        assert float(measure["confidence"]) == confidence
        quantile = float(np.quantile(-returns, confidence, method="inverted_cdf"))
        assert float(measure["value"]) == pytest.approx(quantile, rel=1e-9)
        assert (measure["observations"], measure["horizon_days"], measure["amount"]) == (299, 1, None)
    for tail, shortfall in zip(found["value_at_risk"], found["expected_shortfall"], strict=True):
        assert shortfall["value"] >= tail["value"]


async def test_a_short_history_is_refused_measure_by_measure(desk: Desk) -> None:
    desk.listing.put(price_of("bitcoin", "BTC", "67000"), price_of("new", "NEW", "1"))
    await fill(desk, "bitcoin", walk(100, 6))
    found = await desk.get(f"{COINS}/BTC/risk")
    assert found["volatility"]["value"] is not None
    assert found["value_at_risk"][0]["value"] is not None
    assert found["value_at_risk"][1]["value"] is None
    assert found["value_at_risk"][1]["reason"] == "There are only 99 daily returns yet; 250 are needed."
    found = await desk.get(f"{COINS}/BTC/risk", days=20)
    assert found["volatility"]["reason"] == "There are only 19 daily returns yet; 30 are needed."
    assert found["maximum_drawdown"]["value"] is not None
    found = await desk.get(f"{COINS}/NEW/risk")
    assert (found["data"]["asked_days"], found["data"]["points"], found["data"]["first"]) == (365, 0, None)
    assert found["maximum_drawdown"]["reason"] == "There are no daily points yet; 2 are needed."
    await desk.get(f"{COINS}/BTC/risk", status=422, days=1)
    await desk.get(f"{COINS}/BTC/risk", status=422, days=4000)


async def test_the_correlation_of_coins(desk: Desk) -> None:
    slugs = ("bitcoin", "ethereum", "tether", "new")
    desk.listing.put(*(price_of(slug, slug[:3].upper(), "5") for slug in slugs))
    prices = {slug: walk(90, seed) for seed, slug in enumerate(slugs)}
    prices["tether"] = [1.0] * 90
    prices["new"] = prices["new"][-20:]
    del prices["ethereum"][3]
    for slug in slugs:
        await fill(desk, slug, prices[slug])
    query = {"symbols": "btc, ETH", "slugs": "tether,new"}
    await desk.get(f"{COINS}/correlation", status=422, **query)  # there is no coin with the symbol BTC here
    query["symbols"] = "bit, ETH"
    found = await desk.get(f"{COINS}/correlation", **query)
    CorrelationMatrix.model_validate(found)
    assert [coin["slug"] for coin in found["coins"]] == ["bitcoin", "ethereum", "tether"]
    (left,) = found["left_out"]
    assert (left["slug"], left["reason"]) == ("new", "There are only 19 daily returns yet; 30 are needed.")
    # The 89 prices of the one are those of the last 89 days: they share 88 returns.
    assert found["observations"] == 88
    one, other = (np.diff(prices[slug][-89:]) / np.array(prices[slug][-89:-1]) for slug in ("bitcoin", "ethereum"))
    assert float(found["matrix"][0][1]) == pytest.approx(float(np.corrcoef(one, other)[0][1]), rel=1e-9)
    assert found["matrix"][0][0] == 1
    assert found["matrix"][2] == [None, None, None]
    short = await desk.get(f"{COINS}/correlation", slugs="bitcoin,new")
    assert (short["matrix"], short["reason"]) == (None, "Fewer than two of the coins have 30 daily returns.")


@pytest.mark.parametrize(
    "query", [{}, {"symbols": "BIT"}, {"symbols": "BIT,bit"}, {"symbols": "BIT,,ETH"}, {"slugs": "a," * 30 + "b"}]
)
async def test_a_matrix_needs_two_to_twenty_coins(desk: Desk, query: dict[str, str]) -> None:
    desk.listing.put(price_of("bitcoin", "BIT", "5"), price_of("ethereum", "ETH", "5"))
    assert "query." in (await desk.get(f"{COINS}/correlation", status=422, **query))["detail"]


async def test_todays_prices_are_in_it_before_they_are_packed(desk: Desk) -> None:
    desk.listing.put(price_of("bitcoin", "BTC", "5"))
    await fill(desk, "bitcoin", [float(n + 1) for n in range(40)])
    await desk.history.append(MIDNIGHT, [("bitcoin", listing_of("41"))])
    await desk.history.append(NOON, [("bitcoin", listing_of("9"))])
    found = await desk.get(f"{COINS}/BTC/risk")
    assert (found["data"]["points"], found["maximum_drawdown"]["value"]) == (41, 0)
    assert Decimal(found["maximum_drawdown"]["current"]) == 0


def test_pairs_of_a_walk_make_its_returns() -> None:
    prices = walk(50, 9)
    found = [one.value for one in risk.daily_returns(days_of(prices))]
    assert found == [after / before - 1 for before, after in pairwise(prices)]
