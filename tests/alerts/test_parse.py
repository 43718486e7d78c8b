"""The parser of deliveries: what it takes, what it refuses, and that it never fails otherwise."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.alerts.parse import parse_delivery
from app.alerts.schemas import OPTIONAL_FIELDS
from app.core.errors import InvalidInputError
from tests.support.people import alert


def parse(content: Any) -> Any:
    return parse_delivery(content if isinstance(content, bytes) else json.dumps(content).encode())


def test_numbers_are_exact():
    fields, _ = parse(b'{"contract":"X","trade_type":"buy","quantity":"0.1","price":0.12345678901234567}')
    assert fields.quantity == Decimal("0.1")
    assert fields.price == Decimal("0.12345678901234567")


def test_unknown_fields_are_kept_as_they_came():
    content = (
        b'{"contract":"X","trade_type":"sell","quantity":1,"price":2,'
        b'"strategy.order.id":"Long","n":1.10,"big":12345678901234567890}'
    )
    _, raw = parse(content)
    assert raw is not None
    assert json.loads(raw, parse_float=Decimal) == {
        "strategy.order.id": "Long",
        "n": Decimal("1.10"),
        "big": 12345678901234567890,
    }


def test_without_unknown_fields_there_is_no_raw():
    assert parse(alert())[1] is None


@pytest.mark.parametrize("value", ["BUY", " Buy ", "buy"])
def test_trade_type_ignores_case(value: str):
    assert parse(alert(trade_type=value))[0].trade_type == "buy"


def test_empty_placeholders_are_absent():
    fields, _ = parse(alert(stop_loss="", target="  ", comment="", interval=5, alert_id=17))
    assert (fields.stop_loss, fields.target, fields.comment) == (None, None, None)
    assert (fields.interval, fields.alert_id) == ("5", "17")


def test_times_become_utc_milliseconds():
    assert (
        parse(alert(alert_time="2026-11-20T11:00:00.123456+05:30"))[0].alert_time.isoformat()
        == "2026-11-20T05:30:00.123000+00:00"
    )
    assert parse(alert(alert_time="2026-11-20T05:30:00"))[0].alert_time.isoformat() == "2026-11-20T05:30:00+00:00"


@pytest.mark.parametrize(
    ("body", "loc", "kind"),
    [
        (b"", ("body",), "missing"),
        (b"   ", ("body",), "missing"),
        (b"Alert fired on NIFTY", ("body",), "json_invalid"),
        (b"[1, 2]", ("body",), "object_type"),
        (b'"text"', ("body",), "object_type"),
        (b"\xff\xfe{}", ("body",), "encoding"),
        (b"[" * 60_000, ("body",), "too_deep"),
        (b'{"contract":"X","trade_type":"buy","quantity":1,"price":NaN}', ("body", "price"), "finite_number"),
        (b'{"contract":"X","trade_type":"buy","quantity":Infinity,"price":1}', ("body", "quantity"), "finite_number"),
        (b'{"contract":"X","trade_type":"buy","quantity":1e999999,"price":1}', ("body", "quantity"), "finite_number"),
        (
            b'{"contract":"X","trade_type":"buy","quantity":1,"price":' + b"9" * 5000 + b"}",
            ("body", "price"),
            "finite_number",
        ),
        (b'{"contract":"X","trade_type":"buy","quantity":1,"price":1,"note":NaN}', ("body", "note"), "finite_number"),
        (json.dumps(alert(quantity=0)).encode(), ("body", "quantity"), "greater_than"),
        (json.dumps(alert(quantity=-1)).encode(), ("body", "quantity"), "greater_than"),
        (json.dumps(alert(price="abc")).encode(), ("body", "price"), "decimal_parsing"),
        (json.dumps(alert(price="NaN")).encode(), ("body", "price"), "finite_number"),
        (json.dumps(alert(price=True)).encode(), ("body", "price"), "decimal_type"),
        (json.dumps(alert(price=1e16)).encode(), ("body", "price"), "less_than_equal"),
        (json.dumps(alert(price={"$gt": 0})).encode(), ("body", "price"), "decimal_type"),
        (json.dumps(alert(contract={"$ne": None})).encode(), ("body", "contract"), "string_type"),
        (json.dumps(alert(contract=5)).encode(), ("body", "contract"), "string_type"),
        (json.dumps(alert(contract="x" * 65)).encode(), ("body", "contract"), "string_too_long"),
        (json.dumps(alert(contract="")).encode(), ("body", "contract"), "string_too_short"),
        (json.dumps(alert(contract="N\x00")).encode(), ("body", "contract"), "value_error"),
        (json.dumps(alert(contract="\ud800")).encode(), ("body", "contract"), "string_unicode"),
        (json.dumps(alert(trade_type="hold")).encode(), ("body", "trade_type"), "enum"),
        (json.dumps(alert(alert_time="soon")).encode(), ("body", "alert_time"), "datetime_from_date_parsing"),
        (json.dumps(alert(alert_time="9999-01-01T00:00:00Z")).encode(), ("body", "alert_time"), "value_error"),
        (json.dumps(alert(extra={"$where": "1"})).encode(), ("body", "extra", "$where"), "operator"),
        (json.dumps(alert(extra=[{"a": "\x07"}])).encode(), ("body", "extra", 0, "a"), "control_character"),
        (json.dumps({"trade_type": "buy", "quantity": 1, "price": 1}).encode(), ("body", "contract"), "missing"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, loc: tuple[str | int, ...], kind: str):
    with pytest.raises(InvalidInputError) as caught:
        parse(body)
    first = caught.value.errors[0]
    assert (first.loc, first.type) == (loc, kind)
    assert first.msg
    assert caught.value.detail.startswith(".".join(str(part) for part in loc))


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(InvalidInputError) as caught:
        parse({"contract": "", "trade_type": "x", "quantity": 0, "price": None})
    assert {error.loc[1] for error in caught.value.errors} == {"contract", "trade_type", "quantity", "price"}


def test_too_many_values_are_refused():
    with pytest.raises(InvalidInputError, match="more than 500"):
        parse(alert(extra=list(range(600))))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_is_parsed_or_refused(body: bytes):
    try:
        _, raw = parse(body)
    except InvalidInputError as error:
        assert error.errors
    else:
        assert raw is None or isinstance(json.loads(raw), dict)


@given(st.dictionaries(st.text(min_size=1, max_size=10), json_values, max_size=6))
def test_raw_comes_back_as_it_was(extra: dict[str, Any]):
    known = alert()
    content = extra | known
    try:
        _, raw = parse(content)
    except InvalidInputError:
        return
    kept = json.loads(raw) if raw else {}
    sent = json.loads(json.dumps({name: value for name, value in content.items() if name not in known}))
    optional = set(OPTIONAL_FIELDS)
    assert kept == {name: value for name, value in sent.items() if name not in optional}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"contract": "{{ticker}}"}, "did not replace {{ticker}}"),
        ({"trade_type": "{{strategy.order.action}}"}, "did not replace"),
        ({"alert_id": "{{strategy.order.id}}"}, "did not replace"),
        ({"price": "{{close}}"}, '"{{close}}" is not a number'),
        ({"price": "NaN"}, '"NaN" is not a number'),
        ({"price": "24,350.50"}, '"24,350.50" is not a number'),
        ({"price": "1_000"}, "is not a number"),
        ({"price": "\uff11\uff12"}, "is not a number"),
        ({"alert_time": "yesterday"}, '"yesterday" is not a time'),
        ({"alert_time": "0001-01-01T00:00:00+14:00"}, "between 1990 and 2200"),
        ({"alert_time": "9999-12-31T23:59:59-14:00"}, "between 1990 and 2200"),
    ],
)
def test_the_mistakes_of_alert_messages_are_explained(change: dict[str, Any], word: str):
    with pytest.raises(InvalidInputError) as caught:
        parse(alert(**change))
    assert word in caught.value.errors[0].msg


def test_an_infinite_identity_is_refused():
    with pytest.raises(InvalidInputError):
        parse(b'{"contract":"X","trade_type":"buy","quantity":1,"price":1,"alert_id":1e400}')


def test_a_placeholder_in_a_comment_is_kept():
    assert parse(alert(comment="at {{close}}"))[0].comment == "at {{close}}"
