"""Secret keys of strategies: the hot look-up behind the webhook, and their management."""

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from beanie import PydanticObjectId
from cachetools import TTLCache
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError, PyMongoError

from app.alerts.models import KeyDocument, StrategyDocument
from app.alerts.ports import AccountStatus, CallerStatus
from app.alerts.schemas import BoundKey, KeyInfo
from app.core.audit import SYSTEM, Act, Actor, AuditTrail
from app.core.bus import Bus
from app.core.clock import Clock, Sequence
from app.core.errors import ConflictError, NotFoundError, UnauthorizedError, UnavailableError
from app.core.events import AccountChanged, KeyChanged, PeersChanged
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.security import Principal

log = structlog.get_logger(__name__)

# secrets.token_urlsafe(32): 43 characters.
_KEY_FORM = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch
MAX_STRATEGIES, MAX_KEYS = 200, 1000
_PREFIX_LENGTH = 6
_AT_ONCE = 200
"""Keys that one update ends: the embedded database serves nobody else meanwhile."""
MAX_WANTED = 1000
"""Keys that may wait to be looked up: a flood of wrong ones must not delay the right ones for long."""
_EVERYTHING = "*"
"""Stands for every key and account in what is noted about changes."""


def looks_like_key(text: str) -> bool:
    """Whether `text` has the form of a key."""
    return _KEY_FORM(text) is not None


def key_digest(secret_key: str) -> str:
    """The SHA-256 under which a key is stored. Keys are random, so no slow password hash is needed."""
    return hashlib.sha256(secret_key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ActiveKey:
    """A key that is not revoked, and the strategy behind it."""

    id: PydanticObjectId
    digest: str
    user_id: PydanticObjectId
    strategy_id: PydanticObjectId
    strategy_name: str
    paused: bool
    """Its account is deactivated: nothing that is sent to it may have an effect."""


class KeyDirectory:
    """Finds the strategy behind a key: from a bounded cache, else by one shared look-up at a time.

    A revocation, and the deactivation of an account, reach every process over the bus before they are acknowledged,
    and empty the entries at once. While other processes may exist that cannot be heard, nothing is taken from the
    cache.
    """

    def __init__(self, bus: Bus, clock: Clock, accounts: AccountStatus, *, max_keys: int = 10_000) -> None:
        self._bus = bus
        self._clock = clock
        self._accounts = accounts
        # Revocations empty it at once; the short life is for the one that got lost all the same.
        self._known: TTLCache[str, ActiveKey] = TTLCache(max_keys, ttl=15)
        # Unknown keys are remembered briefly, so that a sender with a wrong key does not cost a query each time.
        self._unknown: TTLCache[str, bool] = TTLCache(max_keys, ttl=5)
        # What changed since the look-up under way began: digests, accounts, or everything.
        self._changed: set[str] = set()
        self._wanted: dict[str, asyncio.Future[ActiveKey | None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._used: dict[PydanticObjectId, datetime] = {}
        bus.subscribe(KeyChanged, self._forget)
        bus.subscribe(AccountChanged, self._forget_account)
        bus.subscribe(PeersChanged, self._forget_all)

    def _forget(self, event: KeyChanged) -> None:
        self._note(event.digest)
        self._known.pop(event.digest, None)
        self._unknown.pop(event.digest, None)

    def _forget_account(self, event: AccountChanged) -> None:
        self._note(event.user_id)
        user_id = PydanticObjectId(event.user_id)
        for digest in [digest for digest, key in self._known.items() if key.user_id == user_id]:
            self._known.pop(digest, None)

    def _forget_all(self, _: PeersChanged) -> None:
        self._note(_EVERYTHING)
        self._known.clear()
        self._unknown.clear()

    def _note(self, changed: str) -> None:
        if self._looking is not None:
            self._changed.add(changed)

    async def resolve(self, secret_key: str) -> ActiveKey | None:
        """The active key behind `secret_key`, or None; notes that it was used."""
        if not looks_like_key(secret_key):
            return None
        digest = key_digest(secret_key)
        key = None
        if self._bus.connected:
            key = self._known.get(digest)
            if key is None and digest in self._unknown:
                return None
        if key is None:
            key = await self._look_up(digest)
        if key is not None:
            self._used[key.id] = self._clock.now()
        return key

    async def strategy_name(self, secret_key: str) -> str:
        """The name of the strategy behind a key; raises `NotFoundError`.

        Known and unknown keys take the same path, a query each, so that time tells nothing. A paused key is neither
        unknown nor revoked: it keeps its name.
        """
        row = await KeyDocument.get_pymongo_collection().find_one({"digest": key_digest(secret_key)})
        if row is None or row.get("revoked_at") is not None:
            raise NotFoundError("There is no such key.")
        name: str = row["strategy_name"]
        return name

    async def _look_up(self, digest: str) -> ActiveKey | None:
        future = self._wanted.get(digest)
        if future is None:
            if len(self._wanted) >= MAX_WANTED:
                raise UnavailableError("Too many keys are being looked up; try again shortly.", retry_after=1)
            future = self._wanted[digest] = asyncio.get_running_loop().create_future()
            if self._looking is None:
                self._looking = asyncio.create_task(self._look_up_wanted(), name="key look-up")
        return await asyncio.shield(future)

    async def _look_up_wanted(self) -> None:
        """Ask for the wanted keys one after the other, by the unique index: a flood has one query under way."""
        try:
            while self._wanted:
                digest = next(iter(self._wanted))
                self._changed.clear()
                try:
                    key = await self._find(digest)
                except Exception as error:  # noqa: BLE001 (everyone who waits must hear of it)
                    future = self._wanted.pop(digest)
                    future.set_exception(error)
                    future.exception()  # a caller that has gone away is no unretrieved error
                    continue
                # A change that came meanwhile may have made the answer old, and some may have asked after the change.
                about = {_EVERYTHING, digest, str(key.user_id) if key else digest}
                if not self._changed.isdisjoint(about):
                    continue
                if key is None:
                    self._unknown[digest] = True
                else:
                    self._known[digest] = key
                self._wanted.pop(digest).set_result(key)
        finally:
            self._looking = None

    async def _find(self, digest: str) -> ActiveKey | None:
        row = await KeyDocument.get_pymongo_collection().find_one({"digest": digest})
        if row is None or row.get("revoked_at") is not None:
            return None
        active = await self._accounts.is_active(row["user_id"])
        return ActiveKey(
            row["_id"], row["digest"], row["user_id"], row["strategy_id"], row["strategy_name"], paused=not active
        )

    async def save_last_used(self) -> None:
        """Write when keys were last used, in one go; the periodic task and the shutdown call this."""
        used, self._used = self._used, {}
        if not used:
            return
        updates = [UpdateOne({"_id": id_}, {"$set": {"last_used_at": moment}}) for id_, moment in used.items()]
        try:
            await KeyDocument.get_pymongo_collection().bulk_write(updates, ordered=False)
        except PyMongoError as error:
            self._used = used | self._used
            log.warning("times of keys' use are not saved yet", error=type(error).__name__)

    async def run(self) -> None:
        """Save the times of use about twice a minute; the supervisor runs this."""
        while True:
            await asyncio.sleep(30)
            await self.save_last_used()


class KeyService:
    """Binds, lists and revokes keys."""

    def __init__(self, bus: Bus, clock: Clock, sequence: Sequence, audit: AuditTrail, callers: CallerStatus) -> None:
        self._bus = bus
        self._clock = clock
        self._sequence = sequence
        self._audit = audit
        self._callers = callers

    async def bind(self, caller: Principal, name: str, base_url: str) -> BoundKey:
        """A new key for the caller's strategy `name`, made if need be; raises `ConflictError` over the limits.

        And `UnauthorizedError` when the caller's session or token ended meanwhile: who takes back an account ends those
        first and its keys then, so none slips through.
        """
        user_id = caller.user_id
        strategy = await self._strategy(user_id, name)
        if await KeyDocument.find({"user_id": user_id}).count() >= MAX_KEYS:
            raise ConflictError(f"An account can have {MAX_KEYS} keys at most.")
        secret_key = secrets.token_urlsafe(32)
        document = KeyDocument(
            user_id=user_id,
            strategy_id=strategy.id,
            strategy_name=strategy.name,
            digest=key_digest(secret_key),
            prefix=secret_key[:_PREFIX_LENGTH],
            seq=self._sequence.next(),
            created_at=self._clock.now(),
        )
        await document.insert()
        if not await self._callers.holds(caller):
            await KeyDocument.get_pymongo_collection().delete_one({"_id": document.id})
            raise UnauthorizedError("You are not signed in any more, so no key was made; sign in again.")
        await self._bus.publish(KeyChanged(digest=document.digest))
        await self._audit.note(_act("strategy_key.bind", caller, document.id, strategy.name))
        return BoundKey(
            id=str(document.id),
            name=strategy.name,
            secret_key=secret_key,
            webhook_url=f"{base_url}/data/{secret_key}",
            created_at=document.created_at,
        )

    async def _strategy(self, user_id: PydanticObjectId, name: str) -> StrategyDocument:
        mine = {"user_id": user_id, "name": name}
        strategy = await StrategyDocument.find_one(mine)
        if strategy is not None:
            return strategy
        if await StrategyDocument.find({"user_id": user_id}).count() >= MAX_STRATEGIES:
            raise ConflictError(f"An account can have {MAX_STRATEGIES} strategies at most.")
        try:
            return await StrategyDocument(**mine, created_at=self._clock.now()).insert()
        except DuplicateKeyError:  # another request was quicker
            found = await StrategyDocument.find_one(mine)
            assert found is not None  # noqa: S101 (strategies are never deleted)
            return found

    async def strategy_names(self, user_id: PydanticObjectId) -> list[str]:
        """The names of the user's strategies, in alphabetical order (at most `MAX_STRATEGIES`)."""
        rows = StrategyDocument.get_pymongo_collection().find({"user_id": user_id}, {"name": 1})
        return sorted([row["name"] async for row in rows], key=str.casefold)

    async def strategy_id(self, user_id: PydanticObjectId, name: str) -> PydanticObjectId | None:
        """The id of the user's strategy `name`."""
        row = await StrategyDocument.get_pymongo_collection().find_one({"user_id": user_id, "name": name}, {"_id": 1})
        return row["_id"] if row else None

    async def keys(self, user_id: PydanticObjectId, page: PageRequest) -> Page[KeyInfo]:
        """The user's keys, newest first, revoked ones too."""
        found = await read_page(self._rows(user_id, page), page)
        return Page([_info(row) for row in found.rows], found.next)

    def _rows(self, user_id: PydanticObjectId, page: PageRequest) -> AsyncIterator[dict[str, Any]]:
        return newest_first(
            KeyDocument.get_pymongo_collection(), {"user_id": user_id}, page=page, account=user_id, clock=self._clock
        )

    async def revoke(self, caller: Principal, key_id: PydanticObjectId) -> None:
        """End a key, in every process, before this returns; raises `NotFoundError`. Ending it again changes nothing."""
        keys = KeyDocument.get_pymongo_collection()
        row = await keys.find_one({"_id": key_id, "user_id": caller.user_id})
        if row is None:
            raise NotFoundError("There is no key with this id.")
        result = await keys.update_one({"_id": key_id, "revoked_at": None}, {"$set": {"revoked_at": self._clock.now()}})
        await self._bus.publish(KeyChanged(digest=row["digest"]), confirm=True)
        if result.modified_count:
            await self._audit.note(_act("strategy_key.revoke", caller, key_id, row["strategy_name"]))

    async def revoke_all(self, user_id: PydanticObjectId) -> int:
        """End all keys of an account, in every process, before this returns; how many they were.

        For when the account is taken from whoever bound them.
        """
        keys, ended = KeyDocument.get_pymongo_collection(), 0
        rows = await keys.find({"user_id": user_id}, {"digest": 1, "revoked_at": 1}).to_list()
        active = [row for row in rows if row.get("revoked_at") is None]
        for start in range(0, len(active), _AT_ONCE):
            ids = [row["_id"] for row in active[start : start + _AT_ONCE]]
            change = {"$set": {"revoked_at": self._clock.now()}}
            ended += (await keys.update_many({"_id": {"$in": ids}, "revoked_at": None}, change)).modified_count
        for row in active:
            # Events arrive in order: with the last one confirmed, all are.
            await self._bus.publish(KeyChanged(digest=row["digest"]), confirm=row is active[-1])
        if ended:
            await self._audit.note(
                Act("strategy_key.revoke", user_id, SYSTEM, target=None, details={"all": True, "ended": ended})
            )
        return ended


def _info(row: dict[str, Any]) -> KeyInfo:
    return KeyInfo(
        id=str(row["_id"]),
        strategy_name=row["strategy_name"],
        prefix=row["prefix"],
        created_at=row["created_at"],
        last_used_at=row.get("last_used_at"),
        revoked_at=row.get("revoked_at"),
    )


def _act(action: str, caller: Principal, key_id: PydanticObjectId, strategy: str) -> Act:
    target = ("strategy_key", str(key_id))
    return Act(action, caller.user_id, Actor.of(caller), target=target, details={"strategy": strategy})
