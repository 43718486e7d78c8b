"""Sessions: opened by a sign-in, carried on by refresh tokens that work once, ended as a whole."""

from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import structlog
from beanie import PydanticObjectId

from app.auth.models import RefreshTokenDocument, SessionDocument, UserDocument
from app.auth.schemas import TokenPair
from app.auth.tokens import AccessTokens, digest_of, new_refresh_token
from app.core.bus import Bus
from app.core.clock import Clock
from app.core.errors import UnauthorizedError
from app.core.events import SessionRevoked

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """Who signs in, as far as the network tells."""

    address: str
    user_agent: str | None = None


class Sessions:
    """Opens, refreshes and ends sessions."""

    def __init__(self, *, clock: Clock, bus: Bus, tokens: AccessTokens, lifetime: timedelta) -> None:
        """`lifetime` is how long a session lives without being refreshed (and each of its refresh tokens at most)."""
        self._clock = clock
        self._bus = bus
        self._tokens = tokens
        self._lifetime = lifetime

    async def open(self, user: UserDocument, client: Client) -> TokenPair:
        """A new session of `user`, and its first tokens."""
        now = self._clock.now()
        session = SessionDocument(
            user_id=user.id,
            created_at=now,
            last_used_at=now,
            expires_at=now + self._lifetime,
            address=client.address,
            user_agent=client.user_agent,
        )
        await session.insert()
        refresh_token, _ = await self._add_refresh_token(session)
        log.info("signed in", user_id=str(user.id), session_id=str(session.id))
        return self._pair(session, refresh_token)

    async def refresh(self, refresh_token: str, client: Client) -> TokenPair:
        """Spend a refresh token for new tokens.

        Raises `UnauthorizedError` for one that is unknown, expired, spent or of an ended session. A spent one that
        comes back was copied by somebody: it ends the session, whoever sent it. The conditional update decides who
        spends a token, so of several at the same moment one gets new tokens and the next one is a return.
        """
        token = await RefreshTokenDocument.find_one({"digest": digest_of(refresh_token)})
        now = self._clock.now()
        if token is None:
            raise _unusable()
        if token.spent:
            await self._returned(token)
        if token.expires_at <= now:
            raise _unusable()
        session = await SessionDocument.find_one({"_id": token.session_id})
        if session is None or session.revoked_at is not None or session.expires_at <= now:
            raise _unusable()
        user = await UserDocument.find_one({"_id": token.user_id})
        if user is None or not user.is_active:
            await self.revoke(session.user_id, session.id, "the account is not active")
            raise _unusable()
        session.expires_at = now + self._lifetime
        # The successor is stored first: a crash in between leaves the old token usable, not the client locked out.
        successor, successor_id = await self._add_refresh_token(session)
        if not await self._spend(token):
            await RefreshTokenDocument.get_pymongo_collection().delete_one({"_id": successor_id})
            await self._returned(token)
        await self._carry_on(session, client)
        return self._pair(session, successor)

    async def end(self, refresh_token: str) -> None:
        """End the session of this refresh token, whether it is spent or not; ending twice is fine.

        Raises `UnauthorizedError` for a token that this service does not know.
        """
        token = await RefreshTokenDocument.find_one({"digest": digest_of(refresh_token)})
        if token is None:
            raise UnauthorizedError("This refresh token is not known; nothing was ended.")
        await self.revoke(token.user_id, token.session_id, "signed out")

    async def revoke(self, user_id: PydanticObjectId, session_id: PydanticObjectId, reason: str) -> None:
        """End a session: its refresh and access tokens stop working, in every process once this returns."""
        result = await SessionDocument.get_pymongo_collection().update_one(
            {"_id": session_id, "revoked_at": None},
            {"$set": {"revoked_at": self._clock.now(), "revoked_because": reason}},
        )
        if result.modified_count:
            log.info("session ended", user_id=str(user_id), session_id=str(session_id), reason=reason)
        # Announced even when it was revoked before: whoever did that may have died before they could announce it.
        event = SessionRevoked(user_id=str(user_id), session_ids=[str(session_id)])
        await self._bus.publish(event, confirm=True)

    async def _add_refresh_token(self, session: SessionDocument) -> tuple[str, PydanticObjectId]:
        refresh_token = new_refresh_token()
        document = RefreshTokenDocument(
            digest=digest_of(refresh_token),
            session_id=session.id,
            user_id=session.user_id,
            created_at=self._clock.now(),
            expires_at=session.expires_at,
        )
        await document.insert()
        return refresh_token, document.id

    async def _spend(self, token: RefreshTokenDocument) -> bool:
        result = await RefreshTokenDocument.get_pymongo_collection().update_one(
            {"_id": token.id, "spent": False}, {"$set": {"spent": True, "spent_at": self._clock.now()}}
        )
        return result.modified_count == 1

    async def _carry_on(self, session: SessionDocument, client: Client) -> None:
        """Note the use of a session and move its end; one that was ended meanwhile stays ended, and its tokens dead."""
        used = {"last_used_at": self._clock.now(), "expires_at": session.expires_at, "address": client.address}
        await SessionDocument.get_pymongo_collection().update_one(
            {"_id": session.id, "revoked_at": None}, {"$set": used}
        )

    async def _returned(self, token: RefreshTokenDocument) -> NoReturn:
        log.warning("a spent refresh token came back", user_id=str(token.user_id), session_id=str(token.session_id))
        await self.revoke(token.user_id, token.session_id, "a spent refresh token came back")
        raise _unusable()

    def _pair(self, session: SessionDocument, refresh_token: str) -> TokenPair:
        access = self._tokens.issue(session.user_id, session.id, not_after=session.expires_at)
        return TokenPair(access_token=access.token, refresh_token=refresh_token, expires_in=access.expires_in)


def _unusable() -> UnauthorizedError:
    """One text for every reason: a thief learns nothing from it."""
    return UnauthorizedError("The refresh token is not valid (any more); sign in again.")
