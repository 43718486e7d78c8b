"""The audit trail over HTTP."""

from enum import Enum
from typing import Annotated

from beanie import PydanticObjectId
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from app.audit.schemas import ActionName, AuditEntry, AuditFilters, RequestId
from app.audit.service import AuditReader
from app.core.audit import Outcome
from app.core.deps import AuditReader as MayReadAudit
from app.core.deps import NoStore, provided
from app.core.errors import FieldError, InvalidInputError
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import field_errors, problem_responses, summary
from app.core.schemas import Moment

router = APIRouter(prefix="/api/v1/audit")

Entries = Annotated[AuditReader, provided(AuditReader)]
AUDIT: list[str | Enum] = ["Audit"]


async def audit_filters(
    action: Annotated[
        ActionName | None, Query(description="This action, or those that begin so (up to a dot).", examples=["auth."])
    ] = None,
    outcome: Annotated[Outcome | None, Query()] = None,
    start: Annotated[Moment | None, Query(description="At or after this time (ISO 8601).")] = None,
    end: Annotated[Moment | None, Query(description="At or before this time (ISO 8601).")] = None,
    account_id: Annotated[
        PydanticObjectId | None, Query(description="The trail of this account; for administrators.")
    ] = None,
    actor_id: Annotated[
        PydanticObjectId | None, Query(description="What this account did; yours, unless you are an administrator.")
    ] = None,
    request_id: Annotated[RequestId | None, Query(description="What this request did (`X-Request-ID`).")] = None,
) -> AuditFilters:
    """The filters of the list, from the query."""
    try:
        return AuditFilters(
            action=action,
            outcome=outcome,
            start=start,
            end=end,
            account_id=account_id,
            actor_id=actor_id,
            request_id=request_id,
        )
    except ValidationError as error:
        problems = [
            FieldError(("query", *problem.loc), problem.msg, problem.type) for problem in field_errors(error.errors())
        ]
        raise InvalidInputError(summary(problems), problems) from None


@router.get(
    "",
    tags=AUDIT,
    summary="The audit trail",
    dependencies=[NoStore],
    responses={**PAGED, **problem_responses(401, 403)},
)
async def list_audit(
    request: Request,
    response: Response,
    caller: MayReadAudit,
    entries: Entries,
    filters: Annotated[AuditFilters, Depends(audit_filters)],
    page: Annotated[PageRequest, Depends(page_request)],
) -> list[AuditEntry]:
    """What happened to your account and in its name, newest first; signed-in administrators see every account's.

    All filters hold together. Entries are never changed; each has the hash of the one before in its own. Only signed-in
    administrators get `number` and `hash`, which tell how much goes on in other accounts, and see which administrator
    acted on an account, and from where.
    """
    return (await entries.page(caller, filters, page)).announce(request, response)
