"""The listing's fast lane: what was answered before from the same listing needs no routing and no parsing."""

from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.client_address import ClientAddressResolver, network_of
from app.core.deps import Registry
from app.core.errors import RateLimitedError
from app.core.problem import domain_response
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings
from app.crypto.listing import Listings, ReadyPage
from app.crypto.router.common import has_already, headers_of
from app.crypto.router.listing import LIST_PATH

Headers = list[tuple[bytes, bytes]]


class _Route(NamedTuple):
    """What metrics and logs call the path."""

    path: str


class _Sent(NamedTuple):
    """The headers of an answer, as the server takes them."""

    whole: Headers
    unchanged: Headers


_ROUTE: Final = _Route(LIST_PATH)


class ListingLane:
    """Answers repeated questions for the listing without the routing, validation and dependency layers of FastAPI.

    They take most of the CPU that such an answer costs (scripts/bench_crypto.py). Only a query string that the route
    itself has answered, from the generation that is still the newest, is answered here, under the same limit.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http" or scope["path"] != LIST_PATH or scope["method"] != "GET" or scope.get("root_path"):
            await self.app(scope, receive, send)
            return
        registry: Registry = scope["app"].state.registry
        ready = registry.get(Listings).ready(scope["query_string"])
        if ready is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = _ROUTE
        address = registry.get(ClientAddressResolver).of(scope)
        per_minute = registry.get(Settings).rate_limit_per_minute
        try:
            await registry.get(RateLimiter).hit("public", network_of(address), per_minute)
        except RateLimitedError as error:
            await domain_response(scope, error)(scope, receive, send)
            return
        await _send(ready, scope, send)


async def _send(ready: ReadyPage, scope: Scope, send: Send) -> None:
    sent: _Sent = ready.sent or _prepare(ready, scope)
    tags = b", ".join([value for name, value in scope["headers"] if name == b"if-none-match"])
    changed = not tags or not has_already(tags.decode("latin-1"), ready.page.etag)
    # Layers further out add to the list that they are given.
    headers = [*(sent.whole if changed else sent.unchanged)]
    await send({"type": "http.response.start", "status": 200 if changed else 304, "headers": headers})
    await send({"type": "http.response.body", "body": ready.page.body if changed else b""})


def _prepare(ready: ReadyPage, scope: Scope) -> _Sent:
    """The headers that the route itself would send."""
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    headers = headers_of(ready.page, LIST_PATH, query)
    whole = Response(ready.page.body, headers=headers, media_type="application/json")
    sent = ready.sent = _Sent(whole.raw_headers, Response(status_code=304, headers=headers).raw_headers)
    return sent
