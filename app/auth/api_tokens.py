"""API tokens: what an account gives its programs instead of its password."""

import re
import secrets
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import structlog
from beanie import PydanticObjectId

from app.auth.accounts import Accounts
from app.auth.models import ApiTokenDocument, SessionDocument
from app.auth.notices import Notices
from app.auth.schemas.api_tokens import ApiTokenBody, ApiTokenInfo, NewApiToken
from app.auth.sessions import Client
from app.auth.tokens import digest_of
from app.core.audit import Act, Actor, AuditTrail
from app.core.bus import Bus
from app.core.clock import Clock, Sequence
from app.core.errors import ConflictError, DomainError, NotFoundError, UnauthorizedError
from app.core.events import SessionRevoked
from app.core.mail import MailRequest
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.security import API_TOKEN_PREFIX, Principal

log = structlog.get_logger(__name__)

MAX_LIVE = 50
"""Live tokens of one account."""
_PREFIX_CHARS = len(API_TOKEN_PREFIX) + 6
# 256 random bits behind the prefix: nothing to guess, so a plain digest suffices to store it.
_FORM = re.compile(re.escape(API_TOKEN_PREFIX) + r"[A-Za-z0-9_-]{43}").fullmatch


def new_api_token() -> str:
    """`arrow_` and 43 URL-safe characters."""
    return API_TOKEN_PREFIX + secrets.token_urlsafe(32)


def looks_like_api_token(text: str) -> bool:
    """Whether `text` has the form of an API token; nothing else needs to be looked up."""
    return _FORM(text) is not None


class ApiTokens:
    """Makes, lists, finds and revokes API tokens."""

    def __init__(self, *, clock: Clock, bus: Bus, audit: AuditTrail, accounts: Accounts, notices: Notices) -> None:
        self._clock = clock
        self._bus = bus
        self._audit = audit
        self._accounts = accounts
        self._notices = notices
        self._sequence = Sequence(clock)

    async def create(self, caller: Principal, body: ApiTokenBody, client: Client) -> NewApiToken:
        """A new token of the caller's, shown this once; the owner is told by mail.

        Raises `ConflictError` for one more than `MAX_LIVE`, and `UnauthorizedError` when the caller's session ended
        meanwhile: who takes back an account ends its sessions first and its tokens then, so none slips through.
        """
        if await self._retire_expired(caller.user_id) >= MAX_LIVE:
            raise _too_many()
        token, now = new_api_token(), self._clock.now()
        document = ApiTokenDocument(
            seq=self._sequence.next(),
            user_id=caller.user_id,
            name=body.name,
            digest=digest_of(token),
            prefix=token[:_PREFIX_CHARS],
            scopes=body.scopes,
            created_at=now,
            expires_at=now + timedelta(days=body.expires_in_days),
        )
        await document.insert()
        await self._keep_or_drop(caller, document)
        try:
            await self._audit.record(_made(caller, document))
        except DomainError:
            # Nobody will see it, but the trail may still come to say that it was made.
            await self._end(caller.user_id, [document.id])
            raise
        log.info("API token made", user_id=str(caller.user_id), token_id=str(document.id))
        await self._tell(document, client)
        return NewApiToken(
            id=str(document.id),
            name=document.name,
            token=token,
            prefix=document.prefix,
            scopes=document.scopes,
            created_at=document.created_at,
            expires_at=document.expires_at,
        )

    async def mine(
        self, user_id: PydanticObjectId, page: PageRequest, *, include_ended: bool = False
    ) -> Page[ApiTokenInfo]:
        """The account's tokens, newest first: the live ones, or (`include_ended`) all that there ever were."""
        now = self._clock.now()

        def rows(*, live: bool) -> AsyncIterator[dict[str, Any]]:
            tokens, mine = ApiTokenDocument.get_pymongo_collection(), {"user_id": user_id, "live": live}
            return newest_first(tokens, mine, page=page, account=user_id, clock=self._clock)

        if include_ended:
            found = await read_page(_merged(rows(live=True), rows(live=False)), page)
        else:
            unexpired = (row async for row in rows(live=True) if row["expires_at"] > now)
            found = await read_page(unexpired, page)
        return Page([_info(row, now) for row in found.rows], found.next)

    async def find(self, token: str) -> ApiTokenDocument | None:
        """The token with this text, if it is neither revoked nor expired; whether its account may act is not asked."""
        if not looks_like_api_token(token):
            return None
        found = await ApiTokenDocument.find_one({"digest": digest_of(token)})
        return found if found and found.revoked_at is None and found.expires_at > self._clock.now() else None

    async def revoke(self, caller: Principal, token_id: PydanticObjectId) -> None:
        """End one of the caller's tokens, in every process before this returns; raises `NotFoundError`.

        Ending it again changes nothing, and is not written down again.
        """
        token = await ApiTokenDocument.find_one({"_id": token_id})
        if token is None or token.user_id != caller.user_id:
            raise NotFoundError("There is no API token with this id.")
        if not await self._end(caller.user_id, [token_id]):
            return
        details = {"name": token.name}
        target = ("api_token", str(token_id))
        await self._audit.note(
            Act("api_token.revoke", caller.user_id, Actor.of(caller), target=target, details=details)
        )

    async def end_all(self, caller: Principal) -> int:
        """End all of the caller's tokens; how many they were."""
        ended = await self.revoke_all(caller.user_id)
        if ended:
            details = {"all": True, "ended": ended}
            await self._audit.note(Act("api_token.revoke", caller.user_id, Actor.of(caller), details=details))
        return ended

    async def revoke_all(self, user_id: PydanticObjectId) -> int:
        """End all tokens of an account, in every process before this returns; how many they were.

        Whoever takes an account back from a stranger ends its sessions before: see `create`.
        """
        return await self._end(user_id, [row["_id"] for row in await self._live(user_id)])

    async def _end(self, user_id: PydanticObjectId, ids: list[PydanticObjectId]) -> int:
        if not ids:
            return 0
        result = await ApiTokenDocument.get_pymongo_collection().update_many(
            {"_id": {"$in": ids}, "revoked_at": None}, {"$set": {"live": False, "revoked_at": self._clock.now()}}
        )
        # Announced even when they were revoked before: whoever did that may have died before they could announce it.
        await self._bus.publish(SessionRevoked(user_id=str(user_id), session_ids=list(map(str, ids))), confirm=True)
        log.info("API tokens revoked", user_id=str(user_id), tokens=result.modified_count)
        return result.modified_count

    async def _tell(self, token: ApiTokenDocument, client: Client) -> None:
        """Who took over a session for a moment could stay for a year with a token that its owner knows nothing of."""
        user = await self._accounts.get(token.user_id)
        if user is None:
            return
        values = {
            "when": token.created_at.isoformat(),
            "address": client.address,
            "token_name": token.name,
            "scopes": ", ".join(token.scopes),
        }
        await self._notices.send(MailRequest("api_token_created", user.email, values))

    async def _live(self, user_id: PydanticObjectId) -> list[dict[str, Any]]:
        """`MAX_LIVE` and a few at most: expired ones count until the account makes another."""
        mine = {"user_id": user_id, "live": True}
        return await ApiTokenDocument.get_pymongo_collection().find(mine, {"expires_at": 1}).to_list()

    async def _retire_expired(self, user_id: PydanticObjectId) -> int:
        """Take the expired ones out of the live ones; how many are left."""
        rows, now = await self._live(user_id), self._clock.now()
        expired = [row["_id"] for row in rows if row["expires_at"] <= now]
        if expired:
            change = {"$set": {"live": False}}
            await ApiTokenDocument.get_pymongo_collection().update_many({"_id": {"$in": expired}}, change)
        return len(rows) - len(expired)

    async def _keep_or_drop(self, caller: Principal, token: ApiTokenDocument) -> None:
        """Take a new token back if it must not be: of requests at the same time, the last one sees all the others'."""
        refusal: DomainError | None = None
        if len(await self._live(caller.user_id)) > MAX_LIVE:
            refusal = _too_many()
        else:
            session = await SessionDocument.find_one({"_id": caller.session_id})
            user = await self._accounts.get(caller.user_id)
            # A new password ends all sessions at once by the account's count; the sessions' own rows come later.
            if session is None or user is None or not user.lets_in(session):
                refusal = UnauthorizedError("This session has ended; sign in again.")
        if refusal:
            await ApiTokenDocument.get_pymongo_collection().delete_one({"_id": token.id})
            raise refusal


def _too_many() -> ConflictError:
    return ConflictError(f"An account can have {MAX_LIVE} API tokens at most; revoke one that is not needed any more.")


def _made(caller: Principal, token: ApiTokenDocument) -> Act:
    details = {"name": token.name, "scopes": " ".join(token.scopes), "expires_at": token.expires_at.isoformat()}
    target = ("api_token", str(token.id))
    return Act("api_token.create", caller.user_id, Actor.of(caller), target=target, details=details)


def _info(row: dict[str, Any], now: datetime) -> ApiTokenInfo:
    return ApiTokenInfo(
        id=str(row["_id"]),
        name=row["name"],
        prefix=row["prefix"],
        scopes=row["scopes"],
        live=row["live"] and row["expires_at"] > now,
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row.get("last_used_at"),
        revoked_at=row.get("revoked_at"),
    )


async def _merged(*streams: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The rows of streams that are newest first, newest first."""
    heads = {stream: row for stream in streams if (row := await anext(stream, None)) is not None}
    while heads:
        newest = max(heads, key=lambda stream: (heads[stream]["seq"], heads[stream]["_id"]))
        yield heads[newest]
        row = await anext(newest, None)
        if row is None:
            del heads[newest]
        else:
            heads[newest] = row
