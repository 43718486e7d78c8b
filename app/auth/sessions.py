"""Sessions: opened by a sign-in, carried on by refresh tokens that work once, ended as a whole."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import structlog
from beanie import PydanticObjectId

from app.auth.devices import device_name
from app.auth.models import RefreshTokenDocument, SessionDocument, UserDocument, all_sessions_end
from app.auth.schemas.accounts import TokenPair
from app.auth.schemas.sessions import SessionInfo
from app.auth.tokens import AccessTokens, digest_of, new_refresh_token
from app.core.audit import Act, Actor, ActorKind, AuditTrail, Outcome
from app.core.bus import Bus
from app.core.clock import Clock, Sequence
from app.core.errors import NotFoundError, SessionEndedError, UnauthorizedError, UnavailableError
from app.core.events import SessionRevoked
from app.core.mail import MailRequest, Mails
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.rate_limit import RateLimiter
from app.core.security import Principal

log = structlog.get_logger(__name__)

AT_ONCE = 500
"""Sessions that one event names: a few ten KiB on the bus."""
MAX_LIVE = 200
"""Live sessions of one account: whoever signs in once more ends the oldest."""
REFRESHES_PER_MINUTE = 30
"""Of one session. Each leaves a row behind for days; a client needs one for each life of an access token."""
_ROUNDS = 5
"""Tries to end all sessions but one, while others end sessions of the same account."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who signs in, as far as the network tells."""

    address: str
    user_agent: str | None = None


class EndedSession(NamedTuple):
    """A session that somebody ended by one of its refresh tokens, and whose it was."""

    user_id: PydanticObjectId
    session_id: PydanticObjectId


class Sessions:
    """Opens, refreshes, lists and ends sessions."""

    def __init__(
        self,
        *,
        clock: Clock,
        bus: Bus,
        tokens: AccessTokens,
        lifetime: timedelta,
        audit: AuditTrail,
        mails: Mails | None = None,
        limiter: RateLimiter | None = None,
        seen: Callable[[PydanticObjectId, Client], Awaitable[None]] | None = None,
    ) -> None:
        """`lifetime` is how long a session lives without being refreshed (and each of its refresh tokens at most).

        `seen` is told of every refresh: which account's, and from where.

        For programs that only end sessions: without `mails` no owner is told of a refresh token that returns, without
        `limiter` refreshing is not limited.
        """
        self._clock = clock
        self._bus = bus
        self._tokens = tokens
        self._lifetime = lifetime
        self._audit = audit
        self._mails = mails
        self._limiter = limiter
        self._seen = seen
        self._sequence = Sequence(clock)

    async def open(self, user: UserDocument, client: Client, method: str = "password") -> TokenPair:
        """A new session of `user`, and its first tokens.

        `user` as it was read before the credential was checked: raises `UnauthorizedError` when the account was
        deactivated, or all its sessions were ended, after that.
        """
        now = self._clock.now()
        session = SessionDocument(
            seq=self._sequence.next(),
            method=method,
            user_id=user.id,
            epoch=user.session_epoch,
            created_at=now,
            last_used_at=now,
            expires_at=now + self._lifetime,
            address=client.address,
            user_agent=client.user_agent,
        )
        await session.insert()
        await self._still_welcome(user, session)
        await self._end_excess(session)
        refresh_token, _ = await self._add_refresh_token(session)
        log.info("signed in", user_id=str(user.id), session_id=str(session.id))
        actor = Actor(ActorKind.SESSION, user.id, session.id)
        target = ("session", str(session.id))
        await self._audit.note(Act("auth.sign_in", user.id, actor, target=target, details={"method": method}))
        return self._pair(session, refresh_token)

    async def reopen(self, user: UserDocument, client: Client, method: str) -> TokenPair:
        """A session in place of those that were all just ended (once), for who ended them.

        `user` as it was read before that. Raises `UnauthorizedError` if somebody else ended them all meanwhile too.
        """
        return await self.open(user.model_copy(update={"session_epoch": user.session_epoch + 1}), client, method)

    async def _still_welcome(self, user: UserDocument, session: SessionDocument) -> None:
        """Take back a session that was opened while all sessions of its account were being ended.

        It would be dead by its epoch in any case: this tells whoever signs in so at once, and leaves nothing behind.
        """
        now = await UserDocument.find_one({"_id": user.id})
        if now is None or not now.is_active or now.session_epoch != user.session_epoch:
            await SessionDocument.get_pymongo_collection().delete_one({"_id": session.id})
            raise UnauthorizedError("The account changed while you signed in; sign in again.")

    async def _end_excess(self, session: SessionDocument) -> None:
        """End the account's oldest sessions beyond `MAX_LIVE`; never the one that is being opened."""
        mine = {"user_id": session.user_id, "live": True}
        rows = await SessionDocument.get_pymongo_collection().find(mine, {"seq": 1}).to_list()
        oldest = sorted((row for row in rows if row["_id"] != session.id), key=lambda row: row["seq"], reverse=True)
        await self._end_many(session.user_id, [row["_id"] for row in oldest[MAX_LIVE - 1 :]], "too many sessions")

    async def refresh(self, refresh_token: str, client: Client) -> TokenPair:
        """Spend a refresh token for new tokens.

        Raises `UnauthorizedError` for one that is unknown, expired, spent or of an ended session, and
        `RateLimitedError`. A spent one that comes back was copied by somebody: it ends the session, whoever sent it.
        The conditional update decides who spends a token, so of several at the same moment one gets new tokens and the
        next one is a return.
        """
        token = await RefreshTokenDocument.find_one({"digest": digest_of(refresh_token)})
        now = self._clock.now()
        if token is None:
            raise _unusable()
        if token.spent:
            await self._returned(token, client)
        if token.expires_at <= now:
            raise _unusable()
        session = await SessionDocument.find_one({"_id": token.session_id})
        if session is None or session.revoked_at is not None or session.expires_at <= now:
            raise _unusable()
        user = await UserDocument.find_one({"_id": token.user_id})
        if user is None or not user.is_active or not user.keeps(session.id, session.epoch):
            await self.revoke(session.user_id, session.id, "the account is not active, or ended all its sessions")
            raise _unusable()
        # Only now: whoever is over the limit with good tokens must not hide the return of a spent one behind it.
        if self._limiter is not None:
            await self._limiter.hit("refresh", str(session.id), REFRESHES_PER_MINUTE)
        session.expires_at = now + self._lifetime
        # Spending comes last: whatever fails before leaves the old token usable, so that its next use is no theft.
        successor, successor_id = await self._add_refresh_token(session)
        await self._carry_on(session, client)
        if self._seen is not None:
            await self._seen(user.id, client)
        if not await self._spend(token):
            await RefreshTokenDocument.get_pymongo_collection().delete_one({"_id": successor_id})
            await self._returned(token, client)
        return self._pair(session, successor)

    async def end(self, refresh_token: str) -> EndedSession | None:
        """End the session of this refresh token, whether it is spent or not; None if that had ended before.

        Raises `UnauthorizedError` for a token that this service does not know.
        """
        token = await RefreshTokenDocument.find_one({"digest": digest_of(refresh_token)})
        if token is None:
            raise UnauthorizedError("This refresh token is not known; nothing was ended.")
        ended = await self.revoke(token.user_id, token.session_id, "signed out")
        return EndedSession(token.user_id, token.session_id) if ended else None

    async def mine(self, caller: Principal, page: PageRequest) -> Page[SessionInfo]:
        """The caller's live sessions, newest first."""
        found = await read_page(self._live(caller.user_id, page), page)
        return Page([_info(row, caller) for row in found.rows], found.next)

    async def end_one(self, caller: Principal, session_id: PydanticObjectId) -> None:
        """End one of the caller's sessions; raises `NotFoundError`. Ending it again changes nothing."""
        session = await SessionDocument.find_one({"_id": session_id})
        if session is None or session.user_id != caller.user_id:
            raise NotFoundError("There is no session with this id.")
        if await self.revoke(caller.user_id, session_id, "ended by its owner"):
            target = ("session", str(session_id))
            await self._audit.note(Act("session.end", caller.user_id, Actor.of(caller), target=target))

    async def end_all(self, caller: Principal, *, keep_current: bool) -> int:
        """End all of the caller's sessions, or all the others; how many they were.

        Raises `SessionEndedError` where the current one is to be kept and has ended meanwhile.
        """
        if keep_current:
            await self._end_others(caller)
        else:
            await self._end_every(caller.user_id)
        ended = await self.end_outdated(caller.user_id, "ended by its owner with all others")
        details = {"sessions": ended, "kept_current": keep_current}
        await self._audit.note(Act("session.end_all", caller.user_id, Actor.of(caller), details=details))
        return ended

    async def _end_others(self, caller: Principal) -> None:
        """End all but the caller's session, if that is alive at the very moment of the write.

        What the caller is goes back to a look some time ago. Written whatever happened since, this would bring a
        session to life again that a new password or a deactivation has just ended.
        """
        users = UserDocument.get_pymongo_collection()
        for _ in range(_ROUNDS):
            session = await SessionDocument.find_one({"_id": caller.session_id})
            user = await UserDocument.find_one({"_id": caller.user_id})
            if session is None or user is None or not user.lets_in(session):
                raise SessionEndedError("This session has ended meanwhile, and no other was ended; sign in again.")
            as_read = {"_id": user.id, "session_epoch": user.session_epoch, "is_active": True}
            if (await users.update_one(as_read, all_sessions_end(but=session.id))).modified_count:
                return
        raise UnavailableError("Other requests are ending sessions of this account; try again.", retry_after=1)

    async def _end_every(self, user_id: PydanticObjectId) -> None:
        await UserDocument.get_pymongo_collection().update_one({"_id": user_id}, all_sessions_end())

    async def revoke_all(self, user_id: PydanticObjectId, reason: str) -> int:
        """End all sessions of an account, as `revoke` does, and sign-ins that are under way.

        What the reason is (a deactivation) has to be stored before. Returns how many were ended.
        """
        await self._end_every(user_id)
        return await self.end_outdated(user_id, reason)

    async def end_outdated(self, user_id: PydanticObjectId, reason: str) -> int:
        """Tell everybody of the sessions that a write to their account has ended, and mark them; how many they were.

        They are dead already wherever the database is asked; with this, in every cache and open stream too.
        """
        mine = {"user_id": user_id, "live": True}
        live = await SessionDocument.get_pymongo_collection().find(mine, {"epoch": 1}).to_list()
        # Read after the sessions: one that was opened since the end has an epoch that is not ahead of this.
        user = await UserDocument.find_one({"_id": user_id})
        dead = [row["_id"] for row in live if user is None or not user.keeps(row["_id"], row["epoch"])]
        return await self._end_many(user_id, dead, reason)

    async def _end_many(self, user_id: PydanticObjectId, ids: list[PydanticObjectId], reason: str) -> int:
        sessions, ended = SessionDocument.get_pymongo_collection(), 0
        for start in range(0, len(ids), AT_ONCE):
            batch = ids[start : start + AT_ONCE]
            result = await sessions.update_many({"_id": {"$in": batch}, "revoked_at": None}, self._ending(reason))
            ended += result.modified_count
            event = SessionRevoked(user_id=str(user_id), session_ids=[str(id_) for id_ in batch])
            await self._bus.publish(event, confirm=True)
        if ended:
            log.info("sessions ended", user_id=str(user_id), sessions=ended, reason=reason)
        return ended

    async def revoke(self, user_id: PydanticObjectId, session_id: PydanticObjectId, reason: str) -> bool:
        """End a session: its refresh and access tokens stop working, in every process once this returns.

        Returns whether it was this call that ended it.
        """
        result = await SessionDocument.get_pymongo_collection().update_one(
            {"_id": session_id, "revoked_at": None}, self._ending(reason)
        )
        if result.modified_count:
            log.info("session ended", user_id=str(user_id), session_id=str(session_id), reason=reason)
        # Announced even when it was revoked before: whoever did that may have died before they could announce it.
        event = SessionRevoked(user_id=str(user_id), session_ids=[str(session_id)])
        await self._bus.publish(event, confirm=True)
        return result.modified_count == 1

    def _ending(self, reason: str) -> dict[str, Any]:
        return {"$set": {"live": False, "revoked_at": self._clock.now(), "revoked_because": reason}}

    async def _live(self, user_id: PydanticObjectId, page: PageRequest) -> AsyncIterator[dict[str, Any]]:
        """The database removes expired sessions within a minute or so; until then they are not shown."""
        sessions, now = SessionDocument.get_pymongo_collection(), self._clock.now()
        mine, user = {"user_id": user_id, "live": True}, await UserDocument.find_one({"_id": user_id})
        async for row in newest_first(sessions, mine, page=page, account=user_id, clock=self._clock):
            if row["expires_at"] > now and user is not None and user.keeps(row["_id"], row["epoch"]):
                yield row

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

    async def _returned(self, token: RefreshTokenDocument, client: Client) -> NoReturn:
        log.warning("a spent refresh token came back", user_id=str(token.user_id), session_id=str(token.session_id))
        # Once for each session: whoever has a spent token could fill the trail and the owner's mailbox with it.
        if await self.revoke(token.user_id, token.session_id, "a spent refresh token came back"):
            target = ("session", str(token.session_id))
            await self._audit.note(Act("auth.refresh_reuse", token.user_id, outcome=Outcome.FAILURE, target=target))
            await self._tell_owner_of_return(token, client)
        raise _unusable()

    async def _tell_owner_of_return(self, token: RefreshTokenDocument, client: Client) -> None:
        try:
            user = await UserDocument.find_one({"_id": token.user_id})
            if user is not None and self._mails is not None and self._mails.available:
                values = {
                    "when": self._clock.now().isoformat(),
                    "address": client.address,
                    "device": device_name(client.user_agent) or "unknown",
                }
                await self._mails.request(MailRequest("token_reuse", user.email, values, key=str(token.session_id)))
        except Exception:  # the session is ended, and the answer is the same whether that could be told
            log.exception("the return of a refresh token was not mailed", session_id=str(token.session_id))

    def _pair(self, session: SessionDocument, refresh_token: str) -> TokenPair:
        access = self._tokens.issue(session.user_id, session.id, not_after=session.expires_at)
        return TokenPair(access_token=access.token, refresh_token=refresh_token, expires_in=access.expires_in)


def _unusable() -> UnauthorizedError:
    """One text for every reason: a thief learns nothing from it."""
    return UnauthorizedError("The refresh token is not valid (any more); sign in again.")


def _info(row: dict[str, Any], caller: Principal) -> SessionInfo:
    user_agent = row.get("user_agent")
    return SessionInfo(
        id=str(row["_id"]),
        current=row["_id"] == caller.session_id,
        device=device_name(user_agent),
        user_agent=user_agent,
        address=row["address"],
        method=row["method"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        expires_at=row["expires_at"],
    )
