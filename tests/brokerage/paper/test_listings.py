"""What can be traded on paper."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from app.brokerage.adapters.paper.listings import PaperListings, built_in
from app.brokerage.errors import BrokerUnavailableError
from app.brokerage.words import Exchange, Listing
from tests.brokerage.paper.kit import CALL, SHARE

INDEX = Listing(Exchange.NSE, "NIFTY 50", "Nifty 50|99926000", Decimal("0.05"), kind="INDEX")
METAL = Listing(Exchange.MCX, "GOLD26AUGFUT", "GOLD26AUGFUT|5", Decimal(1), 100, kind="FUT")


async def test_the_exchanges_list_is_taken_as_far_as_paper_trades() -> None:
    async def whole() -> Sequence[Listing]:
        return [SHARE, INDEX, METAL, CALL]

    assert await PaperListings(whole).listings() == [SHARE, CALL]


@pytest.mark.parametrize("answer", [BrokerUnavailableError("Angel One is away."), [], [INDEX]])
async def test_without_it_there_are_the_well_known_shares(answer: Sequence[Listing] | BrokerUnavailableError) -> None:
    async def whole() -> Sequence[Listing]:
        if isinstance(answer, BrokerUnavailableError):
            raise answer
        return answer

    assert await PaperListings(whole).listings() == built_in()
    assert await PaperListings().listings() == built_in()


def test_the_well_known_shares_are_named_once_and_as_the_exchange_does() -> None:
    symbols = [listing.symbol for listing in built_in()]
    assert len(set(symbols)) == len(symbols)
    assert all(symbol == symbol.upper().strip() and "." not in symbol for symbol in symbols)
    assert {"M&M", "BAJAJ-AUTO", "RELIANCE"} <= set(symbols)
