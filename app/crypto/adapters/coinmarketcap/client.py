"""CoinMarketCap's Pro interface: one request brings up to 5,000 coins, and takes a credit for every 200."""

import math
import ssl
from typing import Final

from pydantic import SecretStr

from app.core.clock import Clock
from app.crypto.adapters.coinmarketcap import parse
from app.crypto.adapters.wire import Timeouts, Wire
from app.crypto.ports import CoinListing, Cost, Provider

CREDIT_ROWS: Final = 200
PATH: Final = "/v1/cryptocurrency/listings/latest"


class CoinMarketCap:
    """Fills the port `ListingProvider`."""

    name = Provider.COINMARKETCAP

    def __init__(
        self,
        base_url: str,
        key: SecretStr,
        clock: Clock,
        *,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
    ) -> None:
        sent = ("X-CMC_PRO_API_KEY", key.get_secret_value())
        self._wire = Wire(self.name, base_url, clock, key=sent, tls=tls, timeouts=timeouts)

    def cost(self, limit: int) -> Cost:
        """See the port."""
        return Cost(1, math.ceil(limit / CREDIT_ROWS))

    async def listings(self, limit: int) -> tuple[list[CoinListing], int]:
        """See the port."""
        asked: dict[str, str | int] = {
            "start": 1,
            "limit": limit,
            "convert": "USD",
            "sort": "market_cap",
            "sort_dir": "desc",
        }
        status, content, retry_after = await self._wire.get(PATH, asked)
        if error := parse.error_of(status, content, retry_after):
            raise error
        found, rejected = parse.listings(content)
        return found[:limit], rejected

    async def close(self) -> None:
        """See the port."""
        await self._wire.close()
