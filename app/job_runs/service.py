"""Reads runs for those who ask, and passes their changes on to `/ws` and to the metrics."""

from datetime import timedelta
from typing import Any, Final

from bson import ObjectId
from prometheus_client import Counter, Histogram

from app.core.bus import Bus
from app.core.clock import Clock, to_micros
from app.core.errors import NotFoundError
from app.core.events import JobChanged
from app.core.hub import Hub
from app.core.metrics import Metrics
from app.core.outbox import Channel
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.scheduler import RunView
from app.core.security import Principal, Role
from app.job_runs.models import JobRunDocument
from app.job_runs.schemas import JobFilters
from app.job_runs.store import KEPT, view_of

REPLAYED: Final = timedelta(hours=24)
"""How far back changes are replayed: a client that was away longer reads the list."""
REPLAY_OVERLAP: Final = 5_000_000
"""Microseconds that a replay reaches back: machines' clocks differ, and a change is visible after it got its number."""


class JobRuns:
    """Runs of the service's jobs: every account may know of them, who asked for one is that account's business."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def page(self, caller: Principal, filters: JobFilters, page: PageRequest) -> Page[bytes]:
        """Runs that match as JSON, newest first."""
        equality: dict[str, Any] = {}
        if filters.job is not None:
            equality["job"] = filters.job
        if filters.state is not None:
            equality["state"] = filters.state.value
        oldest = ObjectId.from_datetime(self._clock.now() - KEPT)
        rows = newest_first(
            JobRunDocument.get_pymongo_collection(), equality, page=page, account=oldest, clock=self._clock
        )
        found = await read_page(rows, page)
        return Page([_json(view_of(row), caller) for row in found.rows], found.next)

    async def get(self, caller: Principal, run_id: ObjectId) -> bytes:
        """One run as JSON; raises `NotFoundError`."""
        row = await JobRunDocument.get_pymongo_collection().find_one({"_id": run_id})
        if row is None:
            raise NotFoundError("There is no job with this id.")
        return _json(view_of(row), caller)

    async def since(self, _user_id: str, seq: int, limit: int) -> list[tuple[int, bytes]]:
        """The oldest `limit` runs that changed after `seq`, as (seq, JSON), for `/ws` resuming: a repeat is possible.

        A run that changed several times comes once, as it is now.
        """
        now = self._clock.now()
        low = max(seq - REPLAY_OVERLAP, to_micros(now - REPLAYED))
        span = {"$gt": low, "$lte": to_micros(now + timedelta(hours=1))}
        runs = JobRunDocument.get_pymongo_collection()
        rows = await runs.find({"changed": span}).sort("changed", 1).limit(limit).to_list()
        return [(int(row["changed"]), view_of(row).json()) for row in rows]


class JobNews:
    """Hands every change of a run, wherever it happened, to the clients and the metrics of this process."""

    def __init__(self, bus: Bus, hub: Hub, metrics: Metrics) -> None:
        self._hub = hub
        # Every process hears of all runs, workers have no /metrics: the numbers are the service's, in each process.
        self._runs = Counter(
            "arrow_job_runs",
            "Ended runs of jobs by outcome, in the whole service.",
            ["job", "outcome"],
            registry=metrics.registry,
        )
        self._seconds = Histogram(
            "arrow_job_run_seconds",
            "How long runs of jobs took, in the whole service.",
            ["job"],
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
            registry=metrics.registry,
        )
        bus.subscribe(JobChanged, self.on_changed)

    def on_changed(self, event: JobChanged) -> None:
        """A run changed."""
        self._hub.publish(Channel.JOBS, event.body, seq=event.seq)
        if event.finished:
            self._runs.labels(event.job, event.state).inc()
            if event.seconds is not None:
                self._seconds.labels(event.job).observe(event.seconds)


def _json(view: RunView, caller: Principal) -> bytes:
    administrator = caller.role.includes(Role.ADMIN) and not caller.api_token
    return view.json(requested_by=administrator or view.requested_by == str(caller.user_id))
