"""Jobs by the clock and on request, put together."""

from app.core.deps import Registry
from app.core.hub import Hub
from app.core.metrics import Metrics
from app.core.scheduler import Scheduler
from app.core.settings import Settings
from app.job_runs.service import JobNews, JobRuns
from app.job_runs.store import MongoRunStore
from app.lifespan.ground import Ground


def job_runs(registry: Registry, settings: Settings, ground: Ground, hub: Hub) -> Scheduler:
    """The scheduler, to which every feature adds its jobs, in every process: workers need them all."""
    url = settings.task_broker_url
    scheduler = Scheduler(
        db=ground.database.db,
        store=MongoRunStore(ground.clock),
        bus=ground.bus,
        clock=ground.clock,
        holder=ground.holder,
        broker_url=url.get_secret_value() if url else None,
    )
    registry.provide(JobRuns, JobRuns(ground.clock))
    JobNews(ground.bus, hub, registry.get(Metrics))
    return registry.provide(Scheduler, scheduler)
