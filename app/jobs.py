"""Jobs in processes of their own: `taskiq worker app.jobs:broker` and `taskiq scheduler app.jobs:scheduler`.

Both need `TASK_BROKER_URL`, and workers the service's other settings, because each makes the same services as the
service does. A worker serves no requests and leads nothing; it carries out the runs that it is sent.
The scheduler is needed only where no process of the service has `BACKGROUND_TASKS_ENABLED`; with it nothing runs twice.
"""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from app.core.deps import Registry
from app.core.logging import configure_logging
from app.core.metrics import Metrics
from app.core.scheduler import Scheduler
from app.core.scheduler.brokers import clock_of, worker_broker
from app.core.settings import Settings, SettingsError
from app.lifespan import composed

if TYPE_CHECKING:
    from taskiq import AsyncBroker, TaskiqScheduler

    broker: AsyncBroker
    scheduler: TaskiqScheduler


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator[Scheduler]:
    """The service's scheduler with everything that its jobs need, made as the service makes it."""
    configure_logging(settings)
    logging.getLogger("taskiq.receiver").setLevel(logging.WARNING)  # what it would tell, the records tell better
    registry = Registry()
    # What one process of the service leads (the feed, the mails, the clock of the jobs) stays with the service.
    registry.provide(Settings, settings.model_copy(update={"background_tasks_enabled": False}))
    registry.provide(Metrics, Metrics())
    async with composed(registry, guest=True):
        yield registry.get(Scheduler)


def _made() -> dict[str, Any]:
    settings = Settings.load()
    if settings.task_broker_url is None:
        raise SettingsError("TASK_BROKER_URL: is not set; without it the service runs its jobs by itself")
    url = settings.task_broker_url.get_secret_value()
    made = worker_broker(url, settings.database_name, lambda: services(settings))
    return {"broker": made, "scheduler": clock_of(made)}


def __getattr__(name: str) -> Any:
    """`broker` and `scheduler` are made when taskiq asks for them, so that importing this module does no work."""
    if name not in {"broker", "scheduler"}:
        raise AttributeError(name)
    try:
        globals().update(_made())
    except SettingsError as error:
        sys.stderr.write(f"arrow: {error}\n")
        raise SystemExit(1) from None
    return globals()[name]
