"""Limits and cache of services whose databases differ, in one Redis; and the cache's size."""

import asyncio
from unittest.mock import AsyncMock

import pytest

from app.core import cache as cache_module
from app.core.cache import Cache
from app.core.errors import RateLimitedError
from app.core.rate_limit import RateLimiter
from app.core.redis_link import RedisLink


async def test_databases_share_neither_limits_nor_cache(redis_port: int) -> None:
    link = RedisLink(f"redis://127.0.0.1:{redis_port}", answer_seconds=20)
    assert await link.probe()
    assert link.health() == {"status": "ok", "backend": "redis"}
    one, same, other = (RateLimiter(link, namespace=f"arrow:{name}") for name in ("one", "one", "other"))
    await one.hit("public", "192.0.2.7", 1)
    await other.hit("public", "192.0.2.7", 1)
    with pytest.raises(RateLimitedError):
        await same.hit("public", "192.0.2.7", 1)

    caches = [Cache(link, prefix=f"arrow:{name}") for name in ("one", "one", "other")]
    for cache in caches:
        cache.invalidate("g", "1")
    made = [await cache.get_or_make("g", "k", 60, AsyncMock(return_value=b"%d" % i)) for i, cache in enumerate(caches)]
    assert made == [b"0", b"0", b"2"]
    keys = await link.client.keys("*")
    assert all(b"arrow:one" in key or b"arrow:other" in key for key in keys)
    for limiter in (one, same, other):
        await limiter._shared.storage.bridge.storage.aclose()
    await link.close()


async def test_memory_is_bounded_by_bytes_and_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_BYTES", 4000)
    monkeypatch.setattr(cache_module, "MAX_ENTRIES", 8)
    cache = Cache()

    async def makes(key: str, size: int) -> bool:
        make = AsyncMock(return_value=b"x" * size)
        assert len(await cache.get_or_make("g", key, 60, make)) == size
        await asyncio.sleep(0)
        return make.await_count == 1

    assert await makes("giant", 1001)
    assert await makes("giant", 1001)
    for number in range(5):
        assert await makes(f"big {number}", 1000)
    assert await makes("big 0", 1000)
    assert not await makes("big 4", 1000)
    for number in range(9):
        assert await makes(f"small {number}", 0)
    assert await makes("small 0", 0)
    assert not await makes("small 8", 0)
