"""Accounts, for administrators."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.auth.admin import AccountAdministration
from app.auth.schemas.accounts import User
from app.auth.schemas.admin import AccountChanges, AccountDetails, SearchText
from app.core.deps import Administrator, NoStore, provided
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.schemas import parse_id
from app.core.security import Role

router = APIRouter(prefix="/api/v1/admin/users", tags=["Administration"], dependencies=[NoStore])

Administration = Annotated[AccountAdministration, provided(AccountAdministration)]
UserId = Annotated[str, Path(max_length=200, description="The account's id.", examples=["6b02893a002b26997921d778"])]


@router.get("", summary="Accounts", responses={**PAGED, **problem_responses(401, 403)})
async def list_users(
    request: Request,
    response: Response,
    caller: Administrator,  # noqa: ARG001 (who may)
    administration: Administration,
    page: Annotated[PageRequest, Depends(page_request)],
    q: Annotated[
        SearchText | None,
        Query(description="How the e-mail address or the username begins, or the whole id.", examples=["asha"]),
    ] = None,
    role: Annotated[Role | None, Query()] = None,
    is_active: Annotated[bool | None, Query()] = None,
) -> list[User]:
    """Newest first; all filters hold together. `422` when more than 1000 accounts begin with `q`."""
    found = await administration.page(page, q=q, role=role, is_active=is_active)
    return found.announce(request, response)


@router.get("/{user_id}", summary="One account", responses=problem_responses(401, 403, 404))
async def get_user(
    user_id: UserId,
    caller: Administrator,  # noqa: ARG001 (who may)
    administration: Administration,
) -> AccountDetails:
    """The account, and whether it has a second factor."""
    return await administration.get(parse_id(user_id, "account"))


@router.patch("/{user_id}", summary="Change an account", responses=problem_responses(401, 403, 404, 409, 413))
async def change_user(
    user_id: UserId, body: AccountChanges, caller: Administrator, administration: Administration
) -> AccountDetails:
    """Holds in every process when the answer comes. Deactivation ends all sessions, suspends all API tokens and pauses
    all strategies (what is delivered to them is refused, and kept at `GET /alerts/rejected`); activation lets tokens
    and strategies work again. `"api_tokens": false` revokes the tokens for good.

    `409` for your own role, activation or second factor, and for the last active administrator.
    """
    return await administration.change(caller, parse_id(user_id, "account"), body)
