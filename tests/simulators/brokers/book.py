"""One client's orders at an exchange, as all the simulated brokers have them: accepted, matched, filled, in a book.

The words are plain and nobody's: sides `BUY` and `SELL`, products `CNC`, `MIS`, `NRML`, `MTF`, price types `MARKET`,
`LIMIT`, `SL`, `SL-M`, validities `DAY` and `IOC`, and `Status`. Each simulator turns them into its vendor's.

The market is one price per instrument (`move`) with as much behind it as `liquidity` says; nothing happens by itself,
so that a test knows what will be there. Time is `now`, which a test may own.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final

from tests.simulators.brokers.instruments import INSTRUMENTS, Instrument
from tests.simulators.brokers.records import FINAL, Holding, Order, Position, RefusedError, Status, Trade

__all__ = ["FINAL", "IST", "Book", "Holding", "Order", "Position", "RefusedError", "Status", "Trade"]

IST: Final = timezone(timedelta(hours=5, minutes=30))
STARTING_CASH: Final = Decimal(1_000_000)


class Book:
    """The orders of one client, and a market to fill them."""

    def __init__(
        self,
        instruments: Iterable[Instrument] = INSTRUMENTS,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[int, datetime], str] = lambda count, now: f"{now.astimezone(IST):%y%m%d}{count:09d}",
        cash: Decimal = STARTING_CASH,
        unique_tags: bool = False,
    ) -> None:
        """`new_id` makes a vendor's order ids from a count; `unique_tags`: a tag seen before is refused."""
        self.instruments = {instrument.key: instrument for instrument in instruments}
        self.prices = {instrument.key: instrument.price for instrument in self.instruments.values()}
        self.now, self._new_id, self.opening_cash, self._unique_tags = now, new_id, cash, unique_tags
        self.orders: dict[str, Order] = {}
        """By id, the oldest first."""
        self.trades: list[Trade] = []
        self.holdings: list[Holding] = []
        self.liquidity: int | None = None
        """The most units that one order gets at each `move` or arrival; None: as many as it wants."""
        self.hold = False
        """New orders stay `RECEIVED` until `release`."""
        self.fills_itself = True
        """False: only `fill` fills."""
        self._counts = {name: itertools.count(1) for name in ("order", "exchange", "trade")}
        self._rejections: deque[str] = deque()
        self._listeners: list[Callable[[Order], None]] = []

    # What a broker's interface does

    def place(
        self,
        exchange: str,
        symbol: str,
        side: str,
        quantity: int,
        *,
        product: str,
        price_type: str,
        price: Decimal | None = None,
        trigger: Decimal | None = None,
        validity: str = "DAY",
        tag: str | None = None,
        **extra: Any,
    ) -> Order:
        """A new order; raises `RefusedError`. An order that the exchange rejects is in the book, and no error."""
        instrument = self.find(exchange, symbol)
        if self._unique_tags and tag is not None and any(order.tag == tag for order in self.orders.values()):
            raise RefusedError("duplicate", f"An order with the reference {tag} exists")
        self._check(instrument, quantity, price_type, price, trigger)
        now = self.now()
        order = Order(
            self._new_id(next(self._counts["order"]), now),
            instrument,
            side,
            product,
            price_type,
            quantity,
            price,
            trigger,
            validity,
            tag,
            now,
            extra=extra,
        )
        self.orders[order.order_id] = order
        if self._rejections:
            self._end(order, Status.REJECTED, self._rejections.popleft())
        elif self.hold:
            self._changed(order)
        else:
            self._arrive(order)
        return order

    def modify(
        self,
        order_id: str,
        *,
        quantity: int | None = None,
        price_type: str | None = None,
        price: Decimal | None = None,
        trigger: Decimal | None = None,
        validity: str | None = None,
    ) -> Order:
        """Change an open order; None leaves as it is. Raises `RefusedError`."""
        order = self._open(order_id)
        quantity = order.quantity if quantity is None else quantity
        price_type = price_type or order.price_type
        price = order.price if price is None else price
        trigger = order.trigger if trigger is None else trigger
        self._check(order.instrument, quantity, price_type, price, trigger)
        if quantity <= order.filled:
            raise RefusedError("quantity", "Quantity cannot be less than what is filled")
        order.quantity, order.price_type, order.price, order.trigger = quantity, price_type, price, trigger
        order.validity = validity or order.validity
        self._arrive(order)
        return order

    def cancel(self, order_id: str) -> Order:
        """Cancel an open order; raises `RefusedError`."""
        order = self._open(order_id)
        self._end(order, Status.CANCELLED)
        return order

    def find(self, exchange: str, symbol: str) -> Instrument:
        """The instrument; raises `RefusedError`."""
        instrument = self.instruments.get((exchange, symbol))
        if instrument is None or instrument.kind == "INDEX":
            raise RefusedError("instrument", f"The instrument {exchange}:{symbol} does not exist or has expired")
        return instrument

    def with_tag(self, tag: str) -> list[Order]:
        """The orders that carry it."""
        return [order for order in self.orders.values() if order.tag == tag]

    def positions(self) -> list[Position]:
        """Of the day's trades."""
        found: dict[tuple[tuple[str, str], str], Position] = {}
        for trade in self.trades:
            key = (trade.instrument.key, trade.product)
            position = found.setdefault(key, Position(trade.instrument, trade.product))
            if trade.side == "BUY":
                position.bought += trade.quantity
                position.paid += trade.quantity * trade.price
            else:
                position.sold += trade.quantity
                position.received += trade.quantity * trade.price
        return list(found.values())

    @property
    def used(self) -> Decimal:
        """Money that open positions and open buys hold, at their full value."""
        held = sum((abs(each.net) * each.average for each in self.positions()), Decimal(0))
        buys = (order for order in self.orders.values() if order.side == "BUY")
        return held + sum(
            (order.rest * (order.price or self.prices[order.instrument.key]) for order in buys), Decimal(0)
        )

    @property
    def realised(self) -> Decimal:
        """Profit of what was opened and closed today."""
        total = Decimal(0)
        for each in self.positions():
            closed = min(each.bought, each.sold)
            if closed:
                total += closed * (each.received / each.sold - each.paid / each.bought)
        return total

    @property
    def available(self) -> Decimal:
        """Money for new orders."""
        return self.opening_cash + self.realised - self.used

    # What a test, or the market, does

    def on_change(self, listener: Callable[[Order], None]) -> None:
        """Call `listener` after every change of an order: postbacks and order streams."""
        self._listeners.append(listener)

    def move(self, instrument: Instrument, price: Decimal | str) -> None:
        """The market trades at `price`: triggers are touched, orders that it reaches are filled."""
        self.prices[instrument.key] = Decimal(price)
        for order in list(self.orders.values()):
            if order.instrument.key == instrument.key and order.rest and order.status is not Status.RECEIVED:
                self._match(order)

    def fill(self, order_id: str, quantity: int | None = None, price: Decimal | str | None = None) -> Trade:
        """Fill an open order, in part or whole, at `price` or the market's."""
        order = self._open(order_id)
        at = Decimal(price) if price is not None else self.prices[order.instrument.key]
        return self._fill(order, min(quantity or order.rest, order.rest), at)

    def reject_next(self, reason: str, times: int = 1) -> None:
        """The exchange rejects the next orders: they are in the book, and rejected."""
        self._rejections.extend([reason] * times)

    def release(self) -> None:
        """Held orders go to the exchange."""
        self.hold = False
        for order in list(self.orders.values()):
            if order.status is Status.RECEIVED:
                self._arrive(order)

    def end_of_day(self) -> None:
        """What is open expires, as at 15:30."""
        for order in list(self.orders.values()):
            if order.rest:
                self._end(order, Status.EXPIRED)

    def next_day(self) -> None:
        """Yesterday's orders and trades are in no book any more; delivery becomes holdings."""
        for position in self.positions():
            if position.product in {"CNC", "MTF"} and position.net > 0:
                self.holdings.append(Holding(position.instrument, position.net, position.average))
        self.orders.clear()
        self.trades.clear()

    # How it works

    @staticmethod
    def _check(
        instrument: Instrument, quantity: int, price_type: str, price: Decimal | None, trigger: Decimal | None
    ) -> None:
        if quantity <= 0 or quantity % instrument.lot:
            raise RefusedError("quantity", f"Quantity should be in multiples of {instrument.lot}")
        if instrument.freeze is not None and quantity > instrument.freeze:
            raise RefusedError("quantity", f"Quantity is over the freeze limit of {instrument.freeze}")
        for wanted, value, name in (
            (price_type in {"LIMIT", "SL"}, price, "Price"),
            (price_type in {"SL", "SL-M"}, trigger, "Trigger price"),
        ):
            if wanted and (value is None or value <= 0):
                raise RefusedError("price", f"{name} is missing")
            if wanted and value is not None and value % instrument.tick:
                raise RefusedError("price", f"{name} is not a multiple of the tick size {instrument.tick}")

    def _open(self, order_id: str) -> Order:
        order = self.orders.get(order_id)
        if order is None:
            raise RefusedError("order", f"The order {order_id} does not exist")
        if order.status in FINAL:
            raise RefusedError("state", f"The order is {order.status} and cannot be changed")
        return order

    def _arrive(self, order: Order) -> None:
        if order.exchange_order_id is None:
            order.exchange_order_id = f"1{next(self._counts['exchange']):015d}"
        waits = order.price_type in {"SL", "SL-M"} and not order.extra.get("triggered")
        order.status = Status.TRIGGER_PENDING if waits else Status.OPEN
        self._changed(order)
        self._match(order)
        if order.validity == "IOC" and order.rest:
            self._end(order, Status.CANCELLED, "Unfilled quantity of an IOC order")

    def _match(self, order: Order) -> None:
        market = self.prices[order.instrument.key]
        if order.status is Status.TRIGGER_PENDING:
            assert order.trigger is not None
            touched = market >= order.trigger if order.side == "BUY" else market <= order.trigger
            if not touched:
                return
            order.status, order.extra["triggered"] = Status.OPEN, True
            self._changed(order)
        if not self.fills_itself or not order.rest:
            return
        if order.price_type in {"LIMIT", "SL"}:
            assert order.price is not None
            if market > order.price if order.side == "BUY" else market < order.price:
                return
        quantity = order.rest if self.liquidity is None else min(order.rest, self.liquidity)
        if quantity:
            self._fill(order, quantity, market)

    def _fill(self, order: Order, quantity: int, price: Decimal) -> Trade:
        trade = Trade(
            f"{next(self._counts['trade']):08d}",
            order.order_id,
            order.instrument,
            order.side,
            order.product,
            quantity,
            price,
            self.now(),
        )
        self.trades.append(trade)
        worth = (order.average or Decimal(0)) * order.filled + quantity * price
        order.filled += quantity
        order.average = worth / order.filled
        order.status = Status.COMPLETE if order.filled == order.quantity else Status.OPEN
        self._changed(order)
        return trade

    def _end(self, order: Order, status: Status, reason: str | None = None) -> None:
        order.status, order.reason = status, reason
        self._changed(order)

    def _changed(self, order: Order) -> None:
        order.updated_at = self.now()
        for listener in self._listeners:
            listener(order)
