"""From a delivery to exactly one durable alert: the hot path."""

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
from beanie import PydanticObjectId
from pymongo import ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from app.alerts.models import AlertDocument
from app.alerts.schemas import OPTIONAL_FIELDS, AlertFields
from app.core.bson_codec import exact_rows
from app.core.bus import Bus
from app.core.clock import Sequence, from_micros
from app.core.errors import UnavailableError
from app.core.events import AlertStored
from app.core.group_commit import DuplicateRowError, GroupCommit
from app.core.metrics import Metrics
from app.core.settings import Settings

IDENTIFIED_WINDOW = timedelta(hours=24)
"""How long a repeat is recognised when it carries an `alert_id` or an `Idempotency-Key`."""

NOBODY = PydanticObjectId("0" * 24)
"""The owner of what is left of deleted alerts."""

Row = dict[str, Any]
_encode = msgspec.json.Encoder(decimal_format="number").encode


def repeat_digest(scope: str, idempotency_key: str | None, body: bytes) -> str:
    """What two deliveries share when one repeats the other: the key, the `Idempotency-Key` if any, and the body."""
    digest = hashlib.sha256(scope.encode())
    digest.update(b"\0" + (idempotency_key or "").encode() + b"\0")
    digest.update(body)
    return digest.hexdigest()


def alert_values(fields: AlertFields) -> Row:
    """The given fields of an alert as the database keeps them; absent ones are left out."""
    row: Row = {
        "contract": fields.contract,
        "trade_type": fields.trade_type.value,
        "quantity": fields.quantity,
        "price": fields.price,
    }
    for name in OPTIONAL_FIELDS:
        if (value := getattr(fields, name)) is not None:
            row[name] = value
    return row


def wire_alert(row: Row) -> Row:
    """An alert as clients see it (the fields of `schemas.Alert`), from its row."""
    raw = row.get("raw")
    return {
        "id": str(row["_id"]),
        "strategy_id": str(row["strategy_id"]),
        "strategy_name": row["strategy_name"],
        "contract": row["contract"],
        "trade_type": row["trade_type"],
        "quantity": row["quantity"],
        "price": row["price"],
        **{name: row.get(name) for name in OPTIONAL_FIELDS},
        "raw": msgspec.Raw(raw.encode()) if raw else {},
        "source": row["source"],
        "seq": int(row["seq"]),  # the database gives its own kind of int
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def alert_json(row: Row) -> bytes:
    """`wire_alert`, encoded; numbers are exact."""
    return _encode(wire_alert(row))


def alerts_json(rows: Iterable[Row]) -> bytes:
    """A JSON array of alerts."""
    return _encode([wire_alert(row) for row in rows])


def remains_of(row: Row) -> Row:
    """What is kept of a deleted alert until no repeat can come any more: what decides repeats, and no content."""
    return {
        "schema_version": row["schema_version"],
        "user_id": NOBODY,
        "strategy_id": NOBODY,
        "strategy_name": "",
        "contract": "",
        "trade_type": row["trade_type"],
        "quantity": Decimal(0),
        "price": Decimal(0),
        "source": "deleted",
        "purge_at": row["created_at"] + IDENTIFIED_WINDOW,
        **{name: row[name] for name in ("dedup", "seq", "created_at", "updated_at")},
    }


def alert_rows() -> AsyncCollection[Row]:
    """The collection of alerts, as rows with exact numbers."""
    return exact_rows(AlertDocument.get_pymongo_collection())


class AlertIngest:
    """Stores alerts durably, each event once, and announces them."""

    def __init__(self, settings: Settings, bus: Bus, sequence: Sequence, metrics: Metrics) -> None:
        self._bus = bus
        self._sequence = sequence
        self._window = timedelta(seconds=settings.alert_dedup_seconds)
        collection = alert_rows()
        self._alerts = collection.with_options(
            read_concern=ReadConcern("majority"), read_preference=ReadPreference.PRIMARY
        )
        self._commit = GroupCommit(collection, on_stored=self._announce, on_batch=metrics.alert_batch.observe)

    def draft(
        self,
        fields: AlertFields,
        *,
        user_id: PydanticObjectId,
        strategy_id: PydanticObjectId,
        strategy_name: str,
        source: str,
        raw: str | None = None,
        dedup: str | None = None,
    ) -> Row:
        """The row of a new alert."""
        seq = self._sequence.next()
        # The same moment, to the millisecond: `start` and `end` compare `seq`, clients see `created_at`.
        now = from_micros(seq - seq % 1000)
        row: Row = {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "user_id": user_id,
            "strategy_id": strategy_id,
            "strategy_name": strategy_name,
            **alert_values(fields),
            "source": source,
            "seq": seq,
            "created_at": now,
            "updated_at": now,
        }
        if raw is not None:
            row["raw"] = raw
        if dedup is not None:
            row["dedup"] = dedup
        return row

    async def store(self, row: Row, *, identified: bool) -> tuple[bytes, bool]:
        """The alert's JSON once it is durable, and whether it is new; a repeat gives the first alert.

        `identified` says that the sender named the event, which widens the window for repeats to 24 h.
        Raises `UnavailableError` when it was not known to be stored in time.
        """
        window = IDENTIFIED_WINDOW if identified else self._window
        body = alert_json(row)
        for _ in range(5):
            try:
                await self._commit.insert(row, body)
            except DuplicateRowError:
                first = await self._first(row["dedup"])
                if first is None:
                    continue  # it has just been released; the index decides again
                if first["_id"] == row["_id"]:
                    # Our own write arrived although its acknowledgement was lost.
                    self._announce(row, body)
                    return body, True
                if abs(row["created_at"] - first["created_at"]) < window:  # the clock may have been set back
                    return self._repeated(first, row), False
                await self._release(first)
            else:
                return body, True
        raise UnavailableError("It could not be stored; try again.", retry_after=1)

    async def _first(self, dedup: str) -> Row | None:
        try:
            return await self._alerts.find_one({"dedup": dedup})
        except PyMongoError:
            raise UnavailableError("The database cannot be reached right now; try again.") from None

    @staticmethod
    def _repeated(first: Row, row: Row) -> bytes:
        if first["user_id"] != NOBODY:
            return alert_json(first)
        # The first alert was deleted. The repeat has the same content, so it shows what that was, under the same id.
        return alert_json(row | {name: first[name] for name in ("_id", "seq", "created_at", "updated_at")})

    async def _release(self, first: Row) -> None:
        """An alert older than the window gives up its claim; only one that still has it, so this can run twice."""
        try:
            await self._alerts.update_one({"_id": first["_id"], "dedup": first["dedup"]}, {"$unset": {"dedup": ""}})
        except PyMongoError:
            raise UnavailableError("The database cannot be reached right now; try again.") from None

    def _announce(self, row: Row, body: bytes) -> None:
        """Tell this process and the others; what matters has been stored already."""
        self._bus.announce(
            AlertStored(
                user_id=str(row["user_id"]),
                strategy_id=str(row["strategy_id"]),
                alert_id=str(row["_id"]),
                seq=row["seq"],
                body=body,
            )
        )

    async def drain(self) -> None:
        """Wait until every accepted alert is stored."""
        await self._commit.drain()
