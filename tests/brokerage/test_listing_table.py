"""The table of a broker's instruments: what goes in is found, junk is told apart, and it is small."""

import time
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.listing_table import BrokerTable, TableBuilder, TableReader, fault_of, plain_symbol
from app.brokerage.words import Exchange, Listing
from app.core.staged_lists import ended
from tests.brokerage.listings import many, share


def table_of(*listings: Listing) -> BrokerTable:
    builder = TableBuilder()
    for listing in listings:
        builder.add(listing)
    return builder.build()


def read(data: bytes) -> BrokerTable:
    reader = TableReader()
    reader.take(data)
    return reader.table()


amounts = st.none() | st.decimals(0, 100_000, places=2)
listings = st.builds(
    Listing,
    exchange=st.sampled_from(Exchange),
    symbol=st.from_regex(r"[A-Z0-9][A-Z0-9&_]{0,8}", fullmatch=True),
    key=st.from_regex(r"[ -~]{1,20}", fullmatch=True),
    tick_size=st.decimals("0.01", 100, places=2),
    lot_size=st.integers(1, 10_000),
    freeze_quantity=st.none() | st.integers(1, 10**6),
    kind=st.sampled_from(["EQ", "FUT", "CE", "PE", "INDEX"]),
    isin=st.none() | st.just("INE002A01018"),
    expiry=st.none() | st.dates(date(2026, 1, 1), date(2030, 1, 1)),
    strike=amounts,
    lower_circuit=amounts,
    upper_circuit=amounts,
)


@given(st.lists(listings, max_size=30))
def test_everything_that_went_in_is_found_as_it_was(rows: list[Listing]) -> None:
    built = table_of(*rows)
    table = read(built.encode())
    places = {(row.exchange, row.symbol) for row in rows}
    assert len(table) == len(places)
    for row in rows:
        found = table.find(row.exchange, row.symbol.lower())
        assert found in [other for other in rows if (other.exchange, other.symbol) == (row.exchange, row.symbol)]
    assert table.find(Exchange.NSE, "NO SUCH THING") is None
    today = date(2027, 6, 1)
    kept = [table.find(*place) for place in places]
    assert ended(table.by_expiry(), today) == sum(
        row is not None and row.expiry is not None and row.expiry < today for row in kept
    )


@given(st.binary(max_size=200))
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"compressed|cut off|no table"):
        read(data)
    whole = table_of(share("RELIANCE")).encode()
    for cut in range(0, len(whole), 5):
        with pytest.raises(ValueError, match=r"compressed|cut off"):
            read(whole[:cut])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"symbol": ""}, "symbol"),
        ({"symbol": "A\tB"}, None),  # any white space is one space
        ({"symbol": "A$B"}, "symbol"),
        ({"symbol": "A" * 65}, "symbol"),
        ({"key": "a\tb"}, "key"),
        ({"key": ""}, "key"),
        ({"kind": "É"}, "key"),
        ({"tick_size": Decimal(0)}, "tick size"),
        ({"tick_size": Decimal("NaN")}, "tick size"),
        ({"lot_size": 0}, "lot"),
        ({"freeze_quantity": 0}, "freeze quantity"),
        ({"strike": Decimal(-1)}, "amount"),
        ({"upper_circuit": Decimal("Infinity")}, "amount"),
    ],
)
def test_junk_is_told_apart(change: dict[str, object], fault: str | None) -> None:
    sound = {"exchange": Exchange.NSE, "symbol": "A", "key": "k", "tick_size": Decimal("0.05")}
    assert fault_of(Listing(**{**sound, **change})) == fault  # type: ignore[arg-type]


def test_series_and_spelling() -> None:
    table = table_of(share("RELIANCE"), share("M&M"), share("M&MFIN"), share("BAJAJ-AUTO"), share("NIFTY 50"))
    for written in ("RELIANCE", "reliance-eq", " Reliance "):
        assert table.find(Exchange.NSE, written) == share("RELIANCE")
    assert plain_symbol(Exchange.BSE, "X-EQ") == "X-EQ"
    assert table.find(Exchange.NSE, "BAJAJ-AUTO")
    assert table.find(Exchange.NSE, "nifty  50")
    assert table.find(Exchange.NSE, "M") is None
    assert table.find(Exchange.BSE, "RELIANCE") is None
    assert table.like(Exchange.NSE, "RELIANCEE") == ["RELIANCE"]
    assert table.like(Exchange.NSE, "M&") == ["M&M", "M&MFIN"]
    assert table.like(Exchange.NSE, "") == []


def test_a_large_table_is_small_and_fast() -> None:
    built = table_of(*many(30_000))
    began = time.thread_time()
    for number in range(0, 30_000, 30):
        assert built.find(Exchange.NSE, f"SHARE{number:05}") is not None
    assert (time.thread_time() - began) / 1000 < 0.002  # seconds of work each: a search through all takes longer
    assert len(built.encode()) < 2 << 20
    assert sum(map(len, built._blocks)) < 1 << 19  # where the text has two megabytes
