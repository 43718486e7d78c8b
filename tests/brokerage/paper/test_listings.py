"""What can be traded on paper."""

from decimal import Decimal

from app.brokerage.adapters.paper.listings import PaperListings, built_in, tradable
from app.brokerage.words import Exchange, Listing
from tests.brokerage.paper.kit import CALL, SHARE

INDEX = Listing(Exchange.NSE, "NIFTY 50", "Nifty 50|99926000", Decimal("0.05"), kind="INDEX")
METAL = Listing(Exchange.MCX, "GOLD26AUGFUT", "GOLD26AUGFUT|5", Decimal(1), 100, kind="FUT")


def test_the_exchanges_list_is_taken_as_far_as_paper_trades() -> None:
    assert tradable([SHARE, INDEX, METAL, CALL]) == [SHARE, CALL]


async def test_without_it_there_are_the_well_known_shares() -> None:
    assert await PaperListings().listings() == built_in() != []


def test_the_well_known_shares_are_named_once_and_as_the_exchange_does() -> None:
    symbols = [listing.symbol for listing in built_in()]
    assert len(set(symbols)) == len(symbols)
    assert all(symbol == symbol.upper().strip() and "." not in symbol for symbol in symbols)
    assert {"M&M", "BAJAJ-AUTO", "RELIANCE"} <= set(symbols)
