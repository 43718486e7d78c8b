"""Batches of rows into the database: what became of those that it did not take, and a free millisecond for them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError

from app.market_data.rows import EncodedRow, Row, from_ms, moved, to_ms

DUPLICATE_KEY: Final = 11000
PASSING: Final = frozenset({6, 7, 50, 64, 89, 91, 112, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})
"""Codes that say nothing of the row: interrupted, out of time, no primary, a conflict of writes, a lost connection."""
_NEAR_MS: Final = 1_000
"""Rows of a symbol so close together are looked up by one query."""
LOOK_AHEAD_MS: Final = (64, 1_024, 16_384)
"""How far a free millisecond is looked for, in turn: a few are the rule, the last is sixteen seconds without a gap."""


class Fates(msgspec.Struct):
    """The rows of one attempt, each in one of these."""

    stored: list[EncodedRow] = []
    there: list[EncodedRow] = []
    """The very same are stored already."""
    open: list[EncodedRow] = []
    """To be written again, some of them at another time."""
    refused: list[EncodedRow] = []
    """Never taken: by the database's judgement, or because there is no room for them."""
    moved: int = 0
    failure: str | None = None
    """Why some are open that were not moved: nothing is known of them, and an attempt at once would not help."""
    codes: set[int] = set()
    """What the database said to those it refused."""


class Placing:
    """Sends batches, and reads the reports of those that failed."""

    def __init__(self, collection: AsyncCollection[Row], look_ahead: Sequence[int] = LOOK_AHEAD_MS) -> None:
        self._collection = collection
        self._look_ahead = look_ahead

    async def insert(self, rows: Sequence[EncodedRow]) -> dict[str, Any]:
        """The server's report of an unordered insertion; raises `PyMongoError`.

        As a plain command, which the driver never sends twice: its own retries of `insert_many` would hide from us that
        the rows were sent before, and what they stored themselves would come back as somebody else's.
        """
        collection = self._collection
        report: dict[str, Any] = await collection.database.command(
            {
                "insert": collection.name,
                "documents": [RawBSONDocument(row.raw) for row in rows],
                "ordered": False,
                "writeConcern": collection.write_concern.document,
            }
        )
        if failure := report.get("writeConcernError"):
            report["writeConcernErrors"] = [failure]
        return report

    async def sort(self, rows: Sequence[EncodedRow], details: Mapping[str, Any]) -> Fates:
        """The fate of each of `rows`, by the report of their unordered insertion; never raises `PyMongoError`."""
        fates = Fates()
        errors = {error["index"]: error for error in details.get("writeErrors", ())}
        unsure = bool(details.get("writeConcernErrors"))
        if unsure:
            fates.failure = "WriteConcernError"
        taken = []
        for index, row in enumerate(rows):
            error = errors.get(index)
            if error is None:
                # Without a majority's word it may be undone; the next attempt finds it, or stores it.
                row.tried = row.tried or unsure
                (fates.open if unsure else fates.stored).append(row)
            elif error.get("code") in PASSING:
                fates.failure = f"code {error['code']}"
                fates.open.append(row)
            elif error.get("code") != DUPLICATE_KEY:
                fates.refused.append(row)
                fates.codes.add(error.get("code", 0))
            elif error.get("keyPattern") == {"_id": 1}:
                fates.there.append(row)
            else:
                taken.append(row)
        for cluster in _clusters(taken):
            try:
                await self._place(cluster, fates)
            except PyMongoError as error:
                fates.open += cluster
                fates.failure = type(error).__name__
        return fates

    async def _place(self, rows: list[EncodedRow], fates: Fates) -> None:
        """Rows of one symbol, in order of time: stored already, or moved to the next free millisecond."""
        first, last = rows[0].received_ms, rows[-1].received_ms
        stored: dict[int, ObjectId] = {}
        left: list[tuple[EncodedRow, ObjectId]] = [(row, row.id) for row in rows]
        for ahead in self._look_ahead:
            span = {"$gte": from_ms(first), "$lte": from_ms(last + ahead)}
            found = self._collection.find({"symbol": rows[0].symbol, "received_at": span}, {"received_at": 1})
            stored = {to_ms(row["received_at"]): row["_id"] async for row in found}
            known = set(stored.values())
            fates.there += [row for row, own in left if own in known]
            waiting = [(row, own) for row, own in left if own not in known]
            left = []
            for row, own in waiting:
                free = next((ms for ms in range(row.received_ms, last + ahead + 1) if ms not in stored), None)
                if free is None:
                    left.append((row, own))
                    continue
                stored[free] = own
                # A row whose place has become free stays: the one that was there is gone again.
                fates.open.append(row if free == row.received_ms else moved(row, free))
                fates.moved += free != row.received_ms
            if not left:
                return
        fates.refused += [row for row, _ in left]


def _clusters(rows: Sequence[EncodedRow]) -> Iterator[list[EncodedRow]]:
    """Rows of the same symbol and nearly the same time."""
    cluster: list[EncodedRow] = []
    for row in sorted(rows, key=lambda row: (row.symbol, row.received_ms)):
        if cluster and (row.symbol != cluster[0].symbol or row.received_ms - cluster[-1].received_ms > _NEAR_MS):
            yield cluster
            cluster = []
        cluster.append(row)
    if cluster:
        yield cluster
