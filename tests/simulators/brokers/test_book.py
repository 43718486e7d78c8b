"""The exchange that all simulated brokers stand before."""

from decimal import Decimal
from typing import Any

import pytest

from tests.simulators.brokers.book import Book, Order, RefusedError, Status
from tests.simulators.brokers.instruments import NIFTY, NIFTY_FUTURE, RELIANCE


def _place(book: Book, price: str | None = "1500.0", **changes: Any) -> Order:
    usual = {"product": "CNC", "price_type": "LIMIT" if price else "MARKET", "price": price and Decimal(price)}
    side, quantity = changes.pop("side", "BUY"), changes.pop("quantity", 10)
    return book.place("NSE", "RELIANCE", side, quantity, **{**usual, **changes})


def test_a_buy_is_filled_when_the_market_comes_down():
    book = Book()
    order = _place(book)
    assert (order.status, order.rest) == (Status.OPEN, 10)
    book.move(RELIANCE, "1500.1")
    assert order.filled == 0
    book.move(RELIANCE, "1499.5")
    assert (order.status, order.average) == (Status.COMPLETE, Decimal("1499.5"))


def test_no_more_is_filled_than_there_is():
    book = Book()
    book.liquidity = 4
    order = _place(book, None)
    assert [(order.filled, order.status)] == [(4, Status.OPEN)]
    book.move(RELIANCE, "1512")
    book.move(RELIANCE, "1514")
    assert (order.filled, order.status, len(book.trades)) == (10, Status.COMPLETE, 3)
    assert order.average == (4 * Decimal(1510) + 4 * Decimal(1512) + 2 * Decimal(1514)) / 10


@pytest.mark.parametrize(("side", "before", "touch"), [("BUY", "1519.9", "1520"), ("SELL", "1500.1", "1500")])
def test_a_stop_is_triggered_on_its_side(side: str, before: str, touch: str):
    book = Book()
    order = _place(book, None, side=side, price_type="SL-M", trigger=Decimal(touch))
    book.move(RELIANCE, before)
    assert order.status is Status.TRIGGER_PENDING
    book.move(RELIANCE, touch)
    assert order.status is Status.COMPLETE


def test_ids_trades_and_listeners():
    book, heard = Book(), []
    book.on_change(lambda order: heard.append((order.order_id, order.status)))
    first, second = _place(book), _place(book)
    assert first.order_id != second.order_id
    book.fill(first.order_id, 3)
    book.cancel(second.order_id)
    assert [status for order_id, status in heard if order_id == second.order_id] == [Status.OPEN, Status.CANCELLED]
    assert second.cancelled == 10


def test_what_is_refused_and_what_is_rejected():
    book = Book(unique_tags=True)
    _place(book, tag="once")
    for kind, changes in (
        ("duplicate", {"tag": "once"}),
        ("price", {"price": "1500.05"}),
        ("price", {"price_type": "SL", "trigger": None}),
        ("quantity", {"quantity": 0}),
        ("quantity", {"quantity": 100_000}),
    ):
        with pytest.raises(RefusedError) as caught:
            _place(book, **changes)
        assert caught.value.kind == kind
    with pytest.raises(RefusedError):
        book.place("NSE", NIFTY.symbol, "BUY", 1, product="CNC", price_type="MARKET")
    with pytest.raises(RefusedError):
        book.place("NFO", NIFTY_FUTURE.symbol, "BUY", 64, product="NRML", price_type="MARKET")
    assert len(book.orders) == 1
    book.reject_next("no money")
    rejected = _place(book)
    assert (rejected.status, rejected.reason, len(book.orders)) == (Status.REJECTED, "no money", 2)
    with pytest.raises(RefusedError):
        book.cancel(rejected.order_id)


def test_money_and_positions_add_up():
    book = Book()
    _place(book, None)
    book.move(RELIANCE, "1520")
    _place(book, None, side="SELL", quantity=4)
    assert (book.realised, book.used, book.available) == (Decimal(40), Decimal(9060), Decimal(990_980))
    (position,) = book.positions()
    assert (position.net, position.average) == (6, Decimal(1510))
    _place(book, None, side="SELL", quantity=10)
    (position,) = book.positions()
    assert position.net == -4
    book.next_day()
    assert (book.orders, book.trades, book.holdings) == ({}, [], [])
