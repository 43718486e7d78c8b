"""Requests to brokers over one pool of connections: verified TLS, deadlines, bounded answers, errors by kind.

What matters most here is to tell "it was certainly not done" from "nobody knows". The line between the two is the
moment at which the first byte of the request may have left: connections that cannot be made, and requests that cannot
be written down, are `BrokerUnavailableError`; whatever happens later to a request that changes something is
`OutcomeUnknownError`. Nothing is ever sent twice, and no redirect is followed.
"""

import asyncio
import math
import re
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import httpx
import msgspec

from app.brokerage.adapters.inflate import Inflate, TooLargeError, UnknownEncodingError
from app.brokerage.errors import (
    BrokerError,
    BrokerRateLimitedError,
    BrokerSessionError,
    BrokerUnavailableError,
    OutcomeUnknownError,
)
from app.core.clock import Clock

MAX_ANSWER: Final = 8 << 20
"""Bytes; the order book of a very busy day is 4 MB."""
MAX_FILE: Final = 256 << 20
"""Bytes, unpacked; the largest list of instruments has some 60 MB."""
LONGEST_WAIT: Final = 3600.0
"""Seconds: of what a server asks us to wait, no more is believed."""
TRY_AGAIN: Final = 1.0
"""Seconds to wait after a 429 that does not say how long: brokers count by the second."""
_WORDS: Final = 500
_CHUNK: Final = 64 << 10
_PIECE: Final = 256 << 10
_SENDABLE = re.compile(r"[\x20-\x7e]{0,8192}").fullmatch
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class Timeouts(NamedTuple):
    """Seconds."""

    connect: float = 3.0
    read: float = 7.0
    """Between two pieces of an answer."""
    whole: float = 10.0
    """From the beginning to the answer's end."""
    file: float = 300.0
    """For a whole list of instruments."""


class Reply(NamedTuple):
    """An answer with a status below 500 other than a redirect and 429, whose body is JSON."""

    status: int
    content: Any
    """The JSON, with every number that has a point or an exponent as `Decimal`."""

    @property
    def mapping(self) -> dict[str, Any]:
        """The content; empty if it is no object."""
        return self.content if isinstance(self.content, dict) else {}


JudgeText: TypeAlias = Callable[[int, str], BrokerError | None]
"""What an answer that is no JSON means, by its status and the first 500 characters; None: nobody knows."""


class BrokerHttp:
    """Carries requests to one broker, for all its accounts."""

    def __init__(
        self,
        label: str,
        clock: Clock,
        *,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
        judge_text: JudgeText = lambda _status, _text: None,
    ) -> None:
        """`label`: the broker's name in sentences (`Zerodha`). `tls`: what to trust, the system's by default."""
        self.label = label
        self._clock, self._tls, self._timeouts, self._judge_text = clock, tls, timeouts, judge_text
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        changes: bool = False,
        parameters: Mapping[str, str | int] | None = None,
        form: Mapping[str, str | int] | None = None,
        json: object = None,
    ) -> Reply:
        """The answer to one request, which is sent once. `form` or `json` is its body.

        `changes`: whether it does something at the broker that must not be done twice (place, modify, cancel).
        Raises `BrokerUnavailableError`, `BrokerRateLimitedError`, `BrokerSessionError` (for credentials that no header
        can carry) and, if it `changes` something, `OutcomeUnknownError`. What the JSON of a reply means, success or
        not, is the caller's to find out.
        """
        asked = _Asked(self.label, changes)
        content, type_ = _body(form, json)
        sent = {**headers, **({"Content-Type": type_} if type_ else {})}
        self._check(sent)
        client = await self._pool()
        try:
            async with (
                asyncio.timeout(self._timeouts.whole),
                client.stream(
                    method,
                    url,
                    params=parameters,
                    headers=sent,
                    content=content,
                    extensions={"trace": asked.trace},
                ) as answer,
            ):
                body = await _read(answer, MAX_ANSWER)
        except TimeoutError:
            asked.lost("it took too long")
        except (TooLargeError, UnknownEncodingError):
            asked.lost("its answer could not be read")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            asked.lost(_word(error), certainly_not=isinstance(error, httpx.ProxyError))
        return self._judged(asked, answer, body)

    async def download(
        self,
        url: str,
        take: Callable[[bytes], None],
        *,
        headers: Mapping[str, str] | None = None,
        packed: bool = False,
        most: int = MAX_FILE,
    ) -> None:
        """Give a large file to `take`, piece by piece and **in a thread**, unpacked. `packed`: the file is gzip itself.

        Raises `BrokerUnavailableError`, `BrokerRateLimitedError` and what `take` raises.
        """
        asked = _Asked(self.label, changes=False)
        sent = {"Accept": "*/*", **(headers or {})}
        self._check(sent)
        client = await self._pool()
        try:
            async with asyncio.timeout(self._timeouts.file), client.stream("GET", url, headers=sent) as answer:
                if answer.status_code != 200:
                    self._judged(asked, answer, await _read(answer, MAX_ANSWER))
                    asked.lost(f"it answered {answer.status_code}")
                await _pour(answer, take, packed=packed, most=most)
        except TimeoutError:
            asked.lost("it took too long")
        except (TooLargeError, UnknownEncodingError):
            asked.lost("its answer could not be read")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            asked.lost(_word(error))

    def unclear(self, *, changes: bool, because: str = "its answer makes no sense") -> NoReturn:
        """Raise what an answer means that is JSON, and not what the broker's documentation promises."""
        asked = _Asked(self.label, changes)
        asked.began = True
        asked.lost(because)

    async def close(self) -> None:
        """Close the pool."""
        if self._client is not None:
            await self._client.aclose()

    def _check(self, headers: Mapping[str, str]) -> None:
        # Before the library sees them: what it says of a header it cannot send quotes it.
        if not all(_SENDABLE(value) for value in headers.values()):
            raise BrokerSessionError(
                f"The credentials for {self.label} hold characters that no key or token has. Enter them again."
            )

    async def _pool(self) -> httpx.AsyncClient:
        if self._client is None:
            async with self._making:
                if self._client is None:
                    # In a thread: reading the system's authorities takes a while.
                    self._client = await asyncio.to_thread(self._make_client)
        return self._client

    def _make_client(self) -> httpx.AsyncClient:
        connect, read, _, _ = self._timeouts
        return httpx.AsyncClient(
            headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "arrow"},
            # No cookies: one account's session must not travel with another's requests.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(read, connect=connect, pool=connect),
            limits=httpx.Limits(max_connections=40, max_keepalive_connections=20, keepalive_expiry=30),
            verify=self._tls or ssl.create_default_context(),
            follow_redirects=False,
        )

    def _judged(self, asked: "_Asked", answer: httpx.Response, body: bytes) -> Reply:
        status = answer.status_code
        if status == 429:
            wait = self._wait(answer.headers.get("retry-after"))
            raise BrokerRateLimitedError(
                f"{self.label} has had too many requests. Try again in {math.ceil(wait)} s.", retry_after=wait
            )
        if status >= 500 or 300 <= status < 400:
            asked.lost(f"it answered {status}")
        try:
            return Reply(status, _decode(body))
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError):
            known = self._judge_text(status, body[:_WORDS].decode("latin-1"))
        if known is None:
            asked.lost(f"it answered {status} with something that is not JSON")
        raise known

    def _wait(self, header: str | None) -> float:
        try:
            seconds = float(header or TRY_AGAIN)
        except ValueError:
            seconds = self._until(header or "")
        return min(max(seconds, TRY_AGAIN), LONGEST_WAIT) if math.isfinite(seconds) else TRY_AGAIN

    def _until(self, date: str) -> float:
        try:
            until = parsedate_to_datetime(date)
        except (ValueError, OverflowError):
            return TRY_AGAIN
        return ((until if until.tzinfo else until.replace(tzinfo=UTC)) - self._clock.now()).total_seconds()


def broker_words(text: object, *secrets: str) -> str:
    """What a broker says, fit to be shown: one line of at most 500 characters, without any of `secrets`."""
    shown = " ".join(_UNPRINTABLE.sub(" ", text if isinstance(text, str) else "").split())
    for secret in secrets:
        # Shorter ones (a PIN) are found in many a text that does not hold them.
        if len(secret) >= 4:
            shown = shown.replace(secret, "…")
    return shown[:_WORDS]


class _Asked:
    """One request: whether it has begun to leave, and what it means that no answer came."""

    def __init__(self, label: str, changes: bool) -> None:
        self._label, self._changes = label, changes
        self.began = False

    async def trace(self, event: str, _info: object) -> None:
        """Called by the library at every step."""
        if event.endswith("send_request_headers.started"):
            self.began = True

    def lost(self, because: str, *, certainly_not: bool = False) -> NoReturn:
        """Raise what it means. `from None`: what the library says of a request may quote it."""
        if self.began and self._changes and not certainly_not:
            raise OutcomeUnknownError(
                f"Whether {self._label} has done it is not known: {because}. It is not sent again; the order book of"
                f" {self._label} will tell."
            ) from None
        raise BrokerUnavailableError(f"{self._label} cannot be used right now: {because}. Try again soon.") from None


def _body(form: Mapping[str, str | int] | None, json: object) -> tuple[bytes | None, str | None]:
    if form is not None:
        return str(httpx.QueryParams({name: str(value) for name, value in form.items()})).encode(), (
            "application/x-www-form-urlencoded"
        )
    if json is not None:
        return _encode(json), "application/json"
    return None, None


async def _read(answer: httpx.Response, most: int) -> bytes:
    """The body, unpacked by ourselves: a small answer must not unpack into a huge one."""
    inflate = Inflate(answer.headers.get("content-encoding", ""), most)
    body = bytearray()
    async for raw in answer.aiter_raw(_CHUNK):
        for data in inflate.feed(raw):
            body += data
    inflate.close()
    return bytes(body)


async def _pour(answer: httpx.Response, take: Callable[[bytes], None], *, packed: bool, most: int) -> None:
    inflate = Inflate(answer.headers.get("content-encoding", ""), most)
    inner = Inflate("gzip" if packed else "", most)

    def work(raw: bytes) -> None:
        for outer in inflate.feed(raw):
            for data in inner.feed(outer):
                take(data)

    waiting = bytearray()
    async for raw in answer.aiter_raw(_CHUNK):
        waiting += raw
        if len(waiting) >= _PIECE:
            await asyncio.to_thread(work, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(work, bytes(waiting))
    inflate.close()
    inner.close()


def _word(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    if isinstance(error, ssl.SSLError) or "SSL" in str(error) or "certificate" in str(error).lower():
        return "the connection to it is not secure"
    if isinstance(error, httpx.ConnectError):
        return "there is no connection to it"
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return "the connection broke"
    return "the request failed"
