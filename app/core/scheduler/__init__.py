"""Jobs: what runs by the clock or on request, its records, and who carries it out."""

from app.core.scheduler.definition import Job, JobResult, Run, Work, without_run
from app.core.scheduler.record import (
    FINISHED,
    Added,
    Claim,
    Progress,
    RunState,
    RunStore,
    RunView,
    SlotTakenError,
)
from app.core.scheduler.scheduler import Scheduler, StartedRun

__all__ = [
    "FINISHED",
    "Added",
    "Claim",
    "Job",
    "JobResult",
    "Progress",
    "Run",
    "RunState",
    "RunStore",
    "RunView",
    "Scheduler",
    "SlotTakenError",
    "StartedRun",
    "Work",
    "without_run",
]
