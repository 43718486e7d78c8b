"""What only Zerodha has: the sign-in by a person, the library's requests, postbacks, and the list of instruments."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import pytest
from pydantic import SecretStr

from app.brokerage.adapters.unreadable import UnreadableError
from app.brokerage.adapters.zerodha.client import ZerodhaBroker
from app.brokerage.adapters.zerodha.instruments import InstrumentReader
from app.brokerage.adapters.zerodha.postback import is_genuine, order_in
from app.brokerage.adapters.zerodha.words import state_of, tokens_die
from app.brokerage.errors import BrokerError, BrokerSessionError, BrokerUnavailableError
from app.brokerage.ports import BrokerSession
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
from tests.brokerage.patience import TIMEOUTS
from tests.brokerage.vendors import MarketClock, Vendor, account_of, zerodha
from tests.simulators.angel_one.http import Answer, HttpRequest, HttpServer
from tests.simulators.brokers.instruments import INSTRUMENTS, RELIANCE
from tests.simulators.brokers.kite import KiteSimulator, rows
from tests.simulators.vendor import Fault

RECORDED = json.loads((Path(__file__).parent / "sdk_requests.json").read_text())["requests"]


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with zerodha() as opened:
        yield opened


def _with(vendor: Vendor, **secrets: str) -> Any:
    held = {name: value.get_secret_value() for name, value in vendor.account.secrets.items()}
    return account_of(BrokerName.ZERODHA, vendor.account.base_url, held | secrets)


# Sessions


async def test_a_session_dies_at_six(vendor: Vendor):
    assert vendor.session.expires_at == datetime(2026, 11, 24, 0, 30, tzinfo=UTC)
    assert vendor.session.broker_user_id == "AB1234"
    vendor.clock.moment = datetime(2026, 11, 24, 0, 29, 59, tzinfo=UTC)
    await vendor.broker.funds(vendor.account, vendor.session)
    vendor.clock.move(seconds=1)
    with pytest.raises(BrokerSessionError, match="Sign in to Zerodha again") as caught:
        await vendor.broker.funds(vendor.account, vendor.session)
    assert caught.value.login_url == vendor.broker.login_url(vendor.account)


@pytest.mark.parametrize(("hour", "day"), [(5, 23), (6, 24), (23, 24)])
def test_when_a_token_dies(hour: int, day: int):
    made = datetime(2026, 11, 23, hour, 0, tzinfo=rows.IST)
    assert tokens_die(made.astimezone(UTC)) == datetime(2026, 11, day, 6, 0, tzinfo=rows.IST)


async def test_a_request_token_is_good_once(vendor: Vendor):
    with pytest.raises(BrokerSessionError, match="refused the sign-in: Token is invalid or has expired"):
        await vendor.broker.sign_in(vendor.account)
    fresh = _with(vendor, **vendor.simulator.credentials())
    session = await vendor.broker.sign_in(fresh)
    await vendor.broker.funds(fresh, session)


@pytest.mark.parametrize("wrong", ["api_key", "api_secret"])
async def test_wrong_credentials(vendor: Vendor, wrong: str):
    account = _with(vendor, **vendor.simulator.credentials() | {wrong: "not-this-one"})
    with pytest.raises(BrokerSessionError, match="refused the sign-in") as caught:
        await vendor.broker.sign_in(account)
    assert "not-this-one" not in caught.value.detail


async def test_a_sign_in_that_goes_wrong_is_not_a_refusal(vendor: Vendor):
    for fault in ("html", "oms_down", "lost", "garbage"):
        vendor.simulator.fail(fault)
        with pytest.raises(BrokerUnavailableError):
            await vendor.broker.sign_in(_with(vendor, **vendor.simulator.credentials()))


async def test_what_is_missing_is_named(vendor: Vendor):
    account = account_of(BrokerName.ZERODHA, vendor.account.base_url, {"api_key": "k"})
    with pytest.raises(BrokerSessionError, match="lacks the api_secret and the request_token"):
        await vendor.broker.sign_in(account)
    with pytest.raises(BrokerSessionError, match="06:00"):
        await vendor.broker.renew(vendor.account, vendor.session)


async def test_the_page_to_sign_in_on():
    simulator_broker = ZerodhaBroker(MarketClock())
    account = account_of(
        BrokerName.ZERODHA, "https://api.kite.trade", {"api_key": "a key&", "api_secret": "the-secret"}
    )
    url = simulator_broker.login_url(account)
    assert url == "https://kite.zerodha.com/connect/login?v=3&api_key=a+key%26"
    assert simulator_broker.login_url(account_of(BrokerName.ZERODHA, "https://api.kite.trade", {})) is None


# The library


def _broker(handle_url: str) -> tuple[ZerodhaBroker, Any, BrokerSession]:
    secrets = {"api_key": "the-key", "api_secret": "the-secret", "request_token": "the-request-token"}
    account = account_of(BrokerName.ZERODHA, handle_url, secrets)
    session = BrokerSession(access_token=SecretStr("the-token"), expires_at=None)
    return ZerodhaBroker(MarketClock(), rates={}), account, session


LISTING = Listing(Exchange.NSE, "RELIANCE", "RELIANCE", Decimal("0.1"))
ORDER = BookedOrder(
    broker_order_id="261123000000001",
    tag="arrowtag0001",
    exchange=Exchange.NSE,
    symbol="RELIANCE",
    side=Side.BUY,
    product=Product.CNC,
    price_type=PriceType.LIMIT,
    quantity=10,
    filled_quantity=0,
    state=OrderState.OPEN,
)
TICKET = OrderTicket(
    tag="arrowtag0001",
    listing=LISTING,
    side=Side.BUY,
    quantity=10,
    product=Product.CNC,
    price_type=PriceType.LIMIT,
    price=Decimal("1500.1"),
)
_change = msgspec.structs.replace
TICKETS = {
    "place_limit": TICKET,
    "place_market": _change(TICKET, price_type=PriceType.MARKET, price=None),
    "place_sl": _change(TICKET, price_type=PriceType.SL, trigger_price=Decimal("1499.5")),
    "place_slm": _change(TICKET, price_type=PriceType.SL_M, price=None, trigger_price=Decimal("1499.5")),
}
CHANGES = {
    "modify": OrderChange(quantity=5, price_type=PriceType.LIMIT, price=Decimal("1501.5")),
    "modify_to_market": OrderChange(quantity=5, price_type=PriceType.MARKET),
}
CALLS: dict[str, Callable[..., Any]] = {
    "sign_in": lambda broker, account, _: broker.sign_in(account),
    **{name: (lambda b, a, s, ticket=ticket: b.place(a, s, ticket)) for name, ticket in TICKETS.items()},
    **{name: (lambda b, a, s, to=to: b.modify(a, s, ORDER, LISTING, to)) for name, to in CHANGES.items()},
    "cancel": lambda broker, account, session: broker.cancel(account, session, ORDER),
    **{
        name: (lambda b, a, s, name=name: getattr(b, name)(a, s))
        for name in ("orders", "trades", "positions", "holdings", "funds")
    },
}


@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_our_request_is_the_librarys(name: str):
    async def handle(_request: HttpRequest) -> Answer:
        return Answer.of({"status": "success", "data": {}})

    async with HttpServer(handle) as server:
        broker, account, session = _broker(f"http://127.0.0.1:{server.port}")
        try:
            await CALLS[name](broker, account, session)
        except BrokerError:
            pass  # what it makes of the answer does not matter
        finally:
            await broker.close()
        (sent,) = server.requests
    wanted = RECORDED[name]
    assert (sent.method, sent.path, dict(parse_qsl(sent.query))) == (wanted["method"], wanted["path"], wanted["query"])
    assert {header: sent.headers.get(header) for header in wanted["headers"]} == wanted["headers"]
    body = dict(parse_qsl(sent.body.decode()))
    assert (body or None) == wanted["body"]
    assert list(body) == list(wanted["body"] or {})


def test_everything_that_we_ask_is_recorded():
    assert sorted(RECORDED) == sorted(CALLS)


# Postbacks


async def test_a_postback_is_genuine_and_read(vendor: Vendor):
    placed = await vendor.place(vendor.ticket())
    vendor.simulator.book.fill(placed, 4)
    assert isinstance(vendor.simulator, KiteSimulator)
    body = json.loads(msgspec.json.encode(vendor.simulator.postback(vendor.simulator.book.orders[placed])))
    secret = vendor.simulator.account.api_secret
    assert is_genuine(body, secret)
    order = order_in(body)
    assert order is not None
    assert (order.broker_order_id, order.state, order.filled_quantity) == (placed, OrderState.PARTIALLY_FILLED, 4)
    for changed in ({"order_id": "1"}, {"order_timestamp": "2026-11-23 10:00:01"}, {"checksum": "0" * 64}):
        assert not is_genuine({**body, **changed}, secret)
    assert not is_genuine(body, "another")
    for nonsense in ({}, [], None, {**body, "checksum": None}, {**body, "checksum": "ü"}, {**body, "order_id": {}}):
        assert not is_genuine(nonsense, secret)


def test_the_checksum_is_the_vendors():
    """Its documentation: sha256 of order_id, order_timestamp and api_secret, one behind the other."""
    body = {"order_id": "220303000308932", "order_timestamp": "2022-03-03 09:24:25"}
    body["checksum"] = hashlib.sha256(b"2203030003089322022-03-03 09:24:25xxxxx").hexdigest()
    assert is_genuine(body, "xxxxx")


# Instruments


def _listed(file: bytes, piece: int = 1 << 16) -> InstrumentReader:
    reader = InstrumentReader()
    for at in range(0, len(file), piece):
        reader.take(file[at : at + piece])
    reader.end()
    return reader


@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 16])
def test_however_the_file_arrives(piece: int):
    reader = _listed(rows.instruments(INSTRUMENTS), piece)
    assert {(each.exchange.value, each.symbol) for each in reader.listings} == {
        instrument.key for instrument in INSTRUMENTS if instrument.kind != "INDEX"
    }
    assert reader.rejected == {"tick": 1, "columns": 1}


HEAD = (
    b"instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,"
    b"segment,exchange\n"
)


@pytest.mark.parametrize(
    "junk",
    [b"1,1,X\rY,N,0,,0,0.05,1,EQ,NSE,NSE", b'1,1,X,"unclosed,0,,0,0.05,1,EQ,NSE,NSE', b"1,1,X," + b"x" * 140_000],
)
def test_a_line_of_junk_costs_no_other(junk: bytes):
    good = b"".join(b"1,1,SHARE%d,N,0,,0,0.05,1,EQ,NSE,NSE\n" % number for number in range(50))
    reader = _listed(HEAD + junk + b"\n" + good, 1 << 20)
    assert (len(reader.listings), reader.rejected) == (50, {"columns": 1})


def test_series_and_quotes_and_junk():
    file = HEAD + (
        b'1,1,SHADY-BE,"SHADY, LTD",0,,0,0.05,1,EQ,NSE,NSE\r\n'
        b"2,2,BAJAJ-AUTO,BAJAJ AUTO,0,,0,0.5,1,EQ,NSE,NSE\n"
        b"3,3,TWICE-BE,TWICE,0,,0,0.05,1,EQ,NSE,NSE\n4,4,TWICE,TWICE,0,,0,0.01,1,EQ,NSE,NSE\n"
        b"5,5,TWICE-BZ,TWICE,0,,0,0.05,1,EQ,NSE,NSE\n\n"
        b"6,6,NIFTY26D0124500PE,NIFTY,0,2026-12-01,24500,0.05,65,PE,NFO-OPT,NFO\n"
        b"7,7,BAD,BAD,0,,0,nan,1,EQ,NSE,NSE\n8,8,BAD,BAD,0,,0,0.05,0,EQ,NSE,NSE\n9,9,,BAD,0,,0,0.05,1,EQ,NSE,NSE\n"
        b"10,10,BADCE,BAD,0,,24500,0.05,65,CE,NFO-OPT,NFO\n11,11,BAD,BAD,0,,0,0.05,1,XX,NSE,NSE\n"
        b"12,12,B\xffD\x01,BAD,0,,0,0.05,1,EQ,NSE,NSE"
    )
    reader = _listed(file)
    assert {each.symbol: (each.key, each.tick_size) for each in reader.listings} == {
        "SHADY": ("SHADY-BE", Decimal("0.05")),
        "BAJAJ-AUTO": ("BAJAJ-AUTO", Decimal("0.5")),
        "TWICE": ("TWICE", Decimal("0.01")),
        "NIFTY26D0124500PE": ("NIFTY26D0124500PE", Decimal("0.05")),
    }
    put = reader.listings[-1]
    assert (put.expiry, put.strike, put.kind, put.lot_size) == (date(2026, 12, 1), Decimal(24500), "PE", 65)
    assert reader.rejected == {"tick": 1, "lot": 1, "symbol": 2, "contract": 1, "kind": 1}


@pytest.mark.parametrize("file", [b"", b"<html></html>\n", b"x" * 10_000, b"a,b,c\n1,2,3\n"])
def test_what_is_no_such_file(file: bytes):
    with pytest.raises(UnreadableError):
        _listed(file)


@pytest.mark.parametrize("fault", ["html", "lost", "redirect", "not_gzip", "unknown_encoding", "empty", "slow"])
async def test_a_list_that_cannot_be_had(vendor: Vendor, fault: str):
    vendor.simulator.fail(fault)
    with pytest.raises(BrokerUnavailableError), TIMEOUTS.hurried(needed=fault == "slow"):
        await vendor.broker.listings()


async def test_a_list_of_junk(vendor: Vendor):
    vendor.simulator.fail(Fault(Answer(200, HEAD + b"1,1,A,A,0,,0,0,1,EQ,NSE,NSE\n", "text/csv")))
    with pytest.raises(BrokerUnavailableError, match="junk"):
        await vendor.broker.listings()


# What else is Kite's


@pytest.mark.parametrize(
    ("word", "price_type", "filled", "state"),
    [
        ("PUT ORDER REQ RECEIVED", PriceType.LIMIT, 0, OrderState.PENDING),
        ("VALIDATION PENDING", PriceType.SL, 0, OrderState.PENDING),
        ("OPEN PENDING", PriceType.LIMIT, 0, OrderState.PENDING),
        ("AMO REQ RECEIVED", PriceType.LIMIT, 0, OrderState.PENDING),
        ("MODIFY PENDING", PriceType.LIMIT, 0, OrderState.OPEN),
        ("MODIFY VALIDATION PENDING", PriceType.SL_M, 0, OrderState.TRIGGER_PENDING),
        ("CANCEL PENDING", PriceType.LIMIT, 3, OrderState.PARTIALLY_FILLED),
        ("OPEN", PriceType.SL, 0, OrderState.OPEN),
        ("OPEN", PriceType.LIMIT, 3, OrderState.PARTIALLY_FILLED),
        ("CANCELLED", PriceType.LIMIT, 3, OrderState.CANCELLED),
        ("CANCELLED AMO", PriceType.LIMIT, 0, OrderState.CANCELLED),
        ("LAPSED", PriceType.LIMIT, 0, OrderState.EXPIRED),
        ("complete", PriceType.LIMIT, 10, OrderState.COMPLETE),
    ],
)
def test_words_for_states(word: str, price_type: PriceType, filled: int, state: OrderState):
    assert state_of(word, price_type, filled) is state


async def test_a_tag_that_zerodha_has_moved(vendor: Vendor):
    """The vendor adds tags of its own; the one we gave comes first."""
    await vendor.place(vendor.ticket())

    def moved(content: dict[str, Any]) -> dict[str, Any]:
        return {**content, "data": [{**row, "tag": None, "tags": [row["tag"], "XXXX"]} for row in content["data"]]}

    vendor.simulator.fail(Fault(change=moved))
    (order,) = await vendor.broker.orders(vendor.account, vendor.session)
    assert order.tag == "arrowtag0001"


async def test_reading_keeps_to_the_vendors_rate():
    async with zerodha(limited=True) as vendor:
        began = vendor.clock.monotonic()
        for _ in range(12):
            await vendor.broker.orders(vendor.account, vendor.session)
        assert not vendor.simulator.limits.refused
        assert vendor.clock.monotonic() - began > 1


async def test_unsettled_and_pledged_shares_are_held(vendor: Vendor):
    row = {"tradingsymbol": "RELIANCE", "exchange": "NSE", "isin": RELIANCE.isin, "quantity": 11, "t1_quantity": 7}
    row |= {"collateral_quantity": 5, "average_price": 429.123456789, "last_price": 426.9}
    vendor.simulator.fail(Fault(Answer.of({"status": "success", "data": [row]})))
    (holding,) = await vendor.broker.holdings(vendor.account, vendor.session)
    assert (holding.quantity, holding.average_price) == (23, Decimal("429.12345679"))


async def test_an_order_id_cannot_lead_elsewhere(vendor: Vendor):
    odd = msgspec.structs.replace(ORDER, broker_order_id="../../user/margins?x=1")
    with pytest.raises(BrokerError):
        await vendor.broker.cancel(vendor.account, vendor.session, odd)
    assert vendor.simulator.requests[-1].path == "/orders/regular/..%2F..%2Fuser%2Fmargins%3Fx%3D1"


async def test_the_simulator_signs_in_as_the_vendors_page_does(vendor: Vendor):
    async with httpx.AsyncClient(timeout=30) as client:
        page = vendor.simulator.environment()["ZERODHA_LOGIN_URL"]
        went = await client.get(page, params={"v": "3", "api_key": "k"})
    token = dict(parse_qsl(went.headers["Location"].partition("?")[2]))["request_token"]
    assert (await vendor.broker.sign_in(_with(vendor, request_token=token))).broker_user_id == "AB1234"
