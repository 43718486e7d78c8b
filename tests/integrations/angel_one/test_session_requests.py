"""The session's requests: every fault of the interface, certificates, and candles."""

import asyncio
import ssl
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app.integrations.angel_one.candles import IST
from app.integrations.angel_one.errors import (
    AngelOneError,
    LoginRefusedError,
    NonsenseError,
    RateLimitedError,
    RequestRefusedError,
    SessionExpiredError,
    UnreachableError,
)
from app.integrations.angel_one.session import AngelOneSession
from tests.integrations.angel_one.signing_in import asked, at, session_of, sign_ins
from tests.simulators.angel_one import AngelOneSimulator, http
from tests.simulators.angel_one.rest import CANDLES, LOGIN, PROFILE, REFRESH
from tests.support.certificates import Certificate, make_certificate

# Every fault of the interface

FAULTS: list[tuple[http.HttpFault, type[AngelOneError], str]] = [
    (http.too_many(7), RateLimitedError, "429"),
    (http.rate_limited(), RateLimitedError, "403"),
    (http.html(502), UnreachableError, "502"),
    (http.html(403), SessionExpiredError, "403"),
    (http.html(404), NonsenseError, "404"),
    (http.garbage(), NonsenseError, "not JSON"),
    (http.empty(), NonsenseError, "not JSON"),
    (http.api_error(), UnreachableError, "AB1004"),
    (http.api_error("AB1021", "Too many requests"), RateLimitedError, "AB1021"),
    (http.api_error("AB9000", "?"), RequestRefusedError, "AB9000"),
    (http.without_data(), NonsenseError, "no candles"),
    (http.not_http(), UnreachableError, "connection"),
    (http.slow(600), UnreachableError, "timeout"),
    (http.lost(), UnreachableError, "connection"),
    (http.HttpFault(cut_after=200), UnreachableError, "connection"),
    (http.HttpFault(http.Answer(302, headers={"Location": "http://127.0.0.1:9/"})), NonsenseError, "302"),
    (http.HttpFault(http.Answer(200, b"[1]")), NonsenseError, "not JSON"),
    (http.HttpFault(http.Answer(200, b'{"status": true, "data": [[NaN]]}')), NonsenseError, "not JSON"),
    (http.HttpFault(http.Answer(200, b"[" * 100_000)), NonsenseError, "not JSON"),
    (http.HttpFault(http.Answer(200, b" " * (9 << 20))), NonsenseError, "too large"),
]


PATIENT = (30.0, 30.0)


def patience(fault: http.HttpFault) -> tuple[float, float]:
    return (30.0, 1.5) if fault.delay else PATIENT


def wait_from_now(session: AngelOneSession, seconds: tuple[float, float]) -> None:
    """What does not come is not waited for as long as what a busy machine holds up."""
    session._wire._timeout = seconds


IDS = [f"{number}-{error.__name__}" for number, (_, error, _) in enumerate(FAULTS)]


@pytest.mark.parametrize(("fault", "error", "code"), FAULTS, ids=IDS)
async def test_every_fault_is_an_error_of_its_kind_and_passes(
    angel_one: AngelOneSimulator, fault: http.HttpFault, error: type[AngelOneError], code: str
):
    async with session_of(angel_one, candle_rates=(), renew_pause=0) as session:
        tokens = await session.tokens()
        wait_from_now(session, patience(fault))
        angel_one.rest.fail(CANDLES, fault, times=2)  # an expired session is renewed, and asked again
        with pytest.raises(error) as raised:
            await candles(session)
        assert raised.value.code == code
        assert session.health().last_error == raised.value.word
        if code == "429":
            assert raised.value.retry_after == 7
        angel_one.rest.heal()
        wait_from_now(session, PATIENT)
        assert len(await candles(session)) == 15
        assert (await session.tokens() != tokens) == (error is SessionExpiredError)


@pytest.mark.parametrize(("fault", "error", "code"), FAULTS, ids=IDS)
async def test_every_fault_of_a_sign_in_leaves_it_to_be_tried_again(
    fault: http.HttpFault, error: type[AngelOneError], code: str
):
    # What is not known to be temporary counts as refused.
    refused = error in {RequestRefusedError, SessionExpiredError}
    async with at() as (simulator, clock), session_of(simulator, clock=clock, timeout=patience(fault)) as session:
        simulator.rest.fail(LOGIN, fault)
        with pytest.raises(LoginRefusedError if refused else error) as raised:
            await session.tokens()
        assert raised.value.code == ("no tokens" if code == "no candles" else code)
        clock.move(seconds=60)
        wait_from_now(session, PATIENT)
        assert (await session.tokens()).jwt


async def test_a_refresh_that_goes_wrong_is_replaced_by_a_sign_in_only_where_that_helps():
    async with at() as (simulator, clock), session_of(simulator, clock=clock) as session:
        tokens = await session.tokens()
        clock.move(hours=2)
        simulator.rest.fail(REFRESH, http.html(503))
        with pytest.raises(UnreachableError):
            await session.renew(tokens)
        simulator.rest.fail(REFRESH, http.without_data())
        assert (await session.renew(tokens)).jwt != tokens.jwt
        assert sign_ins(simulator) == (2, 2)


async def test_a_sign_in_whose_profile_fails_is_a_sign_in(angel_one: AngelOneSimulator):
    angel_one.rest.fail(PROFILE, http.html(502))
    async with session_of(angel_one) as session:
        assert (await session.tokens()).jwt
        angel_one.rest.fail(PROFILE, http.without_data())
        with pytest.raises(NonsenseError):
            await session.profile()
        assert sign_ins(angel_one) == (1, 0)


async def test_a_netrc_file_does_not_replace_the_token(
    angel_one: AngelOneSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(file))
    async with session_of(angel_one) as session:
        assert (await session.profile())["clientcode"] == angel_one.account.client_code
    assert not any("Basic" in request.headers.get("authorization", "") for request in angel_one.rest.requests)


async def test_nobody_there(angel_one: AngelOneSimulator):
    async with session_of(angel_one, base_url="http://127.0.0.1:9") as session:
        with pytest.raises(UnreachableError, match="connection"):
            await session.tokens()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_certificates_are_verified(angel_one: AngelOneSimulator, certificate: Certificate):
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http.rate_limited().answer.encode())  # type: ignore[union-attr]
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificate.server_context())
    port = server.sockets[0].getsockname()[1]
    try:
        async with session_of(angel_one, base_url=f"https://127.0.0.1:{port}") as session:
            with pytest.raises(UnreachableError, match="tls"):
                await session.tokens()
        assert not heard
        trusting = ssl.create_default_context(cafile=certificate.authority)
        async with session_of(angel_one, base_url=f"https://127.0.0.1:{port}", tls=trusting) as session:
            with pytest.raises(RateLimitedError):
                await session.tokens()
        assert len(heard) == 1
    finally:
        server.close()


# Candles


async def candles(session: AngelOneSession, interval: str = "ONE_MINUTE", minutes: int = 14) -> list[object]:
    start = datetime(2026, 11, 19, 9, 15, tzinfo=IST)
    return list(await session.candles("NSE", "99926000", interval, start, start + timedelta(minutes=minutes)))


async def test_candles_are_exact_and_in_order(angel_one: AngelOneSimulator):
    start = datetime(2026, 11, 19, 9, 15, tzinfo=IST)
    async with session_of(angel_one) as session:
        bars = await session.candles("NSE", "99926000", "FIVE_MINUTE", start, start + timedelta(minutes=12))
        assert [bar.start for bar in bars] == [start, start + timedelta(minutes=5), start + timedelta(minutes=10)]
        assert all(isinstance(bar.open, Decimal) and -bar.open.as_tuple().exponent <= 2 for bar in bars)  # type: ignore[operator]
        assert await session.candles("NSE", "99926000", "ONE_MINUTE", start, start - timedelta(minutes=1)) == []
        with pytest.raises(RequestRefusedError, match="AB1018"):
            await session.candles("NSE", "1", "ONE_MINUTE", start, start)


async def test_a_long_range_is_asked_for_in_pieces(angel_one: AngelOneSimulator):
    start, end = datetime(2026, 9, 1, 9, 15, tzinfo=IST), datetime(2026, 11, 1, tzinfo=IST)
    async with session_of(angel_one) as session:
        bars = await session.candles("NSE", "99926000", "ONE_MINUTE", start, end)
    assert asked(angel_one, CANDLES) == 3
    days = {bar.start.date() for bar in bars}
    assert len(bars) == len({bar.start for bar in bars}) == 375 * len(days)
    assert len(days) == 44
    assert bars == sorted(bars)


async def test_requests_for_candles_keep_to_the_rate(angel_one: AngelOneSimulator):
    clock = asyncio.get_running_loop().time
    async with session_of(angel_one, candle_rates=((2, 0.2),)) as session:
        await session.tokens()
        began = clock()
        await asyncio.gather(*(candles(session, minutes=1) for _ in range(5)))
        assert clock() - began >= 0.4


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ('["2026-11-19T09:15:00+05:30", 1.05, 2, 1, 1.5, 10]', True),
        ('["2026-11-19T09:15:00+05:30", 1, 2, 1, 3, 10]', False),
        ('["2026-11-19T09:15:00+05:30", 0, 0, 0, 0, 0]', False),
        ('["2026-11-19T09:15:00+05:30", 1, 1e99999, 1, 1, 1]', False),
        ('["2026-11-19T09:15:00+05:30", 1, 1, 1, 1, 1e99999]', False),
        ('["2026-11-19T09:15:00", 1, 2, 1, 1, 10]', None),
        ('["2026-11-19T09:15:00+05:30", 1, 2, 1, 1]', None),
        ('["2026-11-19T09:15:00+05:30", "x", 2, 1, 1, 1]', None),
        ('["2026-11-19T09:15:00+05:30", 1, 2, 1, 1, "x"]', None),
        ("[12, 1, 2, 1, 1, 1]", None),
        ("{}", None),
    ],
)
async def test_rows_that_contradict_themselves_are_left_out_and_others_are_nonsense(
    angel_one: AngelOneSimulator, row: str, kept: bool | None
):
    body = b'{"status": true, "message": "SUCCESS", "errorcode": "", "data": [' + row.encode() + b"]}"
    async with session_of(angel_one) as session:
        angel_one.rest.fail(CANDLES, http.HttpFault(http.Answer(200, body)))
        if kept is None:
            with pytest.raises(NonsenseError):
                await candles(session)
        else:
            assert len(await candles(session)) == kept
