"""Angel One's list of instruments and its limits, as the watchlist needs them. Knows both sides."""

from collections.abc import Iterable

from app.integrations.angel_one.errors import AngelOneError
from app.integrations.angel_one.frames import Exchange, Mode
from app.integrations.angel_one.instruments import InstrumentFile, MasterRow
from app.integrations.angel_one.subscriptions import FeedLimits, Subscription, SubscriptionError, plan
from app.integrations.angel_one.subscriptions import Instrument as FeedInstrument
from app.market_data.listings import Filled, ListingsUnavailableError, Stamp, TableBuilder
from app.market_data.ports import Instrument, WatchMode

MODES = {
    WatchMode.LTP: Mode.LTP,
    WatchMode.QUOTE: Mode.QUOTE,
    WatchMode.SNAP_QUOTE: Mode.SNAP_QUOTE,
    WatchMode.DEPTH: Mode.DEPTH,
}


class AngelOneListings:
    """Fills the port `ListingSource`."""

    def __init__(self, file: InstrumentFile) -> None:
        self._file = file

    async def fill(self, table: TableBuilder, known: Stamp | None) -> Filled | None:
        """See the port."""

        def take(row: MasterRow) -> None:
            table.add(
                row.exchange, row.token, row.symbol, row.name, row.kind, row.expiry, row.strike, row.lot, row.tick
            )

        known = known or Stamp()
        try:
            fetched = await self._file.fetch(take, etag=known.etag, last_modified=known.last_modified)
        except AngelOneError as error:
            raise ListingsUnavailableError(error.word, error.retry_after) from error
        if fetched is None:
            return None
        return Filled(Stamp(fetched.etag, fetched.last_modified), fetched.rejected, fetched.skipped)


def plan_fault(wanted: Iterable[tuple[Instrument, WatchMode]], limits: FeedLimits | None = None) -> str | None:
    """Why the vendor does not stream all of this; None if it does."""
    subscriptions: list[Subscription] = []
    for instrument, mode in wanted:
        name = FeedInstrument(Exchange(instrument.exchange_type), instrument.token)
        # Depth frames have no price: a quote goes with them.
        subscriptions += [Subscription(Mode.QUOTE, name)] if mode is WatchMode.DEPTH else []
        subscriptions.append(Subscription(MODES[mode], name))
    try:
        plan(subscriptions, limits)
    except SubscriptionError as error:
        return str(error)
    return None
