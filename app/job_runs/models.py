"""What is stored of runs of jobs. Private to the feature."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel


class JobRunDocument(Document):
    """A run of a job.

    Three unique keys decide, whichever processes ask at the same time: `slot` (a slot is begun once, a lost run is
    repeated once; stays), `identity` (one run with the same arguments under way), `exclusive` (one running of a group).
    While a run is under way somebody vouches for it until `alive_until`. Arguments and result are JSON text: no name in
    them means anything to the database. `seq` orders the runs by their making, `changed` by their newest change, both
    in microseconds since the epoch.
    """

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    job: str
    state: str
    arguments: str
    requested_by: PydanticObjectId | None = None
    due: datetime | None = None
    retry_of: PydanticObjectId | None = None
    retried_as: PydanticObjectId | None = None
    slot: str | None = None
    identity: str | None = None
    exclusive: str | None = None
    runner: str | None = None
    alive_until: datetime | None = None
    again: bool | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_ms: int | None = None
    progress: dict[str, Any] | None = None
    result: str | None = None
    error: str | None = None
    seq: int
    changed: int
    expires_at: datetime | None = None

    class Settings:
        """Collection and indexes."""

        name = "job_runs"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("slot", name="slot_1", unique=True, sparse=True),
            IndexModel("identity", name="identity_1", unique=True, sparse=True),
            IndexModel("exclusive", name="exclusive_1", unique=True, sparse=True),
            IndexModel([("state", 1), ("alive_until", 1)], name="state_1_alive_until_1"),
            IndexModel("again", name="again_1", sparse=True),
            IndexModel([("seq", DESCENDING)], name="seq_-1"),
            IndexModel([("job", 1), ("seq", DESCENDING)], name="job_1_seq_-1"),
            IndexModel([("state", 1), ("seq", DESCENDING)], name="state_1_seq_-1"),
            IndexModel([("job", 1), ("state", 1), ("seq", DESCENDING)], name="job_1_state_1_seq_-1"),
            IndexModel("changed", name="changed_1"),
            IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0, sparse=True),
        ]


DOCUMENTS: list[type[Document]] = [JobRunDocument]
"""What the database has to know of this feature."""
