"""`BrokerHttp`: what is certainly not done, what nobody knows, and what must never travel or grow."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path

import pytest

from app.brokerage.adapters.http import BrokerHttp, Timeouts, broker_words
from app.brokerage.errors import (
    BrokerError,
    BrokerRateLimitedError,
    BrokerSessionError,
    BrokerUnavailableError,
    OutcomeUnknownError,
)
from tests.simulators.angel_one.http import Answer, HttpFault, HttpRequest, HttpServer
from tests.support.certificates import make_certificate
from tests.support.clocks import StandingClock

LONG = Timeouts(connect=30.0, read=30.0, whole=30.0, file=50.0)
"""For servers that answer, however busy this machine is."""


class Origin(HttpServer):
    """Answers `answer` to everything."""

    def __init__(self) -> None:
        super().__init__(self._answered)
        self.answer = Answer.of({"fine": True})

    async def _answered(self, _request: HttpRequest) -> Answer:
        return self.answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as server:
        yield server


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
async def http(clock: StandingClock) -> AsyncIterator[BrokerHttp]:
    made = BrokerHttp("Test Broker", clock, timeouts=LONG)
    yield made
    await made.close()


Hasty = Callable[..., AbstractAsyncContextManager[BrokerHttp]]


@pytest.fixture
def hasty(clock: StandingClock) -> Hasty:
    """Gives up soon in the given respects; for servers that do not answer."""

    @asynccontextmanager
    async def made(**timeouts: float) -> AsyncIterator[BrokerHttp]:
        http = BrokerHttp("Test Broker", clock, timeouts=LONG._replace(**timeouts))
        yield http
        await http.close()

    return made


def _zipped(content: bytes) -> bytes:
    """Without the time, so that it is the same each time."""
    return gzip.compress(content, mtime=0)


async def test_forms_json_and_exact_numbers(http: BrokerHttp, origin: Origin):
    origin.answer = Answer(200, b'{"price": 1500.10, "big": 12345678901234567890.5, "count": 3}')
    reply = await http.ask("POST", origin.url, headers={"X-A": "b"}, form={"a": "1&2", "b": 3})
    assert reply.mapping == {"price": Decimal("1500.10"), "big": Decimal("12345678901234567890.5"), "count": 3}
    await http.ask("PUT", origin.url, headers={}, json={"price": Decimal("1500.10"), "n": None})
    await http.ask("GET", origin.url, headers={}, parameters={"q": "a b"})
    form, body, read = origin.requests
    assert (form.body, form.headers["content-type"], form.headers["x-a"]) == (
        b"a=1%262&b=3",
        "application/x-www-form-urlencoded",
        "b",
    )
    assert (body.body, body.headers["content-type"]) == (b'{"price":1500.10,"n":null}', "application/json")
    assert (read.query, read.body, "content-type" in read.headers) == ("q=a+b", b"", False)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 422])
async def test_what_says_no_in_json_is_a_reply(http: BrokerHttp, origin: Origin, status: int):
    origin.answer = Answer.of({"no": 1}, status)
    reply = await http.ask("POST", origin.url, headers={}, changes=True)
    assert (reply.status, reply.content) == (status, {"no": 1})


@pytest.mark.parametrize(
    "answer",
    [
        Answer.of({"error": "down"}, 500),
        Answer.of({"error": "down"}, 503),
        Answer(200, b"<html></html>", "text/html"),
        Answer(404, b"not here", "text/plain"),
        Answer(200, b""),
        Answer(200, b'{"a": NaN}'),
        Answer(200, b"[" * 100_000),
        Answer.of({"moved": True}, 302, Location="http://127.0.0.1:9/"),
        Answer(200, gzip.compress(b" " * (9 << 20), mtime=0), headers={"Content-Encoding": "gzip"}),
        Answer(200, b"{}", headers={"Content-Encoding": "br"}),
        Answer(200, gzip.compress(b'{"a": 1}', mtime=0)[:-6], headers={"Content-Encoding": "gzip"}),
        Answer(200, b"not packed", headers={"Content-Encoding": "gzip"}),
    ],
    ids=lambda answer: f"{answer.status}-{answer.body[:12]!r}",
)
async def test_what_leaves_it_open(http: BrokerHttp, origin: Origin, answer: Answer):
    origin.answer = answer
    with pytest.raises(OutcomeUnknownError, match="Test Broker"):
        await http.ask("POST", origin.url, headers={}, changes=True)
    with pytest.raises(BrokerUnavailableError, match="Test Broker"):
        await http.ask("GET", origin.url, headers={})
    assert len(origin.requests) == 2  # each sent once


@pytest.mark.parametrize(
    "fault",
    [HttpFault(raw=b""), HttpFault(raw=b"\x16\x03 no"), HttpFault(cut_after=30)],
    ids=["closed", "nonsense", "cut"],
)
async def test_connections_that_break(http: BrokerHttp, origin: Origin, fault: HttpFault):
    origin.fail("", fault, times=2)
    with pytest.raises(OutcomeUnknownError):
        await http.ask("DELETE", origin.url, headers={}, changes=True)
    with pytest.raises(BrokerUnavailableError):
        await http.ask("GET", origin.url, headers={})
    assert (await http.ask("GET", origin.url, headers={})).mapping == {"fine": True}


@pytest.mark.parametrize("patience", [{"read": 0.5}, {"whole": 0.5}], ids=["read", "whole"])
async def test_a_server_that_is_silent_does_not_hold_us(hasty: Hasty, origin: Origin, patience: dict[str, float]):
    origin.fail("", HttpFault(delay=600), times=2)
    async with hasty(**patience) as http:
        with pytest.raises(OutcomeUnknownError):
            await http.ask("DELETE", origin.url, headers={}, changes=True)
        with pytest.raises(BrokerUnavailableError):
            await http.ask("GET", origin.url, headers={})


async def test_a_server_that_drips_does_not_hold_us(hasty: Hasty):
    """It ends after ten seconds by itself, and in another way."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await asyncio.sleep(0.1)
            if writer.transport.is_closing():
                break

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(OutcomeUnknownError, match="too long"):
            async with hasty(whole=0.6) as http:
                await http.ask("POST", url, headers={}, changes=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid", "http://[bad", "ftp://x/"])
async def test_nothing_left_that_could_not_be_connected(hasty: Hasty, url: str):
    with pytest.raises(BrokerUnavailableError):
        async with hasty(connect=0.3) as http:
            await http.ask("POST", url, headers={}, changes=True)


async def test_a_handshake_that_never_ends_sent_nothing(hasty: Hasty):
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(BrokerUnavailableError):
            async with hasty(connect=0.3) as http:
                await http.ask("POST", url, headers={}, changes=True)


async def test_a_stranger_with_a_certificate_learns_nothing(clock: StandingClock, tmp_path: Path):
    certificate = make_certificate(tmp_path)
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        body = b'{"fine":true}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=certificate.server_context())
    async with server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        strict = BrokerHttp("Test Broker", clock, timeouts=LONG)
        with pytest.raises(BrokerUnavailableError, match="not secure"):
            await strict.ask("POST", url, headers={"Authorization": "token"}, changes=True)
        await strict.close()
        assert not heard
        trusting = BrokerHttp(
            "Test Broker", clock, tls=ssl.create_default_context(cafile=certificate.authority), timeouts=LONG
        )
        assert (await trusting.ask("POST", url, headers={}, changes=True)).mapping == {"fine": True}
        await trusting.close()


async def test_cookies_of_one_account_never_travel_with_another(http: BrokerHttp, origin: Origin):
    origin.answer = Answer.of({}, 200, **{"Set-Cookie": "session=alice; Path=/"})
    for _ in range(2):
        await http.ask("GET", origin.url, headers={})
    assert not [request for request in origin.requests if "cookie" in request.headers]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 1), ("7", 7), ("0.2", 1), ("-5", 1), ("nan", 1), ("inf", 1), ("999999", 3600), ("later", 1)],
)
async def test_how_long_to_wait(http: BrokerHttp, origin: Origin, header: str | None, seconds: float):
    origin.answer = Answer(429, b"<html>", headers={} if header is None else {"Retry-After": header})
    with pytest.raises(BrokerRateLimitedError) as caught:
        await http.ask("POST", origin.url, headers={}, changes=True)
    assert caught.value.retry_after == seconds
    assert caught.value.headers["Retry-After"] == str(seconds)


async def test_how_long_to_wait_as_a_date(http: BrokerHttp, origin: Origin, clock: StandingClock):
    clock.moment = clock.moment.replace(microsecond=0)
    until = format_datetime(clock.now() + timedelta(seconds=90), usegmt=True)
    origin.answer = Answer(429, b"", headers={"Retry-After": until})
    with pytest.raises(BrokerRateLimitedError) as caught:
        await http.ask("GET", origin.url, headers={})
    assert caught.value.retry_after == 90


@pytest.mark.parametrize("value", ["to\r\nken", "tökén", "t\x00", "to\nken", "x" * 9000])
async def test_a_header_that_cannot_be_sent_is_not_shown(http: BrokerHttp, origin: Origin, value: str):
    with pytest.raises(BrokerSessionError) as caught:
        await http.ask("POST", origin.url, headers={"Authorization": value}, changes=True)
    assert value not in repr(caught.value)
    assert not origin.requests


async def test_what_a_plain_text_means_is_the_brokers(clock: StandingClock, origin: Origin):
    said: list[tuple[int, str]] = []

    def judge(status: int, text: str) -> BrokerError | None:
        said.append((status, text))
        return BrokerRateLimitedError("slow down") if "rate" in text else None

    http = BrokerHttp("Test Broker", clock, timeouts=LONG, judge_text=judge)
    origin.answer = Answer(403, b"exceeding access rate" + b"x" * 1000, "text/plain")
    with pytest.raises(BrokerRateLimitedError, match="slow down"):
        await http.ask("POST", origin.url, headers={}, changes=True)
    assert said[0][0] == 403
    assert len(said[0][1]) == 500
    await http.close()


async def test_large_files_arrive_in_pieces(http: BrokerHttp, origin: Origin):
    plain = bytes(range(256)) * 8000
    for answer, packed in (
        (Answer(200, plain, "text/csv"), False),
        (Answer(200, _zipped(plain), headers={"Content-Encoding": "gzip"}), False),
        (Answer(200, _zipped(plain), "application/gzip"), True),
        (Answer(200, _zipped(plain[:1000]) + _zipped(plain[1000:]), "application/gzip"), True),
        (Answer(200, _zipped(_zipped(plain)), headers={"Content-Encoding": "gzip"}), True),
    ):
        origin.answer = answer
        pieces: list[bytes] = []
        await http.download(origin.url, pieces.append, packed=packed)
        assert b"".join(pieces) == plain
        assert max(map(len, pieces)) <= 1 << 18


@pytest.mark.parametrize(
    ("answer", "packed"),
    [
        (Answer(200, gzip.compress(b"x" * 5000, mtime=0)[:-9]), True),
        (Answer(200, b"plain"), True),
        (Answer(200, gzip.compress(b"x" * 20_000, mtime=0)), True),
        (Answer(200, b"x" * 20_000), False),
        (Answer(404, b"gone"), False),
        (Answer.of({"json": "error"}, 400), False),
        (Answer(304, b""), False),
    ],
)
async def test_files_that_are_none(http: BrokerHttp, origin: Origin, answer: Answer, packed: bool):
    origin.answer = answer
    with pytest.raises(BrokerUnavailableError):
        await http.download(origin.url, lambda _piece: None, packed=packed, most=10_000)


def test_words_are_fit_to_be_shown():
    assert broker_words("  Bad\r\n\x1b[31m thing\u2028 ") == "Bad [31m thing"
    assert broker_words("token abcdef and pin 1234, id 12", "abcdef", "1234", "12") == "token … and pin …, id 12"
    assert len(broker_words("x" * 10_000)) == 500
    for nothing in (None, 5, {}, ""):
        assert broker_words(nothing) == ""
