"""The caller's API tokens, for programs that act for them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status

from app.auth.api_tokens import ApiTokens
from app.auth.router.common import CallingClient
from app.auth.schemas.api_tokens import ApiTokenBody, ApiTokenInfo, NewApiToken
from app.core.deps import NoStore, SignedIn, provided
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.schemas import parse_id

router = APIRouter(prefix="/api/v1/auth/tokens", tags=["API tokens"], dependencies=[NoStore])

Service = Annotated[ApiTokens, provided(ApiTokens)]
PageQuery = Annotated[PageRequest, Depends(page_request)]


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    summary="Make an API token",
    responses=problem_responses(401, 403, 409, 413),
)
async def create_token(body: ApiTokenBody, caller: SignedIn, client: CallingClient, tokens: Service) -> NewApiToken:
    """A bearer token for a program, limited to `scopes`; it is shown this once, and the account is told by mail.
    `409` with too many live ones.

    While an account is deactivated its tokens are suspended, not revoked: they work again once it is active, unless
    an administrator revoked them.
    """
    return await tokens.create(caller, body, client)


@router.get("", summary="My API tokens", responses={**PAGED, **problem_responses(401, 403)})
async def list_tokens(
    request: Request,
    response: Response,
    caller: SignedIn,
    tokens: Service,
    page: PageQuery,
    include_ended: Annotated[bool, Query(description="Revoked and expired ones too.")] = False,
) -> list[ApiTokenInfo]:
    """Newest first; never the token itself."""
    return (await tokens.mine(caller.user_id, page, include_ended=include_ended)).announce(request, response)


@router.delete(
    "", status_code=status.HTTP_204_NO_CONTENT, summary="Revoke all API tokens", responses=problem_responses(401, 403)
)
async def revoke_all_tokens(caller: SignedIn, tokens: Service) -> None:
    """All of them stop working at once, everywhere; sessions go on."""
    await tokens.end_all(caller)


@router.delete(
    "/{token_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Revoke an API token",
    responses=problem_responses(401, 403, 404),
)
async def revoke_token(token_id: Annotated[str, Path(max_length=200)], caller: SignedIn, tokens: Service) -> None:
    """It stops working at once, everywhere."""
    await tokens.revoke(caller, parse_id(token_id, "API token"))
