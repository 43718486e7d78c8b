"""Into which book a trade goes.

Shares that are delivered are the same on both exchanges, and go by their symbol. A few symbols name different companies
on NSE and BSE: those are told apart by the ISINs of the broker's list of instruments, where that has them for both
exchanges (those of Upstox and Groww have; Angel One's and Zerodha's have none).
"""

import structlog

from app.brokerage.portfolio.naming import Source, book_id
from app.brokerage.ports import Listings
from app.brokerage.words import BrokerName, Exchange, Product
from app.core.errors import DomainError

_ISSUER = 9
"""Characters of an ISIN that name the company and the kind of paper; the others change with a split."""
log = structlog.get_logger("arrow.portfolio")


class Places:
    """Names books."""

    def __init__(self, listings: Listings | None = None) -> None:
        """`listings`: without them a symbol is one company."""
        self._listings = listings

    async def book(
        self, broker: BrokerName, account_id: str, source: Source, exchange: Exchange, symbol: str, product: Product
    ) -> str:
        """The id of the book of such a trade."""
        on_bse = exchange is Exchange.BSE and product is Product.CNC
        apart = on_bse and await self._are_two(broker, symbol)
        return book_id(account_id, source, exchange, symbol, product, apart=apart)

    async def _are_two(self, broker: BrokerName, symbol: str) -> bool:
        """Whether two companies have that symbol."""
        if self._listings is None:
            return False
        try:
            both = [await self._listings.find(broker, exchange, symbol) for exchange in (Exchange.NSE, Exchange.BSE)]
        except DomainError as error:  # the job that makes books anew looks again
            log.info("no list of instruments", broker=broker.value, error=type(error).__name__)
            return False
        return len({listing.isin[:_ISSUER] for listing in both if listing is not None and listing.isin}) == 2
