"""CoinGecko's REST interface, version 3, on this machine: the paths that the service asks, in the vendor's shapes."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar, Final

from tests.simulators.angel_one.http import Answer, HttpRequest
from tests.simulators.coins import Coin
from tests.simulators.vendor import Fault, VendorSimulator, answer, query

ROOT: Final = "/api/v3"
MARKETS: Final = f"{ROOT}/coins/markets"
CATEGORIES: Final = {
    "layer-1": "Layer 1 (L1)",
    "meme-token": "Meme",
    "stablecoins": "Stablecoins",
    "smart-contract-platform": "Smart Contract Platform",
}
_MEMBERS: Final = {"layer-1": "layer-1", "meme-token": "memes", "stablecoins": "stablecoin"}
_SPANS: Final = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}
_LARGEST_PAGE: Final = 250
_ROI: Final = {"times": Decimal("42.1"), "currency": "usd", "percentage": Decimal("4210.5")}


def status(code: int, message: str, http: int, **headers: str) -> Answer:
    """An error as most of the interface reports it."""
    return answer({"status": {"error_code": code, "error_message": message}}, http, **headers)


def too_many(retry_after: int | str | None = 30) -> Fault:
    """429; `retry_after` None leaves the header out."""
    headers = {} if retry_after is None else {"Retry_After": str(retry_after)}
    return Fault(status(429, "You have exceeded the rate limit.", 429, **headers))


def on_200(code: int = 500) -> Fault:
    """An error, by its HTTP status none."""
    return Fault(status(code, "Something went wrong.", 200))


def refused_key(code: int = 10002) -> Fault:
    """401."""
    body = {"timestamp": "2026-11-22T10:00:00.000+00:00", "error_code": code, "error_message": "API key missing."}
    return Fault(answer({"status": body}, 401))


def refused(http: int = 400) -> Fault:
    """A request that it does not like."""
    return Fault(answer({"error": "Invalid parameter"}, http))


def unavailable(http: int = 503, retry_after: int | None = None) -> Fault:
    """It is down."""
    headers = {} if retry_after is None else {"Retry_After": str(retry_after)}
    return Fault(status(http, "Service unavailable.", http, **headers))


def no_rows() -> Fault:
    """A listing without coins."""
    return Fault(answer([]))


def junk_rows(count: int = 1) -> Fault:
    """The true listing, and before it rows that are junk in the ways that happen."""
    return Fault(change=lambda rows: [*junk(rows[0], count), *rows])


def only_junk() -> Fault:
    """Rows of another form than was promised."""
    return Fault(change=lambda rows: [{"coin": row["id"], "usd": row["current_price"]} for row in rows])


def junk(row: dict[str, Any], count: int) -> list[Any]:
    """So many rows that cannot be read."""
    kinds: list[Any] = [
        {**row, "id": None},
        {**row, "id": "negative", "current_price": -1},
        {**row, "id": "words", "current_price": "a lot"},
        {**row, "id": "no-name", "name": ""},
        {**row, "id": ["a", "list"]},
        {**row, "id": "flag", "current_price": True},
        None,
        "bitcoin",
    ]
    return [kinds[place % len(kinds)] for place in range(count)]


class CoinGeckoSimulator(VendorSimulator):
    """CoinGecko, with or without a key."""

    vendor = "COINGECKO"
    own_faults: ClassVar[dict[str, Callable[..., Fault]]] = {
        fault.__name__: fault
        for fault in (too_many, on_200, refused_key, refused, unavailable, no_rows, junk_rows, only_junk)
    }

    @property
    def base_url(self) -> str:
        """See `VendorSimulator`."""
        return f"http://127.0.0.1:{self.port}{ROOT}"

    async def handle(self, request: HttpRequest) -> Answer:
        """See `VendorSimulator`."""
        sent = request.headers.get("x-cg-demo-api-key")
        over = self.limits.over()
        if self.key is not None and sent != self.key:
            code = 10002 if sent is None else 10010
            return status(code, "API key missing or invalid.", 401)
        if over:
            return status(429, f"You have exceeded the limit of the {over}.", 429, Retry_After="60")
        asked = query(request)
        if request.path == MARKETS:
            return self._markets(asked)
        if request.path == f"{ROOT}/coins/categories/list":
            return answer([{"category_id": slug, "name": name} for slug, name in CATEGORIES.items()])
        if request.path == f"{ROOT}/ping":
            return answer({"gecko_says": "(V3) To the Moon!"})
        coin, _, rest = request.path.removeprefix(f"{ROOT}/coins/").partition("/")
        if rest == "market_chart":
            return self._chart(coin, asked)
        return answer({"error": "Incorrect path. Please check the documentation."}, 404)

    def _markets(self, asked: dict[str, str]) -> Answer:
        if "vs_currency" not in asked:
            return answer({"error": "Missing parameter vs_currency"}, 422)
        if asked["vs_currency"] != "usd":
            return answer({"error": "invalid vs_currency"}, 422)
        size, page = int(asked.get("per_page", "100")), int(asked.get("page", "1"))
        # As at the vendor: what is out of range is brought into it, and not refused.
        size = min(max(size, 1), _LARGEST_PAGE)
        coins = self.coins.ranked(self.now())
        ranks = {coin.gecko_id: rank for rank, coin in enumerate((c for c in coins if c.ranked), 1)}
        if category := asked.get("category"):
            if category not in CATEGORIES:
                return answer({"error": "category not found"}, 404)
            coins = [coin for coin in coins if _MEMBERS.get(category) in coin.tags]
        spans = [span for span in asked.get("price_change_percentage", "").split(",") if span in _SPANS]
        chosen = coins[(page - 1) * size : page * size]
        return answer([self._row(coin, ranks.get(coin.gecko_id), spans) for coin in chosen])

    def _row(self, coin: Coin, rank: int | None, spans: list[str]) -> dict[str, Any]:
        now = self.now()
        price, value = coin.worth(now), coin.value(now)
        day = coin.percent(now, _SPANS["24h"])
        known = price is not None
        stamp = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z"
        row: dict[str, Any] = {
            "id": coin.gecko_id,
            "symbol": coin.symbol.lower(),
            "name": coin.name,
            "image": f"https://assets.example/coins/images/{coin.cap_id}/large/{coin.gecko_id}.png?1696501400",
            "current_price": price,
            "market_cap": value if known else 0,
            "market_cap_rank": rank,
            "fully_diluted_valuation": price and coin.most and round(price * coin.most),
            "total_volume": coin.volume(now),
            "high_24h": price and price * Decimal("1.02"),
            "low_24h": price and price * Decimal("0.97"),
            "price_change_24h": price and round(price - (coin.worth(now, _SPANS["24h"]) or price), 12),
            "price_change_percentage_24h": day,
            "market_cap_change_24h": None,
            "market_cap_change_percentage_24h": None,
            "circulating_supply": coin.supply if coin.supply is not None else Decimal("0.0"),
            "total_supply": coin.supply,
            "max_supply": coin.most,
            "ath": coin.price and coin.price * 2,
            "ath_change_percentage": (known and Decimal("-50.00001")) or None,
            "ath_date": (known and "2021-11-10T14:24:11.849Z") or None,
            "atl": coin.price and coin.price / 1000,
            "atl_change_percentage": (known and Decimal("99900.12345")) or None,
            "atl_date": (known and "2013-07-06T00:00:00.000Z") or None,
            "roi": {"times": Decimal("42.1"), "currency": "usd", "percentage": Decimal("4210.5")}
            if rank == 2
            else None,
            "last_updated": stamp if known else None,
        }
        for span in spans:
            row[f"price_change_percentage_{span}_in_currency"] = coin.percent(now, _SPANS[span])
        return row

    def _chart(self, coin_id: str, asked: dict[str, str]) -> Answer:
        coin = next((coin for coin in self.coins.coins if coin.gecko_id == coin_id), None)
        if coin is None:
            return answer({"error": "coin not found"}, 404)
        days = int(asked.get("days", "1"))
        if days > 365:
            error = {"timestamp": "2026-11-22T10:00:00.000+00:00", "error_code": 10012, "error_message": "Too old."}
            return answer({"error": {"status": error}}, 401)
        step = timedelta(minutes=5) if days == 1 else timedelta(hours=1) if days <= 90 else timedelta(days=1)
        now = self.now()
        moments = [now - step * place for place in range(int(timedelta(days=days) / step), -1, -1)]
        stamps = [round(moment.timestamp() * 1000) for moment in moments]
        prices = [coin.worth(moment) for moment in moments]
        return answer({
            "prices": [[at, price] for at, price in zip(stamps, prices, strict=True)],
            "market_caps": [[at, coin.value(moment)] for at, moment in zip(stamps, moments, strict=True)],
            "total_volumes": [[at, coin.volume(moment)] for at, moment in zip(stamps, moments, strict=True)],
        })  # fmt: skip
