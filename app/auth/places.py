"""Where accounts sign in from: so that owners are told of new places, and strangers kept from slowing them down."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from beanie import PydanticObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from app.auth.digests import KeyedDigests
from app.auth.models import SignInPlaceDocument
from app.auth.sessions import Client
from app.core.client_address import network_of
from app.core.clock import Clock

REMEMBERED = timedelta(days=90)
"""How long a network is familiar after the last sign-in, or the last refresh of one, from it."""
RENEWED_EACH = timedelta(days=1)
MAX_PLACES = 50
"""Networks of an account; those longest unseen give way."""
MAX_DEVICES = 20
"""Devices of an account in one network, likewise."""
_ROUNDS = 3
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)
_VERSION = re.compile(r"[0-9][0-9._]*")


class SignInPlaces:
    """The networks (see `network_of`) that each account has signed in from, and by which devices.

    A device is a digest of the user agent without its numbers: a browser that updated itself is the device it was.
    """

    def __init__(self, *, clock: Clock, digests: KeyedDigests) -> None:
        self._clock = clock
        self._digests = digests

    async def familiar(self, account: str, network: str) -> bool:
        """Whether the account with this id has signed in from `network`, and was there in the last 90 days.

        One read by key.
        `account` may be any text; that of no account has no familiar network, at the same cost.
        """
        row = await SignInPlaceDocument.find_one({"_id": f"{account}:{network}"})
        return row is not None and row.expires_at > self._clock.now()

    async def networks(self, user_id: PydanticObjectId) -> list[str]:
        """The networks that the account with this id has signed in from, `MAX_PLACES` and a few at most."""
        return [row["_id"].partition(":")[2] for row in await _rows_of(user_id) if row["_id"] != _marker(user_id)]

    async def note(self, user_id: PydanticObjectId, client: Client) -> bool:
        """Remember a sign-in; True when its network or device is new, for an account that has signed in before.

        To be called once everything was proven: what is noted here is trusted a little more from now on.
        """
        place = f"{user_id}:{network_of(client.address)}"
        for _ in range(_ROUNDS):
            row = await SignInPlaceDocument.find_one({"_id": place})
            if row is not None and row.expires_at > self._clock.now():
                news = await self._come_back(row, client)
            else:
                news = await self._arrive(place, user_id, client, stale=row)
            if news is not None:
                return news
        return True  # others write the same row all the time; a notice too many does less harm than one too few

    async def renew(self, user_id: PydanticObjectId, client: Client) -> None:
        """Somebody who signed in before is still at it from `client`: a network that is familiar stays so.

        One update by key, which changes something once a day at most; what is not familiar does not become so.
        """
        now = self._clock.now()
        due = {"$gt": now, "$lt": now + REMEMBERED - RENEWED_EACH}
        await _collection().update_one(
            {"_id": f"{user_id}:{network_of(client.address)}", "expires_at": due},
            {"$set": {"last_seen_at": now, "expires_at": now + REMEMBERED}},
        )

    async def forget(self, user_id: PydanticObjectId) -> None:
        """No place of the account is familiar any more: for when its password was known to somebody else.

        That it has signed in before stays known, so its next sign-in, wherever from, is one to tell its owner of.
        """
        for row in await _rows_of(user_id):
            if row["_id"] != _marker(user_id):
                await _collection().delete_one({"_id": row["_id"]})

    async def _come_back(self, row: SignInPlaceDocument, client: Client) -> bool | None:
        """A known network: note the device. None if another sign-in changed the row meanwhile."""
        device = _device(client)
        others = [known for known in row.devices if not self._digests.matches("device", device, known)]
        now = self._clock.now()
        seen = {
            "devices": [*others, self._digests.make("device", device)][-MAX_DEVICES:],
            "last_seen_at": now,
            "expires_at": now + REMEMBERED,
        }
        result = await _collection().update_one({"_id": row.id, "devices": row.devices}, {"$set": seen})
        if not result.matched_count:
            return None
        return len(others) == len(row.devices)

    async def _arrive(
        self, place: str, user_id: PydanticObjectId, client: Client, *, stale: SignInPlaceDocument | None
    ) -> bool | None:
        """A new network. None if another sign-in from it was quicker."""
        now = self._clock.now()
        row = SignInPlaceDocument(
            id=place,
            user_id=user_id,
            devices=[self._digests.make("device", _device(client))],
            last_seen_at=now,
            expires_at=now + REMEMBERED,
        )
        if stale is not None:  # the database has not removed it yet
            await _collection().delete_one({"_id": place, "last_seen_at": stale.last_seen_at})
        if not await _added(row):
            return None
        rows = await _rows_of(user_id)
        await _drop_excess([known for known in rows if known["_id"] != _marker(user_id)])
        # The place before the marker: who finds the marker missing is the first, whatever was begun at the same time.
        return await self._signed_in_before(user_id, rows, place)

    async def _signed_in_before(self, user_id: PydanticObjectId, rows: list[dict[str, Any]], place: str) -> bool:
        """Whether this is not the first sign-in ever. Places are forgotten after a while, so a marker remembers it."""
        known = {row["_id"] for row in rows} - {place}
        if _marker(user_id) in known:
            return True
        now = self._clock.now()
        marker = SignInPlaceDocument(id=_marker(user_id), user_id=user_id, last_seen_at=now, expires_at=_NEVER)
        return not await _added(marker) or bool(known)


def _device(client: Client) -> str:
    return _VERSION.sub("#", client.user_agent or "")


def _marker(user_id: PydanticObjectId) -> str:
    """The id of the row that says that an account has signed in once. Of no network, it is never familiar."""
    return str(user_id)


def _collection() -> AsyncCollection[dict[str, Any]]:
    return SignInPlaceDocument.get_pymongo_collection()


async def _rows_of(user_id: PydanticObjectId) -> list[dict[str, Any]]:
    """All of an account's rows, bounded by `MAX_PLACES` and what is being added at this moment."""
    return await _collection().find({"user_id": user_id}, {"last_seen_at": 1}).to_list()


async def _added(row: SignInPlaceDocument) -> bool:
    try:
        await row.insert()
    except DuplicateKeyError:
        return False
    return True


async def _drop_excess(places: list[dict[str, Any]]) -> None:
    by_age = sorted(places, key=lambda row: row["last_seen_at"], reverse=True)
    for row in by_age[MAX_PLACES:]:
        await _collection().delete_one({"_id": row["_id"], "last_seen_at": row["last_seen_at"]})
