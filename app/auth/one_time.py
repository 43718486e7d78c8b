"""Secrets that work once: a code by e-mail, a reset token, the first half of a two-step sign-in.

Each lies in a slot (a text that says what it is for and whose), at most one in each, and is known by a keyed digest
only. Any number of processes may work on a slot at once; conditional writes on its `_id` decide between them.
"""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from beanie import PydanticObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from app.auth.digests import KeyedDigests
from app.auth.models import OneTimeSecretDocument
from app.core.clock import Clock

MAX_TRIES = 5
_NO_NONCE = ""
"""No secret has it: a condition with it finds nothing."""
_NO_DIGEST = "0" * 64


class OneTimeSecrets:
    """Puts secrets into slots and takes them out again, each once.

    What a slot costs tells nothing of whose it is: a decoy (a secret of no account) is stored, counted and compared as
    any other. A slot that is empty, expired or dead is asked the same questions too, but has nothing to count, so its
    answer comes sooner by one durable write; that shows whether a code was asked for lately, not for whom one exists.
    """

    def __init__(self, *, clock: Clock, digests: KeyedDigests) -> None:
        self._clock = clock
        self._digests = digests

    async def put(
        self,
        slot: str,
        secret: str,
        *,
        user_id: PydanticObjectId | None,
        lifetime: timedelta,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Lay `secret` into `slot` for `lifetime`; what lay there before is dead from now on.

        `user_id` None makes a decoy, which nothing matches. `details` come back from `take`; they are stored in clear.
        """
        now = self._clock.now()
        nonce = secrets.token_hex(16)
        row = OneTimeSecretDocument(
            id=slot,
            nonce=nonce,
            digest=self._digests.make(_purpose(slot, nonce), secret),
            user_id=user_id,
            details=dict(details or {}),
            created_at=now,
            expires_at=now + lifetime,
        )
        await _lay(row)

    async def peek(self, slot: str) -> OneTimeSecretDocument | None:
        """What lies in `slot` and has not expired, however many tries it has left. Spends nothing."""
        row = await OneTimeSecretDocument.find_one({"_id": slot})
        return row if row is not None and row.expires_at > self._clock.now() else None

    async def take(self, slot: str, secret: str, *, max_tries: int = MAX_TRIES) -> OneTimeSecretDocument | None:
        """Spend what lies in `slot` if it is `secret` and of an account; None otherwise.

        A try is counted before anything is compared, so that of any number at once at most `max_tries` are; after
        them it is dead. Of several right answers at once exactly one gets it.
        """
        row = await self._claim_try(slot, max_tries)
        purpose = _purpose(slot, row.nonce if row else _NO_NONCE)
        right = self._digests.matches(purpose, secret, row.digest if row else _NO_DIGEST)
        if row is None or row.user_id is None or not right:
            return None
        spent = await _collection().delete_one({"_id": slot, "nonce": row.nonce})
        return row if spent.deleted_count else None

    async def drop(self, slot: str) -> None:
        """Empty `slot`, whatever lies in it."""
        await _collection().delete_one({"_id": slot})

    async def _claim_try(self, slot: str, max_tries: int) -> OneTimeSecretDocument | None:
        """What lies in `slot`, with one try taken from it; None if it has none left, or nothing lies there (any more).

        Who loses the race for a try asks for the next one. Each loss is somebody's gain, so the rounds are bounded.
        """
        nonce: str | None = None
        for _ in range(max_tries + 1):
            row = await self.peek(slot)
            if row is None or row.tries >= max_tries or nonce not in {None, row.nonce}:
                break
            nonce = row.nonce
            if await _count_try(slot, nonce, row.tries):
                return row
        await _count_try(slot, _NO_NONCE, 0)
        return None


def _purpose(slot: str, nonce: str) -> str:
    """Ties a digest to its place: copied into another slot, or over a later secret, it fits nothing."""
    return f"one-time:{slot}:{nonce}"


def _collection() -> AsyncCollection[dict[str, Any]]:
    return OneTimeSecretDocument.get_pymongo_collection()


async def _lay(row: OneTimeSecretDocument) -> None:
    document = row.model_dump(by_alias=True, exclude_none=True)
    try:
        await _collection().replace_one({"_id": row.id}, document, upsert=True)
    except DuplicateKeyError:
        # Two found the slot empty and both inserted. It is there now, so this time it is replaced.
        await _collection().replace_one({"_id": row.id}, document, upsert=True)


async def _count_try(slot: str, nonce: str, tries: int) -> bool:
    """Take try number `tries`; False if another request was quicker, or the secret is another one by now."""
    result = await _collection().update_one(
        {"_id": slot, "nonce": nonce, "tries": tries}, {"$set": {"tries": tries + 1}}
    )
    return result.modified_count == 1
