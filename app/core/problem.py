"""The one place that makes `application/problem+json` (RFC 9457)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pymongo.errors import ConnectionFailure, PyMongoError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from app.core.errors import (
    BadGatewayError,
    ConflictError,
    DomainError,
    FieldError,
    ForbiddenError,
    GatewayTimeoutError,
    InvalidInputError,
    NotAcceptableError,
    NotFoundError,
    PayloadTooLargeError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
)
from app.core.redaction import scrub_path

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 50
"""Faults of one request that are named."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_BY_STATUS: dict[int, type[DomainError]] = {
    error.status: error
    for error in (
        UnauthorizedError,
        ForbiddenError,
        NotFoundError,
        NotAcceptableError,
        ConflictError,
        PayloadTooLargeError,
        InvalidInputError,
        RateLimitedError,
        UnavailableError,
        BadGatewayError,
        GatewayTimeoutError,
    )
}


class ProblemField(BaseModel):
    """One thing wrong with one field."""

    loc: list[str | int] = Field(examples=[["body", "price"]])
    msg: str = Field(examples=["Input should be greater than 0"])
    type: str = Field(examples=["greater_than"])


class Problem(BaseModel):
    """An error as RFC 9457 describes it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:arrow:problem:not-found",
                    "title": "Not found",
                    "status": 404,
                    "detail": "There is no alert with this id.",
                    "instance": "/data/6b02893a002b26997921d778",
                    "request_id": "0c7b1f8e5a9d4e52",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[ProblemField] | None = None


def problem_response(
    scope: Scope,
    status: int,
    detail: str,
    *,
    title: str = "Error",
    slug: str = "error",
    headers: Mapping[str, str] | None = None,
    errors: Sequence[FieldError] = (),
    extensions: Mapping[str, Any] | None = None,
) -> Response:
    """The answer for an error; `scope` gives the request's path and id."""
    content: dict[str, Any] = {
        "type": f"urn:arrow:problem:{slug}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": scrub_path(scope.get("path", "")),
        "request_id": scope.get("state", {}).get("request_id", ""),
    }
    if errors:
        content["errors"] = [{"loc": list(error.loc), "msg": error.msg, "type": error.type} for error in errors]
    for name, value in (extensions or {}).items():
        content.setdefault(name, value)
    # Nobody is to keep an error: it may hold the first half of a sign-in, and is soon out of date.
    kept = {"Cache-Control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(content), status, kept, MEDIA_TYPE)


def domain_response(scope: Scope, error: DomainError) -> Response:
    """The answer for a `DomainError`."""
    errors = error.errors if isinstance(error, InvalidInputError) else ()
    return problem_response(
        scope,
        error.status,
        error.detail,
        title=error.title,
        slug=error.slug,
        headers=error.headers,
        errors=errors,
        extensions=error.extensions,
    )


def field_errors(problems: Iterable[Mapping[str, Any]]) -> list[FieldError]:
    """pydantic's errors without the input (it may hold a secret) and without control characters in names."""
    return [
        FieldError(
            tuple(part if isinstance(part, int) else printable(str(part)) for part in problem["loc"]),
            printable(str(problem["msg"]).removeprefix("Value error, "), 300),
            str(problem["type"]),
        )
        for problem in list(problems)[:MAX_ERRORS]
    ]


def printable(text: str, limit: int = 100) -> str:
    """The beginning of what somebody sent, fit to be repeated: without control characters."""
    return "".join(char if char.isprintable() else "�" for char in text[:limit])


def summary(errors: Sequence[FieldError]) -> str:
    """One sentence that names the first wrong fields: `body.price: Input should be greater than 0`."""
    shown = "; ".join(f"{'.'.join(str(part) for part in error.loc)}: {error.msg}" for error in errors[:3])
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return f"{shown}{more}"


async def _domain(request: Request, error: Exception) -> Response:
    assert isinstance(error, DomainError)  # noqa: S101 (registered for it)
    return domain_response(request.scope, error)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for it)
    errors = [_about_body(problem, request) for problem in field_errors(error.errors())]
    return domain_response(request.scope, InvalidInputError(summary(errors), errors))


def _about_body(problem: FieldError, request: Request) -> FieldError:
    """FastAPI's words for a body that is not JSON, or was not sent as JSON, do not say what to do."""
    if problem.type == "json_invalid":
        where = f" (at character {problem.loc[1]})" if len(problem.loc) > 1 else ""
        return FieldError(("body",), f"The body is not JSON{where}", problem.type)
    if problem.type == "model_attributes_type" and problem.loc == ("body",):
        if "json" not in request.headers.get("content-type", ""):
            return FieldError(("body",), "Send JSON with the header Content-Type: application/json", problem.type)
        return FieldError(("body",), "The body should be a JSON object", problem.type)
    return problem


async def _http(request: Request, error: Exception) -> Response:
    """Starlette's and FastAPI's own errors: unknown path, wrong method, a body that is not JSON."""
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for it)
    if isinstance(error.__cause__, DomainError):
        return domain_response(request.scope, error.__cause__)
    if error.status_code == 400:  # FastAPI's word for a body that cannot be parsed (nested too deeply, wrong encoding)
        failure = FieldError(("body",), "The body cannot be parsed", "body_invalid")
        return domain_response(request.scope, InvalidInputError("body: The body cannot be parsed.", [failure]))
    details = {
        404: "There is nothing at this path; /docs lists what there is.",
        405: f"This path does not take {request.method}.",
    }
    known = _BY_STATUS.get(error.status_code)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request)
    return problem_response(
        request.scope,
        error.status_code,
        details.get(error.status_code, str(error.detail)),
        title=known.title if known else str(error.detail),
        slug=known.slug if known else f"http-{error.status_code}",
        headers=headers,
    )


def _allowed(request: Request) -> str:
    """The methods that the request's path takes. A router tells those of one route only, and several share a path."""
    taken = [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    # core.middleware answers HEAD wherever there is GET.
    return ", ".join([*taken, "HEAD"] if "GET" in taken else taken)


def database_response(scope: Scope, error: PyMongoError) -> Response:
    """The database is away or refuses: said without its words, which name hosts and queries."""
    log.error("database error", error=type(error).__name__, away=isinstance(error, ConnectionFailure))
    away = UnavailableError(
        "The database cannot be reached right now; nothing was changed for certain. Try again shortly."
    )
    return domain_response(scope, away)


async def _database(request: Request, error: Exception) -> Response:
    assert isinstance(error, PyMongoError)  # noqa: S101 (registered for it)
    return database_response(request.scope, error)


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(DomainError, _domain)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(PyMongoError, _database)


def _example(status: int) -> dict[str, Any]:
    error = _BY_STATUS[status]
    content: dict[str, Any] = {
        "type": f"urn:arrow:problem:{error.slug}",
        "title": error.title,
        "status": status,
        "detail": _RESPONSE_TEXT[status],
        "instance": "/the/path",
        "request_id": "0c7b1f8e5a9d-2a",
    }
    if status == InvalidInputError.status:
        content["detail"] = "body.price: Input should be greater than 0"
        content["errors"] = [
            {"loc": ["body", "price"], "msg": "Input should be greater than 0", "type": "greater_than"}
        ]
    return content


_RESPONSE_TEXT = {
    401: "No valid credential; `type` says whether a refresh helps (`token-expired`) or only a new sign-in.",
    403: "Not allowed for this account.",
    404: "It does not exist or is not yours.",
    406: "This format cannot be made here.",
    409: "It contradicts what is already stored.",
    413: "The body is over the limit.",
    422: "The input is wrong; `errors` names the fields.",
    429: "Too many requests; `Retry-After` says when to try again.",
    502: "The provider behind it failed.",
    503: "Temporarily unavailable; `Retry-After` says when to try again.",
    504: "It was sent on, and no answer says whether it was done: read before you send it again.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of an endpoint: these statuses, each as a problem document (422, 429 and 503 always).

    The schema `Problem` itself is put into the OpenAPI document by `core.openapi`.
    """
    return {
        status: {
            "description": _RESPONSE_TEXT[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _example(status)}},
        }
        for status in sorted({*statuses, 422, 429, 503})
    }
