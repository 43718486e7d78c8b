"""Pure ASGI middleware: request ids, one log line and metrics per request, security headers, the body limit.

`BaseHTTPMiddleware` is not used anywhere: each costs more than FastAPI's own work for a request.
"""

import itertools
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.client_address import ClientAddressResolver
from app.core.errors import PayloadTooLargeError, StartupError
from app.core.metrics import Metrics
from app.core.problem import domain_response, problem_response
from app.core.redaction import scrub_path
from app.core.request_info import RequestInfo, note_request, printable
from app.core.settings import SettingsError

log = structlog.get_logger("arrow.request")

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,40}").fullmatch
_PROBES = frozenset({"/health/live", "/health/ready", "/metrics"})
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-site"),
)


class RequestContextMiddleware:
    """Gives each request an id, answers unforeseen errors, logs and counts what happened.

    HEAD is answered wherever GET is, as RFC 9110 (section 9.1) demands, with the same headers and no body.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, addresses: ClientAddressResolver, hsts: bool) -> None:
        self.app = app
        self._metrics = metrics
        self._addresses = addresses
        self._headers = [*_HEADERS, *([(b"strict-transport-security", b"max-age=31536000")] if hsts else [])]
        # Ids need to be unique, not secret: a random name for the process, and a count.
        self._process = secrets.token_hex(6).encode()
        self._numbers = itertools.count(1)
        # Bound once: the module's logger looks its configuration up at every line.
        self._log = structlog.get_logger("arrow.request").bind()
        # Label sets are looked up once, not per request.
        self._counters: dict[tuple[str, str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = self._request_id(scope)
        # Redirects and addresses in answers must begin as the client's own request did.
        if scheme := self._addresses.scheme(scope):
            scope["scheme"] = scheme
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        note_request(lambda: self._info(scope))
        status = 0
        head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if head else scope

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id),
                    *(header for header in self._headers if header[0] not in present),
                ]
            await send(message)

        self._metrics.in_progress.inc()
        try:
            await self.app(inner, receive, send_with_headers)
        except Exception:  # the last line of defence: logged in full, answered without a detail of it
            log.exception("unhandled error", request_id=scope["state"]["request_id"], path=scrub_path(scope["path"]))
            if status:
                raise
            detail = "Something went wrong here. It was logged; the request_id helps to find it."
            answer = problem_response(scope, 500, detail, title="Internal server error", slug="internal-error")
            await answer(scope, receive, send_with_headers)
        finally:
            self._metrics.in_progress.dec()
            self._record(scope, inner.get("route"), status, time.perf_counter() - began)

    def _info(self, scope: Scope) -> RequestInfo:
        agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"").decode("latin-1")
        return RequestInfo(scope["state"]["request_id"], self._addresses.of(scope), printable(agent[:256]) or None)

    def _request_id(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _SANE_ID(value):
                return bytes(value)
        return b"%s-%x" % (self._process, next(self._numbers))

    def _record(self, scope: Scope, matched: Any, status: int, seconds: float) -> None:
        route = getattr(matched, "path", None) or "unmatched"
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        counters = self._counters.get((method, route, status))
        if counters is None:
            counters = self._counters[method, route, status] = (
                self._metrics.requests.labels(method, route, status or "aborted").inc,
                self._metrics.request_seconds.labels(route).observe,
            )
        counters[0]()
        counters[1](seconds)
        if route in _PROBES and status < 400:
            return
        self._log.info(
            "request",
            method=method,
            # The route's template, never the path: strategy keys are part of paths.
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            client=self._addresses.of(scope),
            request_id=scope["state"]["request_id"],
            safe=True,
        )


_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class BodyLimitMiddleware:
    """Answers 413 to bodies over the limit, before they are read whole.

    Routes in `own_limit` (a test on the path) read and limit the body by themselves.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, own_limit: Callable[[Scope], bool]) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._own_limit = own_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"} or self._own_limit(scope):
            await self.app(scope, receive, send)
            return
        too_large = PayloadTooLargeError(f"The body may have at most {self._max_bytes // 1024} KiB.")
        for name, value in scope["headers"]:
            # More digits than any limit has are not even read: Python refuses to make numbers of thousands of them.
            if name == b"content-length" and value.isdigit() and (len(value) > 15 or int(value) > self._max_bytes):
                await domain_response(scope, too_large)(scope, receive, send)
                return
        seen = 0
        started = False

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            # Whatever the inner application made of the interrupted body, the true answer is 413.
            if seen > self._max_bytes and not started:
                return
            started = True
            await send(message)

        try:
            await self.app(scope, limited, watched)
        except Exception:  # an exception group, where a task of the application was interrupted
            if seen <= self._max_bytes:
                raise
        if seen > self._max_bytes and not started:
            await domain_response(scope, too_large)(scope, receive, send)


class _TooLarge(Exception):  # noqa: N818 (a signal between two functions of this file)
    pass


class StartupFailureMiddleware:
    """Turns a start that failed for a known reason into one line instead of a stack trace."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        failed: list[Message] = []

        async def hold_failure(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await self.app(scope, receive, hold_failure)
        except (StartupError, SettingsError) as error:
            await send({"type": "lifespan.startup.failed", "message": f"Arrow cannot start: {error}"})
        except BaseException:
            for message in failed:
                await send(message)
            raise
