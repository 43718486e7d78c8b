"""What became of predictions: each scored once, by the close of its candle, and told."""

import asyncio
import math
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from app.core.errors import UnavailableError
from app.predictions.rows import SETTLES
from app.predictions.schemas import ScorecardOut
from app.predictions.scoring import GIVE_UP
from tests.predictions.service.kit import CLOSE, SAID, Desk
from tests.predictions.service.test_generate import same_fields


def day(desk: Desk, place: int) -> tuple[datetime, float]:
    """When the close of the candle `place` after the newest closed one is settled, and that close."""
    start, close = desk.prices.listed["RELIANCE.NS", "1D"][699 + place]
    return start + CLOSE + SETTLES, close


async def test_a_prediction_is_scored_by_the_close_at_its_horizon(desk: Desk):
    made = await desk.generate()
    assert made["outcome"] is None
    over, close = day(desk, 5)
    # Before, there is a close already, but of the last trade.
    desk.clock.moment = over - timedelta(seconds=1)
    assert await desk.score() == {"scored": 0, "waiting": 0, "unscored": 0}
    desk.clock.moment = over + timedelta(minutes=1)
    assert await desk.score() == {"scored": 4, "waiting": 0, "unscored": 0}
    moved = math.log(close / made["last_close"])
    for one in await desk.ask("/RELIANCE"):
        outcome = one["outcome"]
        assert outcome["price"] == pytest.approx(close)
        assert outcome["at"] == made["horizon_ends_at"] == (over - SETTLES).isoformat().replace("+00:00", "Z")
        assert outcome["return"] == pytest.approx(moved)
        assert outcome["error"] == pytest.approx(one["predicted_price"] - close, abs=1e-4)
        assert outcome["naive_error"] == pytest.approx(made["last_close"] - close, abs=1e-4)
        assert outcome["hit"] is ((moved > 0) == (SAID[one["model_used"]] > 0))
        assert outcome["inside_interval"] is (one["interval"]["low"] <= close <= one["interval"]["high"])
    before = await desk.stored()
    assert await desk.score() == {"scored": 0, "waiting": 0, "unscored": 0}
    assert await desk.stored() == before


async def test_two_processes_score_once(desk: Desk):
    await desk.generate()
    desk.clock.moment = day(desk, 5)[0] + timedelta(minutes=1)

    unheard: Any = type("Unheard", (), {"progress": AsyncMock()})()
    both = await asyncio.gather(*[desk.scoring.work(unheard) for _ in range(2)])
    assert sum(one["scored"] for one in both if one) == 4


async def test_a_split_does_not_make_a_prediction_wrong(desk: Desk):
    made = await desk.generate(model="svr")
    over, close = day(desk, 5)
    listed = desk.prices.listed["RELIANCE.NS", "1D"]
    desk.prices.listed["RELIANCE.NS", "1D"] = [(start, price / 10) for start, price in listed]
    desk.clock.moment = over
    await desk.score()
    (scored,) = await desk.ask("/RELIANCE")
    assert scored["outcome"]["price"] == pytest.approx(close)
    assert scored["outcome"]["error"] == pytest.approx(made["predicted_price"] - close, abs=1e-4)


async def test_candles_without_adjustments_score_nothing_that_was_made_with_them(desk: Desk):
    await desk.generate(model="svr")
    over, close = day(desk, 5)
    desk.clock.moment = over
    desk.prices.adjusted = False
    assert await desk.score() == {"scored": 0, "waiting": 1, "unscored": 0}
    desk.prices.adjusted = True
    desk.clock.move(hours=1)
    assert await desk.score() == {"scored": 1, "waiting": 0, "unscored": 0}
    (scored,) = await desk.ask("/RELIANCE")
    assert scored["outcome"]["price"] == pytest.approx(close)


async def test_a_candle_that_is_late_is_waited_for(desk: Desk):
    """A holiday that nobody announced: the fifth candle comes a day later."""
    await desk.generate(model="svr")
    over, _ = day(desk, 5)
    listed = desk.prices.listed["RELIANCE.NS", "1D"]
    del listed[699 + 3]
    desk.clock.moment = over
    assert await desk.score() == {"scored": 0, "waiting": 1, "unscored": 0}
    assert await desk.score() == {"scored": 0, "waiting": 0, "unscored": 0}  # not again at once
    desk.clock.moment = over + timedelta(hours=2)
    assert await desk.score() == {"scored": 0, "waiting": 1, "unscored": 0}
    later, close = day(desk, 5)
    assert later > over
    desk.clock.moment = later + timedelta(hours=1)
    assert await desk.score() == {"scored": 1, "waiting": 0, "unscored": 0}
    (scored,) = await desk.ask("/RELIANCE")
    assert scored["outcome"]["price"] == pytest.approx(close)


async def test_a_symbol_that_vanished_is_marked_but_not_on_the_first_bad_day(desk: Desk):
    await desk.generate(model="svr")
    over, _ = day(desk, 5)
    listed = desk.prices.listed.pop(("RELIANCE.NS", "1D"))
    desk.clock.moment = over
    assert await desk.score() == {"scored": 0, "waiting": 1, "unscored": 0}
    desk.clock.moment = over + GIVE_UP + timedelta(hours=1)
    assert await desk.score() == {"scored": 0, "waiting": 0, "unscored": 1}
    desk.prices.listed["RELIANCE.NS", "1D"] = listed
    desk.clock.move(hours=2)
    assert await desk.score() == {"scored": 0, "waiting": 0, "unscored": 0}
    (marked,) = await desk.ask("/RELIANCE")
    assert (marked["outcome"], marked["unscored"]) == (None, "There is no RELIANCE.NS at yahoo.")


async def test_a_candle_that_the_provider_took_back_is_never_scored(desk: Desk):
    await desk.generate(model="svr")
    del desk.prices.listed["RELIANCE.NS", "1D"][699]
    desk.clock.moment = day(desk, 5)[0] + GIVE_UP + timedelta(days=2)
    assert await desk.score() == {"scored": 0, "waiting": 0, "unscored": 1}
    assert "does not have the candle any more" in (await desk.ask("/RELIANCE"))[0]["unscored"]


async def test_a_provider_that_is_away_puts_it_off(desk: Desk):
    await desk.generate()
    desk.prices.list_days("TCS.NS", [start for start, _ in desk.prices.listed["RELIANCE.NS", "1D"]])
    over, _ = day(desk, 5)
    desk.clock.moment = over
    desk.prices.failure = UnavailableError("Yahoo does not answer.")
    assert await desk.score() == {"scored": 0, "waiting": 4, "unscored": 0}
    desk.prices.failure = None
    desk.clock.move(hours=1)
    assert await desk.score() == {"scored": 4, "waiting": 0, "unscored": 0}


# The scorecard


async def test_a_scorecard_says_what_became_of_each_model(desk: Desk):
    for place in range(10):
        desk.clock.moment = day(desk, place)[0] + timedelta(minutes=30)
        await desk.generate(time_horizon="2")
        await desk.score()
    desk.cache.clear()
    card = await desk.ask("/RELIANCE/scorecard")
    same_fields(ScorecardOut, card)
    # Models that are good for the next candle are used without training the members again.
    assert (card["symbol"], card["considered"]) == ("RELIANCE.NS", 13)
    assert [one["model_used"] for one in card["scores"]] == ["ensemble", "lstm", "svr", "random_forest"]
    score = card["scores"][0]
    same_fields(ScorecardOut.model_fields["scores"].annotation.__args__[0], score)
    same_fields(type(ScorecardOut.model_validate(card).scores[0].latest[0]), score["latest"][0])
    assert (score["timeframe"], score["time_horizon"], score["verdict"]) == ("1D", "2d", "no demonstrated skill")
    assert (score["scored"], score["pending"], score["unscored"]) == (8, 2, 0)
    closes = [close for _, close in desk.prices.listed["RELIANCE.NS", "1D"]][699:]
    moves = [math.log(closes[place + 2] / closes[place]) for place in range(8)]
    said = SAID["ensemble"]
    assert score["hit_rate"] == pytest.approx(sum((move > 0) == (said > 0) for move in moves) / 8)
    errors = [100 * abs(math.exp(said - move) - 1) for move in moves]
    assert score["mean_error_percent"] == pytest.approx(sum(errors) / 8, abs=1e-4)
    naive = [100 * abs(math.exp(-move) - 1) for move in moves]
    assert score["naive_mean_error_percent"] == pytest.approx(sum(naive) / 8, abs=1e-4)
    skill = 1 - sum((move - said) ** 2 for move in moves) / sum(move**2 for move in moves)
    assert score["skill_vs_naive"] == pytest.approx(skill, abs=1e-5)
    inside = sum(said - 0.03 <= move <= said + 0.03 for move in moves) / 8
    assert (score["observed_coverage"], score["promised_coverage"]) == (pytest.approx(inside), 0.8)
    assert "8 scored" in score["summary"]
    assert "too few" in score["summary"]
    assert len(score["latest"]) == 5
    assert score["latest"] == sorted(score["latest"], key=lambda one: one["last_bar"], reverse=True)
    only = await desk.ask("/RELIANCE/scorecard", model="svr", timeframe="1d")
    assert [(one["model_used"], one["scored"]) for one in only["scores"]] == [("svr", 1)]


async def test_a_scorecard_of_nothing(desk: Desk):
    assert await desk.ask("/RELIANCE/scorecard") == {"symbol": "RELIANCE.NS", "considered": 0, "scores": []}
    made = await desk.generate(model="svr")
    desk.cache.clear()
    (score,) = (await desk.ask("/RELIANCE/scorecard"))["scores"]
    assert (score["scored"], score["pending"], score["hit_rate"]) == (0, 1, None)
    assert score["summary"] == "The time of no prediction has come yet."
    assert made["time_horizon"] == score["time_horizon"]
    await desk.ask("/A$B/scorecard", 422)
