"""The paper broker, as all brokers are spoken to. Any number of processes may; `matcher` fills the orders in one."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Final, Protocol

from pydantic import SecretStr
from pymongo.errors import PyMongoError

from app.brokerage.adapters.paper.book import Key, PaperBook, PaperOrder
from app.brokerage.adapters.paper.day import advance, to_mark
from app.brokerage.adapters.paper.funds import Marks, funds
from app.brokerage.adapters.paper.matching import Model
from app.brokerage.adapters.paper.placing import cancel, modify, place
from app.brokerage.adapters.paper.rules import CAPABILITIES
from app.brokerage.adapters.paper.store import PaperStore, Stored
from app.brokerage.errors import BrokerUnavailableError, OrderRejectedError, OutcomeUnknownError
from app.brokerage.ports import BrokerAccount, BrokerSession, Prices
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerHolding,
    BrokerPosition,
    Capabilities,
    Funds,
    Listing,
    OrderChange,
    OrderTicket,
    PriceType,
    Product,
)
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock

PRICE_PATIENCE: Final = 3.0
"""Seconds that the prices of what an account has are waited for."""
ORDER_PATIENCE: Final = 10.0
"""Seconds that a market order waits for the price by which funds are held: a provider's first quote takes its time."""
_TRIES: Final = 20
_SESSION: Final = BrokerSession(access_token=SecretStr("paper"), expires_at=None, broker_user_id="PAPER")
_DELIVERED: Final = frozenset({Product.CNC, Product.MTF})

Act = Callable[[PaperBook, datetime, Marks], PaperOrder]


class ListingSource(Protocol):
    """What can be traded on paper."""

    async def listings(self) -> Sequence[Listing]:
        """All of it."""


class Bell:
    """Tells whoever fills orders in this process that an account has changed; other processes' look for it."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str], None]] = []

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the account's id; it must not raise or wait."""
        self._listeners.append(listener)

    def ring(self, account_id: str) -> None:
        """It has changed."""
        for listener in self._listeners:
            listener(account_id)


class PaperBroker:
    """Fills the port `Broker`. Any account is welcome, and its session never ends."""

    def __init__(
        self,
        *,
        store: PaperStore,
        model: Model,
        prices: Prices,
        listings: ListingSource,
        clock: Clock,
        bell: Bell,
        patience: float = PRICE_PATIENCE,
    ) -> None:
        self._store, self._model, self._prices, self._patience = store, model, prices, patience
        self._listings, self._clock, self._bell = listings, clock, bell

    @property
    def capabilities(self) -> Capabilities:
        """See the port."""
        return CAPABILITIES

    def login_url(self, account: BrokerAccount) -> str | None:  # noqa: ARG002 (the port's)
        """Nobody signs in."""
        return None

    async def sign_in(self, account: BrokerAccount) -> BrokerSession:  # noqa: ARG002
        """Always the same; it does not end."""
        return _SESSION

    async def renew(self, account: BrokerAccount, session: BrokerSession) -> BrokerSession:  # noqa: ARG002
        """As `sign_in`."""
        return _SESSION

    # Orders

    async def place(self, account: BrokerAccount, session: BrokerSession, ticket: OrderTicket) -> str:  # noqa: ARG002
        """See the port. The same order with the same tag once more gives the id of the first."""
        wanted = _without_price(ticket.price_type, Key(ticket.listing.exchange, ticket.listing.symbol))

        def act(book: PaperBook, now: datetime, marks: Marks) -> PaperOrder:
            return place(self._model, book, ticket, now, marks)

        return await self._change(account, act, wanted, ticket)

    async def modify(
        self,
        account: BrokerAccount,
        session: BrokerSession,  # noqa: ARG002
        order: BookedOrder,
        listing: Listing,  # noqa: ARG002
        change: OrderChange,
    ) -> None:
        """See the port. What waits for a price waits anew."""

        def act(book: PaperBook, now: datetime, marks: Marks) -> PaperOrder:
            return modify(self._model, book, order.broker_order_id, change, now, marks)

        await self._change(account, act, _without_price(change.price_type, Key(order.exchange, order.symbol)))

    async def cancel(self, account: BrokerAccount, session: BrokerSession, order: BookedOrder) -> None:  # noqa: ARG002
        """See the port."""

        def act(book: PaperBook, now: datetime, marks: Marks) -> PaperOrder:  # noqa: ARG001
            return cancel(book, order.broker_order_id, now)

        await self._change(account, act, [])

    async def _change(
        self, account: BrokerAccount, act: Act, wanted: Iterable[Key], ticket: OrderTicket | None = None
    ) -> str:
        """Do `act` on the newest state of the account; gives the order's id."""
        # Before the account is read for good: a price may take long, and somebody else would be quicker.
        seen = await self._load(account)
        owned, asked = await asyncio.gather(
            self._marks(self._to_price(seen.book)), newest(self._prices, wanted, ORDER_PATIENCE)
        )
        marks = owned | asked
        for _ in range(_TRIES):
            stored = await self._load(account)
            if ticket is not None and (known := await self._placed(account.account_id, stored.book, ticket)):
                return known
            now = self._clock.now()
            advance(self._model, stored.book, now, marks)
            order = act(stored.book, now, marks)
            try:
                saved = await self._store.save(stored)
            except (PyMongoError, TimeoutError) as error:
                raise_if_cancelled()
                raise OutcomeUnknownError(
                    f"The database did not say whether the paper account was changed ({type(error).__name__})."
                ) from None
            if saved:
                self._bell.ring(account.account_id)
                return order.id
        raise BrokerUnavailableError("The paper account is being changed by many at once: try again.", retry_after=1)

    async def _placed(self, account_id: str, book: PaperBook, ticket: OrderTicket) -> str | None:
        """The order that has this tag already."""
        known = next((order.booked() for order in book.orders if order.tag == ticket.tag), None)
        if known is None:
            try:
                known = await self._store.tagged(account_id, ticket.tag)
            except (PyMongoError, TimeoutError) as error:
                raise _away(error) from None
        if known is None:
            return None
        listing = ticket.listing
        same = (known.exchange, known.symbol, known.side, known.product, known.price_type)
        if same != (listing.exchange, listing.symbol, ticket.side, ticket.product, ticket.price_type):
            raise OrderRejectedError("Another order has this tag.", code="DUPLICATE_TAG")
        return known.broker_order_id

    async def orders(self, account: BrokerAccount, session: BrokerSession) -> list[BookedOrder]:  # noqa: ARG002
        """Those that are open, that ended on the present (or last) trading day, or are not filed yet; oldest first."""
        # The account first: what is filed meanwhile is then in both, never in neither.
        stored = await self._load(account)
        now = self._clock.now()
        try:
            filed = await self._store.orders(account.account_id, now)
        except (PyMongoError, TimeoutError) as error:
            raise _away(error) from None
        found = {order.broker_order_id: order for order in filed}
        for order in stored.book.orders:  # what is of another day, and not filed yet, was not told yet either
            found.setdefault(order.id, order.booked())
        return sorted(found.values(), key=lambda order: _number(order.broker_order_id))

    async def trades(self, account: BrokerAccount, session: BrokerSession) -> list[BookedTrade]:  # noqa: ARG002
        """Of the present (or last) trading day, and those that are not filed yet; oldest first."""
        stored = await self._load(account)
        now = self._clock.now()
        try:
            filed = await self._store.trades(account.account_id, now)
        except (PyMongoError, TimeoutError) as error:
            raise _away(error) from None
        found = {trade.trade_id: trade for trade in [*filed, *stored.book.trades]}
        return sorted(found.values(), key=lambda trade: (trade.at, _number(trade.broker_order_id), trade.trade_id))

    # The account

    async def positions(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerPosition]:  # noqa: ARG002
        """All that was traded today, delivery too (of the day alone), and contracts that are carried."""
        book = (await self._present(account)).book
        marks = await self._marks([position.key for position in book.positions])
        rows = []
        for position in book.positions:
            last = marks.get(position.key, position.last)
            # Sold holdings are no open position.
            open_ = position.net > 0 or position.product not in _DELIVERED
            rows.append(
                BrokerPosition(
                    position.listing.exchange,
                    position.listing.symbol,
                    position.product,
                    position.net,
                    position.average,
                    last,
                    position.realised,
                    position.unrealised(last) if open_ else Decimal(0),
                )
            )
        return rows

    async def holdings(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerHolding]:  # noqa: ARG002
        """All shares that are owned now: those bought today too, those sold today not."""
        book = (await self._present(account)).book
        marks = await self._marks([holding.key for holding in book.holdings])
        merged: dict[Key, tuple[Listing, int, Decimal]] = {}
        for holding in book.holdings:
            listing, quantity, cost = merged.get(holding.key, (holding.listing, 0, Decimal(0)))
            merged[holding.key] = (listing, quantity + holding.quantity, cost + holding.cost)
        return [
            BrokerHolding(
                key.exchange,
                key.symbol,
                listing.isin,
                quantity,
                (cost / quantity).quantize(Decimal("0.0001")),
                marks.get(key),
            )
            for key, (listing, quantity, cost) in merged.items()
        ]

    async def funds(self, account: BrokerAccount, session: BrokerSession) -> Funds:  # noqa: ARG002
        """See `adapters.paper.funds`."""
        book = (await self._present(account)).book
        return funds(self._model.engine, book, await self._marks(self._to_price(book)))

    async def listings(self) -> Sequence[Listing]:
        """See the port."""
        return await self._listings.listings()

    async def close(self) -> None:
        """There is nothing to close."""

    async def _present(self, account: BrokerAccount) -> Stored:
        """The account as it is to be shown."""
        stored = await self._load(account)
        if not stored.book.awake:
            # Nobody brings it to the present day as long as nothing can happen to it.
            advance(self._model, stored.book, self._clock.now(), {})
        return stored

    async def _load(self, account: BrokerAccount) -> Stored:
        try:
            stored = await self._store.load(account.account_id)
        except (PyMongoError, TimeoutError) as error:
            raise_if_cancelled()
            raise _away(error) from None
        if stored is None:
            day = self._model.hours.today(self._clock.now()).day
            cash = self._model.rules.starting_cash
            stored = Stored(PaperBook(account_id=account.account_id, day=day, cash=cash), account.user_id)
        return stored

    def _to_price(self, book: PaperBook) -> list[Key]:
        """Whose prices say what is available."""
        margins = [p.key for p in book.positions if p.net and p.product not in _DELIVERED]
        return margins + [position.key for position in to_mark(self._model, book, self._clock.now())]

    async def _marks(self, keys: Iterable[Key]) -> dict[Key, Decimal]:
        return await newest(self._prices, keys, self._patience)


def _without_price(kind: PriceType, key: Key) -> list[Key]:
    """What has to be asked for where an order does not say itself by which price funds are held."""
    return [] if kind.has_limit or kind.has_trigger else [key]


async def newest(prices: Prices, keys: Iterable[Key], patience: float = PRICE_PATIENCE) -> dict[Key, Decimal]:
    """The newest prices, as far as they are known within `patience` seconds."""
    wanted = list(dict.fromkeys(keys))
    found: dict[Key, Decimal] = {}

    async def ask(key: Key) -> None:
        last = await prices.last(key.exchange, key.symbol)
        if last is not None and last.price > 0:
            found[key] = last.price

    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await asyncio.gather(*(ask(key) for key in wanted))
    return dict(found)


def _away(error: Exception) -> BrokerUnavailableError:
    return BrokerUnavailableError(f"The paper account cannot be read: the database is away ({type(error).__name__}).")


def _number(order_id: str) -> int:
    return int(order_id.rpartition("-")[2])
