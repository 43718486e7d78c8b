"""Users' signals over HTTP."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.core.deps import NoStore, SignalReader, SignalWriter, provided
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.schemas import parse_id
from app.signals.user_schemas import SignalChange, SignalFilters, SignalInput, StatusIn, Symbol, UserSignal
from app.signals.user_signals import UserSignals

SIGNALS: list[str | Enum] = ["Your signals"]
router = APIRouter(prefix="/api/v1/signals", tags=SIGNALS, dependencies=[NoStore])

Signals = Annotated[UserSignals, provided(UserSignals)]
PageQuery = Annotated[PageRequest, Depends(page_request)]
SignalId = Annotated[str, Path(max_length=200, description="The signal's id.", examples=["6b02893a002b26997921d778"])]


def _json(content: bytes, response: Response, status: int = 200) -> Response:
    """Signals come out of the service encoded, with exact numbers."""
    headers: Mapping[str, str] = response.headers
    return Response(content, status, headers, "application/json")


async def _filters(
    status: Annotated[StatusIn | None, Query(description="In this state only.")] = None,
    symbol: Annotated[Symbol | None, Query(description="Of this symbol only.", examples=["RELIANCE"])] = None,
) -> SignalFilters:
    """The filters of the list, from the query."""
    return SignalFilters(status=status, symbol=symbol)


@router.post(
    "/",
    status_code=201,
    summary="Enter a signal",
    response_class=Response,
    responses={201: {"model": UserSignal}, **problem_responses(401, 409, 413)},
)
async def create_signal(body: SignalInput, response: Response, user: SignalWriter, signals: Signals) -> Response:
    """It is `ACTIVE` until its live price touches target or stop, or you close it; 409 over 200 active ones."""
    return _json(await signals.create(user, body), response, 201)


@router.get(
    "/",
    summary="Your signals",
    response_class=Response,
    responses={200: {"model": list[UserSignal], **PAGED[200]}, **problem_responses(401)},
)
async def list_signals(
    request: Request,
    response: Response,
    user: SignalReader,
    signals: Signals,
    page: PageQuery,
    filters: Annotated[SignalFilters, Depends(_filters)],
) -> Response:
    """Newest first; all filters hold together."""
    found = await signals.page(user.user_id, filters, page)
    return _json(signals.json(found.announce(request, response)), response)


@router.get(
    "/{signal_id}",
    summary="One signal",
    response_class=Response,
    responses={200: {"model": UserSignal}, **problem_responses(401, 404)},
)
async def get_signal(signal_id: SignalId, response: Response, user: SignalReader, signals: Signals) -> Response:
    """404 for what does not exist or is not yours."""
    return _json(await signals.get(user.user_id, parse_id(signal_id, "signal")), response)


@router.patch(
    "/{signal_id}",
    summary="Change or close a signal",
    response_class=Response,
    responses={200: {"model": UserSignal}, **problem_responses(401, 404, 409, 413)},
)
async def change_signal(
    signal_id: SignalId, body: SignalChange, response: Response, user: SignalWriter, signals: Signals
) -> Response:
    """What you name is changed. `COMPLETED` and `CANCELLED` are final: of a closed signal only the notes can change."""
    return _json(await signals.change(user, parse_id(signal_id, "signal"), body), response)


@router.delete("/{signal_id}", status_code=204, summary="Delete a signal", responses=problem_responses(401, 404))
async def delete_signal(signal_id: SignalId, user: SignalWriter, signals: Signals) -> None:
    """Whatever its state; to end it and keep it, set it to `CANCELLED`."""
    await signals.delete(user, parse_id(signal_id, "signal"))
