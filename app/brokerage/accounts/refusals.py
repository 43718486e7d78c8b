"""Keeps us from locking an account at a broker: how long to wait after sign-ins that it refused.

The same pauses as for the live feed: another try after a minute (a code on the turn of its 30 s), a third five minutes
later, then after an hour, and ever rarer, down to one a day. Other credentials may be tried at once, but where brokers
lock accounts, no more than five refusals an hour are caused in all. A success begins anew. Kept in the database, for
all processes and restarts, and beyond the removal of the account.
"""

from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from beanie import PydanticObjectId
from pymongo.errors import DuplicateKeyError

from app.brokerage.accounts.brokers import WANTS
from app.brokerage.accounts.models import BrokerRefusalsDocument
from app.brokerage.words import BrokerName
from app.core.clock import Clock

PAUSES: Final = (60.0, 300.0, 3600.0)
LAST_PAUSE: Final = 86_400.0
MOST_AN_HOUR: Final = 5
TURN: Final = timedelta(seconds=75)
"""How long a process that was killed at a sign-in keeps the next one with the same credentials waiting."""
_FORGOTTEN: Final = timedelta(days=3)
_HOUR: Final = timedelta(hours=1)


def pause_after(count: int) -> float:
    """Seconds to wait after `count` refusals in a row."""
    if count <= 0:
        return 0.0
    if count <= len(PAUSES):
        return PAUSES[count - 1]
    return min(PAUSES[-1] * 2.0 ** min(count - len(PAUSES), 10), LAST_PAUSE)


class Refused(NamedTuple):
    """What is known of refusals of one set of credentials."""

    times: int = 0
    wait: float = 0.0
    """Seconds before another try."""


class SignInRefusals:
    """Refused sign-ins of users at brokers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def look(self, user_id: PydanticObjectId, broker: BrokerName, digest: str) -> Refused:
        """How these credentials stand."""
        row = await _rows().find_one({"_id": _key(user_id, broker)})
        if row is None:
            return Refused()
        wait = self._crowd(row) if not WANTS[broker].by_page else 0.0
        if row["digest"] != digest:
            return Refused(0, wait)
        pause = pause_after(row["times"])
        left = pause - (self._clock.now() - row["last_at"]).total_seconds()
        # A clock that was set back must not make it longer than the pause.
        return Refused(row["times"], max(wait, min(pause, max(0.0, left))))

    def _crowd(self, row: dict[str, Any]) -> float:
        """Seconds until there are fewer than the most in an hour."""
        now = self._clock.now()
        recent = sorted(at for at in row.get("recent", []) if timedelta() <= now - at < _HOUR)
        return (recent[-MOST_AN_HOUR] + _HOUR - now).total_seconds() if len(recent) >= MOST_AN_HOUR else 0.0

    async def note(self, user_id: PydanticObjectId, broker: BrokerName, digest: str) -> None:
        """One more."""
        row = await _rows().find_one({"_id": _key(user_id, broker)}) or {}
        now = self._clock.now()
        kept: dict[str, Any] = {
            "schema_version": 1,
            "digest": digest,
            "times": row["times"] + 1 if row.get("digest") == digest else 1,
            "recent": [*row.get("recent", []), now][-MOST_AN_HOUR:],
            "last_at": now,
            "expires_at": now + _FORGOTTEN,
        }
        await _rows().replace_one({"_id": _key(user_id, broker)}, kept, upsert=True)

    async def clear(self, user_id: PydanticObjectId, broker: BrokerName) -> None:
        """A sign-in went well."""
        await _rows().delete_one({"_id": _key(user_id, broker)})

    async def take_turn(self, user_id: PydanticObjectId, broker: BrokerName, digest: str, whose: str) -> bool:
        """Whether it is the turn of `whose`: one sign-in with the same credentials at a time, in all processes.

        Else ten that begin together would all be refused before the first refusal is written down.
        """
        now, place = self._clock.now(), _turn(user_id, broker, digest)
        turn = {"schema_version": 1, "digest": whose, "times": 0, "last_at": now, "expires_at": now + TURN}
        row = await _rows().find_one({"_id": place})
        if row is None:
            try:
                await _rows().insert_one({"_id": place, **turn})
            except DuplicateKeyError:
                return False
            return True
        if now < row["expires_at"]:
            return False
        result = await _rows().update_one({"_id": place, "digest": row["digest"]}, {"$set": turn})
        return bool(result.modified_count)

    async def end_turn(self, user_id: PydanticObjectId, broker: BrokerName, digest: str, whose: str) -> None:
        """The next may."""
        await _rows().delete_one({"_id": _turn(user_id, broker, digest), "digest": whose})

    def until(self, refused: Refused) -> datetime:
        """When the next try may be."""
        return self._clock.now() + timedelta(seconds=refused.wait)


def _key(user_id: PydanticObjectId, broker: BrokerName) -> str:
    return f"{user_id}|{broker}"


def _turn(user_id: PydanticObjectId, broker: BrokerName, digest: str) -> str:
    return f"{_key(user_id, broker)}|turn|{digest}"


def _rows() -> Any:
    return BrokerRefusalsDocument.get_pymongo_collection()
