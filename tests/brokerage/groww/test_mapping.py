"""Groww's words and rows beside ours."""

from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.adapters.groww import mapping, words
from app.brokerage.adapters.unreadable import UnreadableError
from app.brokerage.words import Exchange, OrderState, PriceType, Product, Side, Validity

# As the vendor's documentation shows them.
ORDER: dict[str, Any] = {
    "groww_order_id": "GMK39038RDT490CCVRO", "trading_symbol": "RELIANCE-EQ", "order_status": "OPEN",
    "remark": "Order placed successfully", "quantity": 100, "price": 2500, "trigger_price": 2450,
    "filled_quantity": 90, "remaining_quantity": 10, "average_fill_price": 2500, "deliverable_quantity": 10,
    "amo_status": "PENDING", "validity": "DAY", "exchange": "NSE", "order_type": "MARKET", "transaction_type": "BUY",
    "segment": "CASH", "product": "CNC", "created_at": "2023-10-01T10:15:30", "exchange_time": "2023-10-01T10:15:31",
    "trade_date": "2019-08-24T14:15:22Z", "order_reference_id": "Ab654321234",
}  # fmt: skip
TRADE: dict[str, Any] = {
    "price": Decimal("2500.5"), "isin": "INE002A01018", "quantity": 4, "groww_order_id": "GMK39038RDT490CCVRO",
    "groww_trade_id": "ASV249380582", "exchange_trade_id": "30040234", "trade_status": "EXECUTED",
    "trading_symbol": "RELIANCE-EQ", "exchange": "NSE", "segment": "CASH", "product": "CNC", "transaction_type": "BUY",
    "created_at": "2023-10-01T10:15:30", "trade_date_time": "2023-10-01T10:15:32",
}  # fmt: skip


def test_an_order_as_documented():
    (order,) = mapping.orders_of([ORDER])
    assert (order.broker_order_id, order.tag) == ("GMK39038RDT490CCVRO", "Ab654321234")
    assert (order.exchange, order.symbol, order.side) == (Exchange.NSE, "RELIANCE", Side.BUY)
    assert (order.product, order.price_type, order.validity) == (Product.CNC, PriceType.MARKET, Validity.DAY)
    assert (order.quantity, order.filled_quantity, order.state) == (100, 90, OrderState.PARTIALLY_FILLED)
    assert (order.price, order.trigger_price, order.average_price) == (2500, 2450, 2500)
    assert order.reason is None  # "placed successfully" is none
    assert order.placed_at == datetime(2023, 10, 1, 4, 45, 30, tzinfo=UTC)
    assert order.updated_at == datetime(2023, 10, 1, 4, 45, 31, tzinfo=UTC)


def test_a_rejected_order_says_why():
    row = ORDER | {"order_status": "REJECTED", "filled_quantity": None, "remark": "RMS:\nmargin  exceeds"}
    (order,) = mapping.orders_of([row | {"order_type": "SL_M", "segment": "FNO", "product": "NRML"}])
    assert (order.state, order.reason) == (OrderState.REJECTED, "RMS: margin exceeds")
    assert (order.exchange, order.price_type, order.product) == (Exchange.NFO, PriceType.SL_M, Product.NRML)
    assert (order.filled_quantity, order.average_price) == (0, None)


@pytest.mark.parametrize(
    ("word", "price_type", "filled", "state"),
    [
        ("NEW", "LIMIT", 0, "PENDING"),
        ("ACKED", "LIMIT", 0, "PENDING"),
        ("APPROVED", "LIMIT", 0, "OPEN"),
        ("OPEN", "LIMIT", 0, "OPEN"),
        ("OPEN", "LIMIT", 3, "PARTIALLY_FILLED"),
        ("ACKED", "LIMIT", 3, "PARTIALLY_FILLED"),
        ("TRIGGER_PENDING", "SL", 0, "TRIGGER_PENDING"),
        ("MODIFICATION_REQUESTED", "LIMIT", 0, "OPEN"),
        ("MODIFICATION_REQUESTED", "SL_M", 0, "TRIGGER_PENDING"),
        ("CANCELLATION_REQUESTED", "LIMIT", 3, "PARTIALLY_FILLED"),
        ("CANCELLED", "LIMIT", 3, "CANCELLED"),
        ("REJECTED", "LIMIT", 0, "REJECTED"),
        ("FAILED", "LIMIT", 0, "REJECTED"),
        ("EXECUTED", "LIMIT", 10, "COMPLETE"),
        ("EXECUTED", "LIMIT", 3, "PARTIALLY_FILLED"),
        ("EXECUTED", "LIMIT", 0, "OPEN"),
        ("DELIVERY_AWAITED", "LIMIT", 10, "COMPLETE"),
        ("COMPLETED", "LIMIT", 10, "COMPLETE"),
        ("A_WORD_OF_TOMORROW", "LIMIT", 0, "PENDING"),
    ],
)
def test_states(word: str, price_type: str, filled: int, state: str):
    assert words.state_of(word, PriceType(price_type.replace("_", "-")), 10, filled) is OrderState(state)


def test_what_is_filled_where_it_is_not_said():
    (order,) = mapping.orders_of([ORDER | {"order_status": "EXECUTED", "filled_quantity": None}])
    assert (order.state, order.filled_quantity) == (OrderState.COMPLETE, 100)
    (order,) = mapping.orders_of([ORDER | {"filled_quantity": None}])
    assert (order.state, order.filled_quantity) == (OrderState.OPEN, 0)


def test_every_exchange_that_it_takes_has_words_and_products():
    assert words.CAPABILITIES.products.keys() == words.CAPABILITIES.exchanges
    for exchange in words.CAPABILITIES.exchanges:
        assert words.place_of(*words.words_of(exchange)) is exchange
    assert words.place_of("MCX", "COMMODITY") is None


def test_price_types_come_back_as_what_they_were():
    for price_type in PriceType:
        (order,) = mapping.orders_of([ORDER | {"order_type": words.price_type_word(price_type)}])
        assert order.price_type is price_type


def test_a_trade_as_documented():
    (order,) = mapping.orders_of([ORDER])
    (trade,) = mapping.trades_of([TRADE], order)
    assert (trade.trade_id, trade.broker_order_id) == ("ASV249380582", "GMK39038RDT490CCVRO")
    assert (trade.symbol, trade.side, trade.product) == ("RELIANCE", Side.BUY, Product.CNC)
    assert (trade.quantity, trade.price) == (4, Decimal("2500.5"))
    assert trade.at == datetime(2023, 10, 1, 4, 45, 32, tzinfo=UTC)
    (other,) = mapping.trades_of([TRADE | {"groww_trade_id": ""}], order)
    assert other.trade_id == "30040234"
    assert mapping.trades_of([TRADE | {"trade_status": "CANCELLED"}], order) == []
    with pytest.raises(UnreadableError):
        mapping.trades_of([TRADE | {"groww_trade_id": None, "exchange_trade_id": None}], order)


def test_what_we_have_no_words_for_is_left_out():
    others = [ORDER | {"segment": "COMMODITY", "exchange": "MCX"}, ORDER | {"product": "BO"}]
    assert mapping.orders_of([*others, ORDER]) == mapping.orders_of([ORDER])


@pytest.mark.parametrize("payload", [None, {}, {"order_list": None}, {"order_list": {}}, {"order_list": [1]}])
def test_a_book_that_is_none_is_not_empty(payload: Any):
    with pytest.raises(UnreadableError):
        mapping.page_of(payload, "order_list", "groww_order_id")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantity", None), ("quantity", -1), ("filled_quantity", "many"), ("groww_order_id", ""),
        ("order_status", None), ("transaction_type", "HOLD"), ("order_type", "GTT"), ("trading_symbol", None),
        ("exchange", None), ("segment", ""), ("product", []),
    ],
)  # fmt: skip
def test_one_broken_row_makes_the_book_unreadable(field: str, value: Any):
    with pytest.raises(UnreadableError):
        mapping.orders_of([ORDER, ORDER | {field: value}])


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.decimals(), st.text(max_size=30), st.lists(st.integers(), max_size=2),
    st.just({}),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(ORDER)), JUNK, max_size=4))
def test_whatever_a_row_holds_it_is_read_left_out_or_refused(changes: dict[str, Any]):
    row = deepcopy(ORDER) | changes
    try:
        orders = mapping.orders_of([row])
    except UnreadableError:
        return
    for order in orders:
        assert order.filled_quantity >= 0
        assert order.symbol
        assert order.broker_order_id
        assert order.state.value not in {"INTENT", "SENDING", "UNKNOWN", "NOT_SENT"}
    if not orders:
        assert changes.keys() & {"exchange", "segment", "product"}


def test_positions():
    row = {
        "trading_symbol": "NIFTY26DEC24500CE", "segment": "FNO", "exchange": "NSE", "product": "NRML", "quantity": -65,
        "credit_quantity": 0, "credit_price": 0, "debit_quantity": 65, "debit_price": Decimal("182.35"), "net_price": 0,
        "realised_pnl": Decimal("-12.5"),
    }  # fmt: skip
    (position,) = mapping.positions_of({"positions": [row]})
    assert (position.exchange, position.symbol, position.net_quantity) == (Exchange.NFO, "NIFTY26DEC24500CE", -65)
    assert (position.average_price, position.realised) == (Decimal("182.35"), Decimal("-12.5"))
    assert position.last_price is position.unrealised is None
    assert mapping.positions_of({"positions": None}) == []
    with pytest.raises(UnreadableError):
        mapping.positions_of({"positions": [row | {"quantity": "x"}]})


def test_holdings_as_documented():
    row = {
        "isin": "INE545U01014",
        "trading_symbol": "RELIANCE",
        "quantity": 10.0,
        "average_price": 100,
        "t1_quantity": 3,
    }
    (holding,) = mapping.holdings_of({"holdings": [row]})
    assert holding == (Exchange.NSE, "RELIANCE", "INE545U01014", 10, Decimal(100), None)
    assert mapping.holdings_of({"holdings": [row | {"quantity": 0}]}) == []
    with pytest.raises(UnreadableError):
        mapping.holdings_of({"holdings": [row | {"trading_symbol": ""}]})


def test_funds_as_documented():
    said = {
        "clear_cash": Decimal("96.21"),
        "net_margin_used": Decimal("1.8"),
        "equity_margin_details": {"cnc_balance_available": Decimal("94.41")},
    }
    assert mapping.funds_of(said) == (Decimal("94.41"), Decimal("1.8"), Decimal("96.21"))
    assert mapping.funds_of(said | {"equity_margin_details": None}).available == Decimal("94.41")
    for wrong in (None, {}, {"clear_cash": 1}, {"clear_cash": "x", "net_margin_used": 0}):
        with pytest.raises(UnreadableError):
            mapping.funds_of(wrong)


@pytest.mark.parametrize(
    ("now", "said", "end"),
    [
        ("2026-11-23T10:00", None, "2026-11-24T06:00"),
        ("2026-11-23T05:59", None, "2026-11-23T06:00"),
        ("2026-11-23T06:00", None, "2026-11-24T06:00"),
        ("2026-11-23T10:00", "2026-11-23T18:00:00", "2026-11-23T18:00"),
        ("2026-11-23T10:00", "2026-12-31T06:00:00", "2026-11-24T06:00"),
        ("2026-11-23T10:00", "2020-01-01T06:00:00", "2026-11-24T06:00"),
        ("2026-11-23T10:00", "soon", "2026-11-24T06:00"),
    ],
)
def test_tokens_die_at_six_or_when_groww_says_so_before(now: str, said: str | None, end: str):
    died = mapping.tokens_die(datetime.fromisoformat(now + "+05:30").astimezone(UTC), said)
    assert died == datetime.fromisoformat(end + "+05:30")
    assert died.tzinfo is UTC
