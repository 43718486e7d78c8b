"""Orders over HTTP."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response

from app.brokerage.orders.changing import Changing
from app.brokerage.orders.placing import Placed, Placing
from app.brokerage.orders.reading import OrderReading
from app.brokerage.orders.reconciliation import Reconciliation
from app.brokerage.orders.schemas import (
    BUYING,
    SELLING,
    BrokerIn,
    Order,
    OrderAmendment,
    OrderFilters,
    OrderInput,
    OrderRow,
    ReconciliationReport,
    StatusIn,
    Ticker,
)
from app.brokerage.orders.wire import orders_json
from app.brokerage.words import Side
from app.core.deps import NoStore, OrderReader, OrderWriter, provided
from app.core.errors import FieldError, InvalidInputError
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.schemas import Moment, parse_id

ORDERS: list[str | Enum] = ["Orders"]
router = APIRouter(prefix="/api/v1/dashboard", tags=ORDERS, dependencies=[NoStore])

Places = Annotated[Placing, provided(Placing)]
Changes = Annotated[Changing, provided(Changing)]
Orders = Annotated[OrderReading, provided(OrderReading)]
Reports = Annotated[Reconciliation, provided(Reconciliation)]
PageQuery = Annotated[PageRequest, Depends(page_request)]
OrderId = Annotated[str, Path(max_length=200, description="The order's id.", examples=["6b02893a002b26997921d778"])]

_PLACED: dict[int | str, dict[str, Any]] = {
    200: {"model": Order, "description": "Placed before under this `client_order_id`; nothing was sent."},
    201: {"model": Order, "description": "Placed."},
    **problem_responses(401, 403, 409, 413, 502, 504),
}
_CHANGED: dict[int | str, dict[str, Any]] = {
    **problem_responses(401, 403, 404, 409, 413, 502, 504),
}


def _json(content: bytes, response: Response, status: int = 200) -> Response:
    """Orders come out of the service encoded, with exact numbers."""
    headers: Mapping[str, str] = response.headers
    return Response(content, status, headers, "application/json")


def _placed(placed: Placed, response: Response) -> Response:
    return _json(placed.body, response, 201 if placed.new else 200)


async def _filters(
    status: Annotated[StatusIn | None, Query(description="In this state only.")] = None,
    symbol: Annotated[Ticker | None, Query(description="Of this symbol only.", examples=["RELIANCE"])] = None,
    broker: Annotated[BrokerIn | None, Query(description="At this broker only.")] = None,
    start: Annotated[Moment | None, Query(description="Made at this time or later.")] = None,
    end: Annotated[Moment | None, Query(description="Made at this time or before.")] = None,
) -> OrderFilters:
    """The filters of the list, from the query."""
    if start and end and start > end:
        fault = FieldError(("query", "start"), "start is after end", "time_order")
        raise InvalidInputError("query.start: start is after end.", [fault])
    return OrderFilters(status=status, symbol=symbol, broker=broker, start=start, end=end)


@router.post("/order/buy", status_code=201, summary="Buy", response_class=Response, responses=_PLACED)
async def buy(
    body: Annotated[OrderInput, Body(openapi_examples=BUYING)], response: Response, user: OrderWriter, places: Places
) -> Response:
    """Through your active account. With a `client_order_id` the same order sent again is never placed again.

    Without a `price` it is a market order. 504: sent, and no answer says whether the broker has it; `order_id` says
    where to look, and nothing is sent again. 422 names the nearest valid price or
    quantity, or what the broker takes instead; also for what it rejects.
    """
    return _placed(await places.place(user, Side.BUY, body), response)


@router.post("/order/sell", status_code=201, summary="Sell", response_class=Response, responses=_PLACED)
async def sell(
    body: Annotated[OrderInput, Body(openapi_examples=SELLING)], response: Response, user: OrderWriter, places: Places
) -> Response:
    """As buying is."""
    return _placed(await places.place(user, Side.SELL, body), response)


@router.get(
    "/orders",
    summary="Your orders",
    response_class=Response,
    responses={200: {"model": list[OrderRow], **PAGED[200]}, **problem_responses(401, 403)},
)
async def list_orders(
    request: Request,
    response: Response,
    user: OrderReader,
    orders: Orders,
    page: PageQuery,
    filters: Annotated[OrderFilters, Depends(_filters)],
) -> Response:
    """Newest first; all filters hold together."""
    found = await orders.page(user.user_id, filters, page)
    return _json(orders_json(found.announce(request, response)), response)


@router.get(
    "/orders/{order_id}",
    summary="One order",
    response_class=Response,
    responses={200: {"model": Order}, **problem_responses(401, 403, 404)},
)
async def get_order(order_id: OrderId, response: Response, user: OrderReader, orders: Orders) -> Response:
    """With all that happened to it. 404 for what does not exist or is not yours."""
    return _json(await orders.get(user.user_id, parse_id(order_id, "order")), response)


@router.patch(
    "/orders/{order_id}",
    summary="Change an order",
    response_class=Response,
    responses={200: {"model": Order}, **_CHANGED},
)
async def change_order(
    order_id: OrderId, body: OrderAmendment, response: Response, user: OrderWriter, changes: Changes
) -> Response:
    """What you name is changed, while the order is open. `pending` is set until the broker's book shows it."""
    return _json(await changes.modify(user, parse_id(order_id, "order"), body), response)


@router.delete(
    "/orders/{order_id}",
    summary="Cancel an order",
    response_class=Response,
    responses={200: {"model": Order}, **_CHANGED},
)
async def cancel_order(order_id: OrderId, response: Response, user: OrderWriter, changes: Changes) -> Response:
    """It is `CANCELLED` when the broker says so; until then `pending` is set. What is filled stays filled."""
    return _json(await changes.cancel(user, parse_id(order_id, "order")), response)


@router.get(
    "/reconciliation",
    summary="Where brokers' books differ from ours",
    response_class=Response,
    responses={200: {"model": list[ReconciliationReport]}, **problem_responses(401, 403)},
)
async def reconciliation(response: Response, user: OrderReader, reports: Reports) -> Response:
    """The newest comparison of each of your accounts; every few minutes there is another."""
    return _json(await reports.reports(user.user_id), response)
