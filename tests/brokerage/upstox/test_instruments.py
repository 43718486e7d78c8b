"""Upstox's lists of instruments."""

import json
from datetime import date
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.brokerage.adapters.upstox.client import UpstoxBroker
from app.brokerage.adapters.upstox.instruments import InstrumentReader
from app.brokerage.ports import BrokerAccount, BrokerSession
from app.brokerage.words import Exchange, Listing, OrderTicket, PriceType, Product, Side
from tests.simulators.brokers.instruments import INSTRUMENTS, NIFTY_CALL, NIFTY_FUTURE, RELIANCE
from tests.simulators.brokers.upstox import UpstoxSimulator, layout

KEY_OF = UpstoxSimulator().instrument_key
FILE = layout.instruments([each for each in INSTRUMENTS if layout.exchange_word(each) == "NSE"], KEY_OF)


def read(*pieces: bytes) -> InstrumentReader:
    reader = InstrumentReader()
    for piece in pieces:
        reader.take(piece)
    reader.next_file()
    return reader


def found(reader: InstrumentReader) -> dict[tuple[str, str], Listing]:
    return {(listing.exchange.value, listing.symbol): listing for listing in reader.listings}


def test_a_share():
    share = found(read(FILE))[RELIANCE.key]
    assert share == Listing(
        Exchange.NSE, "RELIANCE", "NSE_EQ|INE002A01018", Decimal("0.10"), 1, None, "EQ", "INE002A01018"
    )


def test_contracts():
    listings = found(read(FILE))
    call = listings[NIFTY_CALL.key]
    assert (call.key, call.tick_size, call.lot_size, call.freeze_quantity) == (
        "NSE_FO|45125",
        Decimal("0.05"),
        65,
        1800,
    )
    assert (call.kind, call.expiry, call.strike) == ("CE", date(2026, 12, 29), Decimal(24500))
    future = listings[NIFTY_FUTURE.key]
    assert (future.kind, future.strike, future.tick_size) == ("FUT", None, Decimal("0.1"))


def test_what_makes_no_sense_is_counted_and_what_is_not_ours_is_left_out():
    reader = read(FILE)
    assert reader.rejected == 2  # no tick; a lot of 999,999,999
    assert set(found(reader)) == {
        ("NSE", "RELIANCE"),
        ("NSE", "INFY"),
        ("NSE", "IDEA"),
        NIFTY_CALL.key,
        NIFTY_FUTURE.key,
    }


@settings(max_examples=30)
@given(st.lists(st.integers(0, len(FILE)), max_size=6))
def test_however_it_arrives_it_is_the_same(cuts: list[int]):
    places = [0, *sorted(cuts), len(FILE)]
    pieces = [FILE[start:end] for start, end in pairwise(places)]
    reader = read(*pieces)
    assert (reader.listings, reader.rejected) == (read(FILE).listings, 2)


def test_a_debenture_does_not_take_a_share_s_place_whichever_comes_first():
    rows = json.loads(FILE)
    share = next(row for row in rows if row.get("isin") == "INE002A01018")
    debenture = next(row for row in rows if row.get("isin") == "INE002A08ZZ9")
    for order in ([share, debenture], [debenture, share]):
        assert found(read(json.dumps(order).encode()))[RELIANCE.key].key == "NSE_EQ|INE002A01018"


@pytest.mark.parametrize("broken", [b"", b"[", b"<html></html>", FILE[:-1], FILE[:-40]])
def test_a_file_that_breaks_off_is_refused(broken: bytes):
    with pytest.raises(ValueError, match="breaks off"):
        read(broken)


def test_what_never_becomes_a_row_is_refused():
    with pytest.raises(ValueError, match="not a list"):
        read(b'[{"name": "' + b"x" * 100_000)


@pytest.mark.parametrize(
    "row",
    [
        {"expiry": None}, {"expiry": -5}, {"expiry": 10**20}, {"strike_price": 0.0}, {"underlying_symbol": ""},
        {"tick_size": "x"}, {"lot_size": 0}, {"lot_size": 1.5}, {"instrument_key": "BSE_FO|1"},
        {"instrument_type": "XX"}, {"weekly": "no"}, {"instrument_key": "NSE_FO|" + "9" * 99},
    ],
)  # fmt: skip
def test_junk(row: dict[str, object]):
    call = next(row for row in json.loads(FILE) if row["instrument_type"] == "CE")
    reader = read(json.dumps([call | row]).encode())
    assert (reader.listings, reader.rejected) == ([], 1)


async def test_books_are_read_by_the_list_in_force(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession
):
    call = found(read(FILE))[NIFTY_CALL.key]
    ordered = OrderTicket(
        tag="arrow0000001",
        listing=call,
        side=Side.BUY,
        quantity=65,
        product=Product.NRML,
        price_type=PriceType.LIMIT,
        price=Decimal(182),
    )
    await broker.place(account, session, ordered)
    listed: dict[str, str] = {}

    async def symbols() -> dict[str, str]:
        return listed

    broker.spell_by(symbols)
    assert [order.symbol for order in await broker.orders(account, session)] == [call.symbol]
    listed[call.key] = "NIFTY26D2924500CE"
    assert [order.symbol for order in await broker.orders(account, session)] == ["NIFTY26D2924500CE"]
