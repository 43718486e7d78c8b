"""CoinGecko's answers, as its documentation of version 3 describes them and its servers give them. Pure.

Nearly every field can be null. `/coins/markets` is a bare list. Errors are `{"status": {"error_code", …}}`,
`{"error": "…"}` or `{"error": {"status": {…}}}`, and may come with a status of 200.
"""

from typing import Any, Final

from app.crypto.adapters.figures import (
    LONGEST_NAME,
    LONGEST_SYMBOL,
    address,
    amount,
    moment,
    moment_of_ms,
    name_of_id,
    number,
    positive,
    rank,
    read_rows,
    text,
)
from app.crypto.errors import (
    USUAL_WAIT,
    KeyRefusedError,
    NonsenseError,
    ProviderError,
    RateLimitedError,
    RequestRefusedError,
    UnreachableError,
)
from app.crypto.ports import Category, CoinListing, PricePoint, Provider

NAME: Final = Provider.COINGECKO
_KEY_CODES: Final = {10002, 10005, 10010, 10011}
"""Missing, not in the plan, and keys sent to the address of another plan."""
_TOO_OLD: Final = 10012
"""History of more days than the plan shows: a 401, but nothing is wrong with the key."""
_ADVICE: Final = {
    401: "Check COINGECKO_API_KEY.",
    403: "Check COINGECKO_API_KEY, and whether CoinGecko blocks this address.",
    10002: "Set COINGECKO_API_KEY, or point COINGECKO_BASE_URL at the address of the free plan.",
    10005: "The key's plan does not include this.",
    10010: "The key is one of a paid plan: set COINGECKO_BASE_URL to https://pro-api.coingecko.com/api/v3.",
    10011: "The key is one of the demo plan: leave COINGECKO_BASE_URL at https://api.coingecko.com/api/v3.",
}


def error_of(status: int, content: Any, retry_after: float | None) -> ProviderError | None:
    """The error that an answer is; None for one with content."""
    code = _code(content)
    if status == 429 or code == 429:
        return RateLimitedError(NAME, "429", retry_after=retry_after or USUAL_WAIT, told=retry_after is not None)
    if code == _TOO_OLD:
        return RequestRefusedError(NAME, "10012", "Its plan does not show prices that old.")
    if code in _KEY_CODES:
        return KeyRefusedError(NAME, str(code), _ADVICE[code])
    if status in {401, 403}:
        return KeyRefusedError(NAME, str(status), _ADVICE[status])
    if 400 <= status < 500 and status != 408:
        return RequestRefusedError(NAME, str(status))
    if status == 408 or 500 <= code < 600:
        return UnreachableError(NAME, str(code or status))
    if status != 200:
        return NonsenseError(NAME, str(status))
    if content is None:
        return NonsenseError(NAME, "not JSON")
    if code:
        return NonsenseError(NAME, f"error {code}"[:16])
    return None


def listings(content: Any) -> tuple[list[CoinListing], int]:
    """The rows of `/coins/markets`, and how many could not be read; raises `NonsenseError`."""
    return read_rows(NAME, content, _listing)


def history(content: Any) -> list[PricePoint]:
    """The points of `/coins/{id}/market_chart`, the oldest first; raises `NonsenseError`.

    Three lists of pairs (milliseconds, value). A time is a point where there is a price at it.
    """
    if not isinstance(content, dict) or not isinstance(content.get("prices"), list):
        raise NonsenseError(NAME, "no prices")
    caps, volumes = _by_time(content.get("market_caps")), _by_time(content.get("total_volumes"))
    points: dict[Any, PricePoint] = {}
    for at, value in _by_time(content["prices"]).items():
        price, when = positive(value), moment_of_ms(at)
        if price is not None and when is not None:
            points[when] = PricePoint(when, price, positive(caps.get(at)), amount(volumes.get(at)))
    if content["prices"] and not points:
        raise NonsenseError(NAME, "prices")
    return [points[when] for when in sorted(points)]


def categories(content: Any) -> list[Category]:
    """The rows of `/coins/categories/list`; raises `NonsenseError`."""
    if not isinstance(content, list):
        raise NonsenseError(NAME, "no list")
    found = [
        Category(slug, text(row.get("name"), LONGEST_NAME) or slug) for row, slug in map(_category, content) if slug
    ]
    if not found:
        raise NonsenseError(NAME, "no rows")
    return found


def _category(row: Any) -> tuple[dict[str, Any], str | None]:
    row = row if isinstance(row, dict) else {}
    return row, name_of_id(row.get("category_id"))


def _by_time(pairs: Any) -> dict[Any, Any]:
    if not isinstance(pairs, list):
        return {}
    return {
        pair[0]: pair[1]
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and number(pair[0]) is not None and not isinstance(pair[0], str)
    }


def _listing(row: dict[str, Any]) -> CoinListing | None:
    coin = name_of_id(row.get("id"))
    symbol, name = text(row.get("symbol"), LONGEST_SYMBOL), text(row.get("name"), LONGEST_NAME)
    if coin is None or symbol is None or name is None or not _well(row.get("current_price")):
        return None
    # Per cent over an hour and a week come only where they were asked for, under names of their own.
    day = row.get("price_change_percentage_24h_in_currency", row.get("price_change_percentage_24h"))
    return CoinListing(
        provider=NAME,
        provider_id=coin,
        slug=coin,
        symbol=symbol.upper(),
        name=name,
        rank=rank(row.get("market_cap_rank")),
        price=positive(row.get("current_price")),
        market_cap=positive(row.get("market_cap")),
        fully_diluted_valuation=positive(row.get("fully_diluted_valuation")),
        volume_24h=amount(row.get("total_volume")),
        high_24h=positive(row.get("high_24h")),
        low_24h=positive(row.get("low_24h")),
        price_change_1h=number(row.get("price_change_percentage_1h_in_currency")),
        price_change_24h=number(day),
        price_change_7d=number(row.get("price_change_percentage_7d_in_currency")),
        circulating_supply=positive(row.get("circulating_supply")),
        total_supply=positive(row.get("total_supply")),
        max_supply=positive(row.get("max_supply")),
        ath=positive(row.get("ath")),
        ath_date=moment(row.get("ath_date")),
        atl=positive(row.get("atl")),
        atl_date=moment(row.get("atl_date")),
        image=address(row.get("image")),
        updated_at=moment(row.get("last_updated")),
    )


def _well(price: Any) -> bool:
    """Whether a price is one, or is not known. A row with nonsense there is not worth its other values."""
    return price is None or amount(price) is not None


def _code(content: Any) -> int:
    """The code of an error, 0 where there is none."""
    if not isinstance(content, dict):
        return 0
    error = content.get("error")
    for holder in (content, error if isinstance(error, dict) else {}):
        status = holder.get("status")
        code = number(status.get("error_code")) if isinstance(status, dict) else None
        if code is not None and 0 < code < 1_000_000:
            return int(code)
    return 0
