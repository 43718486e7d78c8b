"""Who sends a bearer token: the account behind an access token's session, or behind an API token."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from beanie import PydanticObjectId
from cachetools import LRUCache, TTLCache

from app.auth.api_tokens import ApiTokens, looks_like_api_token
from app.auth.models import ApiTokenDocument, SessionDocument, UserDocument
from app.auth.tokens import AccessTokens, digest_of
from app.auth.uses import CredentialUses
from app.core.bus import Bus
from app.core.clock import Clock
from app.core.errors import SessionEndedError, UnauthorizedError, UnavailableError
from app.core.events import AccountChanged, PeersChanged, SessionRevoked
from app.core.security import ALL_SCOPES, API_TOKEN_PREFIX, Principal, Role, Scope

CACHE_SECONDS = 15.0
"""How long a change that nobody announces (a role edited in the database) may go unnoticed."""
CACHE_SIZE = 20_000
UNKNOWN_SECONDS = 5.0
"""How long a wrong API token is remembered as wrong."""
LOOK_UPS = 4
"""API tokens that are asked for at one time: a flood of wrong ones must leave the database to others."""
MAX_WAITING = 500
"""And those that may wait for their turn: with some milliseconds each, a right one is not held up for long."""

_INVALID_TOKEN = {"WWW-Authenticate": 'Bearer error="invalid_token"'}  # RFC 6750, section 3.1


@dataclass(frozen=True, slots=True)
class _Live:
    """A session or an API token that was alive when it was read, with what its account may do."""

    id: PydanticObjectId
    user_id: PydanticObjectId
    role: Role
    expires_at: datetime
    scopes: frozenset[Scope] = ALL_SCOPES


class SessionAuthenticator:
    """Implements `app.core.security.Authenticator` with bounded caches.

    A revocation, or a change of the account, empties the entry in every process before its request is answered. While
    other processes cannot be reached (`bus.connected` is False) their news cannot be heard either: then every request
    asks the database.
    """

    def __init__(
        self, *, tokens: AccessTokens, api_tokens: ApiTokens, uses: CredentialUses, clock: Clock, bus: Bus
    ) -> None:
        self._tokens = tokens
        self._api_tokens = api_tokens
        self._uses = uses
        self._clock = clock
        self._bus = bus
        # Sessions and API tokens by id. None: a session known to be dead (a signed token names one that once lived).
        self._cache: TTLCache[PydanticObjectId, _Live | None] = TTLCache(
            CACHE_SIZE, CACHE_SECONDS, timer=clock.monotonic
        )
        # The id of an API token by its digest: that never changes, so nothing but room takes it out.
        self._ids: LRUCache[str, PydanticObjectId] = LRUCache(CACHE_SIZE)
        # Apart from the others, so that wrong ones, however many, cannot push out right ones.
        self._unknown: TTLCache[str, bool] = TTLCache(CACHE_SIZE, UNKNOWN_SECONDS, timer=clock.monotonic)
        self._turns = asyncio.Semaphore(LOOK_UPS)
        self._waiting = 0
        self._generation = 0
        bus.subscribe(SessionRevoked, self._forget)
        bus.subscribe(AccountChanged, self._forget_account)
        bus.subscribe(PeersChanged, self._forget_all)

    async def authenticate(self, access_token: str) -> Principal:
        """See `Authenticator.authenticate`."""
        if access_token.startswith(API_TOKEN_PREFIX):
            return await self._by_api_token(access_token)
        claims = self._tokens.verify(access_token)
        session = await self._session(claims.session_id)
        if session is None or session.user_id != claims.user_id or session.expires_at <= self._clock.now():
            raise SessionEndedError("This session has ended; sign in again.", headers=_INVALID_TOKEN)
        self._uses.note(session.id, api_token=False)
        return Principal(claims.user_id, claims.session_id, session.role, claims.expires_at)

    async def holds(self, caller: Principal) -> bool:
        """Whether the credential behind `caller` still works, according to the database.

        For whoever stores something that outlives it: asked after that, so that an end of the credential which does
        not find the thing yet is seen here.
        """
        if not caller.api_token:
            return await _load_session(caller.session_id) is not None
        token = await ApiTokenDocument.find_one({"_id": caller.session_id})
        user = await UserDocument.find_one({"_id": caller.user_id})
        return token is not None and token.revoked_at is None and user is not None and user.is_active

    async def _session(self, session_id: PydanticObjectId) -> _Live | None:
        if not self._bus.connected:
            return await _load_session(session_id)
        try:
            known = self._cache[session_id]
        except KeyError:
            pass
        else:
            # A refresh in another process may have moved the end since.
            if known is None or known.expires_at > self._clock.now():
                return known
        generation = self._generation
        session = await _load_session(session_id)
        if self._may_keep(generation):
            self._cache[session_id] = session
        return session

    def _may_keep(self, generation: int) -> bool:
        """What was read before a revocation must not be kept after it."""
        return generation == self._generation and self._bus.connected

    async def _by_api_token(self, text: str) -> Principal:
        token = await self._api_token(text) if looks_like_api_token(text) else None
        if token is None or token.expires_at <= self._clock.now():
            raise UnauthorizedError(
                "This API token is not valid: it is mistyped, has expired or was revoked.", headers=_INVALID_TOKEN
            )
        self._uses.note(token.id, api_token=True)
        return Principal(token.user_id, token.id, token.role, token.expires_at, token.scopes, api_token=True)

    async def _api_token(self, text: str) -> _Live | None:
        digest = digest_of(text)
        known, token = self._recall(digest)
        if known:
            return token
        if self._waiting >= MAX_WAITING:
            raise UnavailableError("Too many API tokens are being looked up; try again shortly.", retry_after=1)
        self._waiting += 1
        try:
            async with self._turns:
                # The one before may have asked for the same.
                known, token = self._recall(digest)
                return token if known else await self._look_up(text, digest)
        finally:
            self._waiting -= 1

    def _recall(self, digest: str) -> tuple[bool, _Live | None]:
        """Whether the caches know the API token, and what they know."""
        if not self._bus.connected:
            return False, None
        token_id = self._ids.get(digest)
        token = self._cache.get(token_id) if token_id else None
        return token is not None or digest in self._unknown, token

    async def _look_up(self, text: str, digest: str) -> _Live | None:
        generation = self._generation
        found = await self._api_tokens.find(text)
        user = await UserDocument.find_one({"_id": found.user_id}) if found else None
        if found is None or user is None or not user.is_active:
            if self._may_keep(generation):
                self._unknown[digest] = True
            return None
        token = _Live(found.id, user.id, user.role, found.expires_at, frozenset(found.scopes))
        if self._may_keep(generation):
            self._ids[digest] = token.id
            self._cache[token.id] = token
        return token

    def _forget(self, event: SessionRevoked) -> None:
        self._generation += 1
        for session_id in event.session_ids:
            self._cache.pop(PydanticObjectId(session_id), None)

    def _forget_account(self, event: AccountChanged) -> None:
        self._generation += 1
        for id_ in list(self._cache):
            live = self._cache.get(id_)
            # What was refused while the account was inactive goes too: nobody wrote down whose that was.
            if live is None or str(live.user_id) == event.user_id:
                self._cache.pop(id_, None)
        self._unknown.clear()

    def _forget_all(self, _: PeersChanged) -> None:
        self._generation += 1
        self._cache.clear()
        self._unknown.clear()


async def _load_session(session_id: PydanticObjectId) -> _Live | None:
    session = await SessionDocument.find_one({"_id": session_id})
    if session is None or session.revoked_at is not None:
        return None
    user = await UserDocument.find_one({"_id": session.user_id})
    if user is None or not user.lets_in(session):
        return None
    return _Live(session.id, user.id, user.role, session.expires_at)
