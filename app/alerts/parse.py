"""From the bytes of a delivery to an alert, or to what is wrong with them. Pure: no I/O, no clock."""

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

import msgspec
from pydantic import ValidationError

from app.alerts.schemas import WebhookAlert
from app.core.errors import FieldError, InvalidInputError
from app.core.problem import field_errors, summary

MAX_DEPTH = 20
MAX_NAMES = 500
MAX_NUMBER_CHARS = 400
# Line breaks and tabs are fine in what is merely kept.
_UNSAFE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_NO_VALUE = "TradingView leaves NaN, or the placeholder itself, where it has no value"
_NOT_A_VALUE = {
    "decimal_parsing": "a number",
    "finite_number": "a number",
    "datetime_parsing": "a time",
    "datetime_from_date_parsing": "a time",
}
_OUT_OF_RANGE = Decimal("Infinity")
_encode = msgspec.json.Encoder(decimal_format="number").encode
_HINT = (
    "TradingView sends the alert's message as it stands; it should be JSON such as "
    '{"contract": "{{ticker}}", "trade_type": "buy", "quantity": 1, "price": {{close}}}'
)


def parse_delivery(body: bytes) -> tuple[WebhookAlert, str | None]:
    """The alert in `body`, and the JSON text of its unknown fields (None if there are none).

    Raises `InvalidInputError` whose errors name the fields.
    """
    content = _decode(body)
    if not isinstance(content, dict):
        _fail(("body",), f"The message should be a JSON object. {_HINT}", "object_type")
    try:
        alert = WebhookAlert.model_validate(content)
    except ValidationError as error:
        errors = field_errors(error.errors(include_url=False, include_input=False, include_context=False))
        errors = [FieldError(("body", *problem.loc), _explain(problem, content), problem.type) for problem in errors]
        raise InvalidInputError(summary(errors), errors) from None
    extra = alert.model_extra
    if not extra:
        return alert, None
    _check_extra(extra)
    return alert, _encode(extra).decode()


def _explain(problem: FieldError, content: dict[str, Any]) -> str:
    """What TradingView's user can do about it; pydantic's own words where they say it already."""
    if problem.type not in _NOT_A_VALUE:
        return problem.msg
    value = str(content.get(str(problem.loc[0]), ""))[:40]
    shown = "".join(char if char.isprintable() else "�" for char in value)
    return f'"{shown}" is not {_NOT_A_VALUE[problem.type]}; {_NO_VALUE}'


def _decode(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        _fail(("body",), "The message is not UTF-8 text", "encoding")
    if not text.strip():
        _fail(("body",), f"The message is empty. {_HINT}", "missing")
    try:
        return json.loads(text, parse_float=_number, parse_int=_integer, parse_constant=_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        _fail(("body",), f"The message is not JSON ({error.msg} at {where}). {_HINT}", "json_invalid")
    except RecursionError:
        _fail(("body",), f"The message is nested more than {MAX_DEPTH} deep", "too_deep")


def _number(text: str) -> Decimal:
    value = Decimal(text) if len(text) <= MAX_NUMBER_CHARS else _OUT_OF_RANGE
    return value if -400 < value.adjusted() < 309 else _OUT_OF_RANGE


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= MAX_NUMBER_CHARS else _OUT_OF_RANGE


def _constant(name: str) -> Decimal:
    """NaN and Infinity, which JSON does not have: kept until it is known which field they stand in."""
    return Decimal(name)


def _check_extra(extra: dict[str, Any]) -> None:
    """Unknown fields are kept as they are, so they must be safe to keep: no operators, no control characters."""
    left = MAX_NAMES
    open_: list[tuple[tuple[str | int, ...], Any, int]] = [(("body",), extra, 1)]
    while open_:
        loc, value, depth = open_.pop()
        if isinstance(value, Decimal) and not value.is_finite():
            _fail(loc, f"{value} is not a number; {_NO_VALUE}", "finite_number")
        elif isinstance(value, str):
            if _UNSAFE.search(value):
                _fail(loc, "Control characters are not allowed", "control_character")
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                _fail(loc, f"The message is nested more than {MAX_DEPTH} deep", "too_deep")
            left -= len(value)
            if left < 0:
                _fail(("body",), f"The message has more than {MAX_NAMES} values", "too_many")
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for name, item in pairs:
                if isinstance(name, str):
                    _check_name(loc, name)
                open_.append(((*loc, name), item, depth + 1))


def _check_name(loc: tuple[str | int, ...], name: str) -> None:
    if len(name) > 200 or _UNSAFE.search(name):  # first: what follows shows the name
        _fail((*loc, "?"), "A name is too long or has control characters", "name_invalid")
    if name.startswith("$"):
        _fail((*loc, name[:100]), "Names may not begin with $", "operator")


def _fail(loc: tuple[str | int, ...], message: str, kind: str) -> NoReturn:
    error = FieldError(loc, message, kind)
    raise InvalidInputError(f"{'.'.join(str(part) for part in loc)}: {message}", [error])
