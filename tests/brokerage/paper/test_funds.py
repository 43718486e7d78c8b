"""What the money is held for, what charges take of it, and that it adds up whatever is done."""

from collections import defaultdict
from contextlib import suppress
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.adapters.paper.ledger import PLAN
from app.brokerage.adapters.paper.rules import CAPABILITIES, PRODUCTS
from app.brokerage.errors import OrderRejectedError
from app.brokerage.words import BookedTrade, Exchange, Listing, OrderState, Product, Side
from app.core.charges import Exchange as ChargedExchange
from app.core.charges import Segment, TradeForCharges
from app.core.charges import Side as ChargedSide
from tests.brokerage.paper.kit import CALL, ENGINE, FUTURE, MONDAY, OTHER, SHARE, Trader, ist

D = Decimal
SEGMENTS = {Product.CNC: Segment.DELIVERY, Product.MTF: Segment.MTF, Product.MIS: Segment.INTRADAY}


def test_a_delivery_order_holds_its_value_and_its_charges() -> None:
    trader = Trader()
    trader.buy(100, limit="1400.00")
    note = ENGINE.of(
        TradeForCharges(ChargedExchange.NSE, Segment.DELIVERY, ChargedSide.BUY, 100, D(1400), MONDAY, PLAN)
    )
    assert trader.funds == (1_000_000 - 140_000 - note.total, 140_000 + note.total, D(1_000_000))
    trader.cancel(trader.book.orders[0])
    assert trader.funds.available == 1_000_000


def test_the_known_round_trip_costs_what_the_exchanges_say() -> None:
    trader = Trader()
    trader.book.cash = D(10_000_000)
    trader.price("1000")
    trader.buy(5000)
    trader.price("1000")
    trader.at("10:00", date(2026, 7, 7))
    trader.sell(5000)
    trader.price("1000")
    assert trader.book.cash == D(10_000_000) - D("11124.06")


def test_what_is_bought_and_sold_on_one_day_is_charged_as_intraday() -> None:
    """STT 0.025 % of the sale: 1250; 0.00307 % of both: 307; SEBI 10; stamp 0.003 % of the purchase: 150; GST 18 % of
    317: 57.06. Another share, and one that is kept, are charged as delivery."""
    trader = Trader()
    trader.book.cash = D(20_000_000)
    for side in (trader.buy, trader.sell):
        trader.price("1000")
        side(5000)
        trader.price("1000")
    assert trader.book.cash == D(20_000_000) - D("1774.06")
    trader.price("1000", OTHER)
    trader.buy(5000, OTHER)
    trader.price("1000", OTHER)
    # Of ₹15,000,000 in all 460.50 and 15, and 85.59 on them; STT 5000 and stamp 750 for the other share.
    assert trader.book.charges == 1250 + 5000 + D("460.50") + 15 + 150 + 750 + D("85.59")


def test_all_orders_of_a_day_are_one_contract_note() -> None:
    """Rounded once, not once an order: seven small orders would otherwise pay other taxes than one."""
    trader = Trader()
    trader.price("333.30")
    for _ in range(7):
        trader.buy(1)
        trader.price("333.30")
    one = TradeForCharges(ChargedExchange.NSE, Segment.DELIVERY, ChargedSide.BUY, 1, D("333.30"), MONDAY, PLAN)
    assert trader.book.charges == ENGINE.contract_note([one] * 7).total
    assert trader.book.charges != ENGINE.of(one).total * 7


def test_the_plan_takes_nothing_of_single_orders() -> None:
    """`ledger` adds turnovers up by segment, which is exact only as long as this holds."""
    plan = ENGINE.data.brokers[PLAN]
    for rows in plan.brokerage.values():
        assert all(row.flat == 0 for row in rows)
    assert all(row.amount == 0 for row in plan.depository)


def test_intraday_holds_a_fifth_and_what_closes_holds_nothing() -> None:
    trader = Trader()
    trader.price("1400")
    trader.sell(100, product=Product.MIS)
    trader.price("1400")
    assert trader.funds.used == 28_000
    closing = trader.buy(100, product=Product.MIS, limit="1350")
    assert trader.funds.used == 28_000
    more = trader.buy(150, product=Product.MIS, limit="1350")  # with the other: 150 long in the end
    assert trader.funds.used == D("0.2") * 150 * 1350
    trader.cancel(more)
    trader.cancel(closing)
    assert trader.funds.used == 28_000


def test_open_losses_reduce_what_is_available_and_gains_do_not_add() -> None:
    trader = Trader()
    trader.price("1400")
    trader.buy(100, product=Product.MIS)
    trader.price("1400")
    before = trader.free
    trader.price("1390")
    assert trader.free == before - 1000
    assert trader.funds.total == trader.book.cash - 1000
    trader.price("1410")
    assert trader.free == before


def test_what_closes_a_losing_position_is_taken_without_money() -> None:
    trader = Trader()
    trader.price("1000")
    trader.buy(4900, product=Product.MIS)
    trader.price("1000")
    trader.price("900")
    assert trader.free < 0
    with pytest.raises(OrderRejectedError, match="Not enough funds"):
        trader.buy(1, product=Product.MIS)
    trader.sell(4900, product=Product.MIS)
    trader.price("900")
    assert trader.book.cash == 1_000_000 - 490_000 - trader.book.charges


def test_options_are_paid_and_sold_ones_hold_by_their_strike() -> None:
    trader = Trader()
    trader.price("100", CALL)
    trader.buy(65, CALL, product=Product.NRML)
    trader.price("100", CALL)
    assert trader.book.cash == 1_000_000 - 6_500 - trader.book.charges
    assert trader.funds.used == 0
    trader.price("60", CALL)
    assert trader.funds.total == trader.book.cash  # it is paid: no more can be lost
    trader.price("100", CALL)
    trader.sell(130, CALL, product=Product.NRML)
    assert trader.funds.used == D("0.2") * 25_000 * 65
    trader.price("110", CALL)
    assert trader.book.positions[0].net == -65
    assert trader.book.cash == 1_000_000 - 6_500 + 14_300 - trader.book.charges
    trader.price("130", CALL)
    assert trader.funds.total == trader.book.cash - 20 * 65


def test_shares_on_credit_cost_half_and_are_paid_back() -> None:
    trader = Trader()
    trader.price("1400")
    trader.buy(1000, product=Product.MTF)
    trader.price("1400")
    assert trader.book.cash == 1_000_000 - 700_000 - trader.book.charges
    assert trader.book.holdings[0].funded == 700_000
    trader.sell(400, product=Product.MTF)
    trader.price("1500")
    assert trader.book.cash == 300_000 + 600_000 - 280_000 - trader.book.charges
    assert trader.book.holdings[0].funded == 420_000


def test_a_price_that_ran_away_is_not_paid_with_money_that_is_not_there() -> None:
    trader = Trader()
    trader.price("1400")
    order = trader.buy(710)  # 994,000 and charges
    trader.price("1450")
    assert (order.state, order.filled) == (OrderState.CANCELLED, 0)
    assert "Not enough funds" in (order.reason or "")
    assert trader.book.cash == 1_000_000


def test_a_stop_that_ends_a_sold_option_is_filled_wherever_the_price_has_jumped() -> None:
    """Ending a loss is never refused for want of money: what it costs is lost already."""
    trader = Trader()
    trader.price("100", CALL)
    trader.sell(65, CALL, product=Product.NRML)
    trader.price("100", CALL)
    trader.price("1400")
    trader.buy(478)
    trader.price("1400")
    stop = trader.buy(65, CALL, product=Product.NRML, trigger="150")
    trader.price("149", CALL)
    assert trader.free < 65 * 250
    trader.price("400", CALL)
    assert (stop.state, stop.reason) == (OrderState.COMPLETE, None)
    assert (trader.book.positions[0].net, trader.funds.used) == (0, 0)


def test_what_goes_beyond_ending_a_sold_option_is_paid() -> None:
    trader = Trader()
    trader.price("100", CALL)
    trader.sell(65, CALL, product=Product.NRML)
    trader.price("100", CALL)
    trader.price("1400")
    trader.buy(470)
    trader.price("1400")
    more = trader.buy(130, CALL, product=Product.NRML, limit="110")
    trader.cancel(more)
    more = trader.buy(130, CALL, product=Product.NRML, trigger="110")
    trader.price("1000", CALL)
    assert (more.state, more.filled) == (OrderState.CANCELLED, 0)
    assert "65029.28 needed" in (more.reason or ""), "the 65 that end the position are not asked for"


def test_no_order_is_taken_for_what_another_holds() -> None:
    trader = Trader()
    trader.buy(700, limit="1400")
    with pytest.raises(OrderRejectedError, match="Not enough funds"):
        trader.buy(100, OTHER, limit="1500")
    trader.buy(10, OTHER, limit="1500")


def test_delivery_sells_only_what_no_other_order_sells() -> None:
    trader = Trader()
    trader.price("1400")
    trader.buy(10)
    trader.price("1400")
    trader.sell(6, limit="1500")
    with pytest.raises(OrderRejectedError, match="Only 4 of RELIANCE"):
        trader.sell(5, limit="1500")
    trader.sell(4, limit="1500")


def test_the_capabilities_are_those_of_the_rules() -> None:
    assert CAPABILITIES.products == PRODUCTS
    assert CAPABILITIES.exchanges == {Exchange.NSE, Exchange.BSE, Exchange.NFO, Exchange.BFO}


# Whatever is done

INSTRUMENTS: dict[str, tuple[Listing, Product]] = {
    "delivery": (SHARE, Product.CNC),
    "credit": (SHARE, Product.MTF),
    "intraday": (SHARE, Product.MIS),
    "future": (FUTURE, Product.NRML),
    "option": (CALL, Product.NRML),
}
ACTS = st.lists(
    st.tuples(
        st.sampled_from(list(INSTRUMENTS)),
        st.sampled_from(list(Side)),
        st.integers(1, 40),
        st.integers(800, 1200),
        st.booleans(),
        st.integers(0, 60) | st.none(),
    ),
    max_size=25,
)


def _carry_out(trader: Trader, acts: list[tuple[str, Side, int, int, bool, int | None]]) -> None:
    for what, side, lots, price, waits, volume in acts:
        listing, product = INSTRUMENTS[what]
        trader.marks.setdefault((listing.exchange, listing.symbol), D(1000))  # type: ignore[arg-type]
        order = trader.buy if side is Side.BUY else trader.sell
        with suppress(OrderRejectedError):
            order(lots * listing.lot_size, listing, product=product, limit=str(price) if waits else None)
        trader.price(D(price), listing, usual=volume, traded=volume)
        trader.pass_time(seconds=1)


def _independently(trades: list[BookedTrade], listings: dict[str, Listing]) -> tuple[Decimal, Decimal]:
    """Cash flow of what was paid in full or closed, and charges, from the trades alone: queues of single units."""
    cash, queues = D(0), defaultdict[tuple[str, Product], list[tuple[int, Decimal]]](list)
    turnover: dict[tuple[Segment, Side], Decimal] = defaultdict(Decimal)
    delivered: dict[Side, int] = defaultdict(int)
    for trade in trades:
        listing = listings[trade.symbol]
        contract = Segment.OPTIONS if listing.kind == "CE" else Segment.FUTURES
        segment = SEGMENTS[trade.product] if listing is SHARE else contract
        turnover[segment, trade.side] += trade.price * trade.quantity
        delivered[trade.side] += trade.quantity if segment is Segment.DELIVERY else 0
        if segment in {Segment.INTRADAY, Segment.FUTURES}:
            queue = queues[trade.symbol, trade.product]
            for _ in range(trade.quantity):
                if queue and queue[0][0] != trade.side.sign:
                    sign, price = queue.pop(0)
                    cash += sign * (trade.price - price)
                else:
                    queue.append((trade.side.sign, trade.price))
        else:
            cash -= trade.side.sign * trade.price * trade.quantity
    notes = [
        TradeForCharges(
            ChargedExchange.NSE,
            segment,
            ChargedSide(side.value),
            1,
            value,
            MONDAY,
            PLAN,
            same_day=Fraction(min(delivered[Side.BUY], delivered[Side.SELL]), delivered[side])
            if segment is Segment.DELIVERY
            else Fraction(0),
        )
        for (segment, side), value in turnover.items()
    ]
    return cash, ENGINE.contract_note(notes).total if notes else D(0)


@given(ACTS)
def test_cash_is_what_the_trades_make_it(acts: list[tuple[str, Side, int, int, bool, int | None]]) -> None:
    trader = Trader(at=ist("09:30"))
    _carry_out(trader, acts)
    flow, charges = _independently(trader.book.trades, {one.symbol: one for one, _ in INSTRUMENTS.values()})
    lent = sum((holding.funded for holding in trader.book.holdings), D(0))
    assert trader.book.charges == charges
    assert trader.book.cash == 1_000_000 + flow + lent - charges


@given(ACTS)
def test_nothing_impossible_comes_about(acts: list[tuple[str, Side, int, int, bool, int | None]]) -> None:
    trader = Trader(at=ist("09:30"))
    _carry_out(trader, acts)
    book = trader.book
    assert all(holding.quantity > 0 and holding.cost > 0 for holding in book.holdings)
    assert all((p.cost == 0) == (p.net == 0) and p.cost >= 0 for p in book.positions)
    for order in book.orders:
        assert 0 <= order.filled <= order.quantity
        assert (order.state is OrderState.COMPLETE) == (order.filled == order.quantity)
        own = [trade for trade in book.trades if trade.broker_order_id == order.id]
        assert sum(trade.quantity for trade in own) == order.filled
        if order.price is not None:
            assert all((trade.price - order.price) * order.side.sign <= 0 for trade in own)
    # Delivery, the queue of what is held: never more sold than bought.
    for product in (Product.CNC, Product.MTF):
        net = sum(t.side.sign * t.quantity for t in book.trades if t.product is product)
        assert net == sum(h.quantity for h in book.holdings if h.product is product)
    if all(trade.product in {Product.CNC, Product.MTF} for trade in book.trades):
        assert book.cash >= 0


@given(ACTS)
def test_the_evening_leaves_no_intraday_position_and_no_order(
    acts: list[tuple[str, Side, int, int, bool, int | None]],
) -> None:
    trader = Trader(at=ist("09:30"))
    _carry_out(trader, acts)
    trader.at("15:30")
    assert not any(order.is_open for order in trader.book.orders)
    assert not any(p.net for p in trader.book.positions if p.product is Product.MIS)
    assert {p.product for p in trader.book.positions if p.net} <= {Product.CNC, Product.MTF, Product.NRML}
