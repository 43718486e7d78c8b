"""The two steps of a sign-in: the first opens a challenge, which a code of the second factor closes."""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from beanie import PydanticObjectId

from app.auth.models import OneTimeSecretDocument
from app.auth.one_time import OneTimeSecrets
from app.auth.second_factor import SecondFactors
from app.auth.sessions import Client
from app.core.clock import Clock
from app.core.errors import DomainError, UnauthorizedError

log = structlog.get_logger(__name__)

LIFETIME = timedelta(minutes=5)
MAX_TRIES = 5
"""Wrong codes that end a challenge; guessing over many challenges is bounded by the guard."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The first half of a sign-in; `expires_in` are seconds."""

    token: str = field(repr=False)
    expires_in: int


@dataclass(frozen=True, slots=True)
class SecondStep:
    """Whose sign-in is complete, and how it was done: `password+totp`, `otp+recovery_code`, …

    `session_epoch` is the account's at the first step: what was begun before all sessions were ended must not succeed.
    """

    user_id: PydanticObjectId
    method: str
    session_epoch: int


class SecondFactorRequiredError(UnauthorizedError):
    """The password (or the code by mail) was right; now the second factor is asked for."""

    title = "Second factor required"
    slug = "second-factor-required"

    def __init__(self, challenge: Challenge) -> None:
        super().__init__(
            "This account has a second factor: send its code with the challenge_token to "
            "/api/v1/auth/login/second-factor.",
            headers={"Cache-Control": "no-store"},  # it holds a secret, unlike other errors
        )
        self.extensions = {
            "challenge_token": challenge.token,
            "expires_in": challenge.expires_in,
            "methods": ["totp", "recovery_code"],
        }


class WrongSecondFactorError(UnauthorizedError):
    """The second step failed; `user_id` and `method` are for the trail."""

    def __init__(self, user_id: PydanticObjectId, method: str) -> None:
        super().__init__("The code is not right, or it was used already: wait for the next one and try again.")
        self.user_id = user_id
        self.method = method


class Challenges:
    """Opens challenges and redeems them; a challenge is known by the digest of its token only."""

    def __init__(self, *, clock: Clock, one_time: OneTimeSecrets, factors: SecondFactors) -> None:
        self._clock = clock
        self._one_time = one_time
        self._factors = factors

    async def ask(self, user_id: PydanticObjectId, method: str, session_epoch: int) -> None:
        """Return when the account has no second factor; else raise `SecondFactorRequiredError` with a new challenge.

        `method` is how the first step was done: `password` or `otp`.
        """
        if await self._factors.enrolled(user_id):
            raise SecondFactorRequiredError(await self.open(user_id, method, session_epoch))

    async def open(self, user_id: PydanticObjectId, method: str, session_epoch: int) -> Challenge:
        """A challenge for 5 minutes."""
        token = secrets.token_urlsafe(32)
        details = {"method": method, "epoch": str(session_epoch)}
        await self._put(token, user_id, details, lifetime=LIFETIME, tries=0)
        return Challenge(token, int(LIFETIME.total_seconds()))

    async def redeem(self, token: str, code: str, client: Client) -> SecondStep:
        """Complete a sign-in; the challenge is spent by it.

        Raises `WrongSecondFactorError` for a wrong or used code (the fifth ends the challenge), `UnauthorizedError` for
        a challenge that is unknown, expired or spent, and `RateLimitedError` and `UnavailableError`, which leave the
        challenge as it was. Of several attempts at the same moment one is made and the others are refused.
        """
        # Whoever takes the challenge out tries the code; it is put back afterwards. A crash in between costs a sign-in
        # to be begun anew, while a count kept beside the check could be outrun.
        taken = await self._one_time.take(_slot(token), token)
        if taken is None or taken.user_id is None:
            raise UnauthorizedError("This sign-in has expired or is complete already; begin it again.")
        method, tries = taken.details["method"], int(taken.details["tries"])
        try:
            factor = await self._factors.attempt(taken.user_id, code, client)
        except DomainError:
            await self._put_back(token, taken, tries)
            raise
        if factor is None:
            log.info("wrong second factor", user_id=str(taken.user_id), tries=tries + 1)
            await self._put_back(token, taken, tries + 1)
            raise WrongSecondFactorError(taken.user_id, method)
        return SecondStep(taken.user_id, f"{method}+{factor}", int(taken.details["epoch"]))

    async def _put_back(self, token: str, taken: OneTimeSecretDocument, tries: int) -> None:
        left = taken.expires_at - self._clock.now()
        if tries < MAX_TRIES and taken.user_id and left > timedelta():
            await self._put(token, taken.user_id, taken.details, lifetime=left, tries=tries)

    async def _put(
        self, token: str, user_id: PydanticObjectId, details: dict[str, str], *, lifetime: timedelta, tries: int
    ) -> None:
        details = {**details, "tries": str(tries)}
        await self._one_time.put(_slot(token), token, user_id=user_id, lifetime=lifetime, details=details)


def _slot(token: str) -> str:
    return f"challenge:{hashlib.sha256(token.encode()).hexdigest()}"
