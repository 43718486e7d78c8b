"""Whatever goes wrong between us and a broker: what an adapter says happened is what happened, or that nobody knows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import structlog
from pydantic import SecretStr

from app.brokerage.errors import (
    BrokerError,
    BrokerRateLimitedError,
    BrokerSessionError,
    BrokerUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
)
from app.brokerage.words import BookedOrder, OrderChange, OrderState, PriceType
from tests.brokerage.patience import TIMEOUTS
from tests.brokerage.vendors import VENDORS, Vendor
from tests.support.tcp_proxy import TcpProxy

CARRIED_OUT = ("lost", "reset_after", "html_after", "garbage_after", "down_after", "slow")
NOT_CARRIED_OUT = ("html", "garbage", "down", "redirect", "empty", "nested", "numberless", "bomb", "unknown_encoding")
OWN = {
    "zerodha": {"oms_down": False, "oms_down_after": True, "general_after": True, "no_order_id": True},
    "angel_one": {"internal": False, "internal_after": True, "no_data": True},
    "upstox": {"internal": False, "gateway": False},
    "groww": {"internal": False, "unable": False, "gateway": False},
}
"""Each vendor's own ways of leaving it open, and whether it was carried out."""


@pytest.fixture(params=list(VENDORS))
async def vendor(request: pytest.FixtureRequest) -> AsyncIterator[Vendor]:
    async with VENDORS[request.param]() as opened:
        yield opened


def _name(vendor: Vendor) -> str:
    return vendor.simulator.vendor.lower()


async def _in_book(vendor: Vendor, tag: str) -> list[str]:
    """What our own reading of the order book finds under a tag."""
    book = await vendor.broker.orders(vendor.account, vendor.session)
    return [order.broker_order_id for order in book if order.tag == tag]


async def test_every_spoiled_answer_to_placing_is_unknown_and_the_book_tells(vendor: Vendor):
    faults = dict.fromkeys(CARRIED_OUT, True) | dict.fromkeys(NOT_CARRIED_OUT, False) | OWN[_name(vendor)]
    for place, (fault, carried_out) in enumerate(faults.items()):
        tag = f"arrowtag{place:04d}"
        vendor.simulator.fail(fault)
        with pytest.raises(OutcomeUnknownError) as caught, TIMEOUTS.hurried(needed=fault == "slow"):
            await vendor.place(vendor.ticket(tag))
        assert "not sent again" in caught.value.detail, fault
        placed = [order.order_id for order in vendor.simulator.book.with_tag(tag)]
        assert len(placed) == (1 if carried_out else 0), fault
        assert await _in_book(vendor, tag) == placed, fault


async def _changed(vendor: Vendor, order: BookedOrder, act: str) -> None:
    if act == "cancel":
        await vendor.broker.cancel(vendor.account, vendor.session, order)
        return
    change = OrderChange(quantity=20, price_type=PriceType.LIMIT, price=Decimal("1499.5"))
    await vendor.broker.modify(vendor.account, vendor.session, order, vendor.listing(), change)


@pytest.mark.parametrize("act", ["modify", "cancel"])
async def test_changes_of_an_order_are_unknown_in_the_same_way(vendor: Vendor, act: str):
    await vendor.place(vendor.ticket())
    for fault, carried_out in (("down", False), ("reset_after", True)):
        (order,) = await vendor.broker.orders(vendor.account, vendor.session)
        vendor.simulator.fail(fault)
        with pytest.raises(OutcomeUnknownError):
            await _changed(vendor, order, act)
        (now,) = await vendor.broker.orders(vendor.account, vendor.session)
        before = (OrderState.OPEN, 10)
        after = (OrderState.CANCELLED, 10) if act == "cancel" else (OrderState.OPEN, 20)
        assert (now.state, now.quantity) == (after if carried_out else before)


def _reads(vendor: Vendor) -> list[Callable[..., Awaitable[Any]]]:
    broker = vendor.broker
    return [broker.orders, broker.trades, broker.positions, broker.holdings, broker.funds]


async def test_reads_that_go_wrong_are_unavailable(vendor: Vendor):
    for fault in (*CARRIED_OUT, *NOT_CARRIED_OUT):
        vendor.simulator.fail(fault)
        with pytest.raises(BrokerUnavailableError), TIMEOUTS.hurried(needed=fault == "slow"):
            await vendor.broker.funds(vendor.account, vendor.session)
    for read in _reads(vendor):
        vendor.simulator.fail("html")
        with pytest.raises(BrokerUnavailableError):
            await read(vendor.account, vendor.session)
        await read(vendor.account, vendor.session)


async def test_too_many_requests(vendor: Vendor):
    vendor.simulator.fail("too_many", times=2)
    with pytest.raises(BrokerRateLimitedError):
        await vendor.place(vendor.ticket())
    with pytest.raises(BrokerRateLimitedError):
        await vendor.broker.orders(vendor.account, vendor.session)
    assert not vendor.simulator.book.orders


async def test_a_dead_session_is_told_from_everything_else(vendor: Vendor):
    vendor.simulator.fail("expired", times=2)
    with pytest.raises(BrokerSessionError):
        await vendor.place(vendor.ticket())
    with pytest.raises(BrokerSessionError):
        await vendor.broker.funds(vendor.account, vendor.session)
    stranger = msgspec.structs.replace(vendor.session, access_token=SecretStr("some-other-token"))
    with pytest.raises(BrokerSessionError):
        await vendor.broker.place(vendor.account, stranger, vendor.ticket())
    assert not vendor.simulator.book.orders


async def test_a_refusal_is_in_the_brokers_words(vendor: Vendor):
    vendor.simulator.fail("refused", message="RMS:Margin Exceeds, Required:95417.84")
    with pytest.raises(OrderRejectedError) as caught:
        await vendor.place(vendor.ticket())
    assert caught.value.reason == "RMS:Margin Exceeds, Required:95417.84"
    assert caught.value.extensions["broker_code"] in {"MarginException", "AB4013", "UDAPI1070", "GA001"}
    vendor.simulator.fail("refused")
    with pytest.raises(BrokerError) as caught_reading:
        await vendor.broker.funds(vendor.account, vendor.session)
    assert type(caught_reading.value) is BrokerError
    assert not await vendor.broker.orders(vendor.account, vendor.session)


async def test_what_is_final_cannot_be_cancelled(vendor: Vendor):
    await vendor.place(vendor.ticket(price_type=PriceType.MARKET, price=None))
    (order,) = await vendor.broker.orders(vendor.account, vendor.session)
    assert order.state is OrderState.COMPLETE
    with pytest.raises(OrderRejectedError, match="complete"):
        await vendor.broker.cancel(vendor.account, vendor.session, order)


async def test_a_broker_that_cannot_be_reached_has_certainly_done_nothing(vendor: Vendor):
    gone = msgspec.structs.replace(vendor.account, base_url="http://127.0.0.1:9")
    with pytest.raises(BrokerUnavailableError):
        await vendor.broker.place(gone, vendor.session, vendor.ticket())
    nowhere = msgspec.structs.replace(vendor.account, base_url="http://no-such-host.invalid")
    with pytest.raises(BrokerUnavailableError), TIMEOUTS.hurried():
        await vendor.broker.place(nowhere, vendor.session, vendor.ticket())


async def test_ten_at_once_are_ten_orders(vendor: Vendor):
    placed = await asyncio.gather(*(vendor.place(vendor.ticket(f"arrowtag{n:04d}")) for n in range(10)))
    assert len(set(placed)) == 10
    assert len(vendor.simulator.book.orders) == 10


async def test_a_cancelled_caller_leaves_one_order_at_most(vendor: Vendor):
    vendor.simulator.fail("slow")
    task = asyncio.create_task(vendor.place(vendor.ticket()))
    while not vendor.simulator.book.orders:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(vendor.simulator.book.orders) == 1
    await vendor.place(vendor.ticket("arrowtag0002"))
    assert len(vendor.simulator.book.orders) == 2


async def test_no_secret_is_ever_told(vendor: Vendor, caplog: pytest.LogCaptureFixture):
    """Neither when the broker echoes them, nor when the request cannot be written."""
    caplog.set_level("DEBUG")
    secrets = [value.get_secret_value() for value in vendor.account.secrets.values()]
    secrets = [each for each in (*secrets, vendor.session.access_token.get_secret_value()) if len(each) > 4]
    told: list[str] = []
    with structlog.testing.capture_logs() as logged:
        for echoed in secrets:
            vendor.simulator.fail("refused", message=f"no {echoed} here")
            told += await _told(vendor)
        for fault in ("lost", "html", "too_many", "expired", "garbage"):
            vendor.simulator.fail(fault)
            told += await _told(vendor)
        broken = msgspec.structs.replace(vendor.session, access_token=SecretStr("tok\r\nen-that-breaks"))
        with pytest.raises(BrokerSessionError) as caught:
            await vendor.broker.funds(vendor.account, broken)
    told += [repr(caught.value), caplog.text, repr(logged)]
    assert len(told) > 8
    for secret in (*secrets, "en-that-breaks"):
        # The address that a person signs in at names the API key: so the vendor wants it.
        shown = [text.replace(f"api_key={secret}", "").replace(f"client_id={secret}", "") for text in told]
        assert not [text for text in shown if secret in text]


async def _told(vendor: Vendor) -> list[str]:
    try:
        await vendor.place(vendor.ticket())
    except BrokerError as error:
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
        return [repr(error), error.detail, repr(error.extensions)]
    return []


async def test_a_network_that_fails_on_the_way(vendor: Vendor):
    """Of a pooled connection that breaks the answer is known or unknown, never a claim that is false."""
    async with TcpProxy(vendor.simulator.port) as proxy:
        through = msgspec.structs.replace(vendor.account, base_url=f"http://127.0.0.1:{proxy.port}")
        await vendor.broker.funds(through, vendor.session)
        proxy.swallow_answers()
        with pytest.raises(OutcomeUnknownError), TIMEOUTS.hurried():
            await vendor.broker.place(through, vendor.session, vendor.ticket("arrowtag0001"))
        async with asyncio.timeout(30):
            while len(await _in_book(vendor, "arrowtag0001")) != 1:  # it may be on its way yet
                await asyncio.sleep(0.01)
        proxy.stall()
        with pytest.raises(OutcomeUnknownError), TIMEOUTS.hurried():
            await vendor.broker.place(through, vendor.session, vendor.ticket("arrowtag0002"))
        assert not await _in_book(vendor, "arrowtag0002")
        await proxy.cut()
        with pytest.raises(BrokerUnavailableError):
            await vendor.broker.place(through, vendor.session, vendor.ticket("arrowtag0003"))
        await proxy.mend()
        await vendor.broker.place(through, vendor.session, vendor.ticket("arrowtag0004"))
    assert [order.tag for order in vendor.simulator.book.orders.values()] == ["arrowtag0001", "arrowtag0004"]
