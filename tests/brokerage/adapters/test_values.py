"""Reading what brokers write: right where it makes sense, None where it does not, and never an exception."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.adapters.symbols import contract_symbol, share_symbol
from app.brokerage.adapters.values import count, day, moment, number, price, text, whole

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.decimals(),
    st.from_regex(r"[-+ ]?[0-9,_]{1,30}(\.[0-9]{0,12})?([eE][-+]?[0-9]{1,9})?", fullmatch=True),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    st.binary(max_size=4),
)


@given(ANYTHING)
def test_nothing_raises_and_everything_is_bounded(value: Any):
    read = number(value)
    assert read is None or (read.is_finite() and abs(read) < 10**13)
    if read is not None:
        assert int(read.as_tuple().exponent) >= -8
    assert price(value) is None or price(value) > 0
    assert count(value) is None or 0 <= count(value) < 10**13
    shown = text(value)
    assert shown is None or (0 < len(shown) <= 200 and shown.isprintable())
    for read_time in (moment(value), moment(value, "%Y-%m-%d %H:%M:%S"), moment(value, "%H:%M:%S", now=NOW)):
        assert read_time is None or read_time.tzinfo is UTC
    assert day(value) is None or isinstance(day(value), date)


NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


@given(st.decimals(min_value="-1e12", max_value="1e12", places=4))
def test_numbers_are_kept_however_they_are_written(value: Decimal):
    assert number(value) == number(str(value)) == number(f" {value:,} ") == value


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("1,500.10", Decimal("1500.10")),
        (429.1234567891, Decimal("429.12345679")),
        ("1e3", Decimal(1000)),
        ("1e999999", None),
        ("1e-999999", Decimal(0)),
        (0.1 + 0.2, Decimal("0.30000000")),
        ("nan", None),
        ("Infinity", None),
        (True, None),
        ("", None),
        ("- 2235.80", None),
        (10**13, None),
        ("٣", Decimal(3)),
        (10**30, None),
    ],
)
def test_numbers(value: Any, read: Decimal | None):
    assert number(value) == read


@pytest.mark.parametrize(
    ("value", "read"), [("5", 5), (5.0, 5), ("5.00", 5), ("-5", -5), ("5.5", None), ("5e2", 500), (None, None)]
)
def test_whole_numbers(value: Any, read: int | None):
    assert whole(value) == read
    assert count(value) == (read if read is not None and read >= 0 else None)


def test_zero_is_no_price():
    assert (price(0), price("0.00"), price("-1"), price("0.05")) == (None, None, None, Decimal("0.05"))


def test_times_are_indias():
    wanted = datetime(2026, 11, 23, 4, 30, 5, tzinfo=UTC)
    assert moment("2026-11-23 10:00:05", "%Y-%m-%d %H:%M:%S") == wanted
    assert moment("23-Nov-2026 10:00:05", "%d-%b-%Y %H:%M:%S") == wanted
    assert moment("2026-11-23T10:00:05+05:30") == wanted
    assert moment("2026-11-23T10:00:05") == wanted
    # 20:00 UTC of the 23rd is the 24th in India.
    assert moment("10:00:05", "%H:%M:%S", now=NOW) == datetime(2026, 11, 24, 4, 30, 5, tzinfo=UTC)
    assert moment("10:00:05", "%H:%M:%S") is None
    assert moment("0001-01-01 00:00:00") is None
    assert moment("2026-02-30 10:00:00", "%Y-%m-%d %H:%M:%S") is None


def test_dates():
    assert day("2026-12-29") == date(2026, 12, 29)
    assert day("29DEC26", "%d%b%y") == date(2026, 12, 29)
    assert day("31FEB26", "%d%b%y") is None


@pytest.mark.parametrize(
    ("expiry", "kind", "strike", "symbol"),
    [
        (date(2026, 12, 29), "CE", "24500", "NIFTY26DEC24500CE"),
        (date(2026, 12, 29), "PE", "24500.00", "NIFTY26DEC24500PE"),
        (date(2026, 12, 1), "CE", "327.5", "NIFTY26D01327.5CE"),
        (date(2026, 10, 6), "CE", "100", "NIFTY26O06100CE"),
        (date(2026, 9, 8), "CE", "100", "NIFTY26908100CE"),
        (date(2026, 12, 29), "FUT", None, "NIFTY26DECFUT"),
        (date(2026, 12, 1), "FUT", None, "NIFTY26DECFUT"),
        (date(2026, 11, 24), "CE", "100", "NIFTY26NOV100CE"),
        (date(2026, 12, 24), "CE", "100", "NIFTY26D24100CE"),
    ],
)
def test_contracts(expiry: date, kind: str, strike: str | None, symbol: str):
    assert contract_symbol("NIFTY", expiry, kind, None if strike is None else Decimal(strike)) == symbol


def test_shares():
    names = ("reliance-eq", " SHADY-BE", "SMALL-SM", "SMALL-ST", "BAJAJ-AUTO", "GOLD-GB", "X-BZ")
    assert [share_symbol(name) for name in names] == [
        "RELIANCE",
        "SHADY",
        "SMALL",
        "SMALL",
        "BAJAJ-AUTO",
        "GOLD-GB",
        "X",
    ]
