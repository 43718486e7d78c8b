"""Requests to Angel One over one pool of connections: verified TLS, deadlines, bounded answers, errors by kind.

Synchronous, because the vendor's SDK is: `AngelOneSession` calls it in threads of its own.
"""

import json
import math
import ssl
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from app.integrations.angel_one.errors import (
    TRY_AGAIN_SECONDS,
    AngelOneError,
    LoginRefusedError,
    NonsenseError,
    RateLimitedError,
    SessionExpiredError,
    UnreachableError,
    error_of,
    says_too_many,
)

MAX_ANSWER: Final = 8 << 20
"""Bytes; a month of minutes is 0.6 MB."""
LONGEST_WAIT: Final = 3600.0
"""Seconds: of what a server asks us to wait, no more is believed."""
_SIGN_IN: Final = "/loginByPassword"
_REFRESH: Final = "/generateTokens"
_CHUNK: Final = 64 << 10


class _Adapter(HTTPAdapter):
    """Trusts what the given context trusts, instead of the bundle that comes with `requests`."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__(pool_connections=1, pool_maxsize=4)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._tls, **named)

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._tls, **named)

    def cert_verify(self, conn: Any, _url: str, _verify: object, _cert: object) -> None:
        conn.cert_reqs = "CERT_REQUIRED"


class Wire:
    """Carries requests for `QuietSmartConnect`. Usable from several threads."""

    def __init__(
        self, base_url: str, *, tls: ssl.SSLContext | None = None, timeout: tuple[float, float] = (3.0, 10.0)
    ) -> None:
        """`timeout`: seconds to connect and between two pieces of an answer; all of it may take three of the latter."""
        self._base_url, self._timeout = base_url.rstrip("/"), timeout
        self._session = requests.Session()
        self._session.auth = _as_it_is  # else ~/.netrc would replace the bearer token
        self._session.mount("https://", _Adapter(tls or ssl.create_default_context()))

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: object) -> dict[str, Any]:
        """The envelope of a successful answer; raises `AngelOneError`, and nothing else."""
        url = f"{self._base_url}/{path.lstrip('/')}"
        data = None if body is None else json.dumps(body)
        began = time.monotonic()
        try:
            with self._session.request(
                method, url, data=data, headers=headers, timeout=self._timeout, allow_redirects=False, stream=True
            ) as answer:
                content = self._read(answer, began)
        except requests.RequestException as error:
            # `from None`: what the library says of a request quotes it.
            raise UnreachableError(_word(error)) from None
        return _envelope(path, answer, content)

    def close(self) -> None:
        """Close the pool."""
        self._session.close()

    def _read(self, answer: requests.Response, began: float) -> bytes:
        pieces, size = [], 0
        for piece in answer.iter_content(_CHUNK):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER:
                raise NonsenseError("too large")
            if time.monotonic() - began > self._timeout[0] + 3 * self._timeout[1]:
                raise UnreachableError("timeout")
        return b"".join(pieces)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _word(error: requests.RequestException) -> str:
    for kind, word in (
        (requests.exceptions.SSLError, "tls"),
        (requests.exceptions.Timeout, "timeout"),
        (requests.exceptions.ConnectionError, "connection"),
        (requests.exceptions.ChunkedEncodingError, "connection"),
    ):
        if isinstance(error, kind):
            return word
    return "request"


def _envelope(path: str, answer: requests.Response, content: bytes) -> dict[str, Any]:
    status = answer.status_code
    if status == 429:
        raise RateLimitedError("429", retry_after=retry_after(answer.headers.get("Retry-After")))
    if status >= 500:
        raise UnreachableError(str(status))
    try:
        # Prices as they are written; numbers that JSON does not have are refused.
        envelope = json.loads(content, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict):
        if not any(name in answer.headers for name in ("Content-Length", "Transfer-Encoding")):
            raise UnreachableError("connection")  # nothing says that this was all of it
        raise _without_words(path, status, content)
    # Two spellings: the interface's own, and the gateway's before it.
    if envelope.get("status") is True or envelope.get("success") is True:
        if status >= 300:
            raise NonsenseError(str(status))
        return {**envelope, "status": True}
    code = str(envelope.get("errorcode") or envelope.get("errorCode") or status)[:16]
    if not code.isalnum():
        code = "no code"
    message = str(envelope.get("message") or "")
    if path.endswith(_REFRESH):
        error = error_of(code, message, signing_in=False)
        later = isinstance(error, RateLimitedError | UnreachableError | LoginRefusedError)
        raise error if later else SessionExpiredError(code)
    raise error_of(code, message, signing_in=path.endswith(_SIGN_IN))


def _without_words(path: str, status: int, content: bytes) -> AngelOneError:
    """The error for an answer that is not JSON. 403 can mean either, and says which in plain text."""
    if says_too_many(content[:500].decode("latin-1")):
        return RateLimitedError(str(status), retry_after=TRY_AGAIN_SECONDS)
    if status in {401, 403}:
        return LoginRefusedError(str(status)) if path.endswith(_SIGN_IN) else SessionExpiredError(str(status))
    return NonsenseError("not JSON" if status < 300 else str(status))


def _no_number(_name: str) -> Any:
    raise ValueError("not a number")


def retry_after(header: str | None) -> float:
    """Seconds that a `Retry-After` header asks for; its form with a date is answered with a usual wait."""
    try:
        seconds = float(header or TRY_AGAIN_SECONDS)
    except ValueError:
        return TRY_AGAIN_SECONDS
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else TRY_AGAIN_SECONDS
