"""Reads and writes accounts at brokers: sealed on the way in, opened on the way out, changed by revision."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from beanie import PydanticObjectId
from pydantic import SecretStr
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from app.brokerage.accounts.brokers import default_base_url
from app.brokerage.accounts.models import BrokerAccountDocument
from app.brokerage.ports import BrokerAccount, BrokerSession
from app.brokerage.words import BrokerName
from app.core.clock import Clock
from app.core.encryption import UndecryptableError, Vault
from app.core.errors import UnavailableError
from app.core.settings import Settings

Row = dict[str, Any]

_SESSION: Final = "session"
_TOKENS: Final = ("access_token", "refresh_token", "feed_token")
MOST_ACCOUNTS: Final = 10_000
"""Rows that a look at all accounts of a broker reads."""


def account_rows() -> AsyncCollection[Row]:
    """The collection."""
    return BrokerAccountDocument.get_pymongo_collection()


class AccountStore:
    """Rows of accounts, and what is sealed in them."""

    def __init__(self, settings: Settings, vault: Vault, clock: Clock) -> None:
        self._settings, self._vault, self._clock = settings, vault, clock
        secret_keys = [settings.secret_key, *settings.secret_key_previous]
        self._keys = [key.get_secret_value().encode() for key in secret_keys]

    # Rows

    async def get(self, account_id: PydanticObjectId) -> Row | None:
        """The account."""
        return await account_rows().find_one({"_id": account_id})

    async def of_user(self, user_id: PydanticObjectId) -> list[Row]:
        """All accounts of a user: one of each broker at most."""
        return await account_rows().find({"user_id": user_id}).to_list()

    async def of_broker(self, broker: BrokerName, *, live: bool) -> list[Row]:
        """All accounts with a broker whose session is, or is not, believed to hold."""
        query = {"broker": broker.value, "session_live": live}
        return await account_rows().find(query).limit(MOST_ACCOUNTS).to_list()

    async def brokers_used(self) -> list[BrokerName]:
        """The brokers, paper apart, that anybody has an account with."""
        others = [broker for broker in BrokerName if broker is not BrokerName.PAPER]
        return [one for one in others if await account_rows().find_one({"broker": one.value}, {"_id": 1}) is not None]

    async def named(self, broker: BrokerName, client_code: str) -> list[Row]:
        """The accounts behind a broker's own client code: usually one, or none."""
        found: list[Row] = []
        for identity in self.identities(broker, client_code):
            found += await account_rows().find({"broker": broker.value, "identity": identity}).limit(20).to_list()
        return found

    async def insert(self, row: Row) -> bool:
        """Store a new account; False if its user has one of that broker already."""
        try:
            await account_rows().insert_one({name: value for name, value in row.items() if value is not None})
        except DuplicateKeyError:
            return False
        return True

    async def change(self, row: Row, **values: Any) -> Row | None:
        """Change what was read; None if somebody else has changed or removed it meanwhile. None removes a value."""
        now = self._clock.now()
        told = {**values, "updated_at": now, "revision": row["revision"] + 1}
        update = {
            "$set": {name: value for name, value in told.items() if value is not None},
            "$unset": {name: "" for name, value in told.items() if value is None},
        }
        result = await account_rows().update_one(
            {"_id": row["_id"], "revision": row["revision"]}, {name: part for name, part in update.items() if part}
        )
        return {**row, **told} if result.matched_count else None

    async def delete(self, account_id: PydanticObjectId) -> bool:
        """Remove it with everything that is sealed in it; whether it was there."""
        return (await account_rows().delete_one({"_id": account_id})).deleted_count == 1

    # What is sealed

    def seal(self, account_id: PydanticObjectId, secrets: Mapping[str, str]) -> dict[str, str]:
        """Credentials as they are stored; raises `UnavailableError` without ENCRYPTION_KEYS."""
        return {name: self._vault.encrypt(text, context=_context(account_id, name)) for name, text in secrets.items()}

    def account(self, row: Row, **further: str) -> BrokerAccount:
        """The account with its credentials, opened, and `further` ones that are not kept.

        Raises `UnavailableError` when no key opens them.
        """
        broker = BrokerName(row["broker"])
        secrets = {name: SecretStr(self._opened(row, name, sealed)) for name, sealed in row.get("secrets", {}).items()}
        return BrokerAccount(
            account_id=str(row["_id"]),
            user_id=str(row["user_id"]),
            broker=broker,
            base_url=row.get("base_url") or default_base_url(self._settings, broker),
            secrets={**secrets, **{name: SecretStr(text) for name, text in further.items()}},
        )

    def sealed_session(self, account_id: PydanticObjectId, session: BrokerSession) -> str:
        """A broker's tokens as they are stored."""
        told = {name: token.get_secret_value() for name in _TOKENS if (token := getattr(session, name)) is not None}
        if session.broker_user_id:
            told["broker_user_id"] = session.broker_user_id
        return self._vault.encrypt(json.dumps(told), context=_context(account_id, _SESSION))

    def session(self, row: Row) -> BrokerSession | None:
        """The broker's tokens, opened, whether they hold or not; None if there are none."""
        if not row.get(_SESSION):
            return None
        told = json.loads(self._opened(row, _SESSION, row[_SESSION]))
        tokens = {name: SecretStr(told[name]) for name in _TOKENS if name in told}
        return BrokerSession(
            **tokens, expires_at=row.get("session_expires_at"), broker_user_id=told.get("broker_user_id")
        )

    def _opened(self, row: Row, name: str, sealed: str) -> str:
        try:
            return self._vault.decrypt(sealed, context=_context(row["_id"], name))
        except UndecryptableError:
            raise UnavailableError(
                "The credentials for this broker cannot be opened until the operator restores ENCRYPTION_KEYS; "
                "activating the brokerage again enters them anew.",
                retry_after=600,
            ) from None

    # What can be recognised without being kept

    def identities(self, broker: BrokerName, client_code: str) -> list[str]:
        """Digests by which a client code is known: the present one, then those of former SECRET_KEYs."""
        return self._digests(f"client\x00{broker}\x00{client_code.strip().upper()}")

    def credential_digest(self, secrets: Mapping[str, str]) -> str:
        """Tells one set of credentials from another."""
        return self._digests("credentials\x00" + json.dumps(secrets, sort_keys=True))[0]

    def _digests(self, text: str) -> list[str]:
        return [
            hmac.new(hashlib.sha256(b"arrow brokerage\x00" + key).digest(), text.encode(), hashlib.sha256).hexdigest()
            for key in self._keys
        ]


def _context(account_id: PydanticObjectId, name: str) -> str:
    return f"brokerage:{account_id}:{name}"


def session_age(row: Row, now: datetime) -> float:
    """Seconds since the session was made; 0 if there is none."""
    made = row.get("session_made_at")
    return (now - made).total_seconds() if made else 0.0
