"""What we send is what Upstox's own library sends: `record_sdks.py` has written it down."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.brokerage.adapters.upstox.client import UpstoxBroker
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
from app.core.clock import SystemClock
from tests.brokerage.sdk_oracle import recorded, wire

RECORDED = recorded(Path(__file__).parent)
SHARE = Listing(Exchange.NSE, "RELIANCE", "NSE_EQ|INE002A01018", Decimal("0.10"))
SESSION = BrokerSession(access_token=SecretStr("the-token"), expires_at=None)
ORDER = BookedOrder(
    broker_order_id="250101000000001", tag=None, exchange=Exchange.NSE, symbol="RELIANCE", side=Side.BUY,
    product=Product.CNC, price_type=PriceType.LIMIT, quantity=10, filled_quantity=0, state=OrderState.OPEN,
)  # fmt: skip
CHANGE = OrderChange(quantity=5, price_type=PriceType.LIMIT, price=Decimal("1501.50"))
LIMIT, TRIGGER = Decimal("1500.10"), Decimal("1499.50")


def ticket(price_type: PriceType, price: Decimal | None = None, trigger: Decimal | None = None) -> OrderTicket:
    return OrderTicket(
        tag="arrowtag0001", listing=SHARE, side=Side.BUY, quantity=10, product=Product.CNC, price_type=price_type,
        price=price, trigger_price=trigger,
    )  # fmt: skip


CALLS: dict[str, Callable[[UpstoxBroker, BrokerAccount], Awaitable[object]]] = {
    "sign_in": lambda broker, account: broker.sign_in(account),
    "place_limit": lambda broker, account: broker.place(account, SESSION, ticket(PriceType.LIMIT, LIMIT)),
    "place_market": lambda broker, account: broker.place(account, SESSION, ticket(PriceType.MARKET)),
    "place_sl": lambda broker, account: broker.place(account, SESSION, ticket(PriceType.SL, LIMIT, TRIGGER)),
    "place_slm": lambda broker, account: broker.place(account, SESSION, ticket(PriceType.SL_M, None, TRIGGER)),
    "modify": lambda broker, account: broker.modify(account, SESSION, ORDER, SHARE, CHANGE),
    "cancel": lambda broker, account: broker.cancel(account, SESSION, ORDER),
    "orders": lambda broker, account: broker.orders(account, SESSION),
    "trades": lambda broker, account: broker.trades(account, SESSION),
    "positions": lambda broker, account: broker.positions(account, SESSION),
    "holdings": lambda broker, account: broker.holdings(account, SESSION),
    "funds": lambda broker, account: broker.funds(account, SESSION),
}


def test_every_recorded_call_is_compared():
    assert CALLS.keys() == RECORDED.keys()


@pytest.mark.parametrize("name", CALLS)
async def test_the_same_request(name: str):
    secrets = {"api_key": "the-key", "api_secret": "the-secret", "request_token": "the-code"}
    secrets["redirect_uri"] = "https://127.0.0.1/upstox"
    async with wire({"status": "success", "data": {}}) as server:
        account = BrokerAccount(
            account_id="a", user_id="b", broker=BrokerName.UPSTOX, base_url=server.base_url,
            secrets={key: SecretStr(value) for key, value in secrets.items()},
        )  # fmt: skip
        broker = UpstoxBroker(SystemClock())
        sent = await server.sent(lambda: CALLS[name](broker, account))
        await broker.close()
    theirs = RECORDED[name]
    if name != "sign_in" and sent["method"] in {"GET", "DELETE"}:
        # The library names a type for a body that is not there, or holds nothing.
        theirs = theirs | {"headers": {"authorization": "Bearer the-token"}, "body": None}
    assert sent == theirs
