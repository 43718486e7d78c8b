"""Processes for the tests, to be killed.

`python -m tests.job_runs.program JOB` runs JOB by itself, as a service without workers does.
`python -m taskiq worker tests.job_runs.program:broker` is a worker.
The environment says where: JOBS_MONGODB_URL, JOBS_DATABASE, JOBS_BROKER_URL.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from beanie import init_beanie
from pymongo import AsyncMongoClient

from app.core.scheduler import Scheduler
from app.core.scheduler.brokers import worker_broker
from app.job_runs.models import DOCUMENTS
from tests.job_runs.jobs import VOUCHED_SECONDS, open_scheduler
from tests.support.mongodb import OPTIONS


@asynccontextmanager
async def services() -> AsyncIterator[Scheduler]:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ["JOBS_MONGODB_URL"], **OPTIONS)
    db = client[os.environ["JOBS_DATABASE"]]
    await init_beanie(db, document_models=DOCUMENTS, skip_indexes=True)
    try:
        async with open_scheduler(db, holder=f"process {os.getpid()}", lease_seconds=VOUCHED_SECONDS) as scheduler:
            yield scheduler
    finally:
        await client.close()


async def main(name: str) -> None:
    async with services() as scheduler:
        run, _ = await scheduler.start(name)
        await scheduler.wait(run, 60)


def __getattr__(name: str) -> Any:
    if name != "broker":
        raise AttributeError(name)
    return worker_broker(os.environ["JOBS_BROKER_URL"], os.environ["JOBS_DATABASE"], services)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
