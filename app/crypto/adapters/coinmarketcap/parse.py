"""CoinMarketCap's answers, as its documentation of the Pro interface describes them. Pure.

Every answer is `{"status": {"error_code", "error_message", "credit_count", …}, "data": …}`; an error can come with a
status of 200. `quote` is an object by currency in version 1, a list in version 3.
"""

from typing import Any, Final

from app.crypto.adapters.figures import (
    LONGEST_NAME,
    LONGEST_SYMBOL,
    amount,
    moment,
    name_of_id,
    number,
    positive,
    rank,
    read_rows,
    slugs,
    text,
)
from app.crypto.errors import (
    USUAL_WAIT,
    KeyRefusedError,
    NonsenseError,
    ProviderError,
    QuotaUsedError,
    RateLimitedError,
    RequestRefusedError,
    UnreachableError,
)
from app.crypto.ports import CoinListing, Provider

NAME: Final = Provider.COINMARKETCAP
_KEY_CODES: Final = {1001, 1002, 1003, 1004, 1005, 1006, 1007}
"""Invalid, missing, unpaid, expired, required, not in the plan, disabled."""
_MINUTE, _DAY, _MONTH, _ADDRESS = 1008, 1009, 1010, 1011
"""Limits used up: of the minute, the day, the month, and of the address."""
_UNTIL_TOMORROW: Final = 3600.0
_ADVICE: Final = "Check COINMARKETCAP_API_KEY and its plan."


def error_of(status: int, content: Any, retry_after: float | None) -> ProviderError | None:
    """The error that an answer is; None for one with content."""
    code = _code(content)
    if code == _MONTH:
        return QuotaUsedError(NAME, "1010", "Nothing more is asked of it this month.")
    if code in {_MINUTE, _DAY, _ADDRESS} or status == 429 or code == 429:
        # The codes say how long, too: the minute's limit begins anew with the next minute.
        wait = retry_after or (_UNTIL_TOMORROW if code == _DAY else USUAL_WAIT)
        return RateLimitedError(NAME, str(code or status), retry_after=wait, told=bool(retry_after or code >= 1000))
    if code in _KEY_CODES or status in {401, 402, 403} or code in {401, 402, 403}:
        return KeyRefusedError(NAME, str(code or status), _ADVICE)
    if status == 408 or 500 <= code < 600:
        return UnreachableError(NAME, str(code or status))
    if 400 <= status < 500 or 400 <= code < 500:
        return RequestRefusedError(NAME, str(code or status))
    if status != 200:
        return NonsenseError(NAME, str(status))
    if not isinstance(content, dict):
        return NonsenseError(NAME, "not JSON" if content is None else "no object")
    if code:
        return NonsenseError(NAME, f"error {code}"[:16])
    return None


def listings(content: Any) -> tuple[list[CoinListing], int]:
    """The rows of `listings/latest`, and how many could not be read; raises `NonsenseError`."""
    return read_rows(NAME, content.get("data"), _listing)


def _listing(row: dict[str, Any]) -> CoinListing | None:
    coin, slug = name_of_id(row.get("id")), name_of_id(row.get("slug"))
    symbol, name = text(row.get("symbol"), LONGEST_SYMBOL), text(row.get("name"), LONGEST_NAME)
    quote = _dollars(row.get("quote"))
    if coin is None or slug is None or symbol is None or name is None or quote is None:
        return None
    price = quote.get("price")
    if price is not None and amount(price) is None:
        return None
    return CoinListing(
        provider=NAME,
        provider_id=coin,
        slug=slug,
        symbol=symbol.upper(),
        name=name,
        rank=rank(row.get("cmc_rank")),
        price=positive(price),
        market_cap=positive(quote.get("market_cap")),
        fully_diluted_valuation=positive(quote.get("fully_diluted_market_cap")),
        volume_24h=amount(quote.get("volume_24h")),
        price_change_1h=number(quote.get("percent_change_1h")),
        price_change_24h=number(quote.get("percent_change_24h")),
        price_change_7d=number(quote.get("percent_change_7d")),
        circulating_supply=positive(row.get("circulating_supply")),
        total_supply=positive(row.get("total_supply")),
        max_supply=positive(row.get("max_supply")),
        categories=slugs(row.get("tags")),
        updated_at=moment(quote.get("last_updated")) or moment(row.get("last_updated")),
    )


def _dollars(quote: Any) -> dict[str, Any] | None:
    """The values in US dollars."""
    if isinstance(quote, list):
        quote = {each.get("symbol"): each for each in quote if isinstance(each, dict) and _is_text(each.get("symbol"))}
    dollars = quote.get("USD") if isinstance(quote, dict) else None
    return dollars if isinstance(dollars, dict) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _code(content: Any) -> int:
    """The code of an error, 0 where there is none; it comes as a number or as text."""
    status = content.get("status") if isinstance(content, dict) else None
    code = number(status.get("error_code")) if isinstance(status, dict) else None
    return int(code) if code is not None and 0 < code < 1_000_000 else 0
