"""The session: when it signs in, when it refreshes, and that it never locks an account."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.integrations.angel_one.candles import IST
from app.integrations.angel_one.errors import (
    LoginRefusedError,
    RateLimitedError,
)
from tests.integrations.angel_one.signing_in import asked, at, credentials, session_of, sign_ins
from tests.integrations.angel_one.talking import TLS
from tests.simulators.angel_one import AngelOneSimulator, http
from tests.simulators.angel_one.rest import LOGIN

# Tokens


async def test_however_many_ask_one_signs_in(angel_one: AngelOneSimulator):
    async with session_of(angel_one) as session:
        assert session.health().state == "signed out"
        tokens = await asyncio.gather(*(session.tokens() for _ in range(20)))
        assert len(set(tokens)) == 1
        assert sign_ins(angel_one) == (1, 0)
        assert angel_one.sessions.jwt_fault(tokens[0].jwt) is None
        assert angel_one.sessions.holds_feed(tokens[0].feed)
        health = session.health()
        assert (health.state, health.sign_ins, health.refreshes, health.last_error) == ("signed in", 1, 0, None)
        assert tokens[0].jwt not in repr(tokens[0])


async def test_one_that_stops_waiting_does_not_take_the_sign_in_from_the_others(angel_one: AngelOneSimulator):
    angel_one.rest.fail(LOGIN, http.slow(0.2))
    async with session_of(angel_one) as session:
        first, second = asyncio.create_task(session.tokens()), asyncio.create_task(session.tokens())
        for _ in range(5):  # both wait for it, and no answer can have come
            await asyncio.sleep(0)
        assert not first.done()
        first.cancel()
        assert (await second).jwt
        assert first.cancelled()
        assert sign_ins(angel_one) == (1, 0)


async def test_tokens_are_refreshed_before_they_expire_and_made_anew_each_morning():
    async with (
        at(token_lifetime=timedelta(hours=6)) as (simulator, clock),
        session_of(simulator, clock=clock) as session,
    ):
        first = await session.tokens()
        clock.move(hours=5, minutes=49)
        assert await session.tokens() is first
        clock.move(minutes=2)
        second = await session.tokens()
        assert second.jwt != first.jwt
        assert sign_ins(simulator) == (1, 1)
        # 08:00 IST the next day: a new sign-in, though a refresh would do.
        clock.moment = datetime(2026, 11, 21, 7, 59, tzinfo=IST).astimezone(UTC)
        assert (await session.tokens()).made_at == clock.moment
        assert sign_ins(simulator) == (1, 2)
        clock.move(minutes=1)
        await session.tokens()
        assert sign_ins(simulator) == (2, 2)


async def test_a_refused_refresh_leads_to_a_sign_in():
    async with at() as (simulator, clock), session_of(simulator, clock=clock) as session:
        dead = await session.tokens()
        simulator.sessions.expire(refresh_too=True)
        clock.move(hours=2)
        fresh = await session.renew(dead)
        assert sign_ins(simulator) == (2, 1)
        assert simulator.sessions.jwt_fault(fresh.jwt) is None


async def test_dead_tokens_are_renewed_once_for_all_who_notice():
    async with at() as (simulator, clock), session_of(simulator, clock=clock) as session:
        dead = await session.tokens()
        simulator.sessions.expire()
        clock.move(hours=2)
        fresh = await asyncio.gather(*(session.renew(dead) for _ in range(5)))
        assert len(set(fresh)) == 1
        assert await session.renew(dead) is fresh[0]
        assert sign_ins(simulator) == (1, 1)


async def test_a_storm_of_refusals_does_not_become_a_storm_of_sign_ins():
    async with at() as (simulator, clock), session_of(simulator, clock=clock) as session:
        for _ in range(120):  # for an hour, everything that is handed out is refused at once
            tokens = await session.tokens()
            simulator.sessions.expire(refresh_too=True)
            try:
                await session.renew(tokens)
            except RateLimitedError as error:
                assert error.retry_after is not None
                assert error.retry_after <= 1200
            clock.move(seconds=30)
        assert sign_ins(simulator)[0] <= 9


async def test_refreshed_tokens_that_are_refused_again_lead_to_a_sign_in():
    async with at() as (simulator, clock), session_of(simulator, clock=clock) as session:
        tokens = await session.tokens()
        clock.move(hours=2)
        tokens = await session.renew(tokens)  # it lived for long: a refresh
        assert sign_ins(simulator) == (1, 1)
        clock.move(seconds=30)
        tokens = await session.renew(tokens)  # it did not: a refresh may have come at a bad moment
        assert sign_ins(simulator) == (1, 2)
        clock.move(seconds=60)
        tokens = await session.renew(tokens)
        assert sign_ins(simulator) == (2, 2)
        clock.move(hours=2)
        await session.renew(tokens)  # all is well again
        assert sign_ins(simulator) == (2, 3)


async def test_an_expired_session_is_renewed_under_a_request():
    async with at() as (simulator, clock), session_of(simulator, clock=clock) as session:
        await session.tokens()
        simulator.sessions.expire()
        clock.move(hours=3)
        assert (await session.profile())["clientcode"] == simulator.account.client_code
        assert sign_ins(simulator) == (1, 1)
        assert all(not request.query for request in simulator.rest.requests)


# Refused sign-ins


async def test_a_refused_sign_in_is_tried_three_times_an_hour_at_most(tmp_path: Path):
    kept = tmp_path / "angel_one" / "refused.json"
    async with at() as (simulator, clock):
        wrong = credentials(simulator, password="0000")
        tried: list[float] = []
        began = clock.now()
        while clock.now() < began + timedelta(hours=6):  # the process starts anew again and again
            async with session_of(simulator, account=wrong, clock=clock, tls=TLS, refusals_file=kept) as session:
                with pytest.raises(LoginRefusedError, match="ANGEL_ONE_PASSWORD") as refused:
                    await session.tokens()
                assert refused.value.code == "AB1007"
                assert refused.value.retry_after
                assert session.health().state == "refused"
            if asked(simulator, LOGIN) > len(tried):
                tried.append((clock.now() - began).total_seconds())
            clock.move(seconds=20 if len(tried) < 3 else 600)
        assert tried[:3] == [0, 60, 360]
        assert tried[3] >= 3960
        assert 4 <= len(tried) <= 5
        text = kept.read_text()
        assert "0000" not in text
        assert simulator.account.client_code not in text
        async with session_of(simulator, clock=clock, refusals_file=kept) as session:
            assert (await session.tokens()).jwt  # other credentials: nothing is held against them


async def test_a_success_forgives(tmp_path: Path):
    async with at() as (simulator, clock):
        options = {"clock": clock, "refusals_file": tmp_path / "refused.json"}
        simulator.rest.fail(LOGIN, http.api_error("AB1050", "Invalid totp"))
        async with session_of(simulator, **options) as session:
            with pytest.raises(LoginRefusedError, match="this machine's clock"):
                await session.tokens()
            with pytest.raises(LoginRefusedError) as waiting:
                await session.tokens()
            assert waiting.value.retry_after == 60
            clock.move(seconds=60)
            assert (await session.tokens()).jwt
            assert session.health().state == "signed in"
        simulator.rest.fail(LOGIN, http.api_error("AB1050", "Invalid totp"))
        async with session_of(simulator, **options) as session:
            with pytest.raises(LoginRefusedError) as again:
                await session.tokens()
            assert again.value.retry_after == 60


@pytest.mark.parametrize(
    "kept", ["", "[]", '{"count": "x"}', '{"count": 1e999, "last": 1, "code": "", "credentials": ""}']
)
async def test_a_broken_memory_of_refusals_is_no_memory(angel_one: AngelOneSimulator, tmp_path: Path, kept: str):
    file = tmp_path / "refused.json"
    file.write_text(kept)
    async with session_of(angel_one, refusals_file=file) as session:
        assert (await session.tokens()).jwt


async def test_a_key_that_is_none_is_told_without_asking(angel_one: AngelOneSimulator):
    async with session_of(angel_one, account=credentials(angel_one, totp_key="not base 32!")) as session:
        with pytest.raises(LoginRefusedError, match="ANGEL_ONE_TOTP_KEY"):
            await session.tokens()
    assert not angel_one.rest.requests


async def test_a_wrong_api_key_is_a_refused_sign_in(angel_one: AngelOneSimulator):
    async with session_of(angel_one, account=credentials(angel_one, api_key="another")) as session:
        with pytest.raises(LoginRefusedError, match="ANGEL_ONE_API_KEY"):
            await session.tokens()
    assert sign_ins(angel_one) == (1, 0)
