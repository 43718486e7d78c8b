"""What only Angel One has: codes that sign in by themselves, an error for every occasion, and names of its own."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from app.brokerage.adapters.angel_one.client import AngelOneBroker
from app.brokerage.adapters.angel_one.mapping import order_of
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
    BookedOrder,
    BrokerName,
    Exchange,
    Listing,
    OrderChange,
    OrderState,
    OrderTicket,
    PriceType,
    Product,
    Side,
)
from app.integrations.angel_one import sdk
from tests.brokerage.vendors import MarketClock, Vendor, account_of, angel_one
from tests.simulators.angel_one.http import Answer, HttpRequest, HttpServer
from tests.simulators.angel_one.rest import LOGIN, REFRESH
from tests.simulators.brokers.smartapi import SmartApiSimulator
from tests.simulators.vendor import Fault


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with angel_one() as opened:
        yield opened


def _with(vendor: Vendor, **secrets: str) -> BrokerAccount:
    held = {name: value.get_secret_value() for name, value in vendor.account.secrets.items()}
    return account_of(BrokerName.ANGEL_ONE, vendor.account.base_url, held | secrets)


def _simulator(vendor: Vendor) -> SmartApiSimulator:
    assert isinstance(vendor.simulator, SmartApiSimulator)
    return vendor.simulator


# Sessions


async def test_a_session_says_when_it_ends(vendor: Vendor):
    assert vendor.session.expires_at == vendor.clock.now() + timedelta(hours=24)
    assert vendor.session.broker_user_id == "A123456"
    assert vendor.session.feed_token is not None
    vendor.clock.move(hours=24)
    with pytest.raises(BrokerSessionError, match="does not accept its token any more"):
        await vendor.broker.funds(vendor.account, vendor.session)


async def test_it_is_renewed_without_a_person(vendor: Vendor):
    _simulator(vendor).sessions.expire()
    renewed = await vendor.broker.renew(vendor.account, vendor.session)
    await vendor.broker.funds(vendor.account, renewed)
    assert vendor.simulator.calls[f"POST {LOGIN}"] == 1
    assert vendor.simulator.calls[f"POST {REFRESH}"] == 1


async def test_whether_to_sign_in_where_a_refresh_is_refused_is_the_callers_to_say(vendor: Vendor):
    _simulator(vendor).sessions.expire(refresh_too=True)
    with pytest.raises(BrokerSessionError, match="refused the sign-in"):
        await vendor.broker.renew(vendor.account, vendor.session)
    assert vendor.simulator.calls[f"POST {LOGIN}"] == 1
    without = msgspec.structs.replace(vendor.session, refresh_token=None)
    await vendor.broker.funds(vendor.account, await vendor.broker.renew(vendor.account, without))


async def test_a_refusal_that_names_the_client_is_shown_without_the_name(vendor: Vendor):
    await vendor.place(vendor.ticket())
    row = next(iter(vendor.simulator.book.orders.values()))
    row.reason = "RMS:Margin Exceeds,Required:15104.00 for entity account-a123456 across exchange"
    (order,) = await vendor.broker.orders(vendor.account, vendor.session)
    assert order.reason == "RMS:Margin Exceeds,Required:15104.00 for entity account-… across exchange"


async def test_a_refresh_that_goes_wrong_is_no_reason_to_sign_in(vendor: Vendor):
    for fault, error in (("html", BrokerUnavailableError), ("too_many", BrokerRateLimitedError)):
        vendor.simulator.fail(fault)
        with pytest.raises(error):
            await vendor.broker.renew(vendor.account, vendor.session)
    vendor.simulator.fail("internal")
    with pytest.raises(BrokerUnavailableError):
        await vendor.broker.renew(vendor.account, vendor.session)
    assert vendor.simulator.calls[f"POST {LOGIN}"] == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"password": "9999"}, "Login Id or password is invalid"),
        ({"client_id": "B1"}, "Login Id or password is invalid"),
        ({"totp_key": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"}, "Invalid totp"),
        ({"totp_key": "not base 32!"}, "is not the Base32 text"),
        ({"api_key": "nope"}, "Invalid API Key"),
        ({"totp_key": ""}, "lacks totp_key"),
    ],
)
async def test_a_sign_in_that_is_refused(vendor: Vendor, changed: dict[str, str], words: str):
    with pytest.raises(BrokerSessionError, match=words) as caught:
        await vendor.broker.sign_in(_with(vendor, **changed))
    assert "9999" not in caught.value.detail
    assert vendor.broker.login_url(vendor.account) is None


@pytest.mark.parametrize("tokens", [None, {}, {"jwtToken": "", "refreshToken": "x"}, {"jwtToken": "x"}, [1]])
async def test_a_sign_in_without_tokens(vendor: Vendor, tokens: object):
    vendor.simulator.fail(Fault(Answer.of({"status": True, "message": "SUCCESS", "errorcode": "", "data": tokens})))
    with pytest.raises(BrokerUnavailableError):
        await vendor.broker.sign_in(vendor.account)


# What the SDK sends


class Captured(Exception):  # noqa: N818 (no error: it ends a call)
    """What the SDK wanted to send."""


class _Catching:
    """In the place of the SDK's transport."""

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: object) -> dict[str, Any]:
        raise Captured(method, "/" + path.lstrip("/"), dict(headers), body)


LISTING = Listing(Exchange.NSE, "SBIN", "SBIN-EQ|3045", Decimal("0.05"))
TICKET = OrderTicket(
    tag="arrowtag0001",
    listing=LISTING,
    side=Side.BUY,
    quantity=1,
    product=Product.MIS,
    price_type=PriceType.LIMIT,
    price=Decimal(19500),
)
ORDER = BookedOrder(
    broker_order_id="201020000000080",
    tag="arrowtag0001",
    exchange=Exchange.NSE,
    symbol="SBIN",
    side=Side.BUY,
    product=Product.MIS,
    price_type=PriceType.LIMIT,
    quantity=1,
    filled_quantity=0,
    state=OrderState.OPEN,
)
STOP = msgspec.structs.replace(ORDER, price_type=PriceType.SL)
# As the vendor's documentation of orders has it, and the library's own example.
PLACED = {
    "variety": "NORMAL",
    "tradingsymbol": "SBIN-EQ",
    "symboltoken": "3045",
    "transactiontype": "BUY",
    "exchange": "NSE",
    "ordertype": "LIMIT",
    "producttype": "INTRADAY",
    "duration": "DAY",
    "price": "19500",
    "squareoff": "0",
    "stoploss": "0",
    "quantity": "1",
    "ordertag": "arrowtag0001",
}
STOPPED = {**PLACED, "variety": "STOPLOSS", "ordertype": "STOPLOSS_LIMIT", "triggerprice": "19400.5"}
MODIFIED = {
    "variety": "NORMAL",
    "orderid": "201020000000080",
    "ordertype": "MARKET",
    "producttype": "INTRADAY",
    "duration": "DAY",
    "price": "0",
    "quantity": "2",
    "tradingsymbol": "SBIN-EQ",
    "symboltoken": "3045",
    "exchange": "NSE",
}
_stop = msgspec.structs.replace(TICKET, price_type=PriceType.SL, trigger_price=Decimal("19400.5"))
_to = OrderChange(quantity=2, price_type=PriceType.MARKET)
SAME: dict[str, tuple[Callable[[Any], Any], Callable[..., Any]]] = {
    "place": (lambda api: api.placeOrder(dict(PLACED)), lambda b, a, s: b.place(a, s, TICKET)),
    "place a stop": (lambda api: api.placeOrder(dict(STOPPED)), lambda b, a, s: b.place(a, s, _stop)),
    "modify": (lambda api: api.modifyOrder(dict(MODIFIED)), lambda b, a, s: b.modify(a, s, ORDER, LISTING, _to)),
    "cancel": (lambda api: api.cancelOrder(ORDER.broker_order_id, "NORMAL"), lambda b, a, s: b.cancel(a, s, ORDER)),
    "cancel a stop": (
        lambda api: api.cancelOrder(ORDER.broker_order_id, "STOPLOSS"),
        lambda b, a, s: b.cancel(a, s, STOP),
    ),
    "orders": (lambda api: api.orderBook(), lambda b, a, s: b.orders(a, s)),
    "trades": (lambda api: api.tradeBook(), lambda b, a, s: b.trades(a, s)),
    "positions": (lambda api: api.position(), lambda b, a, s: b.positions(a, s)),
    "holdings": (lambda api: api.allholding(), lambda b, a, s: b.holdings(a, s)),
    "funds": (lambda api: api.rmsLimit(), lambda b, a, s: b.funds(a, s)),
}


@pytest.mark.parametrize("name", list(SAME))
async def test_our_request_is_the_sdks(name: str):
    theirs, ours = SAME[name]
    api = sdk.load()(_Catching(), api_key="the-key", jwt="the-token")
    with pytest.raises(Captured) as caught:
        theirs(api)
    method, path, headers, body = caught.value.args

    async def handle(_request: HttpRequest) -> Answer:
        return Answer.of({})

    async with HttpServer(handle) as server:
        account = account_of(BrokerName.ANGEL_ONE, f"http://127.0.0.1:{server.port}", {"api_key": "the-key"})
        broker = AngelOneBroker(MarketClock(), rates={})
        session = BrokerSession(access_token=SecretStr("the-token"), expires_at=None)
        with pytest.raises(BrokerError):
            await ours(broker, account, session)
        await broker.close()
        sent = server.requests[0]
    assert (sent.method, sent.path, sent.query) == (method, path, "")
    assert sent.json() == body
    wanted = {header.lower(): value for header, value in headers.items()}
    # The SDK's is that of the machine it runs on, which is nobody's business.
    wanted["x-macaddress"] = "00:00:00:00:00:00"
    assert {header: sent.headers.get(header) for header in wanted} == wanted


# Its errors and its books


async def test_an_error_of_the_order_system_leaves_it_open(vendor: Vendor):
    vendor.simulator.fail("internal_after", code="AB1007", message="AMX Error")
    with pytest.raises(OutcomeUnknownError):
        await vendor.place(vendor.ticket())
    assert len(vendor.simulator.book.orders) == 1


async def test_an_order_that_is_not_there_cannot_be_cancelled(vendor: Vendor):
    with pytest.raises(OrderRejectedError, match="Order not found"):
        await vendor.broker.cancel(vendor.account, vendor.session, ORDER)


async def test_a_stop_is_cancelled_where_it_is_filed_after_it_was_triggered(vendor: Vendor):
    """It is `LIMIT` in the book then, and still filed under stops."""
    ticket = vendor.ticket(price_type=PriceType.SL, price=Decimal("1515.0"), trigger_price=Decimal("1514.0"))
    await vendor.place(ticket)

    def triggered(content: dict[str, Any]) -> dict[str, Any]:
        rows = [{**row, "ordertype": "LIMIT", "orderstatus": "open"} for row in content["data"]]
        return {**content, "data": rows}

    vendor.simulator.fail(Fault(change=triggered))
    (order,) = await vendor.broker.orders(vendor.account, vendor.session)
    assert (order.price_type, order.state) == (PriceType.SL, OrderState.OPEN)
    await vendor.broker.cancel(vendor.account, vendor.session, order)


async def test_a_book_that_says_it_is_empty_is_asked_twice(vendor: Vendor):
    """A success that forgot its data looks the same, and an order would seem never to have arrived."""
    placed = await vendor.place(vendor.ticket())
    vendor.simulator.fail("no_data")
    (order,) = await vendor.broker.orders(vendor.account, vendor.session)
    assert order.broker_order_id == placed


async def test_none_of_something_is_an_empty_list(vendor: Vendor):
    for read, code in ((vendor.broker.trades, "AB1014"), (vendor.broker.holdings, "AB1015")):
        vendor.simulator.fail("refused", code=code, message="not found")
        assert await read(vendor.account, vendor.session) == []


async def test_it_keeps_to_the_vendors_rates():
    async with angel_one(limited=True) as vendor:
        for _ in range(2):
            await vendor.broker.trades(vendor.account, vendor.session)
            await vendor.broker.positions(vendor.account, vendor.session)
            await vendor.broker.funds(vendor.account, vendor.session)
        assert not vendor.simulator.limits.refused


async def test_a_tag_fits(vendor: Vendor):
    longest = "a" * vendor.broker.capabilities.tag_length
    await vendor.place(vendor.ticket(longest))
    with pytest.raises(OrderRejectedError, match="less than 20"):
        await vendor.place(vendor.ticket("a" * 20))


@pytest.mark.parametrize("fault", ["html", "lost", "too_many", "garbage"])
async def test_a_list_that_cannot_be_had(vendor: Vendor, fault: str):
    vendor.simulator.fail(fault)
    with pytest.raises((BrokerUnavailableError, BrokerRateLimitedError)):
        await vendor.broker.listings()


async def test_an_event_of_the_order_stream_is_an_order(vendor: Vendor):
    placed = await vendor.place(vendor.ticket())
    event = _simulator(vendor).event(vendor.simulator.book.orders[placed])
    order = order_of(json.loads(msgspec.json.encode(event["orderData"])))
    (booked,) = await vendor.broker.orders(vendor.account, vendor.session)
    assert order == booked
