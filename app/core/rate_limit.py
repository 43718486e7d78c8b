"""Rate limits over a sliding minute: in memory, or shared by all processes in Redis.

When Redis goes away the limits are counted in memory until it is back: a limit that is a little too generous for a
while is better than refusing orders and alerts, or than not limiting at all.
"""

import math
import time
from functools import lru_cache
from typing import Any

import structlog
from limits import RateLimitItemPerMinute
from limits.aio import storage, strategies

from app.core.errors import RateLimitedError
from app.core.redis_link import REDIS_FAILURES, RedisLink

log = structlog.get_logger(__name__)


@lru_cache(maxsize=64)
def _per_minute(amount: int, namespace: str) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(amount, namespace=namespace)


_Limiter = strategies.SlidingWindowCounterRateLimiter


class RateLimiter:
    """Counts hits per (scope, key) over the last 60 seconds, as two counters each, whatever the limit.

    The minute before counts in proportion to what of it lies within the last 60 seconds.
    """

    def __init__(self, redis: RedisLink | None = None, namespace: str = "arrow") -> None:
        """`namespace` begins every key: it tells services (and their databases) apart that share a Redis."""
        self._namespace = namespace
        self._memory = _Limiter(storage.MemoryStorage())
        self._redis = redis
        self._shared: _Limiter | None = None
        if redis is not None:
            # On the link's own connections, which are closed with it.
            options: dict[str, Any] = {"connection_pool": redis.client.connection_pool, "implementation": "redispy"}
            self._shared = _Limiter(storage.RedisStorage(f"async+{redis.url}", **options))

    async def hit(self, scope: str, key: str, per_minute: int, *, cost: int = 1) -> None:
        """Count a request; raises `RateLimitedError` when more than `per_minute` came within 60 s.

        `scope` names the rule (`public`, `user`, `webhook`) and `key` who is counted. A refused request does not count.
        """
        item = _per_minute(per_minute, self._namespace)
        if self._shared is not None and self._redis is not None and self._redis.usable:
            try:
                await self._count(self._shared, item, scope, key, cost)
            except REDIS_FAILURES as error:
                self._redis.failed(error)
            else:
                return
        await self._count(self._memory, item, scope, key, cost)

    async def _count(self, limiter: _Limiter, item: RateLimitItemPerMinute, scope: str, key: str, cost: int) -> None:
        if await limiter.hit(item, scope, key, cost=cost):
            return
        stats = await limiter.get_window_stats(item, scope, key)
        wait = max(1, math.ceil(stats.reset_time - time.time()))
        raise RateLimitedError(
            f"At most {item.amount} requests a minute are allowed here; try again in {wait} s.",
            retry_after=wait,
            limit=item.amount,
        )
