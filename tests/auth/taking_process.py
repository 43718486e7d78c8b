"""A process of its own that takes a one-time secret many times at once; prints how often it got it."""

import asyncio
import sys

from beanie import init_beanie
from pymongo import AsyncMongoClient

from app.auth.digests import KeyedDigests
from app.auth.models import OneTimeSecretDocument
from app.auth.one_time import OneTimeSecrets
from app.core.clock import SystemClock
from tests.support.mongodb import OPTIONS


async def main(url: str, database: str, secret_key: str, slot: str, secret: str, times: str) -> None:
    async with AsyncMongoClient(url, **OPTIONS) as client:
        await init_beanie(client[database], document_models=[OneTimeSecretDocument])
        one_time = OneTimeSecrets(clock=SystemClock(), digests=KeyedDigests(secret_key))
        await one_time.peek(slot)  # connected
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        found = await asyncio.gather(*(one_time.take(slot, secret) for _ in range(int(times))))
        sys.stdout.write(f"{sum(row is not None for row in found)}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
