"""Who is asking and what they may do: the value types, and the port that the auth feature fills."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from beanie import PydanticObjectId


class Role(StrEnum):
    """What an account may do, least first; each has what the ones before it have."""

    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role has everything that `other` has."""
        ladder = list(Role)
        return ladder.index(self) >= ladder.index(other)


class Scope(StrEnum):
    """What an API token can be allowed; a signed-in person may do all of it with what is theirs."""

    ACCOUNT_READ = "account:read"
    STRATEGIES_READ = "strategies:read"
    STRATEGIES_WRITE = "strategies:write"
    ALERTS_READ = "alerts:read"
    ALERTS_WRITE = "alerts:write"
    ORDERS_READ = "orders:read"
    ORDERS_WRITE = "orders:write"
    AUDIT_READ = "audit:read"
    MARKET_DATA_WRITE = "market-data:write"
    CRYPTO_SYNC = "crypto:sync"
    PORTFOLIO_READ = "portfolio:read"
    PORTFOLIO_WRITE = "portfolio:write"
    JOBS_READ = "jobs:read"
    SIGNALS_READ = "signals:read"
    SIGNALS_WRITE = "signals:write"
    PREDICTIONS_WRITE = "predictions:write"


ALL_SCOPES = frozenset(Scope)
API_TOKEN_PREFIX = "arrow_"  # noqa: S105 (how a token begins, not one)
"""Begins every API token: bearers of the two kinds are told apart by it, and leaks are found by it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The account behind a verified credential, good until `expires_at` (UTC).

    `session_id` is the id of the credential: of the session behind an access token, or of the API token.
    """

    user_id: PydanticObjectId
    session_id: PydanticObjectId
    role: Role
    expires_at: datetime
    scopes: frozenset[Scope] = ALL_SCOPES
    api_token: bool = False


class Authenticator(Protocol):
    """Turns a bearer token into a `Principal`."""

    async def authenticate(self, access_token: str) -> Principal:
        """The principal of an access token of a live session or of a live API token; else `UnauthorizedError`."""
