"""Reads what brokers write: numbers as texts, texts as numbers, local times, empty texts for nothing. Pure, total.

Every function gives None for what makes no sense; the mapping decides whether it can do without.
"""

import csv
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, Final

IST: Final = timezone(timedelta(hours=5, minutes=30))
"""India's time; it has no other."""
_LONGEST_WHOLE: Final = 13
"""Digits before the point."""
_DIGITS: Final = -8
"""Brokers write averages of many fills with four to eight digits behind the point, and some as doubles."""
_FINEST: Final = Decimal(1).scaleb(_DIGITS)
_TINIEST: Final = -12
_LONGEST_NUMBER: Final = 40


def text(value: Any, longest: int = 200) -> str | None:
    """A text without edges of white space; whole numbers count, as some write ids as such. None for an empty one."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    if isinstance(value, int) and value.bit_length() > 128:
        return None
    shown = str(value).strip()
    return shown if shown and len(shown) <= longest and shown.isprintable() else None


def cells(line: bytes) -> list[str] | None:
    """The cells of one line of a CSV file; none for an empty one, None for what is no such line.

    Read alone: a quotation mark that nobody closes must not swallow the lines behind it.
    """
    written = line.decode("utf-8", "replace").rstrip("\r")
    try:
        return next(csv.reader([written]), []) if written.strip() else []
    except csv.Error:
        return None


def number(value: Any) -> Decimal | None:
    """A number of up to 13 digits before the point, rounded to 8 behind it."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, int) and value.bit_length() > 64:
        return None
    written = str(value).strip().replace(",", "")
    if not written or len(written) > _LONGEST_NUMBER:
        return None
    try:
        read = Decimal(written)
    except InvalidOperation:
        return None
    if not read.is_finite():
        return None
    # By its size first: a text of 40 characters has few digits, but its exponent can be anything.
    if not read or read.adjusted() < _TINIEST:
        return Decimal(0)
    if read.adjusted() >= _LONGEST_WHOLE:
        return None
    return read.quantize(_FINEST) if read.as_tuple().exponent < _DIGITS else read  # type: ignore[operator] # finite


def price(value: Any) -> Decimal | None:
    """A price above 0; brokers write 0 where there is none."""
    read = number(value)
    return read if read is not None and read > 0 else None


def whole(value: Any) -> int | None:
    """A whole number, `5`, `"5"` and `5.0`."""
    read = number(value)
    return int(read) if read is not None and read == read.to_integral_value() else None


def count(value: Any) -> int | None:
    """A whole number of 0 and more."""
    read = whole(value)
    return read if read is not None and read >= 0 else None


def moment(value: Any, *forms: str, now: datetime | None = None) -> datetime | None:
    """A time in India by one of `forms` (as in `strptime`), or ISO 8601; as aware UTC.

    A form without a day means today's, by `now`.
    """
    written = value.strip() if isinstance(value, str) and len(value) <= _LONGEST_NUMBER else ""
    if not written:
        return None
    for form in forms:
        try:
            read = datetime.strptime(written, form)  # noqa: DTZ007 (the next line says where)
        except ValueError:
            continue
        if "%d" not in form:
            if now is None:
                return None
            read = datetime.combine(now.astimezone(IST).date(), read.time())
        return read.replace(tzinfo=IST).astimezone(UTC)
    try:
        read = datetime.fromisoformat(written)
        return (read if read.tzinfo else read.replace(tzinfo=IST)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def day(value: Any, *forms: str) -> date | None:
    """A date by one of `forms`, or ISO 8601."""
    written = value.strip() if isinstance(value, str) and len(value) <= _LONGEST_NUMBER else ""
    for form in forms:
        try:
            return datetime.strptime(written, form).date()  # noqa: DTZ007 (a date)
        except ValueError:
            continue
    try:
        return date.fromisoformat(written)
    except ValueError:
        return None
