"""CoinMarketCap's Pro interface on this machine: the listing, in the vendor's shapes, charged in credits."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

from tests.simulators.angel_one.http import Answer, HttpRequest
from tests.simulators.coins import Coin
from tests.simulators.vendor import Fault, VendorSimulator, answer, query

LISTINGS: Final = "/v1/cryptocurrency/listings/latest"
KEY: Final = "b54bcf4d-1bca-4e8e-9a24-22ff2c3d462c"
_CODES: Final = {
    1001: (401, "This API Key is invalid."),
    1002: (401, "API key missing."),
    1006: (403, "Your API Key subscription plan doesn't support this endpoint."),
    1008: (429, "You've exceeded your API Key's HTTP request rate limit."),
    1009: (429, "You've exceeded your API Key's daily rate limit."),
    1010: (429, "You've exceeded your API Key's monthly rate limit."),
    1011: (429, "You've hit an IP rate limit."),
}


def _stamp(now: datetime) -> str:
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z"


def envelope(code: int, message: str | None, http: int, data: object = None, *, charged: int = 0) -> Answer:
    """What every answer is wrapped in."""
    status = {
        "timestamp": "2026-11-22T10:00:00.000Z",
        "error_code": code,
        "error_message": message,
        "elapsed": 10,
        "credit_count": charged,
        "notice": None,
    }
    return answer({"status": status} if code else {"status": status, "data": data}, http)


def error(code: int = 1001, http: int | None = None) -> Fault:
    """One of the documented errors; `http` is its status, by default the documented one, 200 happens too."""
    known, message = _CODES[code]
    return Fault(envelope(code, message, http or known))


def too_many(retry_after: int | str | None = None) -> Fault:
    """The minute's limit."""
    made = error(1008)
    assert made.answer is not None
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault(replace(made.answer, headers=headers))


def on_200(code: int = 500) -> Fault:
    """An error, by its HTTP status none."""
    return Fault(envelope(code, "The server encountered an unexpected issue.", 200))


def refused_key() -> Fault:
    """401."""
    return error(1001)


def refused(http: int = 400) -> Fault:
    """A request that it does not like."""
    return Fault(envelope(http, '"limit" must be a number', http))


def unavailable(http: int = 500, retry_after: int | None = None) -> Fault:
    """It is down."""
    made = envelope(http, "The server encountered an unexpected issue.", http)
    return Fault(replace(made, headers={} if retry_after is None else {"Retry-After": str(retry_after)}))


def no_rows() -> Fault:
    """A listing without coins."""
    return Fault(envelope(0, None, 200, []))


def only_junk() -> Fault:
    """Rows of another form than was promised."""
    return Fault(change=lambda body: {**body, "data": [{"coin": row["id"]} for row in body["data"]]})


def version_3() -> Fault:
    """The true rows in the shapes of version 3: quotes and tags are lists of objects, the code is text."""

    def change(body: dict[str, Any]) -> dict[str, Any]:
        rows = [
            {
                **row,
                "quote": [{"id": 2781, "symbol": "USD", **row["quote"]["USD"]}],
                "tags": [{"slug": tag, "name": tag.title(), "category": "PROPERTY"} for tag in row["tags"]],
            }
            for row in body["data"]
        ]
        return {"status": {**body["status"], "error_code": "0"}, "data": rows}

    return Fault(change=change)


class CoinMarketCapSimulator(VendorSimulator):
    """CoinMarketCap, which always needs a key."""

    vendor = "COINMARKETCAP"
    own_faults: ClassVar[dict[str, Callable[..., Fault]]] = {
        fault.__name__: fault
        for fault in (error, too_many, on_200, refused_key, refused, unavailable, no_rows, only_junk, version_3)
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"key": KEY, **options})

    @property
    def base_url(self) -> str:
        """See `VendorSimulator`."""
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: HttpRequest) -> Answer:
        """See `VendorSimulator`."""
        asked = query(request)
        limit = asked.get("limit", "100")
        rows = int(limit) if limit.isdigit() else 0
        credit = math.ceil(max(rows, 1) / 200)
        sent = request.headers.get("x-cmc_pro_api_key")
        over = self.limits.over(credit)
        if sent != self.key:
            return self._error(1002 if sent is None else 1001)
        if over:
            return self._error({"minute": 1008, "month": 1010}[over])
        if request.path != LISTINGS:
            return answer({"statusCode": 404, "error": "Not Found", "message": "Not Found"}, 404)
        start = asked.get("start", "1")
        if not 1 <= rows <= 5000 or not start.isdigit() or asked.get("convert", "USD") != "USD":
            return envelope(400, '"limit" must be less than or equal to 5000', 400)
        coins = [coin for coin in self.coins.ranked(self.now()) if coin.price is not None]
        chosen = list(enumerate(coins, 1))[int(start) - 1 :][:rows]
        return envelope(0, None, 200, [self._row(coin, rank) for rank, coin in chosen], charged=credit)

    @staticmethod
    def _error(code: int) -> Answer:
        made = error(code).answer
        assert made is not None
        return made

    def _row(self, coin: Coin, rank: int) -> dict[str, Any]:
        now = self.now()
        price = coin.worth(now)
        spans = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
        quote = {
            "price": price,
            "volume_24h": coin.volume(now),
            "volume_change_24h": 0,
            **{f"percent_change_{span}": coin.percent(now, length) for span, length in spans.items()},
            "market_cap": coin.value(now),
            "market_cap_dominance": 0,
            "fully_diluted_market_cap": price and coin.most and round(price * coin.most),
            "tvl": None,
            "last_updated": _stamp(now),
        }
        return {
            "id": coin.cap_id,
            "name": coin.name,
            "symbol": coin.symbol,
            "slug": coin.cap_slug,
            "num_market_pairs": 100,
            "date_added": "2013-04-28T00:00:00.000Z",
            "tags": list(coin.tags),
            "max_supply": coin.most,
            "circulating_supply": coin.supply,
            "total_supply": coin.supply,
            "infinite_supply": coin.most is None,
            "platform": None,
            "cmc_rank": rank,
            "self_reported_circulating_supply": None,
            "self_reported_market_cap": None,
            "tvl_ratio": None,
            "last_updated": _stamp(now),
            "quote": {"USD": quote},
        }
