"""CoinGecko's REST interface, version 3, of the free, demo and paid plans."""

import math
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from app.core.clock import Clock
from app.crypto.adapters.coingecko import parse
from app.crypto.adapters.wire import Timeouts, Wire
from app.crypto.errors import RequestRefusedError
from app.crypto.ports import Category, CoinListing, Cost, PricePoint, Provider

PAGE: Final = 250
"""The most rows of one answer."""
LONGEST_HISTORY: Final = 365
"""Days that plans without payment show."""
_PAID_HOST: Final = "pro-api.coingecko.com"


class CoinGecko:
    """Fills the ports `ListingProvider` and `CoinArchive`."""

    name = Provider.COINGECKO

    def __init__(
        self,
        base_url: str,
        key: SecretStr | None,
        clock: Clock,
        *,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
    ) -> None:
        """Without a `key` CoinGecko answers, too, at a lower rate."""
        header = "x-cg-pro-api-key" if urlsplit(base_url).hostname == _PAID_HOST else "x-cg-demo-api-key"
        sent = (header, key.get_secret_value()) if key else None
        self._wire = Wire(self.name, base_url, clock, key=sent, tls=tls, timeouts=timeouts)

    def cost(self, limit: int) -> Cost:
        """See the port: a request for every 250 coins."""
        pages = math.ceil(limit / PAGE)
        return Cost(pages, pages)

    async def listings(self, limit: int) -> tuple[list[CoinListing], int]:
        """See the port."""
        content: list[Any] = []
        size = min(limit, PAGE)
        for page in range(1, math.ceil(limit / PAGE) + 1):
            rows = await self._markets(size, page)
            if not isinstance(rows, list):
                content = rows
                break
            content += rows
            if len(rows) < size:
                break
        found, rejected = parse.listings(content)
        return found[:limit], rejected

    async def category(self, slug: str) -> list[CoinListing]:
        """The largest coins of a category, at most 250; raises `ProviderError`."""
        found, _ = parse.listings(await self._markets(PAGE, 1, category=slug))
        return found

    async def categories(self) -> list[Category]:
        """Every category; raises `ProviderError`."""
        return parse.categories(await self._get("/coins/categories/list", {}))

    async def history(self, provider_id: str, days: int) -> list[PricePoint]:
        """See the port. CoinGecko gives 5-minute points for one day, hourly ones up to 90, daily ones beyond."""
        if not 1 <= days <= LONGEST_HISTORY:
            raise RequestRefusedError(self.name, "days", f"It shows at most {LONGEST_HISTORY} days.")
        path = f"/coins/{quote(provider_id, safe='')}/market_chart"
        return parse.history(await self._get(path, {"vs_currency": "usd", "days": days}))

    async def close(self) -> None:
        """See the port."""
        await self._wire.close()

    async def _markets(self, size: int, page: int, **more: str) -> Any:
        asked: dict[str, str | int] = {
            "vs_currency": "usd",
            "order": "market_cap_desc",
            "per_page": size,
            "page": page,
            "sparkline": "false",
            "price_change_percentage": "1h,24h,7d",
            **more,
        }
        return await self._get("/coins/markets", asked)

    async def _get(self, path: str, parameters: Mapping[str, str | int]) -> Any:
        status, content, retry_after = await self._wire.get(path, parameters)
        if error := parse.error_of(status, content, retry_after):
            raise error
        return content
