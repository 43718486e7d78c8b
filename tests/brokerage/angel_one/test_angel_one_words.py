"""Angel One's words, names, times and error codes, and what they mean here."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from app.brokerage.adapters.angel_one.listings import ListingReader
from app.brokerage.adapters.angel_one.mapping import trades_of
from app.brokerage.adapters.angel_one.refusals import Meaning, meaning_of, meaning_of_text
from app.brokerage.adapters.angel_one.words import plain_symbol, state_of
from app.brokerage.words import Exchange, Listing, OrderState, PriceType
from app.integrations.angel_one.instruments import MasterRow


@pytest.mark.parametrize(
    ("code", "message", "meaning"),
    [
        ("AG8001", "Invalid Token", Meaning.SESSION),
        ("AB1010", "AMX Session Expired", Meaning.SESSION),
        ("AB1004", "Something Went Wrong", Meaning.UNSURE),
        ("AB2001", "Internal Error", Meaning.UNSURE),
        ("", "", Meaning.UNSURE),
        ("AB1007", "AMX Error", Meaning.UNSURE),
        ("AB1007", "INVALID PARAMETERS", Meaning.REFUSED),
        ("AB1021", "Too many requests", Meaning.TOO_MANY),
        ("AB9999", "Access denied because of exceeding access rate", Meaning.TOO_MANY),
        ("AB1013", "Order not found", Meaning.EMPTY),
        ("AB4036", "The order cannot be processed", Meaning.REFUSED),
    ],
)
def test_what_a_code_means(code: str, message: str, meaning: Meaning):
    assert meaning_of(code, message) is meaning


@pytest.mark.parametrize("code", ["AB1000", "AB1007", "AB1050", "", "AB9876"])
def test_in_a_sign_in_what_is_unknown_is_refused(code: str):
    """Too few tries are better than a locked account."""
    assert meaning_of(code, "whatever", signing_in=True) is Meaning.SESSION


def test_a_403_says_which():
    assert meaning_of_text(403, "Access denied because of exceeding access rate") is Meaning.TOO_MANY
    assert meaning_of_text(403, "Forbidden") is Meaning.SESSION
    assert meaning_of_text(200, "<html>") is Meaning.UNSURE


@pytest.mark.parametrize(
    ("written", "exchange", "plain"),
    [
        ("RELIANCE-EQ", Exchange.NSE, "RELIANCE"),
        ("SHADY-BE", Exchange.NSE, "SHADY"),
        ("BAJAJ-AUTO-EQ", Exchange.NSE, "BAJAJ-AUTO"),
        ("SGBMAR29-GB", Exchange.NSE, "SGBMAR29-GB"),
        ("RELIANCE", Exchange.BSE, "RELIANCE"),
        ("NIFTY29DEC2624500CE", Exchange.NFO, "NIFTY26DEC24500CE"),
        ("NIFTY01DEC2624500PE", Exchange.NFO, "NIFTY26D0124500PE"),
        ("NIFTY05JAN2724500PE", Exchange.NFO, "NIFTY2710524500PE"),
        ("NIFTY29DEC26FUT", Exchange.NFO, "NIFTY26DECFUT"),
        ("NIFTYNXT5029DEC2662000CE", Exchange.NFO, "NIFTYNXT5026DEC62000CE"),
        ("IDEA29DEC268.5CE", Exchange.NFO, "IDEA26DEC8.5CE"),
        ("M&M29DEC263200CE", Exchange.NFO, "M&M26DEC3200CE"),
        ("SENSEX26DEC84000CE", Exchange.BFO, "SENSEX26DEC84000CE"),
        ("NIFTY31FEB2624500CE", Exchange.NFO, "NIFTY31FEB2624500CE"),
    ],
)
def test_its_names_are_turned_into_the_exchanges(written: str, exchange: Exchange, plain: str):
    assert plain_symbol(written, exchange) == plain


def test_listings_out_of_master_rows():
    reader = ListingReader()
    for row in (
        MasterRow("NSE", "1", "TWICE-BE", "TWICE", "", "", None, 1, 5),
        MasterRow("NSE", "2", "TWICE-EQ", "TWICE", "", "", None, 1, 1),
        MasterRow("NSE", "26000", "NIFTY", "NIFTY", "", "", None, 1, 10),
        MasterRow("NSE", "99926000", "NIFTY 50", "NIFTY", "AMXIDX", "", None, 1, None),
        MasterRow("NSE", "3", "LOTLESS-EQ", "LOTLESS", "", "", None, None, 5),
        MasterRow("NSE", "4", "TICKLESS-EQ", "TICKLESS", "", "", None, 1, None),
        MasterRow("NFO", "5", "NIFTY01DEC2624500PE", "NIFTY", "OPTIDX", "2026-12-01", 2_450_000, 65, 5),
        MasterRow("BFO", "6", "SENSEX26DECFUT", "SENSEX", "FUTIDX", "2026-12-24", None, 20, 5),
    ):
        reader.take(row)
    assert reader.rejected == 2
    assert reader.listings == [
        Listing(Exchange.NSE, "TWICE", "TWICE-EQ|2", Decimal("0.01")),
        Listing(
            Exchange.NFO,
            "NIFTY26D0124500PE",
            "NIFTY01DEC2624500PE|5",
            Decimal("0.05"),
            65,
            kind="PE",
            expiry=date(2026, 12, 1),
            strike=Decimal(24500),
        ),
        Listing(
            Exchange.BFO,
            "SENSEX26DECFUT",
            "SENSEX26DECFUT|6",
            Decimal("0.05"),
            20,
            kind="FUT",
            expiry=date(2026, 12, 24),
        ),
    ]


TRADE = {
    "exchange": "NSE",
    "producttype": "DELIVERY",
    "tradingsymbol": "ITC-EQ",
    "transactiontype": "BUY",
    "fillprice": "175.00",
    "fillsize": "1",
    "orderid": "201020000000095",
    "fillid": "50005750",
    "filltime": "13:27:53",
}


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (datetime(2026, 11, 23, 10, 0, tzinfo=UTC), 23),
        (datetime(2026, 11, 23, 7, 57, tzinfo=UTC), 23),  # a little ahead of our clock
        (datetime(2026, 11, 23, 20, 0, tzinfo=UTC), 23),  # 01:30 of the 24th in India
    ],
)
def test_a_time_without_a_day_is_the_last_such(now: datetime, day: int):
    (trade,) = trades_of([TRADE], now)
    assert trade.at == datetime(2026, 11, day, 7, 57, 53, tzinfo=UTC)


@pytest.mark.parametrize(
    ("word", "price_type", "filled", "state"),
    [
        ("put order req received", PriceType.LIMIT, 0, OrderState.PENDING),
        ("validation pending", PriceType.LIMIT, 0, OrderState.PENDING),
        ("open pending", PriceType.LIMIT, 0, OrderState.PENDING),
        ("after market order req received", PriceType.LIMIT, 0, OrderState.PENDING),
        ("modify pending", PriceType.SL, 0, OrderState.TRIGGER_PENDING),
        ("modified", PriceType.LIMIT, 0, OrderState.OPEN),
        ("open", PriceType.SL, 0, OrderState.OPEN),
        ("not cancelled", PriceType.LIMIT, 2, OrderState.PARTIALLY_FILLED),
        ("cancelled after market order", PriceType.LIMIT, 0, OrderState.CANCELLED),
        ("lapsed", PriceType.LIMIT, 0, OrderState.EXPIRED),
        ("Complete", PriceType.LIMIT, 1, OrderState.COMPLETE),
    ],
)
def test_words_for_states(word: str, price_type: PriceType, filled: int, state: OrderState):
    assert state_of(word, price_type, filled) is state
