"""The port for Upstox, against a simulated one."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import httpx
import msgspec
import pytest
from pydantic import SecretStr

from app.brokerage.adapters.upstox.client import UpstoxBroker
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
from tests.brokerage.patience import TIMEOUTS
from tests.brokerage.upstox.conftest import MarketClock, account_at
from tests.simulators.brokers.book import Holding
from tests.simulators.brokers.instruments import INFY, NIFTY_CALL, RELIANCE
from tests.simulators.brokers.upstox import UpstoxSimulator
from tests.simulators.vendor import Fault, answer

SHARE = Listing(Exchange.NSE, "RELIANCE", "NSE_EQ|INE002A01018", Decimal("0.10"), isin="INE002A01018")
CALL = Listing(Exchange.NFO, "NIFTY26DEC24500CE", "NSE_FO|45125", Decimal("0.05"), 65, 1800, "CE")
TAGS = (f"arrow{number:07d}" for number in count(1))
LIMIT = Decimal("1500.10")


def ticket(**changes: Any) -> OrderTicket:
    usual: dict[str, Any] = {
        "tag": next(TAGS), "listing": SHARE, "side": Side.BUY, "quantity": 10, "product": Product.CNC,
        "price_type": PriceType.LIMIT, "price": LIMIT,
    }  # fmt: skip
    return OrderTicket(**usual | changes)


# Sessions


async def test_a_code_opens_a_session_until_half_past_three(broker: UpstoxBroker, upstox: UpstoxSimulator):
    account = account_at(upstox)
    session = await broker.sign_in(account)
    assert session.expires_at is not None
    assert session.expires_at.isoformat() == "2026-11-23T22:00:00+00:00"
    assert session.broker_user_id == upstox.user_id
    assert await broker.orders(account, session) == []
    with pytest.raises(BrokerSessionError, match="Invalid Auth code") as again:
        await broker.sign_in(msgspec.structs.replace(account, account_id="another"))  # a code is good for one try
    assert again.value.login_url == broker.login_url(account)


async def test_the_page_to_sign_in_on_leads_to_a_session(broker: UpstoxBroker, upstox: UpstoxSimulator):
    url = broker.login_url(account_at(upstox))
    assert url is not None
    async with httpx.AsyncClient(timeout=30) as browser:
        page = await browser.get(url)
    back = httpx.URL(page.headers["location"])
    assert str(back).startswith(upstox.redirect_uri)
    assert await broker.sign_in(account_at(upstox, request_token=back.params["code"]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api_secret": "another"}, "Invalid Credentials"),
        ({"redirect_uri": "https://elsewhere.example"}, "Invalid Credentials"),
        ({"request_token": ""}, "lacks the request_token"),
        ({"api_key": " ", "api_secret": ""}, "lacks the api_key, the api_secret"),
    ],
)
async def test_what_does_not_hold_is_refused(
    broker: UpstoxBroker, upstox: UpstoxSimulator, changes: dict[str, str], words: str
):
    with pytest.raises(BrokerSessionError, match=words) as refused:
        await broker.sign_in(account_at(upstox, **changes))
    assert "request_token" in refused.value.detail


async def test_without_a_redirect_address_there_is_no_page(broker: UpstoxBroker, upstox: UpstoxSimulator):
    assert broker.login_url(account_at(upstox, redirect_uri="")) is None
    assert upstox.total == 0


async def test_no_session_is_renewed_without_a_person(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession
):
    assert not broker.capabilities.renews_itself
    with pytest.raises(BrokerSessionError, match="Sign in to Upstox again") as wanted:
        await broker.renew(account, session)
    assert wanted.value.login_url


async def test_a_session_dies_at_half_past_three(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, clock: MarketClock
):
    clock.move(hours=17, minutes=29)  # 03:29
    assert await broker.orders(account, session) == []
    clock.move(minutes=1)
    for call in (broker.orders, broker.trades, broker.positions, broker.holdings, broker.funds):
        with pytest.raises(BrokerSessionError) as over:
            await call(account, session)
        assert over.value.login_url
    with pytest.raises(BrokerSessionError):
        await broker.place(account, session, ticket())


async def test_a_token_that_no_header_can_carry_is_not_sent(broker: UpstoxBroker, account: BrokerAccount):
    bad = BrokerSession(access_token=SecretStr("to\nken\u2603"), expires_at=None)
    with pytest.raises(BrokerSessionError) as refused:
        await broker.place(account, bad, ticket())
    assert "ken" not in refused.value.detail.replace("token", "")


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
    broker: UpstoxBroker,
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


@pytest.mark.parametrize("product", [Product.NRML, Product.MIS])
async def test_contracts(broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, product: Product):
    sent = ticket(listing=CALL, quantity=130, product=product, side=Side.SELL, price=Decimal("200.05"))
    await broker.place(account, session, sent)
    (order,) = await broker.orders(account, session)
    assert (order.exchange, order.symbol, order.product) == (Exchange.NFO, CALL.symbol, product)
    assert (order.side, order.quantity, order.state) == (Side.SELL, 130, OrderState.OPEN)


async def test_at_once_or_not_at_all(broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession):
    await broker.place(account, session, ticket(validity=Validity.IOC))
    (order,) = await broker.orders(account, session)
    assert (order.state, order.validity, order.filled_quantity) == (OrderState.CANCELLED, Validity.IOC, 0)
    assert order.reason


async def test_fills_positions_and_money(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, upstox: UpstoxSimulator
):
    upstox.book.fills_itself = False
    order_id = await broker.place(account, session, ticket())
    upstox.book.fill(order_id, 4, "1500.10")
    (order,) = await broker.orders(account, session)
    assert (order.state, order.filled_quantity, order.average_price) == (OrderState.PARTIALLY_FILLED, 4, LIMIT)
    upstox.book.fill(order_id, 6, "1499.00")
    first, second = await broker.trades(account, session)
    assert (first.broker_order_id, first.quantity, first.price) == (order_id, 4, LIMIT)
    assert (second.quantity, second.price, second.symbol) == (6, Decimal(1499), "RELIANCE")
    assert first.trade_id != second.trade_id
    assert first.at == upstox.now()
    (order,) = await broker.orders(account, session)
    assert (order.state, order.average_price) == (OrderState.COMPLETE, Decimal("1499.44"))
    (position,) = await broker.positions(account, session)
    assert (position.symbol, position.product, position.net_quantity) == ("RELIANCE", Product.CNC, 10)
    assert (position.average_price, position.last_price) == (Decimal("1499.44"), RELIANCE.price)
    assert (position.realised, position.unrealised) == (0, Decimal("105.60"))
    funds = await broker.funds(account, session)
    assert (funds.available, funds.used, funds.total) == (Decimal("985005.6"), Decimal("14994.4"), Decimal(1_000_000))


async def test_holdings(broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, upstox: UpstoxSimulator):
    upstox.book.holdings.append(Holding(INFY, 25, Decimal("1402.35")))
    (holding,) = await broker.holdings(account, session)
    assert (holding.exchange, holding.symbol, holding.isin) == (Exchange.NSE, "INFY", INFY.isin)
    assert (holding.quantity, holding.average_price, holding.last_price) == (25, Decimal("1402.35"), INFY.price)


async def test_an_order_is_changed_and_cancelled(broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession):
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


async def test_the_exchange_says_no(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, upstox: UpstoxSimulator
):
    upstox.book.reject_next("You need to add Rs. 138385.27 in your account to place this trade.")
    await broker.place(account, session, ticket())
    (order,) = await broker.orders(account, session)
    assert order.state is OrderState.REJECTED
    assert order.reason == "You need to add Rs. 138385.27 in your account to place this trade."


async def test_upstox_says_no_at_its_door(broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession):
    with pytest.raises(OrderRejectedError, match="tick size") as refused:
        await broker.place(account, session, ticket(price=Decimal("1500.13")))
    assert refused.value.extensions == {"broker_code": "UDAPI1037"}
    assert await broker.orders(account, session) == []


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
        ("bomb", {}, OutcomeUnknownError, False),
        ("redirect", {}, OutcomeUnknownError, False),
        ("empty", {}, OutcomeUnknownError, False),
        ("html", {"status": 403}, OutcomeUnknownError, False),
        ("down", {}, OutcomeUnknownError, False),
        ("internal", {}, OutcomeUnknownError, False),
        ("gateway", {}, OutcomeUnknownError, False),
        ("too_many", {}, BrokerRateLimitedError, False),
        ("wrong_address", {}, OrderRejectedError, False),
        ("closed", {}, BrokerUnavailableError, False),
    ],
)
async def test_an_order_that_went_wrong(
    broker: UpstoxBroker,
    account: BrokerAccount,
    session: BrokerSession,
    upstox: UpstoxSimulator,
    fault: str,
    options: dict[str, Any],
    error: type[BrokerError],
    placed: bool,
):
    upstox.fail(fault, on="/order/place", **options)
    sent = ticket()
    with pytest.raises(BrokerError) as said, TIMEOUTS.hurried(needed=fault in {"slow", "half_open"}):
        await broker.place(account, session, sent)
    assert type(said.value) is error
    assert upstox.calls["POST /v3/order/place"] == 1  # never sent again
    found = [order.tag for order in await broker.orders(account, session)]
    assert found == ([sent.tag] if placed else [])


@pytest.mark.parametrize("fault", ["lost", "down_after"])
async def test_changes_that_went_wrong_are_unknown_too(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, upstox: UpstoxSimulator, fault: str
):
    await broker.place(account, session, ticket())
    (order,) = await broker.orders(account, session)
    upstox.fail(fault, fault)
    change = OrderChange(quantity=7, price_type=PriceType.LIMIT, price=LIMIT)
    with pytest.raises(OutcomeUnknownError):
        await broker.modify(account, session, order, SHARE, change)
    with pytest.raises(OutcomeUnknownError):
        await broker.cancel(account, session, order)
    (order,) = await broker.orders(account, session)
    assert (order.quantity, order.state) == (7, OrderState.CANCELLED)


@pytest.mark.parametrize(
    "said", [{"status": "success"}, {"status": "success", "data": {"order_ids": []}}, {"a": 1}, []]
)
async def test_a_success_that_names_no_order_is_none(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, upstox: UpstoxSimulator, said: Any
):
    upstox.fail(Fault(answer(said)))
    with pytest.raises(OutcomeUnknownError):
        await broker.place(account, session, ticket())


async def test_where_nobody_listens_nothing_was_sent(broker: UpstoxBroker, session: BrokerSession):
    gone = BrokerAccount(
        account_id="a", user_id="b", broker=broker.capabilities.broker, base_url="http://127.0.0.1:9", secrets={}
    )
    with pytest.raises(BrokerUnavailableError) as away:
        await broker.place(gone, session, ticket())
    assert type(away.value) is BrokerUnavailableError


@pytest.mark.parametrize("fault", ["slow", "lost", "html", "garbage", "down", "internal", "gateway", "closed", "empty"])
async def test_a_book_that_cannot_be_read_is_no_empty_book(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, upstox: UpstoxSimulator, fault: str
):
    upstox.fail(fault)
    with pytest.raises(BrokerUnavailableError), TIMEOUTS.hurried(needed=fault == "slow"):
        await broker.orders(account, session)


@pytest.mark.parametrize("data", [None, {}, [{"exchange": "NSE", "product": "D"}]])
async def test_a_success_without_its_rows_is_no_empty_book(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, upstox: UpstoxSimulator, data: Any
):
    upstox.fail(Fault(answer({"status": "success", "data": data})), times=2)
    with pytest.raises(BrokerUnavailableError, match="makes no sense"):
        await broker.orders(account, session)
    with pytest.raises(BrokerUnavailableError, match="makes no sense"):
        await broker.trades(account, session)


async def test_its_limits_are_kept_and_told(clock: MarketClock):
    async with UpstoxSimulator(now=clock.now) as upstox:
        broker, account = UpstoxBroker(clock), account_at(upstox)
        session = await broker.sign_in(account)
        for _ in range(10):
            await broker.place(account, session, ticket(quantity=1))
        with pytest.raises(BrokerRateLimitedError):
            await broker.place(account, session, ticket(quantity=1))
        assert len(upstox.book.orders) == 10
        clock.moment += timedelta(seconds=1)
        await broker.place(account, session, ticket(quantity=1))
        await broker.close()


async def test_no_error_shows_a_credential(
    broker: UpstoxBroker, account: BrokerAccount, session: BrokerSession, upstox: UpstoxSimulator
):
    held = [value.get_secret_value() for name, value in account.secrets.items() if name != "redirect_uri"]
    said = []

    async def ask(call: Callable[[], Awaitable[object]], status: int, *secrets: str) -> None:
        echo = {"status": "error", "errors": [{"errorCode": "UDAPI1", "message": f"you said {' '.join(secrets)}"}]}
        upstox.fail(Fault(answer(echo, status)))
        with pytest.raises(BrokerError) as error:
            await call()
        said.append(f"{error.value!r} {error.value.detail}")

    token = session.access_token.get_secret_value()
    for status in (400, 401, 404):
        await ask(lambda: broker.place(account, session, ticket()), status, token, *held)
        await ask(lambda: broker.funds(account, session), status, token, *held)
    other = msgspec.structs.replace(account, account_id="another")
    await ask(lambda: broker.sign_in(other), 400, *held)
    assert len(said) == 7
    assert any("you said … …" in text for text in said)
    assert not [secret for secret in (token, *held) for text in said if secret in text]


# Instruments


async def test_the_list_of_instruments(broker: UpstoxBroker):
    listings = {(listing.exchange, listing.symbol): listing for listing in await broker.listings()}
    assert listings[Exchange.NSE, "RELIANCE"] == SHARE
    assert listings[Exchange.BSE, "RELIANCE"].key == "BSE_EQ|INE002A01018"
    assert listings[Exchange.NFO, NIFTY_CALL.symbol].freeze_quantity == 1800
    assert len(listings) == 6  # all but the index


@pytest.mark.parametrize("fault", ["html", "garbage", Fault(cut_after=300), "empty", "not_gzip", "down"])
async def test_a_list_that_is_none_is_refused(broker: UpstoxBroker, upstox: UpstoxSimulator, fault: str | Fault):
    upstox.fail(fault, on="BSE.json.gz")
    with pytest.raises(BrokerUnavailableError):
        await broker.listings()
