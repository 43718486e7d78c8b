"""Access tokens (JWT, signed) and refresh tokens (random, stored as a digest)."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from beanie import PydanticObjectId
from bson import ObjectId
from jose import JWTError, jwk, jwt

from app.core.clock import Clock
from app.core.errors import TokenExpiredError, UnauthorizedError

ALGORITHMS = ("HS256", "HS384", "HS512")
MAX_TOKEN_CHARS = 2048
"""An access token has some 350; anything much longer is refused unread."""

# jose's own checks of times use the system's clock and accept tokens without them; ours use the injected clock.
_OPTIONS = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed token and the whole seconds that it holds."""

    token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a verified access token says; whether its session still lives is another question."""

    user_id: PydanticObjectId
    session_id: PydanticObjectId
    expires_at: datetime


class AccessTokens:
    """Signs with one key and verifies with it and its predecessors, always by one pinned algorithm."""

    def __init__(
        self,
        *,
        secret_key: str,
        previous_keys: Sequence[str] = (),
        algorithm: Literal["HS256", "HS384", "HS512"] = "HS256",
        lifetime: timedelta,
        clock: Clock,
    ) -> None:
        """Raises `ValueError` for an algorithm that is not an HMAC, or without a key."""
        if algorithm not in ALGORITHMS:
            raise ValueError(f"{algorithm} is not one of {', '.join(ALGORITHMS)}")
        if not secret_key or not all(previous_keys):
            raise ValueError("an empty key would let anybody sign tokens")
        # Built once, as HMAC keys and nothing else: as text, a key that happens to be JSON would be read as a JWK set.
        self._keys = [jwk.construct(key, algorithm) for key in (secret_key, *previous_keys)]
        self._algorithm = algorithm
        self._lifetime = lifetime
        self._clock = clock

    def issue(self, user_id: PydanticObjectId, session_id: PydanticObjectId, *, not_after: datetime) -> AccessToken:
        """A token for a session, good for the configured lifetime but never beyond `not_after` (the session's end)."""
        now = self._clock.now()
        issued = int(now.timestamp())
        expires = int(min(now + self._lifetime, not_after).timestamp())
        claims = {
            "sub": str(user_id),
            "sid": str(session_id),
            "jti": secrets.token_hex(16),
            "type": "access",
            "iat": issued,
            "exp": expires,
        }
        token: str = jwt.encode(claims, self._keys[0], algorithm=self._algorithm)
        return AccessToken(token, expires - issued)

    def verify(self, token: str) -> AccessClaims:
        """The claims of a token that this service signed and that has not expired; else `UnauthorizedError`."""
        claims = self._signed_claims(token)
        expires, user_id, session_id = claims.get("exp"), claims.get("sub"), claims.get("sid")
        if claims.get("type") != "access" or type(expires) is not int:
            raise _invalid()
        if not (ObjectId.is_valid(user_id) and ObjectId.is_valid(session_id)):
            raise _invalid()
        if expires <= self._clock.now().timestamp():
            raise TokenExpiredError(
                "The access token has expired; get a new one with the refresh token.", headers=_INVALID_TOKEN
            )
        return AccessClaims(
            PydanticObjectId(user_id), PydanticObjectId(session_id), datetime.fromtimestamp(expires, UTC)
        )

    def _signed_claims(self, token: str) -> dict[str, Any]:
        if len(token) <= MAX_TOKEN_CHARS:
            for key in self._keys:
                try:
                    claims: dict[str, Any] = jwt.decode(token, key, algorithms=[self._algorithm], options=_OPTIONS)
                except (JWTError, ValueError, RecursionError):
                    # not signed with this key; half a surrogate pair; a header of a thousand nested brackets
                    continue
                return claims
        raise _invalid()


# RFC 6750, section 3.1
_INVALID_TOKEN = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


def _invalid() -> UnauthorizedError:
    return UnauthorizedError("The access token is not valid; sign in again.", headers=_INVALID_TOKEN)


def new_refresh_token() -> str:
    """43 URL-safe characters, 256 random bits: nothing to guess, so a plain digest suffices to store it."""
    return secrets.token_urlsafe(32)


def digest_of(refresh_token: str) -> str:
    """SHA-256 in hex: what the database knows of a refresh token."""
    return hashlib.sha256(refresh_token.encode()).hexdigest()
