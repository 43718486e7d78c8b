"""Who sends an access token, and whether the session behind it still lives."""

from dataclasses import dataclass
from datetime import datetime

from beanie import PydanticObjectId
from cachetools import TTLCache

from app.auth.models import SessionDocument, UserDocument
from app.auth.tokens import AccessTokens
from app.core.bus import Bus
from app.core.clock import Clock
from app.core.errors import UnauthorizedError
from app.core.events import PeersChanged, SessionRevoked
from app.core.security import Principal, Role

CACHE_SECONDS = 15.0
"""How long a change that nobody announces (a role edited in the database) may go unnoticed."""
CACHE_SESSIONS = 20_000


@dataclass(frozen=True, slots=True)
class _Live:
    """A session that was alive when it was read, with what its account may do."""

    user_id: PydanticObjectId
    role: Role
    expires_at: datetime


class SessionAuthenticator:
    """Implements `app.core.security.Authenticator` with a bounded cache of sessions.

    A revocation empties the entry in every process before its request is answered. While other processes cannot be
    reached (`bus.connected` is False) their revocations cannot be heard either: then every request asks the database.
    """

    def __init__(self, *, tokens: AccessTokens, clock: Clock, bus: Bus) -> None:
        self._tokens = tokens
        self._clock = clock
        self._bus = bus
        # None: known to be dead. What is dead never lives again, and a signed token names a session that once lived.
        self._cache: TTLCache[PydanticObjectId, _Live | None] = TTLCache(
            CACHE_SESSIONS, CACHE_SECONDS, timer=clock.monotonic
        )
        self._generation = 0
        bus.subscribe(SessionRevoked, self._forget)
        bus.subscribe(PeersChanged, self._forget_all)

    async def authenticate(self, access_token: str) -> Principal:
        """See `Authenticator.authenticate`."""
        claims = self._tokens.verify(access_token)
        session = await self._session(claims.session_id)
        if session is None or session.user_id != claims.user_id or session.expires_at <= self._clock.now():
            raise UnauthorizedError(
                "This session has ended; sign in again.", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
            )
        return Principal(claims.user_id, claims.session_id, session.role, claims.expires_at)

    async def _session(self, session_id: PydanticObjectId) -> _Live | None:
        if not self._bus.connected:
            return await _load(session_id)
        try:
            known = self._cache[session_id]
        except KeyError:
            pass
        else:
            # A refresh in another process may have moved the end since.
            if known is None or known.expires_at > self._clock.now():
                return known
        generation = self._generation
        session = await _load(session_id)
        # What was read before a revocation must not be kept after it.
        if generation == self._generation and self._bus.connected:
            self._cache[session_id] = session
        return session

    def _forget(self, event: SessionRevoked) -> None:
        self._generation += 1
        for session_id in event.session_ids:
            self._cache.pop(PydanticObjectId(session_id), None)

    def _forget_all(self, _: PeersChanged) -> None:
        self._generation += 1
        self._cache.clear()


async def _load(session_id: PydanticObjectId) -> _Live | None:
    session = await SessionDocument.find_one({"_id": session_id})
    if session is None or session.revoked_at is not None:
        return None
    user = await UserDocument.find_one({"_id": session.user_id})
    if user is None or not user.is_active:
        return None
    return _Live(user.id, user.role, session.expires_at)
