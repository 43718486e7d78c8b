"""The caller's sessions: where they are signed in, and an end to it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status

from app.auth.schemas.sessions import SessionInfo
from app.auth.sessions import Sessions
from app.core.deps import NoStore, SignedIn, provided
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.schemas import parse_id

router = APIRouter(prefix="/api/v1/auth/sessions", tags=["Sessions"], dependencies=[NoStore])

Service = Annotated[Sessions, provided(Sessions)]
PageQuery = Annotated[PageRequest, Depends(page_request)]


@router.get("", summary="My sessions", responses={**PAGED, **problem_responses(401, 403)})
async def list_sessions(
    request: Request, response: Response, caller: SignedIn, sessions: Service, page: PageQuery
) -> list[SessionInfo]:
    """Where the account is signed in now, newest first."""
    return (await sessions.mine(caller, page)).announce(request, response)


@router.delete(
    "", status_code=status.HTTP_204_NO_CONTENT, summary="End all sessions", responses=problem_responses(401, 403)
)
async def end_all_sessions(
    caller: SignedIn,
    sessions: Service,
    keep_current: Annotated[bool, Query(description="Stay signed in here.")] = False,
) -> None:
    """All refresh and access tokens stop working at once, everywhere; API tokens go on working."""
    await sessions.end_all(caller, keep_current=keep_current)


@router.delete(
    "/{session_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="End a session",
    responses=problem_responses(401, 403, 404),
)
async def end_session(session_id: Annotated[str, Path(max_length=200)], caller: SignedIn, sessions: Service) -> None:
    """Its refresh and access tokens stop working at once, everywhere; with the current one you are signed out."""
    await sessions.end_one(caller, parse_id(session_id, "session"))
