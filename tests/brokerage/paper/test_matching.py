"""What orders do at prices."""

from decimal import Decimal

import pytest

from app.brokerage.adapters.paper.book import Key
from app.brokerage.adapters.paper.matching import Quote, look
from app.brokerage.adapters.paper.rules import PaperRules
from app.brokerage.errors import OrderRejectedError
from app.brokerage.words import Exchange, Listing, OrderChange, OrderState, PriceType, Product, Side, Validity
from tests.brokerage.paper.kit import CALL, EXACT, FUTURE, SHARE, Trader, ist, ticket

D = Decimal
SLIPPERY = PaperRules(slippage_bps=D(10), latency_ms=0, volume_share=D(0))


def at_market(trader: Trader, price: str) -> Trader:
    trader.price(price)
    return trader


def test_a_market_order_is_filled_at_the_price_that_there_is() -> None:
    trader = at_market(Trader(), "1400.00")
    order = trader.buy(10)
    trader.price("1400.00")
    assert (order.state, order.filled, order.turnover) == (OrderState.COMPLETE, 10, D(14_000))
    [trade] = trader.book.trades
    assert (trade.price, trade.quantity, trade.side, trade.broker_order_id) == (D(1400), 10, Side.BUY, order.id)


@pytest.mark.parametrize("side", list(Side))
def test_slippage_is_against_the_order_and_on_the_tick(side: Side) -> None:
    trader = at_market(Trader(SLIPPERY), "1400.00")
    order = trader.order(ticket(side, 10, product=Product.MIS))
    trader.price("1400.00")
    paid = order.turnover / 10
    worse = (paid - 1400) * side.sign
    # Half to one and a half times ten hundredths of a per cent, and at most a tick for the rounding.
    assert D("0.70") <= worse <= D("2.20")
    assert paid % SHARE.tick_size == 0


@pytest.mark.parametrize(("side", "paid"), [(Side.BUY, D("1400.10")), (Side.SELL, D("1400.00"))])
def test_a_price_between_two_ticks_is_rounded_against_the_order(side: Side, paid: Decimal) -> None:
    trader = at_market(Trader(), "1400.04")
    order = trader.order(ticket(side, 1, product=Product.MIS))
    trader.price("1400.04")
    assert order.turnover == paid


def test_slippage_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    def paid(seed: int) -> list[Decimal]:
        trader = at_market(Trader(PaperRules(seed=seed, slippage_bps=D(50), latency_ms=0, volume_share=D(0))), "1400")
        orders = [trader.order(ticket(Side.BUY, 1, tag=f"seeded{number:04}")) for number in range(8)]
        trader.price("1400")
        return [order.turnover for order in orders]

    assert paid(1) == paid(1)
    assert paid(1) != paid(2)
    assert len(set(paid(1))) > 3


def test_a_limit_order_that_arrives_in_the_market_gets_the_better_price() -> None:
    trader = at_market(Trader(), "1400.00")
    order = trader.buy(10, limit="1410.00")
    trader.price("1400.00")
    assert order.turnover == 14_000


def test_a_limit_order_that_waits_is_filled_at_its_limit_and_never_worse() -> None:
    trader = at_market(Trader(SLIPPERY), "1400.00")
    order = trader.buy(10, limit="1390.00")
    for price in ("1400.00", "1390.10"):
        assert trader.price(price) is (price == "1400.00")  # it arrives there; the other is nothing to it
    assert order.state is OrderState.OPEN
    trader.price("1385.00")
    assert (order.state, order.turnover) == (OrderState.COMPLETE, D(13_900))


def test_a_limit_order_at_the_market_pays_slippage_up_to_its_limit() -> None:
    trader = at_market(Trader(SLIPPERY), "1400.00")
    order = trader.buy(10, limit="1400.10")
    trader.price("1400.00")
    assert order.turnover == D("14001.00")


@pytest.mark.parametrize(
    ("side", "trigger", "limit", "before", "touch", "paid"),
    [
        (Side.BUY, "1410", None, "1409.90", "1412", D(1412)),
        (Side.BUY, "1410", "1415", "1409.90", "1412", D(1412)),
        (Side.SELL, "1390", None, "1390.10", "1389", D(1389)),
        (Side.SELL, "1390", "1385", "1390.10", "1389", D(1389)),
    ],
)
def test_a_stop_order_waits_for_its_trigger(
    side: Side, trigger: str, limit: str | None, before: str, touch: str, paid: Decimal
) -> None:
    trader = at_market(Trader(), "1400")
    order = trader.order(ticket(side, 10, product=Product.MIS, trigger=trigger, limit=limit))
    trader.price(before)
    assert (order.state, order.filled) == (OrderState.TRIGGER_PENDING, 0)
    trader.price(touch)
    assert (order.state, order.turnover) == (OrderState.COMPLETE, paid * 10)


def test_a_stop_limit_that_is_jumped_over_waits_at_its_limit() -> None:
    trader = at_market(Trader(), "1400")
    order = trader.buy(10, trigger="1410", limit="1412")
    trader.price("1420")
    assert (order.state, order.filled, order.triggered) == (OrderState.OPEN, 0, True)
    trader.price("1405")  # below the trigger again: it is an ordinary limit order now
    assert (order.state, order.turnover) == (OrderState.COMPLETE, D(14_120))


def test_volume_bounds_what_is_filled() -> None:
    trader = at_market(Trader(), "1400")
    order = trader.buy(500, limit="1400")
    trader.price("1400", usual=200, traded=0)
    assert (order.state, order.filled) == (OrderState.PARTIALLY_FILLED, 200)
    trader.price("1400", usual=200, traded=0)
    assert order.filled == 200  # nothing was traded, and it has arrived already
    trader.price("1399", usual=200, traded=50)
    assert order.filled == 250
    trader.price("1398", usual=200, traded=10_000)
    assert (order.state, order.fills) == (OrderState.COMPLETE, 3)
    assert [trade.quantity for trade in trader.book.trades] == [200, 50, 250]
    assert len({trade.trade_id for trade in trader.book.trades}) == 3


def test_orders_of_an_account_share_what_is_traded_oldest_first() -> None:
    trader = at_market(Trader(), "1400")
    first, second = trader.buy(100, limit="1390"), trader.buy(100, limit="1390")
    trader.price("1400")
    trader.price("1390", traded=120)
    assert (first.filled, second.filled) == (100, 20)


def test_contracts_are_filled_in_whole_lots_one_at_least() -> None:
    trader = Trader()
    trader.price("25000", FUTURE)
    order = trader.buy(195, FUTURE, product=Product.NRML, limit="25000")
    trader.price("25000", FUTURE, usual=100)
    assert order.filled == 65
    trader.price("25000", FUTURE, traded=10)
    assert order.filled == 130
    trader.price("25000", FUTURE, traded=0)
    assert order.filled == 130


def test_immediate_or_cancel_takes_what_is_there() -> None:
    trader = at_market(Trader(), "1400")
    part = trader.buy(500, limit="1400", validity=Validity.IOC)
    trader.price("1400", usual=200)
    assert (part.state, part.filled) == (OrderState.CANCELLED, 200)
    none = trader.buy(10, limit="1390", validity=Validity.IOC)
    trader.price("1400")
    assert (none.state, none.filled) == (OrderState.CANCELLED, 0)


def test_immediate_or_cancel_does_not_wait_for_a_price_for_ever() -> None:
    trader = at_market(Trader(), "1400")
    order = trader.buy(10, limit="1400", validity=Validity.IOC)
    trader.pass_time(seconds=4)
    assert order.is_open
    trader.pass_time(seconds=1)
    assert order.state is OrderState.CANCELLED


def test_latency_keeps_an_order_from_prices_before_it_arrives() -> None:
    trader = at_market(Trader(PaperRules(latency_ms=1000, slippage_bps=D(0), volume_share=D(0))), "1400")
    order = trader.buy(10)
    trader.price("1400")
    assert order.filled == 0
    trader.pass_time(seconds=1.5)
    trader.price("1401")
    assert order.turnover == 14_010


def test_a_price_from_before_the_opening_fills_nothing() -> None:
    trader = Trader(at=ist("09:20"))
    order = trader.buy(10, limit="1400")
    key = Key(SHARE.exchange, SHARE.symbol)
    assert not look(trader.model, trader.book, Quote(key, D(1390), ist("09:14:59")), trader.clock.now())
    assert look(trader.model, trader.book, Quote(key, D(1391), ist("09:15")), trader.clock.now())
    assert order.turnover == 13_910


def test_a_changed_order_queues_anew() -> None:
    trader = at_market(Trader(), "1400")
    order = trader.buy(10, limit="1390")
    trader.price("1400")
    trader.change(order, OrderChange(quantity=20, price_type=PriceType.LIMIT, price=D(1405)))
    trader.price("1401")
    assert (order.state, order.turnover) == (OrderState.COMPLETE, D(28_020))


def test_an_order_can_become_a_stop_order_and_back() -> None:
    trader = at_market(Trader(), "1400")
    order = trader.buy(10, limit="1390")
    trader.change(order, OrderChange(quantity=10, price_type=PriceType.SL_M, trigger_price=D(1410)))
    assert (order.state, order.price) == (OrderState.TRIGGER_PENDING, None)
    trader.price("1400")
    assert order.filled == 0
    trader.change(order, OrderChange(quantity=10, price_type=PriceType.MARKET))
    trader.price("1400")
    assert order.state is OrderState.COMPLETE


def test_a_stop_that_was_touched_and_gets_another_trigger_waits_for_that() -> None:
    """It stands at a limit that the price has jumped over: moved out of the way, it must not be sold at once."""
    trader = at_market(Trader(), "1400")
    trader.buy(10)
    trader.price("1400")
    order = trader.sell(10, trigger="1390", limit="1388")
    trader.price("1380")
    assert (order.state, order.triggered, order.filled) == (OrderState.OPEN, True, 0)
    trader.change(order, OrderChange(quantity=10, price_type=PriceType.SL, price=D(1385), trigger_price=D(1390)))
    trader.price("1380")
    assert (order.state, order.filled) == (OrderState.OPEN, 0), "the same trigger was touched already"
    trader.change(order, OrderChange(quantity=10, price_type=PriceType.SL_M, trigger_price=D(1370)))
    assert order.state is OrderState.TRIGGER_PENDING
    trader.price("1380")
    assert order.filled == 0
    trader.price("1370")
    assert order.turnover == 13_700


def test_a_filled_order_can_neither_be_changed_nor_cancelled() -> None:
    trader = at_market(Trader(), "1400")
    order = trader.buy(10)
    trader.price("1400")
    with pytest.raises(OrderRejectedError, match="complete"):
        trader.cancel(order)
    with pytest.raises(OrderRejectedError, match="not open"):
        trader.change(order, OrderChange(quantity=20, price_type=PriceType.MARKET))


def test_the_quantity_cannot_go_below_what_is_filled() -> None:
    trader = at_market(Trader(), "1400")
    order = trader.buy(100, limit="1400")
    trader.price("1400", usual=40)
    with pytest.raises(OrderRejectedError, match="40 units"):
        trader.change(order, OrderChange(quantity=40, price_type=PriceType.LIMIT, price=D(1400)))


BOUNDED = Listing(Exchange.NSE, "BOUND", "BOUND", D("0.05"), lower_circuit=D(90), upper_circuit=D(110))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (ticket(Side.BUY, 10, limit="1400.05"), "multiple of 0.10"),
        (ticket(Side.BUY, 66, FUTURE, product=Product.NRML, limit="25000"), "multiple of 65"),
        (ticket(Side.BUY, 1820, FUTURE, product=Product.NRML, limit="25000"), "At most 1800"),
        (ticket(Side.BUY, 10, BOUNDED, limit="111"), "between 90 and 110"),
        (ticket(Side.BUY, 10, trigger="1410", limit="1405"), "must not be below"),
        (ticket(Side.SELL, 10, trigger="1390", limit="1395"), "must not be above"),
        (ticket(Side.SELL, 10), "Only 0 of RELIANCE"),
        (ticket(Side.BUY, 10, product=Product.NRML), "NRML is not possible on NSE"),
        (ticket(Side.BUY, 65, CALL, product=Product.CNC), "CNC is not possible on NFO"),
        (ticket(Side.BUY, 1000, limit="1400"), "Not enough funds: 14"),
        (ticket(Side.BUY, 10, BOUNDED), "No price of it is known"),
        (ticket(Side.BUY, 10, Listing(Exchange.NSE, "NIFTY 50", "x", D("0.05"), kind="INDEX")), "is an index"),
    ],
)
def test_what_an_exchange_refuses_is_refused_in_words(wanted: object, says: str) -> None:
    trader = at_market(Trader(EXACT), "1400")
    with pytest.raises(OrderRejectedError, match=says):
        trader.order(wanted)  # type: ignore[arg-type]


def test_slippage_stays_within_the_circuit() -> None:
    trader = Trader(PaperRules(slippage_bps=D(1000), latency_ms=0, volume_share=D(0)))
    trader.price("109.95", BOUNDED)
    order = trader.buy(10, BOUNDED)
    trader.price("109.95", BOUNDED)
    assert order.turnover == 1100
