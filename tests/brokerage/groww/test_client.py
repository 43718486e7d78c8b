"""The port for Groww, against a simulated one."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import msgspec
import pytest

from app.brokerage.adapters.groww.client import APPROVE_AT, GrowwBroker
from app.brokerage.errors import (
    BrokerError,
    BrokerRateLimitedError,
    BrokerSessionError,
    BrokerUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
)
from app.brokerage.ports import BrokerAccount, BrokerSession
from app.brokerage.words import (
    Exchange,
    Listing,
    OrderChange,
    OrderState,
    OrderTicket,
    PriceType,
    Product,
    Side,
    Validity,
)
from tests.brokerage.groww.conftest import MarketClock, account_at
from tests.brokerage.patience import TIMEOUTS
from tests.simulators.brokers.book import Holding
from tests.simulators.brokers.groww import GrowwSimulator
from tests.simulators.brokers.instruments import INFY, RELIANCE
from tests.simulators.vendor import Fault, answer

SHARE = Listing(Exchange.NSE, "RELIANCE", "RELIANCE", Decimal("0.10"), isin="INE002A01018")
CALL = Listing(Exchange.NFO, "NIFTY26DEC24500CE", "NIFTY26DEC24500CE", Decimal("0.05"), 65, 1755, "CE")
TAGS = (f"arrow{number:07d}" for number in count(1))
LIMIT = Decimal("1500.10")


def ticket(**changes: Any) -> OrderTicket:
    usual: dict[str, Any] = {
        "tag": next(TAGS), "listing": SHARE, "side": Side.BUY, "quantity": 10, "product": Product.CNC,
        "price_type": PriceType.LIMIT, "price": LIMIT,
    }  # fmt: skip
    return OrderTicket(**usual | changes)


# Sessions


async def test_an_authenticator_s_key_opens_a_session_until_six(broker: GrowwBroker, groww: GrowwSimulator):
    account = account_at(groww)
    assert broker.login_url(account) is None
    session = await broker.sign_in(account)
    assert session.expires_at is not None
    assert session.expires_at.isoformat() == "2026-11-24T00:30:00+00:00"
    assert await broker.orders(account, session) == []


async def test_a_key_with_a_secret_waits_for_a_person(broker: GrowwBroker, groww: GrowwSimulator):
    account = account_at(groww, api_key=groww.key or "", api_secret=groww.secret)
    assert broker.login_url(account) == APPROVE_AT
    with pytest.raises(BrokerSessionError, match="Approve the key") as refused:
        await broker.sign_in(account)
    assert refused.value.login_url == APPROVE_AT
    groww.approved = True
    session = await broker.sign_in(msgspec.structs.replace(account, account_id="another"))
    assert await broker.orders(account, session) == []
    assert groww.secret.encode() not in b"".join(request.body for request in groww.requests)
    with pytest.raises(BrokerSessionError, match="Approve the key"):
        await broker.renew(account, session)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"api_key": "another", "totp_key": "JBSWY3DPEHPK3PXPJBSWY3DP"}, "Invalid API key"),
        ({"api_key": "eyJraWQiOiJaTUtjVXcifQ.growwkey", "totp_key": "KBSWY3DPEHPK3PXPJBSWY3DP"}, "Invalid TOTP"),
        ({"api_key": "key", "totp_key": "not base 32!"}, "Base32"),
        ({"api_key": "key"}, "lacks"),
        ({"totp_key": "JBSWY3DPEHPK3PXPJBSWY3DP"}, "lacks"),
    ],
)
async def test_what_does_not_hold_is_refused(
    broker: GrowwBroker, groww: GrowwSimulator, held: dict[str, str], words: str
):
    with pytest.raises(BrokerSessionError, match=words):
        await broker.sign_in(account_at(groww, **held))


async def test_a_session_dies_at_six_and_renews_itself(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, clock: MarketClock
):
    clock.move(hours=19, minutes=59)  # 05:59
    assert await broker.orders(account, session) == []
    clock.move(minutes=1)
    for call in (broker.orders, broker.trades, broker.positions, broker.holdings, broker.funds):
        with pytest.raises(BrokerSessionError):
            await call(account, session)
    with pytest.raises(BrokerSessionError):
        await broker.place(account, session, ticket())
    assert broker.capabilities.renews_itself
    account = msgspec.structs.replace(account, account_id="another")  # one account signs in once a second
    fresh = await broker.renew(account, session)
    assert await broker.orders(account, fresh) == []
    assert fresh.expires_at == clock.now() + timedelta(days=1)


# Orders


@pytest.mark.parametrize(
    ("price_type", "price", "trigger", "state"),
    [
        (PriceType.MARKET, None, None, OrderState.COMPLETE),
        (PriceType.LIMIT, LIMIT, None, OrderState.OPEN),
        (PriceType.SL, Decimal("1521.00"), Decimal("1520.00"), OrderState.TRIGGER_PENDING),
        (PriceType.SL_M, None, Decimal("1520.00"), OrderState.TRIGGER_PENDING),
    ],
)
async def test_an_order_is_in_the_book_as_it_was_meant(
    broker: GrowwBroker,
    account: BrokerAccount,
    session: BrokerSession,
    price_type: PriceType,
    price: Decimal | None,
    trigger: Decimal | None,
    state: OrderState,
):
    sent = ticket(price_type=price_type, price=price, trigger_price=trigger)
    order_id = await broker.place(account, session, sent)
    (order,) = await broker.orders(account, session)
    assert (order.broker_order_id, order.tag) == (order_id, sent.tag)
    assert (order.exchange, order.symbol, order.side) == (Exchange.NSE, "RELIANCE", Side.BUY)
    assert (order.product, order.price_type, order.quantity) == (Product.CNC, price_type, 10)
    assert (order.price, order.trigger_price, order.state) == (price, trigger, state)


async def test_shares_and_contracts_are_one_book(broker: GrowwBroker, account: BrokerAccount, session: BrokerSession):
    share, call = ticket(), ticket(listing=CALL, quantity=130, product=Product.NRML, side=Side.SELL, price=Decimal(200))
    await broker.place(account, session, share)
    await broker.place(account, session, call)
    orders = {order.tag: order for order in await broker.orders(account, session)}
    assert orders.keys() == {share.tag, call.tag}
    order = orders[call.tag]
    assert (order.exchange, order.symbol, order.product) == (Exchange.NFO, CALL.symbol, Product.NRML)
    change = OrderChange(quantity=65, price_type=PriceType.LIMIT, price=Decimal(210))
    await broker.modify(account, session, order, CALL, change)
    await broker.cancel(account, session, order)
    (order,) = (each for each in await broker.orders(account, session) if each.tag == call.tag)
    assert (order.quantity, order.price, order.state) == (65, 210, OrderState.CANCELLED)


async def test_an_account_without_futures_and_options_has_none_of_them(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator
):
    groww.derivatives = False
    sent = ticket()
    await broker.place(account, session, sent)
    assert [order.tag for order in await broker.orders(account, session)] == [sent.tag]
    assert await broker.positions(account, session) == []
    groww.fail("forbidden", on="/order/list")  # shares are what every account has
    with pytest.raises(BrokerError, match="subscription"):
        await broker.orders(account, session)


@pytest.mark.parametrize("page_limit", [100, 25, 7])
async def test_a_long_book_is_read_to_its_end(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator, page_limit: int
):
    for number in range(31):
        groww.book.place(
            "NSE",
            "RELIANCE",
            "BUY",
            1,
            product="CNC",
            price_type="LIMIT",
            price=Decimal(1500),
            tag=f"other{number:05d}",
        )
    groww.page_limit = page_limit  # whatever was asked for
    assert len({order.tag for order in await broker.orders(account, session)}) == 31


async def test_a_book_without_an_end_is_none(account: BrokerAccount, clock: MarketClock, groww: GrowwSimulator):
    broker = GrowwBroker(clock, most_pages=3)
    session, serial = await broker.sign_in(account), count()

    def another(_content: Any) -> Any:
        rows = [ROW | {"groww_order_id": f"GMK{next(serial)}"}]
        return {"status": "SUCCESS", "payload": {"order_list": rows}}

    groww.fail(Fault(change=another), times=8, on="/order/list")
    with pytest.raises(BrokerUnavailableError, match="does not end"):
        await broker.orders(account, session)
    assert groww.calls["GET /v1/order/list"] <= 6
    await broker.close()


ROW: dict[str, Any] = {
    "trading_symbol": "RELIANCE", "order_status": "OPEN", "quantity": 1, "filled_quantity": 0, "exchange": "NSE",
    "order_type": "LIMIT", "transaction_type": "BUY", "segment": "CASH", "product": "CNC", "price": 1500,
}  # fmt: skip


async def test_fills_positions_and_money(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator
):
    groww.book.fills_itself = False
    order_id = await broker.place(account, session, ticket())
    groww.book.fill(order_id, 4, "1500.10")
    (order,) = await broker.orders(account, session)
    assert (order.state, order.filled_quantity, order.average_price) == (OrderState.PARTIALLY_FILLED, 4, LIMIT)
    groww.book.fill(order_id, 6, "1499.00")
    first, second = await broker.trades(account, session)
    assert (first.broker_order_id, first.quantity, first.price) == (order_id, 4, LIMIT)
    assert (second.quantity, second.price, second.symbol) == (6, Decimal(1499), "RELIANCE")
    assert first.trade_id != second.trade_id
    assert first.at == groww.now()
    (position,) = await broker.positions(account, session)
    assert (position.symbol, position.product, position.net_quantity) == ("RELIANCE", Product.CNC, 10)
    assert (position.average_price, position.realised) == (Decimal("1499.44"), 0)
    funds = await broker.funds(account, session)
    assert (funds.available, funds.used, funds.total) == (Decimal("985005.6"), Decimal("14994.4"), Decimal(1_000_000))


async def test_trades_are_asked_for_once(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator
):
    groww.book.fills_itself = False
    done = await broker.place(account, session, ticket())
    open_ = await broker.place(account, session, ticket())
    await broker.place(account, session, ticket())  # never filled
    groww.book.fill(done)
    groww.book.fill(open_, 3)
    for quantities in ([10, 3], [10, 3]):
        assert sorted((trade.quantity for trade in await broker.trades(account, session)), reverse=True) == quantities
    assert groww.calls[f"GET /v1/order/trades/{done}"] == 2  # a page, and an empty one
    before = groww.calls[f"GET /v1/order/trades/{open_}"]
    groww.book.fill(open_, 2)
    assert sum(trade.quantity for trade in await broker.trades(account, session)) == 15
    assert groww.calls[f"GET /v1/order/trades/{open_}"] == before + 2
    assert groww.calls[f"GET /v1/order/trades/{done}"] == 2


async def test_trades_that_lag_behind_are_asked_for_again(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator
):
    order_id = await broker.place(account, session, ticket(price_type=PriceType.MARKET, price=None))
    groww.fail(Fault(answer({"status": "SUCCESS", "payload": {"trade_list": []}})), on=f"/order/trades/{order_id}")
    assert await broker.trades(account, session) == []
    (trade,) = await broker.trades(account, session)
    assert trade.quantity == 10


async def test_holdings(broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator):
    groww.book.holdings.append(Holding(INFY, 25, Decimal("1402.35")))
    (holding,) = await broker.holdings(account, session)
    assert (holding.exchange, holding.symbol, holding.isin) == (Exchange.NSE, "INFY", INFY.isin)
    assert (holding.quantity, holding.average_price) == (25, Decimal("1402.35"))


async def test_an_order_is_changed_and_cancelled(broker: GrowwBroker, account: BrokerAccount, session: BrokerSession):
    await broker.place(account, session, ticket())
    (order,) = await broker.orders(account, session)
    change = OrderChange(quantity=7, price_type=PriceType.SL, price=Decimal(1530), trigger_price=Decimal("1529.90"))
    await broker.modify(account, session, order, SHARE, change)
    (order,) = await broker.orders(account, session)
    assert (order.quantity, order.price_type, order.state) == (7, PriceType.SL, OrderState.TRIGGER_PENDING)
    assert (order.price, order.trigger_price) == (Decimal(1530), Decimal("1529.90"))
    await broker.cancel(account, session, order)
    (order,) = await broker.orders(account, session)
    assert order.state is OrderState.CANCELLED
    for again in (broker.cancel(account, session, order), broker.modify(account, session, order, SHARE, change)):
        with pytest.raises(OrderRejectedError, match="cannot be changed"):
            await again


async def test_a_rejection_is_told_at_once_and_is_in_the_book(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator
):
    groww.book.reject_next("Insufficient funds")
    with pytest.raises(OrderRejectedError, match="Insufficient funds"):
        await broker.place(account, session, ticket())
    (order,) = await broker.orders(account, session)
    assert (order.state, order.reason) == (OrderState.REJECTED, "Insufficient funds")


async def test_groww_says_no_at_its_door(broker: GrowwBroker, account: BrokerAccount, session: BrokerSession):
    with pytest.raises(OrderRejectedError, match="tick size") as refused:
        await broker.place(account, session, ticket(price=Decimal("1500.13")))
    assert refused.value.extensions == {"broker_code": "GA001"}
    assert await broker.orders(account, session) == []


async def test_it_takes_orders_of_the_day_only(broker: GrowwBroker):
    assert broker.capabilities.validities == {Validity.DAY}
    assert broker.capabilities.tag_unique


# A reference that was used is an order that is there


async def test_a_duplicate_is_the_order_itself(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator
):
    sent = ticket()
    first = await broker.place(account, session, sent)
    assert await broker.place(account, session, sent) == first
    assert len(groww.book.orders) == 1
    call = ticket(listing=CALL, quantity=65, product=Product.NRML, price=Decimal(100))
    assert await broker.place(account, session, call) == await broker.place(account, session, call) != first


@pytest.mark.parametrize("fault", ["lost", "html", "unable", "forbidden", "too_many"])
async def test_a_duplicate_that_cannot_be_looked_up_is_unknown_and_not_refused(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator, fault: str
):
    sent = ticket()
    await broker.place(account, session, sent)
    groww.fail(fault, on=f"/status/reference/{sent.tag}")
    with pytest.raises(OutcomeUnknownError, match="has this order already"):
        await broker.place(account, session, sent)
    assert [order.tag for order in await broker.orders(account, session)] == [sent.tag]


# Faults. What counts: what we say of an order, and whether it is there.


@pytest.mark.parametrize(
    ("fault", "options", "error", "placed"),
    [
        ("slow", {}, OutcomeUnknownError, True),
        ("half_open", {}, OutcomeUnknownError, True),
        ("lost", {}, OutcomeUnknownError, True),
        ("reset_after", {}, OutcomeUnknownError, True),
        ("html_after", {}, OutcomeUnknownError, True),
        ("garbage_after", {}, OutcomeUnknownError, True),
        ("down_after", {}, OutcomeUnknownError, True),
        ("not_http", {}, OutcomeUnknownError, True),
        ("redirect", {}, OutcomeUnknownError, False),
        ("empty", {}, OutcomeUnknownError, False),
        ("html", {"status": 403}, OutcomeUnknownError, False),
        ("down", {}, OutcomeUnknownError, False),
        ("internal", {}, OutcomeUnknownError, False),
        ("unable", {}, OutcomeUnknownError, False),
        ("gateway", {}, OutcomeUnknownError, False),
        ("too_many", {}, BrokerRateLimitedError, False),
        ("forbidden", {}, OrderRejectedError, False),
    ],
)
async def test_an_order_that_went_wrong(
    broker: GrowwBroker,
    account: BrokerAccount,
    session: BrokerSession,
    groww: GrowwSimulator,
    fault: str,
    options: dict[str, Any],
    error: type[BrokerError],
    placed: bool,
):
    groww.fail(fault, on="/order/create", **options)
    sent = ticket()
    with pytest.raises(BrokerError) as said, TIMEOUTS.hurried(needed=fault in {"slow", "half_open"}):
        await broker.place(account, session, sent)
    assert type(said.value) is error
    assert groww.calls["POST /v1/order/create"] == 1  # never sent again
    found = [order.tag for order in await broker.orders(account, session)]
    assert found == ([sent.tag] if placed else [])


@pytest.mark.parametrize("fault", ["lost", "down_after"])
async def test_changes_that_went_wrong_are_unknown_too(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator, fault: str
):
    await broker.place(account, session, ticket())
    (order,) = await broker.orders(account, session)
    groww.fail(fault, fault)
    change = OrderChange(quantity=7, price_type=PriceType.LIMIT, price=LIMIT)
    with pytest.raises(OutcomeUnknownError):
        await broker.modify(account, session, order, SHARE, change)
    with pytest.raises(OutcomeUnknownError):
        await broker.cancel(account, session, order)
    (order,) = await broker.orders(account, session)
    assert (order.quantity, order.state) == (7, OrderState.CANCELLED)


@pytest.mark.parametrize(
    "said", [{"status": "SUCCESS"}, {"status": "SUCCESS", "payload": {}}, {"payload": {"a": 1}}, []]
)
async def test_a_success_that_names_no_order_is_none(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator, said: Any
):
    groww.fail(Fault(answer(said)))
    with pytest.raises(OutcomeUnknownError):
        await broker.place(account, session, ticket())


async def test_where_nobody_listens_nothing_was_sent(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession
):
    gone = msgspec.structs.replace(account, base_url="http://127.0.0.1:9")
    with pytest.raises(BrokerError) as away:
        await broker.place(gone, session, ticket())
    assert type(away.value) is BrokerUnavailableError


@pytest.mark.parametrize("fault", ["slow", "lost", "html", "garbage", "down", "internal", "unable", "gateway", "empty"])
@pytest.mark.parametrize("segment", [0, 1])
async def test_a_book_that_cannot_be_read_is_no_empty_book(
    broker: GrowwBroker,
    account: BrokerAccount,
    session: BrokerSession,
    groww: GrowwSimulator,
    fault: str,
    segment: int,
):
    good = Fault()
    groww.fail(*([good] * segment), fault)
    with pytest.raises(BrokerUnavailableError), TIMEOUTS.hurried(needed=fault == "slow"):
        await broker.orders(account, session)


@pytest.mark.parametrize("payload", [None, {}, {"order_list": None}, {"order_list": [{"exchange": "NSE"}, 1]}])
async def test_a_success_without_its_rows_is_no_empty_book(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator, payload: Any
):
    groww.fail(Fault(answer({"status": "SUCCESS", "payload": payload})))
    with pytest.raises(BrokerUnavailableError, match="makes no sense"):
        await broker.orders(account, session)


async def test_its_limits_are_told(clock: MarketClock):
    async with GrowwSimulator(now=clock.now) as groww:
        broker, account = GrowwBroker(clock), account_at(groww)
        session = await broker.sign_in(account)
        clock.moment += timedelta(seconds=2)
        for _ in range(10):
            await broker.place(account, session, ticket(quantity=1))
        with pytest.raises(BrokerRateLimitedError):
            await broker.place(account, session, ticket(quantity=1))
        assert len(groww.book.orders) == 10
        await broker.close()


async def test_no_error_shows_a_credential(
    broker: GrowwBroker, account: BrokerAccount, session: BrokerSession, groww: GrowwSimulator
):
    held = [value.get_secret_value() for value in account.secrets.values()]
    said = []

    async def ask(call: Callable[[], Awaitable[object]], status: int, *secrets: str) -> None:
        words = f"you said {' '.join(secrets)}"
        groww.fail(Fault(answer({"status": "FAILURE", "error": {"code": "GA001", "message": words}}, status)))
        with pytest.raises(BrokerError) as error:
            await call()
        said.append(f"{error.value!r} {error.value.detail}")

    token = session.access_token.get_secret_value()
    for status in (200, 400, 401):
        await ask(lambda: broker.place(account, session, ticket()), status, token, *held)
        await ask(lambda: broker.funds(account, session), status, token, *held)
    other = msgspec.structs.replace(account, account_id="another")
    await ask(lambda: broker.sign_in(other), 400, *held)
    groww.fail(Fault(change=lambda content: content["payload"].update(order_status="FAILED", remark=token) or content))
    with pytest.raises(OrderRejectedError) as failed:
        await broker.place(account, session, ticket())
    said.append(failed.value.detail)
    assert any("you said … …" in text for text in said)
    assert not [secret for secret in (token, *held) for text in said if secret in text]


# Instruments


async def test_the_list_of_instruments(broker: GrowwBroker):
    listings = {(listing.exchange, listing.symbol): listing for listing in await broker.listings()}
    assert listings[Exchange.NSE, "RELIANCE"] == SHARE
    assert listings[Exchange.BSE, "RELIANCE"].tick_size == Decimal("0.05")
    assert listings[Exchange.NFO, CALL.symbol].freeze_quantity == 1755
    assert len(listings) == 6  # all but the index
    assert RELIANCE.symbol == listings[Exchange.NSE, "RELIANCE"].key


@pytest.mark.parametrize("fault", ["html", "garbage", "truncated", "empty", "down", "not_gzip"])
async def test_a_list_that_is_none_is_refused(broker: GrowwBroker, groww: GrowwSimulator, fault: str):
    groww.fail(fault)
    with pytest.raises(BrokerUnavailableError):
        await broker.listings()
