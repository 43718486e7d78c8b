"""What can go wrong with a provider of listings, by kind.

Each is a `DomainError`, so that an endpoint that waits for a provider answers with a sentence. The texts are ours: what
a server says may quote what it was sent.
"""

from typing import ClassVar, Final

from app.core.errors import UnavailableError
from app.crypto.ports import Provider

TITLES: Final = {Provider.COINGECKO: "CoinGecko", Provider.COINMARKETCAP: "CoinMarketCap"}
"""What people call them."""
USUAL_WAIT: Final = 60.0
"""Seconds: what a provider's limits are counted over, and how long to wait where nobody says."""


class ProviderError(UnavailableError):
    """A call that brought nothing. `code` is the provider's, or a word of ours where there is none."""

    kind: ClassVar[str] = "failed"
    fails_over: ClassVar[bool] = False
    """Whether another provider may know better. Not where our own request or key is wrong: that has to be seen."""
    trips: ClassVar[bool] = False
    """Whether it says that the provider is not well, see `core.breaker`."""

    def __init__(
        self, provider: Provider, code: str, advice: str = "", *, retry_after: float | None = None, told: bool = False
    ) -> None:
        """`retry_after`: seconds before which another try is useless; `told`: the provider itself asked for them."""
        sentence = f"{TITLES[provider]}: {self.kind} ({code})."
        super().__init__(f"{sentence} {advice}".rstrip(), retry_after=retry_after or USUAL_WAIT)
        self.provider, self.code, self.told = provider, code, told

    @property
    def word(self) -> str:
        """Kind and code: for `/health`, which is public."""
        return f"{self.kind} ({self.code})"


class UnreachableError(ProviderError):
    """No answer in time, or a server's own failure."""

    kind = "unreachable"
    fails_over = trips = True


class NonsenseError(ProviderError):
    """An answer that is not what the documentation promises."""

    kind = "unreadable answer"
    fails_over = trips = True


class RateLimitedError(ProviderError):
    """Too many requests, in the provider's opinion."""

    kind = "rate limited"
    fails_over = trips = True


class QuotaUsedError(ProviderError):
    """The plan's month is used up, in the provider's opinion: nothing more is asked before the next one."""

    kind = "monthly quota used up"
    fails_over = True


class BudgetUsedError(ProviderError):
    """By our own count one more call would be over the plan; nothing was sent."""

    kind = "call budget used up"
    fails_over = True


class CircuitOpenError(ProviderError):
    """It failed lately and is left alone for a while; nothing was sent."""

    kind = "left alone after failures"
    fails_over = True


class KeyRefusedError(ProviderError):
    """The key does not hold, or its plan does not include what was asked for."""

    kind = "key refused"


class RequestRefusedError(ProviderError):
    """The provider understood, and will not: an unknown coin, a range that is too long."""

    kind = "request refused"


class NotConfiguredError(ProviderError):
    """The provider needs a key, and there is none; nothing was sent."""

    kind = "not configured"


class AllFailedError(ProviderError):
    """Every provider that could be asked failed; `failures` say how, in order."""

    def __init__(self, failures: list[ProviderError]) -> None:
        first = failures[0]
        super().__init__(first.provider, first.code, retry_after=min(error.retry_after for error in failures))
        self.failures = failures
        self.detail = " ".join(error.detail for error in failures)

    @property
    def word(self) -> str:
        """Every failure's."""
        return "; ".join(f"{TITLES[error.provider]}: {error.word}" for error in self.failures)
