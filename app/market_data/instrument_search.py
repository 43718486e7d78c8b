"""Finds instruments for people who choose what to follow or to trade."""

import asyncio

from app.core.errors import UnavailableError
from app.market_data.instrument_schemas import InstrumentInfo
from app.market_data.instruments import InstrumentMaster
from app.market_data.listings import EXCHANGES, Listing
from app.market_data.watchlist import Watchlist


class InstrumentSearch:
    """Answers from the list in force."""

    def __init__(self, master: InstrumentMaster, watchlist: Watchlist) -> None:
        self._master, self._watchlist = master, watchlist

    async def search(self, text: str, exchange: str | None, most: int) -> list[InstrumentInfo]:
        """The best `most` for `text`. Raises `UnavailableError` as long as there is no list."""
        table = self._master.table
        if table is None:
            raise UnavailableError("The list of instruments is not here yet; try again in a minute.", retry_after=60)
        followed = {(instrument.exchange, instrument.token) for instrument in self._watchlist.followed()}
        wanted = " ".join(text.upper().split())
        # Some milliseconds for what is rare: not in the event loop.
        found = await asyncio.to_thread(table.search, wanted, exchange, most=most)
        return [_info(listing, followed=(listing.exchange, listing.token) in followed) for listing in found]


def _info(listing: Listing, *, followed: bool) -> InstrumentInfo:
    return InstrumentInfo.model_validate(
        {
            "symbol": listing.symbol,
            "name": listing.name,
            "exchange": listing.exchange,
            "exchange_type": EXCHANGES[listing.exchange],
            "token": listing.token,
            "instrument_type": listing.kind,
            "expiry": listing.expiry or None,
            "strike_price": listing.strike,
            "lot_size": listing.lot_size,
            "tick_size": listing.tick_size,
            "followed": followed,
        }
    )
