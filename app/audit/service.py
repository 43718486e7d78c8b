"""Reads the audit trail: everybody their own account's, administrators all of it."""

from collections.abc import AsyncIterator
from typing import Any

from bson import ObjectId
from pymongo.asynchronous.database import AsyncDatabase

from app.audit.chain import Row
from app.audit.schemas import AuditActor, AuditEntry, AuditFilters, AuditTarget
from app.audit.store import ChainStore, DamagedHeadError
from app.core.audit import Outcome
from app.core.clock import Clock
from app.core.errors import ForbiddenError
from app.core.pagination import Cursor, Page, PageRequest, newest_first
from app.core.security import Principal, Role

_AT_ONCE = 250
"""Entries that are read together where a filter here leaves few of them."""


class AuditReader:
    """Lists of entries, newest first.

    Indexes serve the account, the action and the outcome by themselves; what remains of the filters is applied here, to
    `reach` entries at most. Where it leaves few of many, a page ends there, and its cursor goes on.
    """

    def __init__(self, db: AsyncDatabase[Row], clock: Clock, *, reach: int = 5000) -> None:
        self._store = ChainStore(db)
        self._clock = clock
        self._reach = reach

    async def page(self, caller: Principal, filters: AuditFilters, page: PageRequest) -> Page[AuditEntry]:
        """Entries that match: of the caller's account, or for a signed-in administrator of every account.

        A page may be shorter than asked for although there are more; `next` says so. Raises `ForbiddenError`.
        """
        administrator = caller.role.includes(Role.ADMIN) and not caller.api_token
        if administrator:
            account = filters.account_id
        elif filters.account_id in (None, caller.user_id):
            account = caller.user_id
        else:
            raise ForbiddenError("Only a signed-in administrator may read the audit entries of other accounts.")
        indexed = _indexed(account, filters)
        wanted: dict[str, Any] = {
            "account_id": account,
            "action": filters.action,
            "outcome": filters.outcome,
            "request_id": filters.request_id,
        }
        rest = {name: value for name, value in wanted.items() if value is not None and name not in indexed}
        rows = await self._rows(account, filters, page, indexed, narrow=bool(rest or filters.actor_id))
        if administrator:
            found = await self._read(rows, page, rest, filters.actor_id)
            return Page([_wire(row) for row in found.rows], found.next)
        if filters.actor_id not in (None, caller.user_id):  # which is not shown is not found either
            return Page([], None)
        found = await self._read(rows, page, rest, filters.actor_id)
        return Page([_discreet(row, caller.user_id) for row in found.rows], found.next)

    async def _rows(
        self, account: ObjectId | None, filters: AuditFilters, page: PageRequest, indexed: Row, *, narrow: bool
    ) -> AsyncIterator[Row]:
        return newest_first(
            self._store.entries,
            indexed,
            # What a filter here leaves out was read all the same: in good portions, however short the page.
            page=PageRequest(max(page.limit, _AT_ONCE), page.after) if narrow else page,
            account=account or await self._beginning(),
            clock=self._clock,
            start=filters.start,
            end=filters.end,
        )

    async def _beginning(self) -> ObjectId:
        """An id made when the oldest entry was, for lists of all accounts: nothing is older."""
        try:
            head = await self._store.head()
        except DamagedHeadError:
            head = None
        return ObjectId.from_datetime(head.base.since) if head else ObjectId("0" * 24)

    async def _read(
        self, rows: AsyncIterator[Row], page: PageRequest, rest: Row, actor_id: ObjectId | None
    ) -> Page[Row]:
        """The first `page.limit` of `rows` after the cursor that match, of those within reach."""
        found: list[Row] = []
        last, looked_at, more = None, 0, False
        async for row in rows:
            if page.after and (row["seq"], row["_id"]) >= page.after:
                continue
            matches = _matches(row, rest, actor_id)
            if looked_at == self._reach or (matches and len(found) == page.limit):
                more = True
                break
            if matches:
                found.append(row)
            looked_at += 1
            last = Cursor(row["seq"], row["_id"])
        return Page(found, last if more else None)


def _indexed(account: ObjectId | None, filters: AuditFilters) -> Row:
    """The part of the filters that an index serves together with the time."""
    equality: Row = {} if account is None else {"account_id": account}
    if filters.request_id is not None:  # clients choose it: many entries can have the same one, in many accounts
        equality["request_id"] = filters.request_id
    elif filters.action is not None and not filters.action.endswith("."):
        equality["action"] = filters.action
    elif account is None and filters.outcome not in (None, Outcome.SUCCESS):  # the usual outcome narrows nothing
        equality["outcome"] = str(filters.outcome)
    return equality


def _matches(row: Row, rest: Row, actor_id: ObjectId | None) -> bool:
    if actor_id is not None and row["actor"].get("user_id") != actor_id:
        return False
    for name, value in rest.items():
        found = row.get(name)
        begins = name == "action" and value.endswith(".") and str(found).startswith(value)
        if found != value and not begins:
            return False
    return True


def _discreet(row: Row, reader: ObjectId) -> AuditEntry:
    """An entry as the owner of the account sees it.

    The place in the chain would tell what goes on in other accounts: whether a mail went out to an address, say. Which
    administrator acted, and from where, is not the owner's business; that it was one, and what was done, is.
    """
    entry = _wire(row)
    hidden: dict[str, Any] = {"number": None, "hash": None}
    if row["actor"].get("user_id", reader) != reader:
        actor = entry.actor.model_copy(update={"user_id": None, "credential_id": None})
        hidden |= {"actor": actor, "address": None, "user_agent": None}
    return entry.model_copy(update=hidden)


def _wire(row: Row) -> AuditEntry:
    actor, target, account = row["actor"], row.get("target"), row.get("account_id")
    return AuditEntry(
        id=str(row["_id"]),
        number=row["number"],
        at=row["at"],
        action=row["action"],
        outcome=row["outcome"],
        account_id=str(account) if account else None,
        actor=AuditActor(
            kind=actor["kind"],
            # Nobody else than administrators can act on an account that is not their own.
            administrator="user_id" in actor and account is not None and actor["user_id"] != account,
            user_id=str(actor["user_id"]) if "user_id" in actor else None,
            credential_id=str(actor["credential_id"]) if "credential_id" in actor else None,
        ),
        target=AuditTarget(kind=target["kind"], id=target["id"]) if target else None,
        address=row.get("address"),
        user_agent=row.get("user_agent"),
        request_id=row.get("request_id"),
        details=row["details"],
        hash=row["hash"],
    )
