"""Whether Redis can be used now. Rate limits and cache ask here and fall back to memory while it is away."""

import asyncio

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

REDIS_FAILURES = (RedisError, OSError, TimeoutError)
"""What means that Redis cannot be used now: limits and cache then go on in memory."""

CONNECTIONS = 32


class RedisLink:
    """A Redis address with its state: used optimistically, left alone after a failure until a ping succeeds."""

    def __init__(self, url: str, *, probe_seconds: float = 1.0, answer_seconds: float = 0.5) -> None:
        """`answer_seconds`: how long a command may take before the fallback answers instead."""
        self.url = url
        # A rush waits for a connection instead of failing, which would be taken for an outage.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=answer_seconds,
            socket_timeout=answer_seconds,
            socket_connect_timeout=answer_seconds,
            # Once more on a new connection: a pooled one may be from before a restart of Redis.
            retry=Retry(NoBackoff(), 1),
        )
        self.client: Redis = Redis.from_pool(pool)
        self._probe_seconds = probe_seconds
        self.usable = False
        self.last_error: str | None = "not connected yet"

    def failed(self, error: Exception) -> None:
        """Note a failure: from now on nobody uses Redis until `run` finds it back."""
        if self.usable:
            log.warning("redis went away, limits and cache are in memory now", error=type(error).__name__)
        self.usable = False
        self.last_error = type(error).__name__

    async def probe(self) -> bool:
        """Ping once and remember the outcome."""
        try:
            await self.client.ping()
        except REDIS_FAILURES as error:
            self.failed(error)
        else:
            if not self.usable:
                log.info("redis is used for limits and cache")
            self.usable, self.last_error = True, None
        return self.usable

    async def run(self) -> None:
        """Keep probing; the supervisor runs this."""
        while True:
            await self.probe()
            await asyncio.sleep(self._probe_seconds)

    def health(self) -> dict[str, object]:
        """The line for `/health`: which backend is in use and why."""
        return {
            "status": "ok" if self.usable else "degraded",
            "backend": "redis" if self.usable else "memory",
            **({"error": self.last_error} if self.last_error else {}),
        }

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()
