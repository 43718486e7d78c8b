"""The paper broker on a real database: placing from every process, filling in one, news, days, restarts."""

import asyncio
from datetime import date
from decimal import Decimal

import pytest

from app.brokerage.adapters.paper.book import Key
from app.brokerage.adapters.paper.market import MOST_QUOTES, condensed
from app.brokerage.adapters.paper.matching import Quote
from app.brokerage.adapters.paper.models import DOCUMENTS
from app.brokerage.adapters.paper.rules import PaperRules
from app.brokerage.errors import BrokerUnavailableError, OrderRejectedError, OutcomeUnknownError
from app.brokerage.words import OrderChange, OrderState, PriceType, Product, Side, Validity
from app.core.cancelling import end
from app.core.errors import UnavailableError
from app.core.lease_holder import LeaseHolder
from tests.brokerage.paper.kit import OTHER, SHARE, Desk, desk_of, ist, ticket
from tests.support.mongodb import Db, empty_database, server_port, through
from tests.support.tcp_proxy import TcpProxy

D = Decimal
LIVE = PaperRules(slippage_bps=D(0), latency_ms=0, volume_share=D("0.1"))


async def test_a_market_order_meets_a_quote_that_is_asked_for(desk: Desk) -> None:
    desk.tape.quote("1400.00")
    wanted = ticket(Side.BUY, 10)
    order_id = await desk.place(wanted)
    await desk.step()
    order = await desk.order(order_id)
    assert (order.state, order.average_price, order.tag) == (OrderState.COMPLETE, D(1400), wanted.tag)
    [trade] = await desk.broker.trades(desk.account, desk.session)
    assert (trade.broker_order_id, trade.quantity, trade.price, trade.product) == (order_id, 10, D(1400), Product.CNC)
    [holding] = await desk.broker.holdings(desk.account, desk.session)
    assert (holding.symbol, holding.quantity, holding.average_price) == ("RELIANCE", 10, D(1400))
    assert holding.isin == SHARE.isin
    [position] = await desk.broker.positions(desk.account, desk.session)
    assert (position.net_quantity, position.last_price) == (10, D(1400))


async def test_live_prices_fill_what_waits_and_volume_bounds_it(db: Db) -> None:
    async with desk_of(db, LIVE) as desk:
        desk.tape.trade("1400.00", volume=45_000)  # 1,000 a minute since 09:15
        order_id = await desk.place(ticket(Side.BUY, 500, limit="1400"))
        await desk.step()
        assert (await desk.order(order_id)).filled_quantity == 100
        desk.clock.move(seconds=1)
        desk.tape.trade("1400.00", volume=45_700)
        await desk.step()
        assert (await desk.order(order_id)).filled_quantity == 170
        desk.tape.trade("1401.00", volume=90_000)  # beyond the limit
        await desk.step(seconds=1)
        assert (await desk.order(order_id)).filled_quantity == 170
        desk.tape.trade("1399.00", volume=96_000)
        await desk.step(seconds=1)
        order = await desk.order(order_id)
        assert (order.state, order.average_price) == (OrderState.COMPLETE, D(1400))
        assert [trade.quantity for trade in desk.news.trades] == [100, 70, 330]
        assert [seen.filled_quantity for seen in desk.news.orders] == [100, 170, 500]


async def test_a_price_between_two_looks_is_not_missed(desk: Desk) -> None:
    desk.tape.trade("1400")
    order_id = await desk.place(ticket(Side.BUY, 10, limit="1390"))
    await desk.step()
    for price in ("1395", "1389", "1396"):
        desk.clock.move(seconds=0.1)
        desk.tape.trade(price)
    await desk.step()
    assert (await desk.order(order_id)).average_price == 1390


def test_many_prices_between_two_looks_keep_their_extremes() -> None:
    key, at = Key(SHARE.exchange, SHARE.symbol), ist("10:00")
    prices = [D(1400) + (number * 37 % 101) for number in range(MOST_QUOTES * 3)]
    kept = [quote.price for quote in condensed([Quote(key, price, at) for price in prices])]
    assert len(kept) <= 4
    assert (min(kept), max(kept)) == (min(prices), max(prices))
    assert (kept[0], kept[-1]) == (prices[0], prices[-1])


async def test_an_order_of_another_process_is_found_and_filled(desk: Desk) -> None:
    await desk.step()
    desk.tape.quote("1400")
    elsewhere = desk.another_broker()
    order_id = await elsewhere.place(desk.account, desk.session, ticket(Side.BUY, 10))
    await desk.step()
    assert (await desk.order(order_id)).state is OrderState.COMPLETE
    assert desk.news.accounts == {desk.account.account_id}


async def test_many_processes_place_at_once_and_nothing_is_lost(desk: Desk) -> None:
    brokers = [desk.another_broker() for _ in range(4)]
    wanted = [ticket(Side.BUY, 1, limit="1000") for _ in range(24)]
    desk.tape.quote("999")

    async def place(number: int) -> str:
        return await brokers[number % 4].place(desk.account, desk.session, wanted[number])

    placed, *_ = await asyncio.gather(
        asyncio.gather(*(place(number) for number in range(len(wanted)))), desk.step(), desk.step()
    )
    assert len(set(placed)) == len(wanted)
    await desk.step(seconds=6)
    orders = await desk.broker.orders(desk.account, desk.session)
    assert sorted(order.tag or "" for order in orders) == sorted(one.tag for one in wanted)
    assert {order.state for order in orders} == {OrderState.COMPLETE}
    [holding] = await desk.broker.holdings(desk.account, desk.session)
    assert holding.quantity == 24


async def test_the_same_tag_is_the_same_order_before_and_after_it_is_filed(desk: Desk) -> None:
    desk.tape.quote("1400")
    wanted = ticket(Side.BUY, 10)
    first = await desk.place(wanted)
    assert await desk.place(wanted) == first
    await desk.step()
    assert (await desk.store.load(desk.account.account_id)).book.orders == []  # type: ignore[union-attr]
    assert await desk.place(wanted) == first
    assert len(await desk.broker.orders(desk.account, desk.session)) == 1
    with pytest.raises(OrderRejectedError, match="Another order has this tag"):
        await desk.place(ticket(Side.SELL, 10, tag=wanted.tag))


async def test_two_at_once_with_one_tag_are_one_order(desk: Desk) -> None:
    wanted = ticket(Side.BUY, 10, limit="1400")
    other = desk.another_broker()
    ids = await asyncio.gather(*(b.place(desk.account, desk.session, wanted) for b in (desk.broker, other) * 4))
    assert len(set(ids)) == 1


async def test_a_market_order_waits_for_the_first_price_and_others_need_none(desk: Desk) -> None:
    """A provider that was never asked before takes seconds; who gives a price need not wait for it."""
    desk.tape.quote("1400")
    desk.tape.held_up = asyncio.Event()
    broker = desk.another_broker(patience=0)
    limit = await broker.place(desk.account, desk.session, ticket(Side.BUY, 10, limit="1400"))
    await broker.place(desk.account, desk.session, ticket(Side.BUY, 10, trigger="1450"))
    assert desk.tape.asked == 0
    market = asyncio.create_task(broker.place(desk.account, desk.session, ticket(Side.BUY, 10)))
    while not desk.tape.asked:
        await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, desk.tape.held_up.set)
    assert await market != limit


async def test_a_refused_order_leaves_nothing(desk: Desk, db: Db) -> None:
    with pytest.raises(OrderRejectedError, match="Only 0") as refused:
        await desk.place(ticket(Side.SELL, 10, limit="1400"))
    assert refused.value.extensions == {"broker_code": "HOLDINGS"}
    assert await desk.broker.orders(desk.account, desk.session) == []
    assert await db["paper_accounts"].find_one({"_id": desk.account.account_id}) is None
    assert (await desk.broker.funds(desk.account, desk.session)).available == 1_000_000


async def test_changes_and_cancellations_are_told(desk: Desk) -> None:
    desk.tape.quote("1400")
    unchanged = await desk.place(ticket(Side.BUY, 10, limit="1300"))
    await desk.step()
    assert [one.broker_order_id for one in desk.news.orders] == [unchanged]
    desk.news.orders.clear()
    order_id = await desk.place(ticket(Side.BUY, 10, limit="1390"))
    await desk.step()
    change = OrderChange(quantity=5, price_type=PriceType.LIMIT, price=D(1380), validity=Validity.DAY)
    await desk.broker.modify(desk.account, desk.session, await desk.order(order_id), SHARE, change)
    await desk.step()
    await desk.broker.cancel(desk.account, desk.session, await desk.order(order_id))
    await desk.step()
    assert [(one.state, one.quantity, one.price) for one in desk.news.orders] == [
        (OrderState.OPEN, 10, D(1390)),
        (OrderState.OPEN, 5, D(1380)),
        (OrderState.CANCELLED, 5, D(1380)),
    ]
    with pytest.raises(OrderRejectedError, match="not open"):
        await desk.broker.cancel(desk.account, desk.session, await desk.order(order_id))


async def test_what_could_not_be_told_is_told_later_and_not_lost_by_a_restart(desk: Desk) -> None:
    desk.tape.quote("1400")
    order_id = await desk.place(ticket(Side.BUY, 10))
    desk.news.fails = UnavailableError("The database is away.")
    await desk.step()
    assert (await desk.order(order_id)).state is OrderState.COMPLETE  # done, though nobody heard of it
    assert len(await desk.broker.trades(desk.account, desk.session)) == 1
    assert desk.matcher.health()["status"] == "degraded"
    desk.matcher = desk.another_matcher()
    desk.news.fails = None
    await desk.step()
    assert [one.state for one in desk.news.orders] == [OrderState.COMPLETE]
    assert [trade.broker_order_id for trade in desk.news.trades] == [order_id]
    assert len(await desk.broker.trades(desk.account, desk.session)) == 1
    await desk.step(seconds=10)
    assert len(desk.news.orders) == 1  # once is enough


async def test_two_that_fill_at_once_fill_once(desk: Desk) -> None:
    other = desk.another_matcher()
    desk.tape.quote("1400")
    for _ in range(5):
        await desk.place(ticket(Side.BUY, 10))
    await asyncio.gather(desk.matcher.step(), other.step())
    await asyncio.gather(desk.matcher.step(), other.step())
    [holding] = await desk.broker.holdings(desk.account, desk.session)
    assert holding.quantity == 50
    trades = await desk.broker.trades(desk.account, desk.session)
    assert sorted(trade.quantity for trade in trades) == [10] * 5
    assert {trade.trade_id for trade in desk.news.trades} == {trade.trade_id for trade in trades}


async def test_intraday_positions_are_squared_off_and_told(desk: Desk) -> None:
    desk.tape.quote("1400")
    await desk.place(ticket(Side.SELL, 100, product=Product.MIS))
    await desk.step()
    desk.clock.moment = ist("15:20")
    desk.tape.quote("1405")
    await desk.step()
    await desk.step(seconds=1)
    closing = desk.news.orders[-1]
    assert (closing.side, closing.quantity, closing.tag, closing.state) == (Side.BUY, 100, None, OrderState.COMPLETE)
    [position] = await desk.broker.positions(desk.account, desk.session)
    assert (position.net_quantity, position.realised) == (0, D(-500))


async def test_nobody_there_at_1520_the_position_ends_at_the_last_price_of_the_evening(desk: Desk) -> None:
    desk.tape.quote("1400")
    await desk.place(ticket(Side.SELL, 100, product=Product.MIS))
    await desk.step()
    desk.clock.moment = ist("15:45")
    desk.tape.quote("1407", at=ist("15:29"))
    desk.matcher = desk.another_matcher()
    await desk.step()
    closing = desk.news.orders[-1]
    assert (closing.state, closing.average_price) == (OrderState.COMPLETE, D(1407))


async def test_the_book_is_of_the_day(desk: Desk) -> None:
    desk.tape.quote("1400")
    await desk.place(ticket(Side.BUY, 10))
    kept = await desk.place(ticket(Side.BUY, 10, limit="1300"))
    await desk.step()
    desk.clock.moment = ist("15:30")
    await desk.step()
    evening = await desk.broker.orders(desk.account, desk.session)
    assert [order.state for order in evening] == [OrderState.COMPLETE, OrderState.EXPIRED]
    assert (await desk.order(kept)).reason == "The session has ended."
    desk.clock.moment = ist("09:00", date(2026, 7, 7))
    await desk.step()
    assert await desk.broker.orders(desk.account, desk.session) == []
    assert await desk.broker.trades(desk.account, desk.session) == []
    assert await desk.broker.positions(desk.account, desk.session) == []
    assert (await desk.broker.holdings(desk.account, desk.session))[0].quantity == 10


async def test_a_stale_quote_of_another_time_is_not_what_an_order_meets(desk: Desk) -> None:
    desk.tape.quote("1400")
    await desk.place(ticket(Side.BUY, 1))
    await desk.step()
    desk.clock.move(hours=1)
    desk.tape.quote("1500")
    order_id = await desk.place(ticket(Side.BUY, 1))
    await desk.matcher.step()
    assert (await desk.order(order_id)).average_price == 1500


async def test_prices_are_asked_for_only_while_orders_wait(desk: Desk) -> None:
    await desk.step(seconds=60)
    assert desk.tape.asked == 0
    await desk.place(ticket(Side.BUY, 1, limit="1300"))
    asked = desk.tape.asked
    for _ in range(10):
        await desk.step(seconds=1)
    assert 2 <= desk.tape.asked - asked <= 3
    desk.clock.moment = ist("15:30")
    await desk.step()
    asked = desk.tape.asked
    await desk.step(seconds=60)
    assert desk.tape.asked == asked


async def test_funds_follow_live_losses(desk: Desk) -> None:
    desk.tape.trade("1400")
    await desk.place(ticket(Side.BUY, 100, product=Product.MIS))
    await desk.step()
    before = await desk.broker.funds(desk.account, desk.session)
    assert before.used == 28_000
    desk.tape.trade("1390")
    after = await desk.broker.funds(desk.account, desk.session)
    assert after == (before.available - 1000, before.used, before.total - 1000)


async def test_a_newcomer_can_buy_well_known_shares(desk: Desk) -> None:
    listings = {listing.symbol: listing for listing in await desk.broker.listings()}
    assert len(listings) > 150
    assert {"RELIANCE", "INFY", "TCS", "HDFCBANK", "NIFTYBEES"} <= listings.keys()
    assert all(listing.tick_size in {D("0.05"), D("0.01")} and listing.lot_size == 1 for listing in listings.values())
    desk.tape.quote("1404.30")
    order_id = await desk.place(ticket(Side.BUY, 10, listings["RELIANCE"]))
    await desk.step()
    assert (await desk.order(order_id)).state is OrderState.COMPLETE


async def test_the_matching_runs_under_its_lease_with_its_own_clock(db: Db) -> None:
    """As the service runs it: with the system's clock, around the clock."""
    async with desk_of(db, PaperRules(always_open=True, latency_ms=20, volume_share=D(0))) as desk:
        lease = LeaseHolder(db, desk.clock, "paper broker", "here", 15)
        running = asyncio.create_task(lease.run(desk.matcher.run))
        desk.tape.trade("1400")
        await desk.place(ticket(Side.BUY, 10, OTHER, limit="1500"))
        desk.clock.move(seconds=1)
        desk.tape.trade("1400", listing=OTHER)
        try:
            await asyncio.wait_for(desk.news.traded.wait(), 30)
        finally:
            await end([running])
        assert desk.news.trades[0].symbol == "INFY"
        assert desk.matcher.health()["here"] is False


async def test_a_database_that_is_away_is_said_before_the_order_is_sent(mongodb_url: str) -> None:
    async with (
        TcpProxy(server_port(mongodb_url)) as proxy,
        empty_database(through(mongodb_url, proxy.port), DOCUMENTS) as db,
        desk_of(db) as desk,
    ):
        await desk.place(ticket(Side.BUY, 10, limit="1400"))
        await proxy.cut()
        hurried = desk.hurried_broker(0.5)
        with pytest.raises(BrokerUnavailableError, match="database is away"):
            await hurried.place(desk.account, desk.session, ticket(Side.BUY, 10, limit="1400"))
        await proxy.mend()
        await db.client.admin.command("ping")
        await desk.place(again := ticket(Side.BUY, 10, limit="1400"))
        assert [order.tag for order in await desk.broker.orders(desk.account, desk.session)][1:] == [again.tag]


async def test_an_answer_that_is_lost_leaves_it_open_whether_the_order_is_there(mongodb_url: str) -> None:
    async with (
        TcpProxy(server_port(mongodb_url)) as proxy,
        empty_database(through(mongodb_url, proxy.port), DOCUMENTS) as db,
        desk_of(db) as desk,
    ):
        await desk.place(ticket(Side.BUY, 10, limit="1300"))
        hurried = desk.hurried_broker(3)
        # It asks for the time to see whose prices it needs, and again when it has read all and is about to write.
        desk.clock.when_asked(2, proxy.swallow_answers)
        wanted = ticket(Side.BUY, 10, limit="1400")
        with pytest.raises(OutcomeUnknownError):
            await hurried.place(desk.account, desk.session, wanted)
        await proxy.mend()
        await db.client.admin.command("ping")
        orders = await desk.broker.orders(desk.account, desk.session)
        assert [order.tag for order in orders][1:] == [wanted.tag]
        assert await desk.place(wanted) == orders[1].broker_order_id
