"""What goes over the wire in this feature."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from app.core.scheduler import RunState
from app.core.schemas import RequestModel, ResponseModel, example

JobName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$")]


class JobProgress(ResponseModel):
    """How far a run is, in the job's own units."""

    done: int
    total: int | None = None
    note: str = ""


class JobRun(ResponseModel):
    """A run of a job."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "id": "6b02893a002b26997921d778",
                "job": "crypto.top50",
                "state": "succeeded",
                "arguments": {},
                "requested_by": None,
                "due": "2026-11-20T05:30:00Z",
                "retry_of": None,
                "retried_as": None,
                "created_at": "2026-11-20T05:30:00.004Z",
                "started_at": "2026-11-20T05:30:00.021Z",
                "finished_at": "2026-11-20T05:30:01.372Z",
                "duration_ms": 1351,
                "progress": {"done": 50, "total": 50, "note": ""},
                "result": {"provider": "coingecko", "rows": 50, "changes": 47},
                "error": None,
                "seq": 1795328401372000,
            }
        )
    )

    id: str
    job: str
    state: RunState = Field(
        description="`lost`: the process that ran it died or was stopped; it is run again once, as `retried_as`. "
        "`skipped`: a run that was under way serves for it, `result.served_by`."
    )
    arguments: dict[str, Any]
    requested_by: str | None = Field(
        description="The account that asked for it: shown to that account and to signed-in administrators."
    )
    due: datetime | None = Field(description="The slot that it is for; null when somebody asked for it.")
    retry_of: str | None = Field(description="The lost run that this one stands in for.")
    retried_as: str | None = Field(
        description="The run that stands in for this lost one, or was under way already and serves for it."
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_ms: int | None
    progress: JobProgress | None
    result: dict[str, Any] | None
    error: str | None = Field(description="What went wrong, in a sentence.")
    seq: int = Field(description="Grows with every change of the run; the `seq` of the change's message on `/ws`.")


class JobFilters(RequestModel):
    """Which runs; both conditions hold together."""

    job: JobName | None = None
    state: RunState | None = None
