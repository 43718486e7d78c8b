"""What the time does: openings, square-off, the end of the session, the next day, contracts that end."""

from datetime import date
from decimal import Decimal

import pytest

from app.brokerage.adapters.paper.day import due
from app.brokerage.adapters.paper.rules import PaperRules
from app.brokerage.errors import OrderRejectedError
from app.brokerage.words import OrderChange, OrderState, PriceType, Product, Side, Validity
from tests.brokerage.paper.kit import CALL, FUTURE, MONDAY, SHARE, Trader, ist

D = Decimal
TUESDAY, FRIDAY, NEXT_MONDAY = date(2026, 7, 7), date(2026, 7, 10), date(2026, 7, 13)


def test_an_order_before_the_opening_waits_for_it() -> None:
    trader = Trader(at=ist("08:30"))
    order = trader.buy(10, limit="1400")
    assert (order.state, order.day) == (OrderState.PENDING, MONDAY)
    assert trader.price("1390") is False
    trader.at("09:15")
    assert order.state is OrderState.OPEN
    trader.price("1390")
    assert (order.state, order.turnover) == (OrderState.COMPLETE, D(13_900))


def test_nothing_is_filled_after_the_session_and_day_orders_end_with_it() -> None:
    trader = Trader()
    order = trader.buy(10, limit="1390")
    trader.at("15:29:59")
    assert order.is_open
    trader.at("15:30")
    assert (order.state, order.filled) == (OrderState.EXPIRED, 0)
    assert trader.price("1380") is False
    trader.at("18:00")
    assert order.version == 2


def test_an_order_on_friday_evening_is_for_monday() -> None:
    trader = Trader(at=ist("16:00", FRIDAY))
    order = trader.buy(10, limit="1400")
    assert (order.state, order.day) == (OrderState.PENDING, NEXT_MONDAY)
    trader.at("12:00", date(2026, 7, 12))
    assert order.state is OrderState.PENDING
    trader.at("09:15", NEXT_MONDAY)
    assert order.state is OrderState.OPEN
    trader.at("15:30", NEXT_MONDAY)
    assert order.state is OrderState.EXPIRED


def test_an_immediate_order_is_not_taken_while_the_market_is_closed() -> None:
    with pytest.raises(OrderRejectedError, match="market is closed"):
        Trader(at=ist("16:00")).buy(10, limit="1400", validity=Validity.IOC)


def test_an_order_that_waits_for_the_opening_does_not_become_immediate() -> None:
    trader = Trader(at=ist("08:00"))
    order = trader.buy(10, limit="1400")
    change = OrderChange(quantity=10, price_type=PriceType.LIMIT, price=D(1400), validity=Validity.IOC)
    with pytest.raises(OrderRejectedError, match="cannot wait"):
        trader.change(order, change)


@pytest.mark.parametrize("side", list(Side))
def test_intraday_positions_are_closed_at_1520(side: Side) -> None:
    trader = Trader()
    trader.price("1400")
    (trader.buy if side is Side.BUY else trader.sell)(100, product=Product.MIS)
    trader.price("1400")
    waiting = trader.buy(10, product=Product.MIS, limit="1300")
    kept = trader.buy(10, limit="1300")
    trader.at("15:19:59")
    assert waiting.is_open
    assert len(trader.book.orders) == 3
    trader.at("15:20")
    assert (waiting.state, kept.state) == (OrderState.CANCELLED, OrderState.OPEN)
    square = trader.book.orders[-1]
    assert (square.tag, square.side, square.quantity) == (None, side.opposite, 100)
    trader.at("15:20:01")
    assert len(trader.book.orders) == 4  # once
    with pytest.raises(OrderRejectedError, match="closes an intraday position"):
        trader.cancel(square)
    trader.price("1410")
    [position] = trader.book.positions
    assert (position.net, position.realised) == (0, side.sign * D(1000))
    with pytest.raises(OrderRejectedError, match="being closed by now"):
        trader.buy(10, product=Product.MIS, limit="1400")


def test_nobody_closes_an_intraday_position_twice() -> None:
    trader = Trader()
    trader.price("1400")
    trader.buy(100, product=Product.MIS)
    trader.price("1400")
    trader.clock.moment = ist("15:20:30")  # nobody has looked since
    with pytest.raises(OrderRejectedError, match="being closed by now"):
        trader.sell(100, product=Product.MIS)
    trader.price("1400")
    assert [position.net for position in trader.book.positions] == [0]


def test_a_price_after_the_session_fills_nothing_even_if_nobody_ended_the_day() -> None:
    trader = Trader()
    order = trader.buy(10, limit="1400")
    trader.clock.moment = ist("15:30")
    assert trader.price("1390") is False
    assert order.is_open


def test_what_nobody_closed_is_closed_at_the_last_price_when_somebody_looks() -> None:
    trader = Trader()
    trader.price("1400")
    trader.buy(100, product=Product.MIS)
    trader.price("1400")
    trader.price("1425")
    trader.marks.clear()
    trader.at("10:00", TUESDAY)
    assert not any(p.product is Product.MIS for p in trader.book.positions)
    closing = trader.book.orders[-1]
    assert (closing.state, closing.turnover) == (OrderState.COMPLETE, D(142_500))
    assert trader.book.day == TUESDAY
    assert trader.book.charges == 0


def test_a_short_intraday_day_leaves_the_cash_with_its_loss_and_charges() -> None:
    trader = Trader()
    trader.price("1400")
    trader.sell(100, product=Product.MIS)
    trader.price("1400")
    trader.at("15:20")
    trader.price("1420")
    charges = trader.book.charges
    assert charges > 0
    assert trader.book.cash == 1_000_000 - 2_000 - charges
    assert trader.free == trader.book.cash  # no margin is held any more


def test_an_option_ends_on_its_day_at_its_last_price() -> None:
    trader = Trader()
    trader.price("100", CALL)
    trader.buy(65, CALL, product=Product.NRML)
    trader.price("100", CALL)
    trader.at("10:00", TUESDAY)
    assert trader.book.positions[0].net == 65  # carried
    trader.price("120", CALL)
    trader.at("15:29", TUESDAY)
    assert trader.book.positions[0].net == 65
    trader.at("15:30", TUESDAY)
    [position] = trader.book.positions
    assert (position.net, position.realised) == (0, D(1300))
    trader.at("10:00", date(2026, 7, 8))
    with pytest.raises(OrderRejectedError, match="ended on 2026-07-07"):
        trader.buy(65, CALL, product=Product.NRML, limit="100")


def test_delivery_becomes_a_holding_and_leaves_the_positions_the_next_day() -> None:
    trader = Trader()
    trader.price("1400")
    trader.buy(10)
    trader.price("1400")
    assert [(p.product, p.net) for p in trader.book.positions] == [(Product.CNC, 10)]
    assert trader.book.held(trader.book.holdings[0].key, Product.CNC) == 10
    trader.at("10:00", TUESDAY)
    assert trader.book.positions == []
    trader.sell(10, limit="1450")
    trader.price("1460")
    assert trader.book.holdings == []
    assert trader.book.positions[0].realised == 600
    with pytest.raises(OrderRejectedError, match="Only 0"):
        trader.sell(1, limit="1450")


def test_a_future_is_carried_over_days_and_its_day_result_begins_anew() -> None:
    trader = Trader()
    trader.price("25000", FUTURE)
    trader.buy(130, FUTURE, product=Product.NRML)
    trader.price("25000", FUTURE)
    trader.sell(65, FUTURE, product=Product.NRML)
    trader.price("25100", FUTURE)
    assert trader.book.positions[0].realised == 6_500
    trader.at("10:00", TUESDAY)
    [position] = trader.book.positions
    assert (position.net, position.realised, position.average) == (65, 0, D(25_000))


def test_around_the_clock_a_day_is_a_day_of_the_calendar() -> None:
    trader = Trader(
        PaperRules(always_open=True, latency_ms=0, slippage_bps=D(0), volume_share=D(0)),
        at=ist("23:00", date(2026, 7, 11)),
    )
    trader.price("1400")
    order, intraday = trader.buy(10, limit="1390"), trader.buy(10, product=Product.MIS)
    trader.price("1400")
    assert intraday.state is OrderState.COMPLETE
    trader.at("23:50", date(2026, 7, 11))
    trader.price("1400")
    assert sum(p.net for p in trader.book.positions) == 0
    trader.at("00:00", date(2026, 7, 12))
    assert order.state is OrderState.EXPIRED
    assert trader.book.day == date(2026, 7, 12)


def test_what_is_due_is_known() -> None:
    trader = Trader(at=ist("08:00"))
    now = trader.clock.now

    def next_due() -> object:
        return due(trader.model, trader.book, now())

    assert next_due() is None
    trader.price("1400")
    trader.buy(10, product=Product.MIS)
    assert next_due() == ist("09:15")
    trader.at("09:15")
    trader.price("1400")
    assert next_due() == ist("15:20")
    trader.at("15:20")
    trader.price("1400")
    assert next_due() == ist("15:30")
    trader.at("15:30")
    trader.book.orders.clear()
    trader.book.trades.clear()
    assert next_due() is None
    assert SHARE.symbol == trader.book.positions[0].listing.symbol
