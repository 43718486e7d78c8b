"""Fills the port `OwnPositions` of orders with our books."""

from collections.abc import Mapping

from app.brokerage.orders.ports import Holding
from app.brokerage.portfolio.book_rows import book_of, book_rows, expired_note
from app.brokerage.portfolio.naming import Source
from app.brokerage.words import Exchange, Product


class BookedPositions:
    """Net quantities by the trades that the broker told."""

    async def net(self, account_id: str) -> Mapping[Holding, int] | None:
        """See the port; None while a book is being changed."""
        rows = await book_rows().find({"account_id": account_id, "open": True}).to_list()
        if any(row["dirty"] for row in rows):
            return None
        return {
            Holding(Exchange(row["exchange"]), row["symbol"], Product(row["product"])): book_of(row).position
            for row in rows
            if row["source"] == Source.BROKER and expired_note(row) is None
        }
