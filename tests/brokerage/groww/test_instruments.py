"""Groww's list of instruments."""

from datetime import date
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.brokerage.adapters.groww.instruments import InstrumentReader
from app.brokerage.words import Exchange, Listing
from tests.simulators.brokers.groww import layout
from tests.simulators.brokers.instruments import INSTRUMENTS, NIFTY_CALL, NIFTY_FUTURE, RELIANCE

FILE = layout.instruments(INSTRUMENTS)
HEAD = FILE.split(b"\n", 1)[0]


def read(*pieces: bytes) -> InstrumentReader:
    reader = InstrumentReader()
    for piece in pieces:
        reader.take(piece)
    reader.finish()
    return reader


def found(reader: InstrumentReader) -> dict[tuple[str, str], Listing]:
    return {(listing.exchange.value, listing.symbol): listing for listing in reader.listings}


def test_a_share():
    assert found(read(FILE))[RELIANCE.key] == Listing(
        Exchange.NSE, "RELIANCE", "RELIANCE", Decimal("0.10"), 1, None, "EQ", "INE002A01018"
    )


def test_contracts():
    listings = found(read(FILE))
    call, future = listings[NIFTY_CALL.key], listings[NIFTY_FUTURE.key]
    assert (call.key, call.tick_size, call.lot_size) == ("NIFTY26DEC24500CE", Decimal("0.05"), 65)
    assert (call.kind, call.expiry, call.strike) == ("CE", date(2026, 12, 29), Decimal(24500))
    assert call.freeze_quantity == 1755  # 27 lots; the file says 1801, from which on an order is frozen
    assert (future.kind, future.strike, future.tick_size) == ("FUT", None, Decimal("0.1"))


def test_what_makes_no_sense_is_counted_and_what_is_not_ours_is_left_out():
    reader = read(FILE)
    assert reader.rejected == 1  # without a tick
    tradable = {each.key for each in INSTRUMENTS if each.kind != "INDEX"}
    assert set(found(reader)) == tradable


@settings(max_examples=30)
@given(st.lists(st.integers(0, len(FILE)), max_size=6))
def test_however_it_arrives_it_is_the_same(cuts: list[int]):
    places = [0, *sorted(cuts), len(FILE)]
    reader = read(*(FILE[start:end] for start, end in pairwise(places)))
    assert (reader.listings, reader.rejected) == (read(FILE).listings, 1)


@pytest.mark.parametrize(
    "broken", [b"<html><body>Please wait</body></html>", b"a,b,c\n1,2,3\n", b"x" * 100_000, b"\x00\xff\n", b"{}"]
)
def test_what_is_no_list_is_refused(broken: bytes):
    with pytest.raises(ValueError, match="not a list"):
        read(broken)


@pytest.mark.parametrize(
    "row",
    [
        b"NSE,1,X26DECFUT,,,FUT,FNO,,,X,,,,50,0.05,0,0,1,1",  # no expiry
        b"NSE,1,X26DEC5CE,,,CE,FNO,,,X,,2026-12-29,0,50,0.05,0,0,1,1",  # no strike
        b"NSE,1,X,,,EQ,CASH,EQ,,,,,,0,0.05,0,0,1,1",
        b"NSE,1,X,,,EQ,CASH,EQ,,,,,,1,-1,0,0,1,1",
        b"NSE,1,X,,,EQ,CASH,EQ,,,,,,1,NaN,0,0,1,1",
        b"NSE,1,,,,EQ,CASH,EQ,,,,,,1,0.05,0,0,1,1",
        b"NSE,1,X,,,EQ,CASH,EQ",
        b"NSE,1,X\rY,,,EQ,CASH,EQ,,,,,,1,0.05,0,0,1,1",
        b'NSE,1,X,,"unclosed,EQ,CASH,EQ,,,,,,1,0.05,0,0,1,1',
        b"NSE,1,X,," + b"x" * 140_000 + b",EQ,CASH,EQ,,,,,,1,0.05,0,0,1,1",
    ],
)
def test_junk(row: bytes):
    reader = read(HEAD + b"\n" + row + b"\r\n")
    assert (reader.listings, reader.rejected) == ([], 1)
    good = FILE.split(b"\n", 1)[1]
    among = read(HEAD + b"\n" + row + b"\n" + good)
    assert (among.listings, among.rejected) == (read(FILE).listings, 2)  # it costs no other row
