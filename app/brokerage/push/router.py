"""Brokers' events over HTTP."""

from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request

from app.brokerage.push.service import BrokerPushes, Push, Taken
from app.core.client_address import network_of
from app.core.deps import ClientAddress, provided
from app.core.problem import problem_responses
from app.core.schemas import ResponseModel

PUSHES: list[str | Enum] = ["Brokerages"]
router = APIRouter(prefix="/api/v1/brokerage", tags=PUSHES)

Pushes = Annotated[BrokerPushes, provided(BrokerPushes)]
_EVENT: dict[str, Any] = {
    "user_id": "AB1234",
    "order_id": "151220000000000",
    "status": "COMPLETE",
    "tag": "T5C9U8TNMN2EWARX",
}
_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The broker's event as it is; `account_id` or `user_id` (the client code) says whose it is.",
        "content": {"application/json": {"schema": {"type": "object"}, "example": _EVENT}},
    }
}


class PushTaken(ResponseModel):
    """What became of an event."""

    status: Taken


@router.post(
    "/webhook/{brokerage}",
    summary="A broker's event",
    responses=problem_responses(401, 404, 413),
    openapi_extra=_OPENAPI,
)
async def receive_push(
    request: Request,
    brokerage: Annotated[str, Path(max_length=32, examples=["zerodha"])],
    pushes: Pushes,
    address: ClientAddress,
    signature: Annotated[
        str | None,
        Header(alias="X-Broker-Signature", max_length=256, description="Hex HMAC-SHA256 of the raw body."),
    ] = None,
    algorithm: Annotated[str | None, Header(alias="X-Broker-Signature-Alg", max_length=32)] = None,
) -> PushTaken:
    """Signed with `BROKER_WEBHOOK_SECRET` (or one of `BROKER_WEBHOOK_ADDITIONAL_SECRETS`) it is taken as a fact. Kite's
    postback is known by its checksum, and Upstox signs nothing: both only make us look at the order book. Anything else
    is answered 401; a repeat changes nothing."""
    body = await request.body()
    return PushTaken(status=await pushes.receive(Push(brokerage, body, signature, algorithm, network_of(address))))
