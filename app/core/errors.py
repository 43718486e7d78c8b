"""The errors that services raise. `core.problem` alone turns them into HTTP answers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple


class FieldError(NamedTuple):
    """One thing wrong with one field: where (`("body", "price")`), what, and a stable word for the kind."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class DomainError(Exception):
    """Something that a client can be told about. `detail` is a sentence that a person can act on.

    `extensions` are further members of the problem document, for programs: names of letters, digits and `_` with
    values that JSON can hold (RFC 9457, section 3.2). They cannot replace the members that every problem has.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal server error"
    slug: ClassVar[str] = "internal-error"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})
        self.extensions: dict[str, Any] = {}


class UnauthorizedError(DomainError):
    """No credential, or one that does not hold (any more)."""

    status = 401
    title = "Not authenticated"
    slug = "unauthorized"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer", **(headers or {})})


class TokenExpiredError(UnauthorizedError):
    """The access token was good until it expired: a refresh brings a new one."""

    title = "Access token expired"
    slug = "token-expired"


class SessionEndedError(UnauthorizedError):
    """The credential was good once, and was ended: only another sign-in helps."""

    title = "Session ended"
    slug = "session-ended"


class WrongCredentialsError(UnauthorizedError):
    """The password or the code does not fit. Carries the members that RFC 6749, section 5.2, has for it."""

    title = "Wrong credentials"
    slug = "wrong-credentials"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.extensions = {"error": "invalid_grant", "error_description": detail}


class ForbiddenError(DomainError):
    """The credential holds, but does not allow this."""

    status = 403
    title = "Not allowed"
    slug = "forbidden"


class NotFoundError(DomainError):
    """It does not exist, or it is not yours: the two are never told apart."""

    status = 404
    title = "Not found"
    slug = "not-found"


class NotAcceptableError(DomainError):
    """The asked-for representation cannot be made here."""

    status = 406
    title = "Not acceptable"
    slug = "not-acceptable"


class ConflictError(DomainError):
    """It contradicts what is already stored."""

    status = 409
    title = "Conflict"
    slug = "conflict"


class PayloadTooLargeError(DomainError):
    """The body is over the limit."""

    status = 413
    title = "Body too large"
    slug = "payload-too-large"


class InvalidInputError(DomainError):
    """The request was understood and is wrong; `errors` names the fields."""

    status = 422
    title = "Invalid input"
    slug = "invalid-input"

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)


class UpgradeRequiredError(DomainError):
    """The path speaks WebSocket only."""

    status = 426
    title = "Upgrade required"
    slug = "upgrade-required"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Upgrade": "websocket", "Connection": "Upgrade"})


class RateLimitedError(DomainError):
    """Too many requests. `retry_after` and `reset` are seconds from now."""

    status = 429
    title = "Too many requests"
    slug = "rate-limited"

    def __init__(self, detail: str, *, retry_after: float, limit: int, remaining: int = 0) -> None:
        seconds = str(max(1, math.ceil(retry_after)))
        super().__init__(
            detail,
            headers={
                "Retry-After": seconds,
                "RateLimit-Limit": str(limit),
                "RateLimit-Remaining": str(remaining),
                "RateLimit-Reset": seconds,
            },
        )
        self.retry_after = retry_after
        self.limit = limit


class UnavailableError(DomainError):
    """It cannot be done now and nothing was stored: try again after `retry_after` seconds."""

    status = 503
    title = "Temporarily unavailable"
    slug = "unavailable"

    def __init__(self, detail: str, *, retry_after: float = 5) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after)))})
        self.retry_after = retry_after


class BadGatewayError(DomainError):
    """A provider behind this service failed, and it is certain what that means for the request."""

    status = 502
    title = "Provider failed"
    slug = "provider-failed"


class GatewayTimeoutError(DomainError):
    """It was sent on to a provider, and no answer says whether it was done."""

    status = 504
    title = "Outcome unknown"
    slug = "outcome-unknown"


class StartupError(Exception):
    """The service cannot start; the message is one line for the person who starts it."""
