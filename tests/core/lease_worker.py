"""A process that says when it gets a lease and when it loses it.

Usage: lease_worker.py MONGODB_URL DATABASE HOLDER SECONDS
"""

import asyncio
import sys
from typing import Any

from pymongo import AsyncMongoClient

from app.core.clock import SystemClock
from app.core.lease_holder import LeaseHolder


async def main(url: str, name: str, holder: str, seconds: str) -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, tz_aware=True)

    async def work() -> None:
        print("held", flush=True)  # noqa: T201 (the test reads it)
        await asyncio.sleep(60)

    print("waiting", flush=True)  # noqa: T201
    await LeaseHolder(client[name], SystemClock(), "feed", holder, float(seconds)).run(work)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
