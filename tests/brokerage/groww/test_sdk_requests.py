"""What we send is what Groww's own library sends: `record_sdks.py` has written it down."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.brokerage.adapters.groww.client import GrowwBroker
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
from tests.brokerage.groww.conftest import MarketClock
from tests.brokerage.sdk_oracle import recorded, wire

RECORDED = recorded(Path(__file__).parent)
RECORDED_AT = datetime.fromtimestamp(1_790_000_000.7, UTC)
SHARE = Listing(Exchange.NSE, "RELIANCE", "RELIANCE", Decimal("0.10"))
SESSION = BrokerSession(access_token=SecretStr("the-token"), expires_at=None)
ORDER = BookedOrder(
    broker_order_id="GMK39039RDT001CCVRO", tag=None, exchange=Exchange.NSE, symbol="RELIANCE", side=Side.BUY,
    product=Product.CNC, price_type=PriceType.LIMIT, quantity=10, filled_quantity=0, state=OrderState.OPEN,
)  # fmt: skip
CHANGE = OrderChange(quantity=5, price_type=PriceType.LIMIT, price=Decimal("1501.50"))
LIMIT, TRIGGER = Decimal("1500.10"), Decimal("1499.50")
Call = Callable[[GrowwBroker, BrokerAccount], Awaitable[object]]


def ticket(price_type: PriceType, price: Decimal | None = None, trigger: Decimal | None = None) -> OrderTicket:
    return OrderTicket(
        tag="arrowtag0001", listing=SHARE, side=Side.BUY, quantity=10, product=Product.CNC, price_type=price_type,
        price=price, trigger_price=trigger,
    )  # fmt: skip


CALLS: dict[str, Call] = {
    "sign_in_secret": lambda broker, account: broker.sign_in(account),
    "place_limit": lambda broker, account: broker.place(account, SESSION, ticket(PriceType.LIMIT, LIMIT)),
    "place_market": lambda broker, account: broker.place(account, SESSION, ticket(PriceType.MARKET)),
    "place_sl": lambda broker, account: broker.place(account, SESSION, ticket(PriceType.SL, LIMIT, TRIGGER)),
    "place_slm": lambda broker, account: broker.place(account, SESSION, ticket(PriceType.SL_M, None, TRIGGER)),
    "modify": lambda broker, account: broker.modify(account, SESSION, ORDER, SHARE, CHANGE),
    "cancel": lambda broker, account: broker.cancel(account, SESSION, ORDER),
    "orders": lambda broker, account: broker.orders(account, SESSION),
    "positions": lambda broker, account: broker.positions(account, SESSION),
    "holdings": lambda broker, account: broker.holdings(account, SESSION),
    "funds": lambda broker, account: broker.funds(account, SESSION),
}


async def sent_by(call: Call, answer: dict[str, object], secret: str = "api_secret") -> dict[str, object]:
    async with wire(answer) as server:
        held = {"api_key": SecretStr("the-key"), secret: SecretStr("the-secret")}
        account = BrokerAccount(
            account_id="a", user_id="b", broker=BrokerName.GROWW, base_url=server.base_url, secrets=held
        )
        broker = GrowwBroker(MarketClock(RECORDED_AT))
        sent = await server.sent(lambda: call(broker, account))
        await broker.close()
    return sent


def theirs(name: str) -> dict[str, object]:
    found = RECORDED[name]
    if found["method"] == "GET":
        found = found | {"headers": {k: v for k, v in found["headers"].items() if k != "content-type"}}
    return found


def test_every_recorded_call_is_compared():
    assert {*CALLS, "sign_in_totp", "trades", "by_reference"} == RECORDED.keys()


@pytest.mark.parametrize("name", CALLS)
async def test_the_same_request(name: str):
    sent, expected = await sent_by(CALLS[name], {"status": "SUCCESS", "payload": {}}), theirs(name)
    if name == "orders":
        # The library cannot ask for longer pages; the interface can.
        assert sent["query"].pop("page_size") == "100"
    assert sent == expected


async def test_the_same_sign_in_with_a_code():
    seed = "JBSWY3DPEHPK3PXP"
    async with wire({"token": "t"}) as server:
        held = {"api_key": SecretStr("the-key"), "totp_key": SecretStr(seed)}
        account = BrokerAccount(
            account_id="a", user_id="b", broker=BrokerName.GROWW, base_url=server.base_url, secrets=held
        )
        broker = GrowwBroker(MarketClock(RECORDED_AT))
        sent = await server.sent(lambda: broker.sign_in(account))
        await broker.close()
    code = sent["body"]["totp"]
    assert len(code) == 6
    assert sent == theirs("sign_in_totp") | {"body": {"key_type": "totp", "totp": code}}


async def test_the_same_question_for_a_reference():
    duplicate = {"status": "FAILURE", "error": {"code": "GA007", "message": "Duplicate order reference id"}}
    async with wire(duplicate) as server:
        held = {"api_key": SecretStr("the-key")}
        account = BrokerAccount(
            account_id="a", user_id="b", broker=BrokerName.GROWW, base_url=server.base_url, secrets=held
        )
        broker = GrowwBroker(MarketClock(RECORDED_AT))
        _, asked = await server.all_sent(lambda: broker.place(account, SESSION, ticket(PriceType.LIMIT, LIMIT)))
        await broker.close()
    assert asked == theirs("by_reference")


async def test_the_same_question_for_trades():
    row = {
        "groww_order_id": "GMK39039RDT001CCVRO", "trading_symbol": "RELIANCE", "order_status": "EXECUTED",
        "quantity": 10, "filled_quantity": 10, "exchange": "NSE", "order_type": "LIMIT", "transaction_type": "BUY",
        "segment": "CASH", "product": "CNC",
    }  # fmt: skip
    async with wire({"status": "SUCCESS", "payload": {"order_list": [row], "trade_list": []}}) as server:
        held = {"api_key": SecretStr("the-key")}
        account = BrokerAccount(
            account_id="a", user_id="b", broker=BrokerName.GROWW, base_url=server.base_url, secrets=held
        )
        broker = GrowwBroker(MarketClock(RECORDED_AT))
        asked = (await server.all_sent(lambda: broker.trades(account, SESSION)))[-1]
        await broker.close()
    assert asked["query"].pop("page_size") == "50"  # the most; the library asks for 25 unless told
    assert asked == theirs("trades") | {"query": {"segment": "CASH", "page": "0"}}
