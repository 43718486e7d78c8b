"""What goes wrong with a broker, in few words, whatever the broker's own are."""

from collections.abc import Sequence

from app.core.errors import DomainError, FieldError, InvalidInputError


class BrokerError(DomainError):
    """Whatever a broker, or the way to it, did. Nothing of a credential is ever in the message."""

    status = 502
    title = "The broker failed"
    slug = "broker-failed"


class OrderRejectedError(BrokerError):
    """The broker or the exchange said no, in its own words; the order does not exist."""

    status = 422
    title = "Order rejected"
    slug = "order-rejected"

    def __init__(self, reason: str, *, code: str | None = None) -> None:
        """`reason` is the broker's, `code` its word for it, where it has one."""
        super().__init__(f"The broker rejected it: {reason}")
        self.reason = reason
        self.extensions = {"broker_code": code} if code else {}


class BrokerSessionError(BrokerError):
    """The broker's session is over, or there never was one; `detail` says how to renew it."""

    status = 409
    title = "Broker session expired"
    slug = "broker-session-expired"

    def __init__(self, detail: str, *, login_url: str | None = None) -> None:
        """`login_url` is where a person signs in again, for brokers that want one."""
        super().__init__(detail)
        self.login_url = login_url
        self.extensions = {"login_url": login_url} if login_url else {}


class BrokerRateLimitedError(BrokerError):
    """Too many requests, by the broker's count or by our own that keeps within it. The request was not carried out."""

    status = 429
    title = "Too many requests to the broker"
    slug = "broker-rate-limited"

    def __init__(self, detail: str, *, retry_after: float = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, round(retry_after)))})
        self.retry_after = retry_after


class BrokerUnavailableError(BrokerError):
    """It could not be reached, or is down. What was asked was certainly not done."""

    status = 503
    title = "Broker unavailable"
    slug = "broker-unavailable"

    def __init__(self, detail: str, *, retry_after: float = 5) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, round(retry_after)))})


class OutcomeUnknownError(BrokerError):
    """It was sent, and no answer says whether it was carried out. Never sent again; the order book will tell."""

    status = 504
    title = "Outcome unknown"
    slug = "outcome-unknown"


class NotPossibleError(InvalidInputError):
    """The broker does not take such an order; `detail` and `errors` say what it takes."""

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail, errors)
