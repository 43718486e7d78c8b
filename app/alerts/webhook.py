"""TradingView's webhook: the hot path, so it reads the request by itself and answers ready-made JSON."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from pymongo.errors import PyMongoError
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.alerts.deliveries import Deliveries, Delivery
from app.alerts.schemas import Alert
from app.core.client_address import ClientAddressResolver
from app.core.deps import registry_of
from app.core.errors import DomainError, UnavailableError
from app.core.problem import database_response, domain_response, problem_responses

router = APIRouter(tags=["Webhook"])

PATIENCE = 2.7
"""Seconds for one delivery: TradingView gives up after 3, and sends again only what was answered 5xx."""

_PREFIXES = ("/data/", "/alerts/create/")

_BODY = {"schema": {"$ref": "#/components/schemas/WebhookAlert"}}
_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The alert's message: TradingView sends JSON as `application/json`, all else as `text/plain`.",
        "content": {"application/json": _BODY, "text/plain": {"schema": {"type": "string"}}},
    },
    "parameters": [
        {
            "name": "secret_key",
            "in": "path",
            "required": True,
            "description": "A strategy's secret key, as `POST /alerts/bind_key` showed it.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "The sender's identity of the event, when the body has no `alert_id`.",
            "schema": {"type": "string", "maxLength": 255},
        },
    ],
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Alert, "description": "A repeat: the first alert, nothing changed."},
    201: {"model": Alert, "description": "Durably stored."},
    **problem_responses(403, 404, 413),
}


async def receive_alert(request: Request) -> Response:
    """Takes an alert from TradingView. 201 means that it is durably stored; a repeat answers 200 with the first alert.

    A repeat has the same key and the same body: for 24 hours when it carries an `alert_id` or an `Idempotency-Key`
    header, else for `ALERT_DEDUP_SECONDS`. What is refused is kept in `GET /alerts/rejected` with the reason.
    """
    # Taken from the registry here: as dependencies they would cost half as much again as all the rest.
    registry = registry_of(request)
    deliveries = registry.get(Deliveries)
    address = registry.get(ClientAddressResolver).of(request.scope)
    body, size = await read_limited(request, deliveries.max_body_bytes)
    headers = request.headers
    secret_key: str = request.path_params["secret_key"]
    delivery = Delivery(secret_key, body, size, headers.get("content-type"), headers.get("idempotency-key"), address)
    try:
        async with asyncio.timeout(PATIENCE):
            content, new = await deliveries.accept(delivery)
    except TimeoutError:
        raise UnavailableError("It could not be stored in time; nothing was acknowledged. Try again.") from None
    return Response(content, 201 if new else 200, media_type="application/json")


async def read_limited(request: Request, limit: int) -> tuple[bytes, int]:
    """The body, and how many bytes were sent; reading stops once there are more than `limit`."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    declared = request.headers.get("content-length", "")
    return b"".join(chunks), max(size, int(declared) if declared.isdigit() and len(declared) < 16 else 0)


def key_in_path(path: str) -> str | None:
    """The secret key in the path of a webhook, or None for every other path. A slash at the end does not matter."""
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            key = path[len(prefix) :].removesuffix("/")
            return key if key and "/" not in key else None
    return None


class WebhookLane:
    """Answers webhook deliveries without the routing, dependency and exit-stack layers of FastAPI.

    They took a third of the CPU that a delivery costs before it is written (scripts/bench_webhook.py). The routes below
    do the same, are what the documentation shows, and serve where the application lives under a path of a proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a delivery, or pass on."""
        key = None
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            key = key_in_path(scope["path"])
        if key is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = router.routes[0]
        scope["path_params"] = {"secret_key": key}
        try:
            response = await receive_alert(Request(scope, receive))
        except DomainError as error:
            response = domain_response(scope, error)
        except PyMongoError as error:
            response = database_response(scope, error)
        except ClientDisconnect:
            return  # the sender broke off in the middle of the body: nobody is left to answer
        await response(scope, receive, send)


def _add(path: str, handler: Callable[..., Awaitable[Response]], **options: Any) -> None:
    router.add_api_route(path, handler, methods=["POST"], status_code=201, response_class=Response, **options)


for _prefix in _PREFIXES:
    _path = f"{_prefix}{{secret_key}}"
    _add(_path, receive_alert, summary="TradingView webhook", responses=_RESPONSES, openapi_extra=_OPENAPI)
    # TradingView does not follow redirects, so a slash at the end of the pasted URL must not need one.
    _add(f"{_path}/", receive_alert, include_in_schema=False)
