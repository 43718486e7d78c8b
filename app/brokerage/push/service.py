"""Takes what brokers push: proven events are facts, half-proven and unproven ones are reasons to look. Idempotent.

- Signed by the operator's secret (`X-Broker-Signature`): the whole body is proven. What it says of an order is taken,
  and the account's book is fetched for the fills.
- Kite's postback: its checksum proves that the order was touched, not how. The book is fetched.
- Upstox signs nothing: anybody may have sent it. The book is fetched, not too often.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from pymongo.errors import DuplicateKeyError

from app.brokerage.accounts.store import AccountStore, Row
from app.brokerage.ports import OrderNews
from app.brokerage.push.models import BrokerPushDocument
from app.brokerage.push.signatures import is_kites, signed_by_one
from app.brokerage.unsaid import unsaid
from app.brokerage.words import BookedOrder, BrokerName
from app.core.audit import Act, AuditTrail, Outcome
from app.core.clock import Clock
from app.core.errors import FieldError, InvalidInputError, NotFoundError, RateLimitedError, UnauthorizedError
from app.core.rate_limit import RateLimiter
from app.core.schemas import parse_id

log = structlog.get_logger(__name__)

ReadOrder = Callable[[dict[str, Any]], BookedOrder | None]
"""Reads an order as a broker's book has it; None for what we have no words for. Raises `ValueError`."""

REMEMBERED: Final = timedelta(days=30)
HINTS_PER_MINUTE: Final = 60
"""Of one account: an unsigned push costs a request to the broker, and anybody can send one."""
REFUSALS_NOTED: Final = 5
"""Forged pushes that are written down in a minute."""
_CLIENT_NAMES: Final = ("user_id", "userId", "user-id", "clientcode", "client_code", "ucc")
_ORDER_NAMES: Final = ("order", "orderData", "data")
_NO_PUSH: Final = frozenset({BrokerName.PAPER})
_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode


class Taken(StrEnum):
    """What became of a push."""

    ACCEPTED = "accepted"
    REPEAT = "repeat"
    """It was taken before; nothing has changed."""
    NOTED = "noted"
    """It will be looked at."""
    IGNORED = "ignored"
    """It is about an account that is not activated here."""


class Push(NamedTuple):
    """A push as it came."""

    broker: str
    body: bytes
    signature: str | None
    algorithm: str | None
    network: str


class BrokerPushes:
    """The use case behind the webhook."""

    def __init__(
        self,
        *,
        secrets: list[str],
        per_minute: int,
        store: AccountStore,
        news: OrderNews,
        readers: Mapping[BrokerName, ReadOrder],
        clock: Clock,
        limiter: RateLimiter,
        audit: AuditTrail,
    ) -> None:
        """`secrets`: what events are signed with, newest first. `readers`: for brokers whose rows can be read alone."""
        self._secrets, self._per_minute, self._store, self._news = secrets, per_minute, store, news
        self._readers, self._clock, self._limiter, self._audit = readers, clock, limiter, audit

    async def receive(self, push: Push) -> Taken:
        """Take a push. Raises `NotFoundError` for a broker that pushes nothing, `UnauthorizedError` for an event that
        is not proven, `InvalidInputError` for a proven one that makes no sense, and `UnavailableError`."""
        await self._limiter.hit("broker-push", push.network, self._per_minute)
        broker = _broker(push.broker)
        if push.signature is not None:
            if not signed_by_one(push.body, push.signature, push.algorithm, self._secrets):
                raise await self._refused(push, broker, "signature")
            return await self._proven(push, broker)
        if broker is BrokerName.ZERODHA:
            return await self._kite(push)
        if broker is BrokerName.UPSTOX:
            return await self._hint(push, broker)
        raise await self._refused(push, broker, "unsigned")

    # Kinds

    async def _proven(self, push: Push, broker: BrokerName) -> Taken:
        digest = _digest(push, broker)
        if await self._known(digest):
            return Taken.REPEAT
        event = _object(push.body)
        if event is None:
            raise _senseless("The body is no JSON object")
        accounts = await self._accounts(broker, event)
        order = self._order(broker, event)
        for row in accounts:
            account_id = str(row["_id"])
            if order is not None:
                await self._news.observe(account_id, [unsaid(order, self._store.account(row))], [])
            self._news.look(account_id)  # for the fills, and where the event could not be read
        await self._remember(digest)
        return Taken.ACCEPTED if accounts else Taken.IGNORED

    async def _kite(self, push: Push) -> Taken:
        event = _object(push.body) or {}
        code = _text(event.get("user_id"))
        rows = await self._store.named(BrokerName.ZERODHA, code) if code else []
        genuine = []
        for row in rows:
            secret = self._store.account(row).secrets.get("api_secret")
            if secret is not None and is_kites(event, secret.get_secret_value()):
                genuine.append(row)
        if not rows:
            is_kites(event, "nobody's")  # as long as for somebody's
        if not genuine:
            raise await self._refused(push, BrokerName.ZERODHA, "checksum")
        digest = _digest(push, BrokerName.ZERODHA)
        if await self._known(digest):
            return Taken.REPEAT
        for row in genuine:
            self._news.look(str(row["_id"]))
        await self._remember(digest)
        return Taken.NOTED

    async def _hint(self, push: Push, broker: BrokerName) -> Taken:
        """The answer is the same for known and unknown clients."""
        code = _client_code(_object(push.body) or {})
        for row in await self._store.named(broker, code) if code else []:
            with suppress(RateLimitedError):  # the next look sees it
                await self._limiter.hit("broker-hint", str(row["_id"]), HINTS_PER_MINUTE)
                self._news.look(str(row["_id"]))
        return Taken.NOTED

    # Parts

    async def _accounts(self, broker: BrokerName, event: dict[str, Any]) -> list[Row]:
        """Whom a proven event is about: named by our id, or by the broker's client code."""
        if (ours := _text(event.get("account_id"))) is not None:
            with suppress(NotFoundError):
                row = await self._store.get(parse_id(ours, "brokerage"))
                return [row] if row is not None and row["broker"] == broker else []
            return []
        code = _client_code(event)
        if code is None:
            raise _senseless("The event names no account: send account_id, or the client code as user_id")
        return await self._store.named(broker, code)

    def _order(self, broker: BrokerName, event: dict[str, Any]) -> BookedOrder | None:
        """What the event says of an order; None where it cannot be read: then the book is looked at."""
        read = self._readers.get(broker)
        if read is None:
            return None
        inner = next((event[name] for name in _ORDER_NAMES if isinstance(event.get(name), dict)), event)
        try:
            return read(inner)
        except (ValueError, KeyError, TypeError, ArithmeticError) as error:
            log.warning("an event of a broker could not be read", broker=broker.value, error=type(error).__name__)
            return None

    async def _known(self, digest: str) -> bool:
        return await BrokerPushDocument.get_pymongo_collection().find_one({"_id": digest}, {"_id": 1}) is not None

    async def _remember(self, digest: str) -> None:
        """After it was taken: if this process dies before, taking it again changes nothing."""
        now = self._clock.now()
        row = {"_id": digest, "schema_version": 1, "at": now, "expires_at": now + REMEMBERED}
        with suppress(DuplicateKeyError):
            await BrokerPushDocument.get_pymongo_collection().insert_one(row)

    async def _refused(self, push: Push, broker: BrokerName, why: str) -> UnauthorizedError:
        with suppress(RateLimitedError):
            await self._limiter.hit("broker-push-refusals", push.network, REFUSALS_NOTED)
            details = {"broker": broker.value, "why": why}
            await self._audit.note(Act("brokerage.push", None, outcome=Outcome.REFUSED, details=details))
            log.warning("a push of a broker was refused", broker=broker.value, why=why)
        return UnauthorizedError(
            "This event is not signed as it must be: X-Broker-Signature is the hex HMAC-SHA256 of the body.",
            headers={"WWW-Authenticate": "HMAC-SHA256"},
        )


def _broker(name: str) -> BrokerName:
    try:
        broker = BrokerName(name.strip().lower())
    except ValueError:
        broker = BrokerName.PAPER
    if broker in _NO_PUSH:
        known = ", ".join(other for other in BrokerName if other not in _NO_PUSH)
        raise NotFoundError(f"Events come from these brokers: {known}.")
    return broker


def _digest(push: Push, broker: BrokerName) -> str:
    return hashlib.sha256(broker.encode() + b"\x00" + push.body).hexdigest()


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = _decode(body)
    except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable() else None


def _client_code(event: Mapping[str, Any]) -> str | None:
    return next((code for name in _CLIENT_NAMES if (code := _text(event.get(name))) is not None), None)


def _senseless(sentence: str) -> InvalidInputError:
    return InvalidInputError(f"{sentence}.", [FieldError(("body",), sentence, "event_unreadable")])
