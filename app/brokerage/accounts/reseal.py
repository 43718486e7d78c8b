"""After a change of ENCRYPTION_KEYS: every sealed credential is sealed with the newest, so that the others can go."""

import asyncio
from typing import Final, NamedTuple

import structlog

from app.brokerage.accounts.store import Row, account_rows
from app.core.encryption import UndecryptableError, Vault

log = structlog.get_logger(__name__)

_AT_ONCE: Final = 50


class Resealed(NamedTuple):
    """What was found."""

    in_order: int = 0
    resealed: int = 0
    unreadable: int = 0
    """That none of the keys opens: whoever has the key has to put it back, or the owner to activate again."""
    changing: int = 0
    """Changed by somebody else at that moment, a few times over: look again."""


class BrokerReseal:
    """Accounts at brokers; usable by a job and by a program."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._said = False

    async def reseal_all(self, *, dry: bool = False) -> Resealed:
        """Go through all accounts; `dry`: only look. Raises `UnavailableError` without ENCRYPTION_KEYS."""
        counts = {"in_order": 0, "resealed": 0, "unreadable": 0, "changing": 0}
        looked = 0
        async for found in account_rows().find({}, {"_id": 1}, batch_size=_AT_ONCE):
            counts[await self._account(found["_id"], dry=dry)] += 1
            looked += 1
            if not looked % _AT_ONCE:
                await asyncio.sleep(0)  # others have a turn
        return Resealed(**counts)

    async def run(self) -> None:
        """For a periodic job: says what is of interest, once."""
        if not self._vault.available:
            return
        found = await self.reseal_all()
        if found.unreadable:
            log.error("accounts at brokers that none of the ENCRYPTION_KEYS opens", accounts=found.unreadable)
        if found.resealed:
            log.info("credentials for brokers sealed with the newest of ENCRYPTION_KEYS", accounts=found.resealed)
        fresh = not (found.unreadable or found.changing)
        if fresh and (found.resealed or not self._said):
            log.info("no credential for a broker needs any but the newest of ENCRYPTION_KEYS", accounts=found.in_order)
        self._said = fresh

    async def _account(self, account_id: object, *, dry: bool) -> str:
        for _ in range(5):
            row = await account_rows().find_one({"_id": account_id})
            if row is None:
                return "in_order"
            try:
                changes = self._changes(row)
            except UndecryptableError:
                return "unreadable"
            if not changes:
                return "in_order"
            if dry:
                return "resealed"
            # In place of what was read alone; and as a change, so that whoever has read the row does not undo it.
            told = {"$set": {**changes, "revision": row["revision"] + 1}}
            result = await account_rows().update_one({"_id": account_id, "revision": row["revision"]}, told)
            if result.modified_count:
                return "resealed"
        return "changing"

    def _changes(self, row: Row) -> Row:
        sealed = {f"secrets.{name}": token for name, token in row.get("secrets", {}).items()}
        if row.get("session"):
            sealed["session"] = row["session"]
        return {name: self._vault.rotate(token) for name, token in sealed.items() if self._vault.outdated(token)}
