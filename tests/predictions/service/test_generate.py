"""Predictions on request, over HTTP, made by jobs, stored in a real database."""

import asyncio
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.bus import Bus, NullTransport
from app.core.candles import Timeframe
from app.core.errors import UnavailableError
from app.core.scheduler import RunState
from app.predictions.asked import BARS
from app.predictions.ml.errors import DeadlineExceededError, InvalidSeriesError
from app.predictions.ml.values import minimum_bars
from app.predictions.ports import WorkerLostError
from app.predictions.schemas import PredictionJob, PredictionOut
from app.predictions.service import MOST_WAITING
from app.predictions.stored_models import GOOD_FOR, OLDEST
from tests.predictions.service.kit import CALENDAR, NOON, SAID, Desk, desk_of, indian_days
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

FIELDS = {
    *("id", "symbol", "predicted_price", "confidence_score", "time_horizon", "timeframe", "model_used", "created_at"),
}
"""What `systems/3` calls a prediction."""


def same_fields(model: Any, told: dict[str, Any]) -> None:
    """What is described is what is told."""
    assert {field.alias or name for name, field in model.model_fields.items()} == set(told), model
    model.model_validate(told)
    for name, field in model.model_fields.items():
        inner = field.annotation
        if hasattr(inner, "model_fields") and told[field.alias or name] is not None:
            same_fields(inner, told[field.alias or name])


async def until_trained(desk: Desk, count: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(desk.trainer.trained) < count:
            await asyncio.sleep(0.01)


async def until_told(desk: Desk, note: str) -> None:
    async with asyncio.timeout(30):
        while note not in [view.progress.note for view in desk.told if view.progress]:
            await asyncio.sleep(0.01)


async def test_a_prediction_has_all_that_is_promised_and_is_stored(desk: Desk):
    made = await desk.generate()
    same_fields(PredictionOut, made)
    assert set(made) >= FIELDS
    assert (made["symbol"], made["timeframe"], made["time_horizon"]) == ("RELIANCE.NS", "1D", "5d")
    assert (made["model_used"], made["horizon_bars"]) == ("ensemble", 5)
    last = desk.prices.listed["RELIANCE.NS", "1D"][699]
    assert made["last_bar"] == last[0].isoformat().replace("+00:00", "Z")
    assert made["last_close"] == pytest.approx(last[1])
    assert made["predicted_price"] == pytest.approx(last[1] * math.exp(SAID["ensemble"]))
    assert made["interval"]["low"] < made["predicted_price"] < made["interval"]["high"]
    assert made["interval"]["observed_coverage"] == 0.79
    assert made["verdict"] == made["evaluation"]["verdict"] == "no demonstrated skill"
    assert made["candles"] == {
        **made["candles"], "source": "yahoo", "age_seconds": 12.0, "stale": False, "count": 700
    }  # fmt: skip
    assert made["model"]["reused"] is False
    request = desk.trainer.trained[0]
    assert (request.model, request.horizon_bars, len(request.close)) == ("ensemble", 5, 700)
    assert request.starts[-1] == int(last[0].timestamp())
    assert (await desk.ask("/RELIANCE?limit=1"))[0] == made


async def test_an_ensemble_comes_with_its_members(desk: Desk):
    made = await desk.generate()
    listed = await desk.ask("/reliance.ns")
    assert [one["model_used"] for one in listed] == ["ensemble", "lstm", "svr", "random_forest"]
    assert listed[0] == made
    for one in listed[1:]:
        assert await desk.generate(model=one["model_used"]) == one
        assert one["predicted_return"] == SAID[one["model_used"]]
    assert len(desk.trainer.trained) == 1


async def test_the_horizon_ends_with_the_fifth_session_from_now(desk: Desk):
    made = PredictionOut.model_validate(await desk.generate())
    day = NOON.date() - timedelta(days=1)
    for _ in range(5):
        session = CALENDAR.next_session(day)
        day = session.day
    assert made.horizon_ends_at == session.closes
    assert day.isoformat() == "2026-11-27"  # no session on the 24th: Guru Nanak's birthday


async def test_fifty_at_once_are_one_training(desk: Desk):
    desk.trainer.go.clear()
    asking = [asyncio.create_task(desk.generate()) for _ in range(50)]
    await until_trained(desk)
    desk.trainer.go.set()
    made = await asyncio.gather(*asking)
    assert all(one == made[0] for one in made)
    assert len(desk.trainer.trained) == 1
    assert await desk.db["job_runs"].count_documents({}) == 1
    assert len(await desk.stored()) == 4


async def test_two_processes_train_once(db: Db, clock: StandingClock, tmp_path: Path):
    bus = Bus(NullTransport())
    async with desk_of(db, clock, tmp_path, bus=bus) as one, desk_of(db, clock, tmp_path, bus=bus) as other:
        for desk in (one, other):
            desk.prices.list_days("RELIANCE.NS", indian_days(700))
            desk.trainer.go.clear()
        asking = [asyncio.create_task(desk.generate()) for _ in range(5) for desk in (one, other)]
        async with asyncio.timeout(30):
            while not one.trainer.trained + other.trainer.trained:
                await asyncio.sleep(0.01)
        for desk in (one, other):
            desk.trainer.go.set()
        made = await asyncio.gather(*asking)
        assert all(answer == made[0] for answer in made)
        assert len(one.trainer.trained + other.trainer.trained) == 1
        # Another process, which has heard of nothing, has it from the database.
        other.cache.clear()
        assert await other.generate() == made[0]


async def test_a_repeat_is_answered_from_what_is_stored(desk: Desk):
    made = await desk.generate()
    for _ in range(2):
        assert await desk.generate("reliance", model="ENSEMBLE", timeframe="1d", time_horizon="1w") == made
        assert await desk.generate(time_horizon=5) == made
        desk.cache.clear()
    assert len(desk.trainer.trained) == 1
    assert await desk.db["job_runs"].count_documents({}) == 1


async def test_what_takes_longer_is_a_job_to_follow(db: Db, clock: StandingClock, tmp_path: Path):
    async with desk_of(db, clock, tmp_path, patience=0.2) as desk:
        desk.prices.list_days("RELIANCE.NS", indian_days(700))
        desk.trainer.go.clear()
        answer = await desk.answer("POST", "/generate/RELIANCE", 202, "ann", json={"model": "svr"})
        told = answer.json()
        same_fields(PredictionJob, told)
        assert answer.headers["location"] == told["status_url"] == f"/api/v1/jobs/{told['job_id']}"
        assert (told["symbol"], told["model_used"], told["time_horizon"]) == ("RELIANCE.NS", "svr", "5d")
        await until_trained(desk)
        again = await desk.generate(status=202, model="svr")
        assert again["job_id"] == told["job_id"]
        assert again["state"] == "running"
        await until_told(desk, "svr: on all candles")  # what is told late gives way to what comes after it
        desk.trainer.go.set()
        run = await desk.run_of(told["job_id"])
        assert run.state is RunState.SUCCEEDED
        assert run.result is not None
        assert "horizon_bars=5" in told["result_url"]
        result = (await desk.client.get(told["result_url"])).json()
        assert [one["id"] for one in result] == [run.result["prediction_id"]]
        assert run.result["trained"] is True
        assert (await desk.generate(model="svr"))["id"] == run.result["prediction_id"]
        shares = [view.progress.done for view in desk.told if view.progress]
        assert shares == sorted(shares)


async def test_another_horizons_prediction_is_not_the_answer_to_this_one(desk: Desk):
    made = await desk.generate(model="svr")
    newer = await desk.generate(model="svr", time_horizon="20d")
    assert await desk.ask("/RELIANCE", model="svr", timeframe="1D", horizon_bars=5, limit=1) == [made]
    assert await desk.ask("/RELIANCE", model="svr", horizon_bars=20) == [newer]
    await desk.ask("/RELIANCE", 422, horizon_bars=61)


async def test_what_would_not_help_is_not_advised(desk: Desk):
    desk.prices.list_days("TCS.NS", indian_days(515))
    told = (await desk.generate("TCS", 422, model="svr", time_horizon="30d"))["detail"]
    assert "Ask for a shorter time_horizon or another timeframe." in told
    desk.prices.list_days("TCS.NS", indian_days(300))
    told = (await desk.generate("TCS", 422, model="svr", time_horizon="1d"))["detail"]
    assert "Ask for another timeframe." in told


# Models are used again


async def test_a_new_candle_is_forecast_by_the_model_of_before(desk: Desk):
    first = await desk.generate(model="svr")
    desk.clock.move(days=3)  # Monday: Friday has closed
    second = await desk.generate(model="svr")
    assert second["last_bar"] > first["last_bar"]
    assert second["model"] == {**first["model"], "reused": True}
    assert second["evaluation"] == first["evaluation"]
    assert (len(desk.trainer.trained), len(desk.trainer.used)) == (1, 1)
    assert [one["id"] for one in await desk.ask("/RELIANCE")] == [second["id"], first["id"]]


async def test_a_model_of_adjusted_candles_forecasts_from_such_alone(desk: Desk):
    first = await desk.generate(model="svr")
    desk.prices.adjusted = False
    desk.clock.move(days=3)
    other = await desk.generate(model="svr")
    assert (first["candles"]["adjusted"], other["candles"]["adjusted"]) == (True, False)
    assert other["model"]["reused"] is False
    desk.prices.adjusted = True
    desk.clock.move(days=1)
    again = await desk.generate(model="svr")
    assert again["model"] == {**first["model"], "reused": True}
    assert again["candles"]["adjusted"] is True


async def test_a_model_is_trained_anew_after_a_month_of_candles(desk: Desk):
    await desk.generate(model="svr")
    days = [start for start, _ in desk.prices.listed["RELIANCE.NS", "1D"]]
    last = days[699 + GOOD_FOR[Timeframe.D1]]
    desk.clock.moment = last + timedelta(hours=7)
    assert (await desk.generate(model="svr"))["model"]["reused"] is True
    desk.clock.moment = days[699 + GOOD_FOR[Timeframe.D1] + 1] + timedelta(hours=7)
    assert (await desk.generate(model="svr"))["model"]["reused"] is False
    assert await desk.db["prediction_models"].count_documents({}) == 1
    assert timedelta(days=31) < OLDEST


@pytest.mark.parametrize("gone", ["file", "version", "damaged"])
async def test_a_model_that_cannot_be_used_is_trained_anew(desk: Desk, tmp_path: Path, gone: str):
    await desk.generate(model="svr")
    (file,) = (tmp_path / "models").iterdir()
    if gone == "file":
        file.unlink()
    elif gone == "damaged":
        file.write_bytes(b"something else")
    else:
        desk.trainer.version = 2
    desk.clock.move(days=3)
    assert (await desk.generate(model="svr"))["model"]["reused"] is False
    assert len(desk.trainer.trained) == 2


async def test_a_corrected_candle_is_forecast_anew(desk: Desk):
    first = await desk.generate(model="svr")
    start, close = desk.prices.listed["RELIANCE.NS", "1D"][699]
    desk.prices.listed["RELIANCE.NS", "1D"][699] = (start, close * 1.001)
    second = await desk.generate(model="svr")
    assert second["last_close"] == pytest.approx(first["last_close"] * 1.001)
    assert second["model"]["reused"] is True


async def test_a_run_answers_for_the_newest_candle_if_its_own_is_old(desk: Desk):
    """It waited for its turn while a candle closed."""
    desk.trainer.go.clear()
    held = asyncio.create_task(desk.generate(model="svr", time_horizon="3"))
    await until_trained(desk)
    waiting = asyncio.create_task(desk.generate(model="svr"))
    async with asyncio.timeout(30):
        while desk.predictions.health()["waiting"] != 2:
            await asyncio.sleep(0.01)
    desk.clock.move(hours=5)
    desk.trainer.go.set()
    old, new = await held, await waiting
    assert new["last_bar"] > old["last_bar"]
    assert await desk.generate(model="svr") == new


# What goes wrong


async def test_too_few_candles_are_told_with_how_many_it_takes(desk: Desk):
    desk.prices.list_days("NEW.NS", indian_days(300))
    told = (await desk.answer("POST", "/generate/NEW", 422, "ann", json={})).json()["detail"]
    assert "300" in told
    assert f"{minimum_bars(5)}" in told
    desk.prices.listed["STILL.NS", "1D"] = [(start, 10.0) for start in indian_days(700)]
    assert "did not change" in (await desk.generate("STILL", 422))["detail"]
    desk.prices.list_days("NONE.NS", [])
    assert "no closed candle" in (await desk.generate("NONE", 404))["detail"]
    assert await desk.db["job_runs"].count_documents({}) == 0


async def test_an_unknown_symbol_and_a_provider_that_is_away(desk: Desk):
    assert "There is no NOBODY" in (await desk.generate("NOBODY", 404))["detail"]
    assert "not a symbol" in (await desk.generate("A$B", 422))["detail"]
    desk.prices.failure = UnavailableError("Yahoo does not answer; try again in a minute.", retry_after=60)
    answer = await desk.answer("POST", "/generate/RELIANCE", 503, "ann", json={})
    assert answer.headers["retry-after"] == "60"


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (WorkerLostError("The process that trains needed more than 1,024 MB and was ended."), "more than 1,024 MB"),
        (DeadlineExceededError("Training did not end in the time it was given."), "did not end in the time"),
        (InvalidSeriesError("A volume of the candles is missing or negative."), "volume"),
        (UnavailableError("8 forecasts wait to be made already; try again later."), "wait to be made"),
    ],
)
async def test_a_training_that_fails_says_why_and_the_next_one_may_succeed(desk: Desk, failure: Exception, told: str):
    desk.trainer.failures.append(failure)
    answer = await desk.answer("POST", "/generate/RELIANCE", 503, "ann", json={})
    assert told in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert await desk.stored() == []
    assert (await desk.generate())["model_used"] == "ensemble"


async def test_more_than_can_be_waited_for_are_refused(db: Db, clock: StandingClock, tmp_path: Path):
    async with desk_of(db, clock, tmp_path, patience=0.05) as desk:
        for number in range(MOST_WAITING + 1):
            desk.prices.list_days(f"S{number}.NS", indian_days(700), 100 + number)
        desk.trainer.go.clear()
        answers = await asyncio.gather(*[
            desk.client.post(
                f"/api/predictions/generate/S{number}", json={"model": "svr"}, headers={"Authorization": "Bearer ann"}
            )
            for number in range(MOST_WAITING + 1)
        ])  # fmt: skip
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [202] * MOST_WAITING + [503]
        (refused,) = [answer for answer in answers if answer.status_code == 503]
        assert int(refused.headers["retry-after"]) >= 30
        # Who asks for what is under way joins it.
        joined = next(answer.json() for answer in answers if answer.status_code == 202)
        again = await desk.generate(joined["symbol"], 202, model="svr")
        assert again["job_id"] == joined["job_id"]
        desk.trainer.go.set()
        for answer in answers:
            if answer.status_code == 202:
                await desk.run_of(answer.json()["job_id"])
        async with asyncio.timeout(30):
            while desk.predictions.health() != {"waiting": 0}:  # the news of the last one may be on its way
                await asyncio.sleep(0.01)


@pytest.mark.within_a_minute(6)
async def test_who_may_ask_and_how_often(db: Db, clock: StandingClock, tmp_path: Path):
    async with desk_of(db, clock, tmp_path, per_minute=3) as desk:
        desk.prices.list_days("RELIANCE.NS", indian_days(700))
        await desk.answer("POST", "/generate/RELIANCE", 401)
        await desk.answer("POST", "/generate/RELIANCE", 403, "reader")
        for _ in range(3):
            await desk.generate(model="svr")
        answer = await desk.answer("POST", "/generate/RELIANCE", 429, "ann", json={})
        assert int(answer.headers["retry-after"]) > 0
        await desk.generate(who="bob", model="svr")


@pytest.mark.parametrize(
    "body",
    [
        {"model": "oracle"},
        {"timeframe": "1M2"},
        {"time_horizon": "soon"},
        {"time_horizon": "0d"},
        {"time_horizon": "61"},
        {"time_horizon": "90m"},
        {"time_horizon": ""},
        {"time_horizon": "5d\u0000"},
        {"time_horizon": True},
        {"horizon": "5d"},
        {"time_horizon": "99999999999"},
    ],
)
async def test_what_makes_no_sense_is_refused(desk: Desk, body: dict[str, Any]):
    answer = await desk.answer("POST", "/generate/RELIANCE", 422, "ann", json=body)
    assert answer.json()["errors"][0]["loc"][0] == "body"
    assert desk.trainer.trained == []


async def test_query_or_body(desk: Desk):
    made = await desk.generate("RELIANCE?model=svr&time_horizon=2w")
    assert (made["model_used"], made["time_horizon"]) == ("svr", "10d")
    assert await desk.generate("RELIANCE?model=svr", time_horizon="10") == made
    await desk.generate("RELIANCE?model=svr", 422, model="lstm")
    bare = await desk.answer("POST", "/generate/RELIANCE", 200, "ann")
    assert bare.json()["model_used"] == "ensemble"
    assert desk.trainer.trained[-1].symbol == "RELIANCE.NS"
    assert BARS >= 1250
