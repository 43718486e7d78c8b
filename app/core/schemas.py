"""Building blocks of what goes over the wire."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

from beanie import PydanticObjectId
from bson import ObjectId
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from app.core.errors import NotFoundError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def no_control_characters(text: str) -> str:
    """`text` unchanged; `ValueError` if it has a control character, a NUL or half a surrogate pair."""
    if _CONTROL.search(text):
        raise ValueError("Control characters are not allowed")
    return text


NoControlCharacters = AfterValidator(no_control_characters)
"""Stands last in the `Annotated` of a text, so that length and form are told apart from it."""

PlainText = Annotated[str, NoControlCharacters]
"""Text without control characters; give it a `max_length` wherever it is used."""

MAX_AMOUNT = Decimal(10**15)
"""Written out, for so it stands in refusals."""


def _sane_amount(value: Decimal) -> Decimal:
    digits, exponent = value.as_tuple().digits, value.as_tuple().exponent
    if not isinstance(exponent, int) or len(digits) > 34 or exponent < -18:
        raise ValueError("Input should have at most 34 digits, 18 of them after the point")
    return value


def _json_number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


# NaN and infinity are numbers here, so that what refuses them can say so.
_NUMBER = re.compile(r"\s*[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf(?:inity)?)\s*", re.ASCII | re.IGNORECASE)


def _number_text(value: Any) -> Any:
    """Text is a number as JSON and TradingView write it: no `1_000`, no digits of other scripts."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise PydanticCustomError("decimal_parsing", "Input should be a valid decimal")
    return value


def _exact(value: Any, number: ValidatorFunctionWrapHandler) -> Decimal:
    return _sane_amount(number(_number_text(value)))


# Bounds of an amount stand next to `Decimal`, before these: around a validator pydantic does not take them for a
# number's, and then a refusal quotes Python (`Decimal('1E+15')`), and the schema has no `minimum` or `maximum`.
Exact = WrapValidator(_exact)
AsNumber = PlainSerializer(_json_number, return_type=int | float, when_used="json")
ShownAsNumber = WithJsonSchema({"type": "number"}, mode="serialization")

Amount = Annotated[Decimal, Field(allow_inf_nan=False, le=MAX_AMOUNT), Exact, AsNumber, ShownAsNumber]
"""An exact decimal number; a number in JSON (numeric strings are taken too), `Decimal128` in the database."""

PositiveAmount = Annotated[Decimal, Field(allow_inf_nan=False, gt=0, le=MAX_AMOUNT), Exact, AsNumber, ShownAsNumber]
"""An `Amount` over zero: a price or a quantity."""

AmountFromZero = Annotated[Decimal, Field(allow_inf_nan=False, ge=0, le=MAX_AMOUNT), Exact, AsNumber, ShownAsNumber]
"""An `Amount` that is not negative: a bound or what something cost."""


_SPACE_FOR_PLUS = re.compile(r"(T\d\d:\d\d(?::\d\d(?:\.\d+)?)?) (\d\d:?\d\d)$")


def _plus_in_query(value: Any) -> Any:
    """An unescaped + in a query arrives as a space: `…T09:15:00 05:30` means `…T09:15:00+05:30`."""
    return _SPACE_FOR_PLUS.sub(r"\1+\2", value) if isinstance(value, str) else value


def _whole_milliseconds_utc(moment: datetime) -> datetime:
    if not 1990 <= moment.year <= 2200:  # before any conversion, which overflows at the ends of the calendar
        raise ValueError("Input should be a time between 1990 and 2200")
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _day_as_written(value: Any) -> Any:
    """Not a number: pydantic would take that for seconds since 1970."""
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise PydanticCustomError("date_parsing", "Input should be a day, as in 2026-11-23")
    return value


Day = Annotated[date, Field(ge=date(1990, 1, 1), le=date(2200, 12, 31)), BeforeValidator(_day_as_written)]
"""A day of the calendar, `2026-11-23`."""

Moment = Annotated[datetime, BeforeValidator(_plus_in_query), AfterValidator(_whole_milliseconds_utc)]
"""A time as aware UTC, in whole milliseconds (BSON's resolution); one without offset is taken for UTC."""


class RequestModel(BaseModel):
    """A body that clients send: unknown fields are refused, text is trimmed."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, hide_input_in_errors=True, frozen=True)


class ResponseModel(BaseModel):
    """A body that the service answers with."""

    model_config = ConfigDict(frozen=True)


def parse_id(text: str, what: str) -> PydanticObjectId:
    """The id written as `text`; one of another form is as unknown as any other: `NotFoundError`."""
    if not ObjectId.is_valid(text):
        raise NotFoundError(f"There is no {what} with this id.")
    return PydanticObjectId(text)


def example(*values: Any) -> dict[str, Any]:
    """`json_schema_extra` with examples for Swagger UI."""
    return {"examples": list(values)}
