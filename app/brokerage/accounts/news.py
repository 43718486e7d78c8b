"""What is told of accounts at brokers: to their owners on `/ws`, to the caches of every process, and by mail."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog
from pymongo.errors import PyMongoError

from app.brokerage.accounts.brokers import CREDENTIALS, WANTS
from app.brokerage.accounts.ports import Owners
from app.brokerage.accounts.session_state import state_of
from app.brokerage.accounts.store import Row
from app.brokerage.words import BrokerName
from app.core.bus import Bus
from app.core.clock import Clock, Sequence
from app.core.errors import DomainError
from app.core.events import BrokerAccountChanged
from app.core.mail import Composer, Letter, MailRequest, Mails

log = structlog.get_logger(__name__)

EXPIRING: Final = "broker_session_expiring"
ENDED: Final = "broker_session_ended"
_encode: Final = msgspec.json.Encoder().encode


def account_view(row: Row, now: datetime, warn_before: timedelta) -> dict[str, Any]:
    """An account as its owner sees it: nothing that opens it."""
    given = row.get("secrets", {})
    return {
        "id": str(row["_id"]),
        "brokerage": row["broker"],
        "api_url": row.get("base_url"),
        "credentials": [name for name in CREDENTIALS if name in given],
        "session": {
            "state": state_of(row, now, warn_before).value,
            "made_at": row.get("session_made_at"),
            "expires_at": row.get("session_expires_at"),
            "ended_because": row.get("session_ended"),
            "renews_itself": bool(row.get("renews")) or row["broker"] == BrokerName.PAPER,
            "last_error": row.get("last_error"),
        },
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


class AccountNews:
    """Tells of changes, after they are stored."""

    def __init__(self, *, bus: Bus, clock: Clock, sequence: Sequence, warn_before: timedelta) -> None:
        self._bus, self._clock, self._sequence = bus, clock, sequence
        self.warn_before = warn_before

    def view(self, row: Row) -> dict[str, Any]:
        """The account as its owner sees it."""
        return account_view(row, self._clock.now(), self.warn_before)

    def tell(self, row: Row, change: str) -> None:
        """Announce `change`: `activated`, `chosen`, `removed`, `session`, `expiring` or `ended`."""
        body = _encode({"kind": "account", "change": change, **self.view(row)})
        event = BrokerAccountChanged(str(row["user_id"]), str(row["_id"]), self._sequence.next(), body)
        self._bus.announce(event)


class AccountMails:
    """Writes to owners whose session ends or has ended; never makes anything else fail."""

    def __init__(self, mails: Mails, owners: Owners) -> None:
        self._mails, self._owners = mails, owners

    async def expiring(self, row: Row) -> None:
        """It ends soon, and only a person can renew it."""
        await self._send(EXPIRING, row, row["session_expires_at"])

    async def ended(self, row: Row) -> None:
        """It is over, and orders are refused."""
        await self._send(ENDED, row, row.get("session_made_at") or row["created_at"])

    async def _send(self, kind: str, row: Row, mark: datetime) -> None:
        if not self._mails.available:
            return
        try:
            owner = await self._owners.owner(row["user_id"])
            if owner is None:
                return
            values = {
                "name": owner.name,
                "broker": row["broker"],
                "when": (row.get("session_expires_at") or mark).isoformat(),
                "by_page": WANTS[BrokerName(row["broker"])].by_page,
            }
            await self._mails.request(MailRequest(kind, owner.email, values, f"{row['_id']}:{mark.isoformat()}"))
        except (DomainError, PyMongoError) as error:
            log.warning("a notice was not queued", kind=kind, error=type(error).__name__)


def composers() -> Mapping[str, Composer]:
    """What the outbox has to know, by kind."""
    return {EXPIRING: _letter, ENDED: _letter}


async def _letter(request: MailRequest) -> Letter | None:
    told = request.values
    broker = BrokerName(str(told["broker"]))
    values = {
        "name": told.get("name"),
        "broker": WANTS[broker].label,
        "when": datetime.fromisoformat(str(told["when"])),
        "by_page": bool(told.get("by_page")),
    }
    return Letter(request.to, request.kind, values)
