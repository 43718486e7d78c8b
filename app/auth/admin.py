"""What administrators do with accounts: find them, let them in or shut them out, say what they may do."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from beanie import PydanticObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError

from app.auth.api_tokens import ApiTokens
from app.auth.models import UserDocument
from app.auth.schemas.accounts import User
from app.auth.schemas.admin import AccountChanges, AccountDetails
from app.auth.second_factor import SecondFactors
from app.auth.sessions import Sessions
from app.core.audit import Act, Actor, AuditTrail, Outcome
from app.core.bus import Bus
from app.core.clock import Clock
from app.core.errors import ConflictError, FieldError, InvalidInputError, NotFoundError, UnavailableError
from app.core.events import AccountChanged
from app.core.lease_holder import Lease
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.security import Principal, Role

log = structlog.get_logger(__name__)

Row = dict[str, Any]
MAX_MATCHES = 1000
"""Accounts that a search may match by one field; their order is made in memory."""
_EVERYBODY = PydanticObjectId("0" * 24)
"""Older than every account, for lists that are nobody's."""
_LAST_CHARACTER = "\U0010ffff"
_LEASE, _LEASE_SECONDS = "administrators", 30.0
"""Longer than any query lasts (the socket's timeout is 20 s): nothing is written by whoever no longer holds it."""
_ATTEMPTS, _PAUSE = 50, 0.05


class AccountAdministration:
    """Accounts as administrators see and change them."""

    def __init__(
        self,
        *,
        clock: Clock,
        bus: Bus,
        sessions: Sessions,
        api_tokens: ApiTokens,
        second_factors: SecondFactors,
        audit: AuditTrail,
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._sessions = sessions
        self._api_tokens = api_tokens
        self._second_factors = second_factors
        self._audit = audit

    async def page(self, page: PageRequest, *, q: str | None, role: Role | None, is_active: bool | None) -> Page[User]:
        """Accounts, newest first; `q` is the beginning of an e-mail address or a username, or a whole id.

        Raises `InvalidInputError` for a `q` that too many begin with.
        """
        found = await read_page(_matching(self._rows(q, page, role, is_active), role, is_active), page)
        return Page([_shown(row) for row in found.rows], found.next)

    async def _rows(
        self, q: str | None, page: PageRequest, role: Role | None, is_active: bool | None
    ) -> AsyncIterator[Row]:
        if q is not None:
            for row in await _search(q):
                yield row
            return
        # By one indexed field at most: deactivated accounts are few, and nearly all that have a role are active.
        equality: dict[str, Any] = {}
        if is_active is False:
            equality["is_active"] = False
        elif role is not None:
            equality["role"] = role.value
        found = newest_first(
            _users(), equality, page=page, account=_EVERYBODY, clock=self._clock, projection={"hashed_password": 0}
        )
        async for row in found:
            yield row

    async def get(self, user_id: PydanticObjectId) -> AccountDetails:
        """One account; raises `NotFoundError`."""
        return await self._details(await _stored(user_id))

    async def _details(self, row: Row) -> AccountDetails:
        second_factor = await self._second_factors.enrolled(row["_id"])
        return AccountDetails.model_validate({**_shown(row).model_dump(), "second_factor": second_factor})

    async def change(self, admin: Principal, user_id: PydanticObjectId, changes: AccountChanges) -> AccountDetails:
        """Change an account, and return when no process goes by what was before. Doing it again repairs a half.

        Raises `NotFoundError`, and `ConflictError` for what would lock out the administrator who asks, or the last one.
        """
        row = await _stored(user_id)
        try:
            _refuse_self_harm(admin, row, changes)
            before, row = await self._store(row, changes.stored)
        except ConflictError as error:
            await self._note(admin, user_id, Outcome.REFUSED, {"reason": error.detail})
            raise
        details = _told(before, changes.stored)
        if changes.is_active is not None or changes.role is not None:
            # Before anything else can fail: what an account has open (WebSockets by API tokens) ends by this alone.
            # Whatever the values were before, too: whoever stored them may have died before they could announce it.
            event = AccountChanged(user_id=str(user_id), is_active=bool(row["is_active"]))
            await self._bus.publish(event, confirm=True)
        details |= await self._take_away(user_id, changes)
        log.info("account changed by an administrator", user_id=str(user_id), admin_id=str(admin.user_id), **details)
        await self._note(admin, user_id, Outcome.SUCCESS, details)
        return await self._details(row)

    async def _take_away(self, user_id: PydanticObjectId, changes: AccountChanges) -> dict[str, str | int]:
        """End what the account is not to have any more; what that was, for the trail."""
        done: dict[str, str | int] = {}
        if changes.is_active is False:
            done["sessions_ended"] = await self._sessions.revoke_all(user_id, "the account was deactivated")
        if changes.api_tokens is False:
            done["api_tokens_revoked"] = await self._api_tokens.revoke_all(user_id)
        if changes.second_factor is False:
            removed = await self._second_factors.remove(user_id)
            done["second_factor"] = "removed" if removed else "there was none"
        return done

    async def _store(self, row: Row, wanted: Mapping[str, bool | Role]) -> tuple[Row, Row]:
        """Give the account the values that are `wanted`: the row before, and after."""
        if wanted.get("is_active") is not False and wanted.get("role", Role.ADMIN) is Role.ADMIN:
            return await self._update(row["_id"], wanted)
        async with self._alone():
            if await _is_last_administrator(row["_id"]):
                raise ConflictError(
                    "This is the last active administrator: make somebody else an administrator before this."
                )
            return await self._update(row["_id"], wanted)

    async def _update(self, user_id: PydanticObjectId, wanted: Mapping[str, bool | Role]) -> tuple[Row, Row]:
        for _ in range(5):
            row = await _stored(user_id)
            different = {name: value for name, value in wanted.items() if row[name] != value}
            if not different:
                return row, row
            # On condition of what was read, so that two administrators' changes are told apart in the trail.
            as_read = {"_id": user_id, **{name: row[name] for name in different}}
            change = {**different, "updated_at": self._clock.now()}
            if (await _users().update_one(as_read, {"$set": change})).modified_count:
                return row, {**row, **change}
        raise ConflictError("Somebody else is changing this account right now: look at it, and try again.")

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One at a time in the whole service takes power from accounts: two who demote each other must not both win."""
        lease = Lease(_users().database, self._clock, _LEASE, secrets.token_hex(8), _LEASE_SECONDS)
        for _ in range(_ATTEMPTS):
            if await lease.acquire():
                break
            await asyncio.sleep(_PAUSE)
        else:
            raise UnavailableError("Another administrator is changing accounts right now; try again.")
        try:
            yield
        finally:
            with suppress(PyMongoError):  # it ends by itself
                await lease.release()

    async def _note(
        self, admin: Principal, user_id: PydanticObjectId, outcome: Outcome, details: Mapping[str, str | int]
    ) -> None:
        target = ("account", str(user_id))
        await self._audit.note(Act("admin.user_update", user_id, Actor.of(admin), outcome, target, details))


def _users() -> AsyncCollection[Row]:
    return UserDocument.get_pymongo_collection()


async def _stored(user_id: PydanticObjectId) -> Row:
    row = await _users().find_one({"_id": user_id}, {"hashed_password": 0})
    if row is None:
        raise NotFoundError("There is no account with this id.")
    return row


async def _search(q: str) -> list[Row]:
    """The accounts whose e-mail address or username begins with `q`, or whose id it is; newest first."""
    found: dict[PydanticObjectId, Row] = {}
    for field in ("email",) if "@" in q else ("email", "username"):
        span = {field: {"$gte": q, "$lt": q + _LAST_CHARACTER}}
        rows = await _users().find(span, {"hashed_password": 0}).limit(MAX_MATCHES + 1).to_list()
        if len(rows) > MAX_MATCHES:
            message = f"More than {MAX_MATCHES} accounts begin with this; type more of it"
            raise InvalidInputError(f"query.q: {message}.", [FieldError(("query", "q"), message, "search_too_wide")])
        found |= {row["_id"]: row for row in rows}
    if PydanticObjectId.is_valid(q):
        row = await _users().find_one({"_id": PydanticObjectId(q)}, {"hashed_password": 0})
        found |= {row["_id"]: row} if row else {}
    return sorted(found.values(), key=lambda row: (row["seq"], row["_id"]), reverse=True)


async def _matching(rows: AsyncIterator[Row], role: Role | None, is_active: bool | None) -> AsyncIterator[Row]:
    async for row in rows:
        if role in {None, row["role"]} and is_active in {None, row["is_active"]}:
            yield row


async def _is_last_administrator(user_id: PydanticObjectId) -> bool:
    rows = await _users().find({"role": Role.ADMIN.value}, {"is_active": 1}).to_list()
    return [row["_id"] for row in rows if row["is_active"]] == [user_id]


def _refuse_self_harm(admin: Principal, row: Row, changes: AccountChanges) -> None:
    if row["_id"] != admin.user_id:
        return
    if changes.is_active is False or changes.role not in {None, row["role"]}:
        raise ConflictError("This is your own account: another administrator can deactivate it or change its role.")
    if changes.second_factor is False:
        raise ConflictError("This is your own second factor: turning it off needs one of its codes, as for everybody.")


def _told(before: Row, wanted: Mapping[str, bool | Role]) -> dict[str, str | int]:
    """What changed, for the trail: `user → admin`, or that it was so before."""
    return {
        name: f"{_word(value)}, as before" if before[name] == value else f"{_word(before[name])} → {_word(value)}"
        for name, value in wanted.items()
    }


def _word(value: bool | str) -> str:
    return str(value).lower()


def _shown(row: Row) -> User:
    return User.model_validate({name: row.get(name) for name in User.model_fields} | {"id": str(row["_id"])})
