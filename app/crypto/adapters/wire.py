"""Requests to a provider over one pool of connections: verified TLS, deadlines, bounded answers, errors by kind."""

import asyncio
import math
import re
import ssl
import zlib
from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from app.core.clock import Clock
from app.crypto.errors import KeyRefusedError, NonsenseError, UnreachableError
from app.crypto.ports import Provider

MAX_ANSWER: Final = 8 << 20
"""Bytes; a thousand coins are 2 MB."""
_CHUNK: Final = 64 << 10
_GZIP: Final = 16 + zlib.MAX_WBITS
_KEY = re.compile(r"[\x21-\x7e]{1,512}").fullmatch
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class Timeouts(NamedTuple):
    """Seconds."""

    connect: float = 3.0
    read: float = 6.0
    """Between two pieces of an answer."""
    whole: float = 8.0
    """From the beginning to the answer's end."""


class Response(NamedTuple):
    """What came back: everything else than a server's own failure."""

    status: int
    content: Any
    """The JSON, with every number that has a point or an exponent as `Decimal`; None if it is none."""
    retry_after: float | None
    """Seconds that the server asked for."""


class Wire:
    """Carries requests to one provider."""

    def __init__(
        self,
        provider: Provider,
        base_url: str,
        clock: Clock,
        *,
        key: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
    ) -> None:
        """`key`: the header's name and the key that goes into it."""
        self._provider, self._base_url, self._clock = provider, base_url.rstrip("/"), clock
        self._key, self._tls, self._timeouts = key, tls, timeouts
        self._client: httpx.AsyncClient | None = None

    async def get(self, path: str, parameters: Mapping[str, str | int]) -> Response:
        """The answer to one request, which is sent once.

        Raises `UnreachableError`, `NonsenseError` for what is too large or compressed in a way of its own, and
        `KeyRefusedError` for a key that cannot be sent.
        """
        if self._key is not None and not _KEY(self._key[1]):
            raise KeyRefusedError(self._provider, "malformed", "The key in the settings holds what no key holds.")
        try:
            async with asyncio.timeout(self._timeouts.whole):
                status, headers, body = await self._exchange(f"{self._base_url}{path}", parameters)
        except TimeoutError:
            raise UnreachableError(self._provider, "timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            # `from None`: what the library says of a request quotes it.
            raise UnreachableError(self._provider, _word(error)) from None
        wait = self._wait(headers.get("retry-after"))
        if status >= 500:
            raise UnreachableError(self._provider, str(status), retry_after=wait, told=wait is not None)
        return Response(status, _json(body), wait)

    async def close(self) -> None:
        """Close the pool."""
        if self._client is not None:
            await self._client.aclose()

    async def _exchange(self, url: str, parameters: Mapping[str, str | int]) -> tuple[int, httpx.Headers, bytes]:
        if self._client is None:
            self._client = self._make_client()
        async with self._client.stream("GET", url, params=parameters) as answer:
            return answer.status_code, answer.headers, await self._read(answer)

    def _make_client(self) -> httpx.AsyncClient:
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "arrow"}
        if self._key is not None:
            headers[self._key[0]] = self._key[1]
        connect, read, _ = self._timeouts
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(read, connect=connect, pool=connect),
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2),
            verify=self._tls or ssl.create_default_context(),
            follow_redirects=False,  # the key must not travel to wherever an answer points
        )

    async def _read(self, answer: httpx.Response) -> bytes:
        """The body, unpacked by ourselves: a small answer must not unpack into a huge one."""
        coding = answer.headers.get("content-encoding", "identity").strip().lower()
        if coding not in {"gzip", "identity"}:
            raise NonsenseError(self._provider, "unknown encoding")
        unpacker = zlib.decompressobj(_GZIP) if coding == "gzip" else None
        body = bytearray()
        async for piece in answer.aiter_raw(_CHUNK):
            try:
                body += unpacker.decompress(piece, MAX_ANSWER + 1 - len(body)) if unpacker else piece
            except zlib.error:
                raise NonsenseError(self._provider, "not gzip") from None
            if len(body) > MAX_ANSWER:
                raise NonsenseError(self._provider, "too large")
        return bytes(body)

    def _wait(self, header: str | None) -> float | None:
        """Seconds that a `Retry-After` header asks for, in either form; None for anything else."""
        if header is None:
            return None
        try:
            seconds = float(header)
        except ValueError:
            try:
                until = parsedate_to_datetime(header)
            except (ValueError, OverflowError):
                return None
            until = until if until.tzinfo else until.replace(tzinfo=UTC)
            seconds = (until - self._clock.now()).total_seconds()
        return max(seconds, 1.0) if math.isfinite(seconds) else None


def _json(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError):
        return None


def _word(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    if isinstance(error, ssl.SSLError) or "SSL" in str(error) or "certificate" in str(error).lower():
        return "tls"
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return "connection"
    return "request"
