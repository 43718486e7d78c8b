"""What the audit feature stores. Private to the feature.

Rules shared with the embedded database: every query is an equality or a two-sided range on an index, every change of
the head a conditional `update_one` that only one writer can win. Entries are only ever inserted, and deleted oldest
first by `retention`; see `chain` for what their hashes cover and `store` for how the two collections change together.
`indivisible` tells an import that they are taken over as a whole or not at all: two chains cannot be merged.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel

from app.audit.chain import FORMAT, new_id
from app.core.audit import Outcome

HEAD = "head"


class AuditEntryDocument(Document):
    """One thing that happened. What is absent is not stored.

    `number` is the position in the chain. Its index is not unique on purpose: a number is given once by the head, and a
    row that somebody else puts under the next number must not keep the true entry out.
    `seq` (microseconds since the epoch) orders the lists, `at` is when it happened, `_id` is random (`new_id`).
    """

    id: PydanticObjectId = Field(default_factory=new_id)
    schema_version: int = FORMAT
    number: int
    seq: int
    at: datetime
    action: str
    outcome: Outcome
    account_id: PydanticObjectId | None = None
    actor: dict[str, Any]
    target: dict[str, str] | None = None
    address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None
    details: dict[str, str | int | bool | None] = {}
    previous_hash: str
    hash: str

    class Settings:
        """Collection and indexes."""

        name = "audit_entries"
        indivisible = True
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("number", name="number_1"),
            IndexModel([("account_id", 1), ("seq", DESCENDING)], name="account_id_1_seq_-1"),
            IndexModel([("account_id", 1), ("action", 1), ("seq", DESCENDING)], name="account_id_1_action_1_seq_-1"),
            IndexModel([("seq", DESCENDING)], name="seq_-1"),
            IndexModel([("action", 1), ("seq", DESCENDING)], name="action_1_seq_-1"),
            IndexModel([("outcome", 1), ("seq", DESCENDING)], name="outcome_1_seq_-1"),
            IndexModel([("request_id", 1), ("seq", DESCENDING)], name="request_id_1_seq_-1"),
            IndexModel(
                [("account_id", 1), ("request_id", 1), ("seq", DESCENDING)], name="account_id_1_request_id_1_seq_-1"
            ),
        ]


class AuditHeadDocument(Document):
    """Where the chain ends and where it begins: one row.

    `carried` are the newest entries, all that the last move of the head added, whether or not they are among the
    entries yet. `base_number` and `base_hash` are of the newest entry that expired, `since` is about its time.

    The collection's name comes before that of the entries: an export that is not of one moment reads it first, so that
    the entries in the file reach at least as far as the head (`ChainedAuditTrail.complete` takes up the others).
    """

    id: str = HEAD  # type: ignore[assignment]  # there is one
    schema_version: int = FORMAT
    number: int
    hash: str
    seq: int
    base_number: int
    base_hash: str
    since: datetime
    carried: list[dict[str, Any]]

    class Settings:
        """Collection."""

        name = "audit_chain"
        indivisible = True


DOCUMENTS: list[type[Document]] = [AuditEntryDocument, AuditHeadDocument]
"""What the database has to know of this feature."""
