"""Accounts at brokers over HTTP."""

from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.brokerage.accounts.schemas import ActivationInput, BrokerageView, SessionInput
from app.brokerage.accounts.service import BrokerAccounts, View
from app.core.deps import NoStore, OrderReader, OrderWriter, SignedIn, provided
from app.core.problem import problem_responses
from app.core.schemas import parse_id

BROKERAGES: list[str | Enum] = ["Brokerages"]
router = APIRouter(prefix="/api/v1/dashboard", tags=BROKERAGES, dependencies=[NoStore])

Accounts = Annotated[BrokerAccounts, provided(BrokerAccounts)]
BrokerageId = Annotated[
    str, Path(max_length=200, description="The brokerage's id.", examples=["6b02893a002b26997921d778"])
]
_BROKER = problem_responses(401, 403, 409, 413, 429)


@router.post(
    "/activate-brokerage",
    status_code=201,
    response_model=BrokerageView,
    summary="Activate a brokerage",
    responses={200: {"model": BrokerageView, "description": "It was activated before: replaced."}, **_BROKER},
)
async def activate_brokerage(body: ActivationInput, response: Response, user: SignedIn, accounts: Accounts) -> View:
    """What opens it is stored encrypted and never shown again; orders go through it from now on. A session is begun
    where what you send suffices; else `session.login_url` is where you sign in. 409 for credentials that the broker
    refuses: nothing is stored then."""
    view, new = await accounts.activate(user, body)
    response.status_code = 201 if new else 200
    return view


@router.get(
    "/brokerages", response_model=list[BrokerageView], summary="Your brokerages", responses=problem_responses(401, 403)
)
async def list_brokerages(user: OrderReader, accounts: Accounts) -> list[View]:
    """Newest first, one of each broker at most; `paper` is always there. Each with the state of its session."""
    return await accounts.all_of(user.user_id)


@router.get(
    "/brokerages/{brokerage_id}",
    response_model=BrokerageView,
    summary="One brokerage",
    responses=problem_responses(401, 403, 404),
)
async def get_brokerage(brokerage_id: BrokerageId, user: OrderReader, accounts: Accounts) -> View:
    """404 for what does not exist or is not yours."""
    return await accounts.get(user.user_id, parse_id(brokerage_id, "brokerage"))


@router.post(
    "/brokerages/{brokerage_id}/active",
    response_model=BrokerageView,
    summary="Trade through this brokerage",
    responses=problem_responses(401, 403, 404),
)
async def choose_brokerage(brokerage_id: BrokerageId, user: SignedIn, accounts: Accounts) -> View:
    """Orders that are placed from now on go through it; those that are open stay where they are."""
    return await accounts.choose(user, parse_id(brokerage_id, "brokerage"))


@router.post(
    "/brokerages/{brokerage_id}/session",
    response_model=BrokerageView,
    summary="Sign in at the broker again",
    responses={**_BROKER, **problem_responses(404)},
)
async def begin_session(brokerage_id: BrokerageId, body: SessionInput, user: OrderWriter, accounts: Accounts) -> View:
    """With the `request_token` of the broker's page for Zerodha and Upstox (without one, 409 has its address), with an
    empty object for the others."""
    return await accounts.begin_session(user, parse_id(brokerage_id, "brokerage"), body.token)


@router.delete(
    "/brokerages/{brokerage_id}",
    status_code=204,
    summary="Remove a brokerage",
    responses=problem_responses(401, 403, 404, 409),
)
async def delete_brokerage(brokerage_id: BrokerageId, user: SignedIn, accounts: Accounts) -> None:
    """With everything that opens it. 409 while orders are open there. The paper broker stays."""
    await accounts.delete(user, parse_id(brokerage_id, "brokerage"))
