"""TradingView's webhook: the hot path, so it reads the request by itself and answers ready-made JSON."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from app.alerts.deliveries import Deliveries, Delivery
from app.alerts.schemas import Alert
from app.core.deps import ClientAddress, provided
from app.core.problem import problem_responses

router = APIRouter(tags=["Webhook"])

Handler = Annotated[Deliveries, provided(Deliveries)]
SecretKey = Annotated[
    str, Path(min_length=1, max_length=200, description="A strategy's secret key.", examples=["k" * 43])
]

_BODY = {"schema": {"$ref": "#/components/schemas/WebhookAlert"}}
_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The alert's message. TradingView sends JSON as `application/json`, anything else as `text/plain`.",
        "content": {"application/json": _BODY, "text/plain": {"schema": {"type": "string"}}},
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "The sender's identity of the event, when the body has no `alert_id`.",
            "schema": {"type": "string", "maxLength": 255},
        }
    ],
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Alert, "description": "A repeat: the first alert, nothing changed."},
    201: {"model": Alert, "description": "Durably stored."},
    **problem_responses(403, 404, 413),
}


async def receive_alert(
    request: Request, secret_key: SecretKey, address: ClientAddress, deliveries: Handler
) -> Response:
    """Takes an alert from TradingView. 201 means that it is durably stored; a repeat answers 200 with the first alert.

    A repeat has the same key and the same body: for 24 hours when it carries an `alert_id` or an `Idempotency-Key`
    header, else for `ALERT_DEDUP_SECONDS`. What is refused is kept in `GET /alerts/rejected` with the reason.
    """
    body, size = await read_limited(request, deliveries.max_body_bytes)
    headers = request.headers
    delivery = Delivery(secret_key, body, size, headers.get("content-type"), headers.get("idempotency-key"), address)
    content, new = await deliveries.accept(delivery)
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


def _add(path: str, handler: Callable[..., Awaitable[Response]], **options: Any) -> None:
    router.add_api_route(path, handler, methods=["POST"], status_code=201, response_class=Response, **options)


for _path in ("/data/{secret_key}", "/alerts/create/{secret_key}"):
    _add(_path, receive_alert, summary="TradingView webhook", responses=_RESPONSES, openapi_extra=_OPENAPI)
    # TradingView does not follow redirects, so a slash at the end of the pasted URL must not need one.
    _add(f"{_path}/", receive_alert, include_in_schema=False)
