"""Reading the values of a provider's JSON. Pure, and never raises: what is not as it should be is None."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Any, Final
from urllib.parse import urlsplit

from app.crypto.errors import NonsenseError
from app.crypto.ports import CoinListing, Provider

# What Decimal128 holds: 34 digits. Exact for whatever was a double once, and for supplies with 18 decimals.
_EXACT: Final = Context(
    prec=34,
    rounding=ROUND_HALF_EVEN,
    Emin=-6143,
    Emax=6144,
    clamp=1,
    traps=[InvalidOperation, Overflow, DivisionByZero],
)
_NONE_LARGER: Final = Decimal("1e30")
_NONE_SMALLER: Final = Decimal("1e-30")
_LONGEST_NUMBER: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_ID, LONGEST_SYMBOL, LONGEST_NAME, LONGEST_ADDRESS = 128, 64, 200, 500


def number(value: Any) -> Decimal | None:
    """A finite number, as it is written up to 34 digits; text that holds one is read, too."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        return None
    try:
        read = _EXACT.create_decimal(value)
    except (ArithmeticError, ValueError):
        return None
    if not read.is_finite() or not (read == 0 or _NONE_SMALLER <= abs(read) <= _NONE_LARGER):
        return None
    return read or Decimal(0)


def positive(value: Any) -> Decimal | None:
    """A number above nothing. A market value or a supply of nothing is how providers say that they do not know it."""
    read = number(value)
    return read if read is not None and read > 0 else None


def amount(value: Any) -> Decimal | None:
    """A number that is not negative."""
    read = number(value)
    return read if read is not None and read >= 0 else None


def rank(value: Any) -> int | None:
    """A place in a ranking, from 1."""
    read = number(value)
    return int(read) if read is not None and 1 <= read < 2**31 and read == int(read) else None


def text(value: Any, longest: int) -> str | None:
    """Text without what cannot be seen, with single spaces, at most so long; None if nothing is left."""
    if not isinstance(value, str):
        return None
    seen = "".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in value[: longest * 4])
    return " ".join(seen.split())[:longest].strip() or None


def name_of_id(value: Any) -> str | None:
    """An id, whole or not at all: cut or cleaned it would be another's."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
        return None
    return value if value.isprintable() and not any(sign.isspace() or sign == "/" for sign in value) else None


def address(value: Any) -> str | None:
    """An encrypted web address; a picture from anywhere else is none for a page of ours."""
    if not isinstance(value, str) or len(value) > LONGEST_ADDRESS or not value.startswith("https://"):
        return None
    try:
        host = urlsplit(value).hostname
    except ValueError:
        return None
    return value if host and value.isprintable() and not any(sign in value for sign in " \"'<>\\") else None


def moment(value: Any) -> datetime | None:
    """A time in ISO 8601, as aware UTC in whole milliseconds."""
    if not isinstance(value, str) or len(value) > _LONGEST_NUMBER:
        return None
    try:
        read = datetime.fromisoformat(value)
        read = (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return read.replace(microsecond=read.microsecond // 1000 * 1000)


def moment_of_ms(value: Any) -> datetime | None:
    """A time in milliseconds since the epoch."""
    read = number(value)
    if read is None or not 0 < read < 253_402_300_800_000:  # the year 10000
        return None
    return _EPOCH + timedelta(milliseconds=int(read))


def read_rows(
    provider: Provider, rows: Any, read: Callable[[dict[str, Any]], CoinListing | None]
) -> tuple[list[CoinListing], int]:
    """What `read` makes of every row, each coin once, by rank (those without one at the end), and how many it refused.

    Raises `NonsenseError` unless `rows` is a list of which more is readable than not: an empty one is no listing.
    """
    if not isinstance(rows, list):
        raise NonsenseError(provider, "no list")
    found: dict[str, CoinListing] = {}
    rejected = 0
    for row in rows:
        listing = read(row) if isinstance(row, dict) else None
        if listing is None:
            rejected += 1
        else:
            found.setdefault(listing.provider_id, listing)  # a repeat is no error: pages shift between two requests
    if not found or rejected > len(found):
        raise NonsenseError(provider, "no rows" if not rows else "rows")
    return sorted(found.values(), key=lambda listing: (listing.rank is None, listing.rank or 0)), rejected


def slugs(values: Any) -> tuple[str, ...]:
    """Names of categories, each once; whatever is not one is left out."""
    if not isinstance(values, list):
        return ()
    named = (value.get("slug") if isinstance(value, dict) else value for value in values)
    return tuple(dict.fromkeys(slug for slug in _slugs(named)))


def _slugs(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str) and (slug := name_of_id(value.strip().lower())) is not None:
            yield slug
