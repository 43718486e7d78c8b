"""What can go wrong with Angel One, by kind. The texts are ours: what a server says may quote what it was sent."""

from typing import ClassVar, Final


class AngelOneError(Exception):
    """A call that brought nothing. `code` is the vendor's, or a word of ours where there is none."""

    kind: ClassVar[str] = "failed"

    def __init__(self, code: str, detail: str = "", *, retry_after: float | None = None) -> None:
        """`retry_after`: seconds before which another try is useless or harmful."""
        super().__init__(f"{self.kind} ({code}){': ' if detail else ''}{detail}")
        self.code = code
        self.retry_after = retry_after

    @property
    def word(self) -> str:
        """Kind and code: for `/health`, which is public."""
        return f"{self.kind} ({self.code})"


class LoginRefusedError(AngelOneError):
    """The credentials do not hold. Trying again and again locks the account, so it is tried rarely."""

    kind = "sign-in refused"


class SessionExpiredError(AngelOneError):
    """The tokens do not hold any more: refresh or sign in."""

    kind = "session expired"


class RateLimitedError(AngelOneError):
    """Too many requests."""

    kind = "rate limited"


class RequestRefusedError(AngelOneError):
    """Angel One understood, and will not: an unknown instrument, a range that is too long."""

    kind = "request refused"


class UnreachableError(AngelOneError):
    """No answer, or a server's own failure. Whether the request was carried out is unknown."""

    kind = "unreachable"


class NonsenseError(AngelOneError):
    """An answer that is not what the documentation promises."""

    kind = "unreadable answer"


_EXPIRED: Final = {"AG8001", "AG8002", "AG8003", "AB8050", "AB8051", "AB1010", "AB1011"}
_LATER: Final = {"AB1004", "AB2001"}
"""In the vendor's words: something went wrong, try after some time."""
_TOO_MANY: Final = {"AB1021"}
_TOO_MANY_WORDS: Final = ("exceeding access rate", "too many requests")
_API_KEY: Final = "AG8004"
_ADVICE: Final = {
    "AB1000": "check ANGEL_ONE_CLIENT_ID and ANGEL_ONE_PASSWORD (the PIN)",
    "AB1001": "check ANGEL_ONE_CLIENT_ID",
    "AB1007": "check ANGEL_ONE_CLIENT_ID and ANGEL_ONE_PASSWORD (the PIN)",
    "AB1050": "check ANGEL_ONE_TOTP_KEY and this machine's clock",
    _API_KEY: "check ANGEL_ONE_API_KEY",
    "totp key": "ANGEL_ONE_TOTP_KEY is not the Base32 text that Angel One shows with the QR code",
}
TRY_AGAIN_SECONDS: Final = 5.0
"""After a rate limit that does not say how long."""


def advice(code: str) -> str:
    """What a person can do about a refused sign-in; empty where nothing is known."""
    return _ADVICE.get(code, "")


def says_too_many(text: str) -> bool:
    """Whether a server's words are about the rate of requests."""
    small = text.lower()
    return any(words in small for words in _TOO_MANY_WORDS)


def error_of(code: str, message: str, *, signing_in: bool) -> AngelOneError:
    """The error for a vendor's code; `message` is looked at, and not kept.

    In a sign-in whatever is not known to be temporary counts as refused: too few tries are better than a locked
    account.
    """
    if code in _TOO_MANY or says_too_many(message):
        return RateLimitedError(code, retry_after=TRY_AGAIN_SECONDS)
    if code in _LATER:
        return UnreachableError(code)
    if signing_in or code == _API_KEY:
        return LoginRefusedError(code, advice(code))
    return SessionExpiredError(code) if code in _EXPIRED else RequestRefusedError(code)
