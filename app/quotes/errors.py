"""What can go wrong with a provider of quotes, by kind. The texts are ours: a server may quote what it was sent.

Each is a `DomainError`, so that an endpoint that waits for a provider answers with a sentence.
"""

from typing import ClassVar, Final

from app.core.errors import UnavailableError
from app.quotes.ports import SourceName

TITLES: Final = {SourceName.YAHOO: "Yahoo", SourceName.ANGEL_ONE: "Angel One"}
"""What people call them."""
USUAL_WAIT: Final = 30.0
"""Seconds to wait where nobody says how long."""


class SourceError(UnavailableError):
    """A call that brought nothing. `code` is the provider's, or a word of ours where there is none."""

    kind: ClassVar[str] = "failed"
    trips: ClassVar[bool] = True
    """Whether it says that the provider is not well, see `core.breaker`."""

    def __init__(self, source: SourceName, code: str, *, retry_after: float | None = None, told: bool = False) -> None:
        """`retry_after`: seconds before which another try is useless; `told`: the provider itself asked for them."""
        super().__init__(f"{TITLES[source]}: {self.kind} ({code}).", retry_after=retry_after or USUAL_WAIT)
        self.source, self.code, self.told = source, code, told

    @property
    def word(self) -> str:
        """Kind and code: for `/health`, which is public."""
        return f"{self.kind} ({self.code})"


class UnreachableError(SourceError):
    """No answer in time, or a server's own failure."""

    kind = "unreachable"


class NonsenseError(SourceError):
    """An answer that is not what was promised."""

    kind = "unreadable answer"


class RateLimitedError(SourceError):
    """Too many requests, in the provider's opinion: nothing more is asked until its time is over."""

    kind = "rate limited"


class RefusedError(SourceError):
    """The provider understood, and will not."""

    kind = "request refused"
    trips = False


class LeftAloneError(SourceError):
    """It failed lately and is left alone for a while; nothing was sent."""

    kind = "left alone after failures"
    trips = False


class BusyError(SourceError):
    """Others are being asked for, and take long; nothing was sent, so nothing is known of the provider."""

    kind = "busy"
    trips = False


class NoSuchSymbolError(SourceError):
    """It does not know the symbol."""

    kind = "no such symbol"
    trips = False


class NothingFoundError(SourceError):
    """It knows the symbol, and has nothing for the time that was asked about."""

    kind = "nothing found"
    trips = False
