"""Answers kept for a while: in memory, or shared by all processes in Redis. Values are bytes, never pickles."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from cachetools import LRUCache, TLRUCache

from app.core.clock import Clock, SystemClock
from app.core.redis_link import REDIS_FAILURES, RedisLink

MAX_ENTRIES, MAX_BYTES = 256, 64 << 20
"""What memory holds at most."""


class Cache:
    """`get_or_make` with one computation per key at a time, and invalidation by group in one step.

    The version of a group is part of its entries' keys. `invalidate` moves to the version that the change itself
    carries, so every process that hears of the change (over the bus) comes to the same keys. When Redis goes away,
    memory takes over; when it is back, what it still holds is as fresh as the versions say.
    """

    def __init__(self, redis: RedisLink | None = None, prefix: str = "arrow", clock: Clock | None = None) -> None:
        """`prefix` begins every key: it tells services (and their databases) apart that share a Redis."""
        self._redis = redis
        self._prefix = prefix
        self._memory: TLRUCache[str, tuple[bytes, float]] = TLRUCache(
            MAX_BYTES,
            ttu=lambda _, entry, now: now + entry[1],
            timer=(clock or SystemClock()).monotonic,
            # A least size for each bounds their number too.
            getsizeof=lambda entry: max(len(entry[0]), MAX_BYTES // MAX_ENTRIES),
        )
        self._versions: LRUCache[str, str] = LRUCache(100_000)
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything: invalidations may have been missed. Entries of unknown version are this process's own."""
        self._unversioned = secrets.token_hex(8)
        self._versions.clear()
        self._memory.clear()

    def invalidate(self, group: str, version: str) -> None:
        """Entries of `group` from before the change named `version` are not used any more."""
        self._versions[group] = version

    async def get_or_make(self, group: str, key: str, ttl: int, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """The bytes kept for (`group`, `key`), or those of `make()`, which then live `ttl` seconds.

        Concurrent calls for one key share one `make()`; its exception reaches all of them and is not kept.
        """
        full_key = f"{self._prefix}:cache:{group}:{self._versions.get(group, self._unversioned)}:{key}"
        entry = self._memory.get(full_key)
        if entry is not None:
            return entry[0]
        task = self._making.get(full_key)
        if task is None:
            task = self._making[full_key] = asyncio.create_task(self._fill(full_key, ttl, make))
            task.add_done_callback(lambda _: self._making.pop(full_key, None))
        # A caller that goes away must not take the others' answer with it.
        return await asyncio.shield(task)

    async def _fill(self, key: str, ttl: int, make: Callable[[], Awaitable[bytes]]) -> bytes:
        redis = self._redis if self._redis is not None and self._redis.usable else None
        value: bytes | None = None
        left: float = ttl
        if redis is not None:
            try:
                # With the time that it has left there: it must not begin a second life in this process's memory.
                asked = redis.client.pipeline(transaction=False)
                asked.get(key)
                asked.pttl(key)
                found, milliseconds = await asked.execute()
                if found is not None and milliseconds > 0:
                    value, left = found, milliseconds / 1000
            except REDIS_FAILURES as error:
                redis.failed(error)
                redis = None
        if value is None:
            value = await make()
            if redis is not None:
                try:
                    await redis.client.set(key, value, ex=ttl)
                except REDIS_FAILURES as error:
                    redis.failed(error)
        # A giant would push out everybody else.
        if len(value) <= MAX_BYTES // 4:
            self._memory[key] = (value, left)
        return value
