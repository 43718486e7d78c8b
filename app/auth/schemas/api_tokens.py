"""API tokens over the wire."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from app.core.schemas import PlainText, RequestModel, ResponseModel, example
from app.core.security import Scope

DEFAULT_DAYS, MAX_DAYS = 90, 365

# For the OpenAPI document: what `PlainText` lets pass.
_PLAIN = "^[^\\u0000-\\u001F\\u007F-\\u009F]*$"
_SAMPLE = {
    "id": "6b02893a002b26997921d778",
    "name": "Dashboard in the hall",
    "prefix": "arrow_pU1sWk",
    "scopes": ["alerts:read", "orders:read"],
    "created_at": "2026-11-22T06:20:00.123Z",
    "expires_at": "2027-02-20T06:20:00.123Z",
}


def _each_once(scopes: list[Scope]) -> list[Scope]:
    return [scope for scope in Scope if scope in scopes]


class ApiTokenBody(RequestModel):
    """What a new API token is for, what it may do, and for how many days."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {"name": "Dashboard in the hall", "scopes": ["alerts:read", "orders:read"], "expires_in_days": 90}
        )
    )

    name: Annotated[PlainText, Field(min_length=1, max_length=100, json_schema_extra={"pattern": _PLAIN})]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope)), AfterValidator(_each_once)]
    expires_in_days: Annotated[int, Field(strict=True, ge=1, le=MAX_DAYS)] = DEFAULT_DAYS


class NewApiToken(ResponseModel):
    """An API token at its birth: `token` is shown this once."""

    model_config = ConfigDict(
        json_schema_extra=example({**_SAMPLE, "token": "arrow_pU1sWk0q9cXr3ZtV5bN7mJ2hG4fD6sA8lK0oI9uY1eE"})
    )

    id: str
    name: str
    token: str = Field(repr=False)
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime


class ApiTokenInfo(ResponseModel):
    """An API token as its owner sees it later. `last_used_at` may be a minute behind."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {**_SAMPLE, "live": True, "last_used_at": "2026-11-22T07:05:00.456Z", "revoked_at": None}
        )
    )

    id: str
    name: str
    prefix: str
    """How the token begins, to tell which one it is."""
    scopes: list[Scope]
    live: bool
    """False when it has expired or was revoked."""
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
