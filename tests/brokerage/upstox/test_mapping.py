"""Upstox's words and rows beside ours."""

from copy import deepcopy
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.adapters.symbols import contract_symbol
from app.brokerage.adapters.unreadable import UnreadableError
from app.brokerage.adapters.upstox import mapping, words
from app.brokerage.words import Exchange, OrderState, PriceType, Product, Side, Validity

# As the vendor's documentation shows them.
COMPLETE: dict[str, Any] = {
    "exchange": "BSE", "product": "D", "price": Decimal("0.8"), "quantity": 1, "status": "complete", "guid": None,
    "tag": "arrowtag0001", "instrument_token": "BSE_EQ|INE220J01025", "placed_by": "******",
    "trading_symbol": "FCONSUMER", "tradingsymbol": "FCONSUMER", "order_type": "LIMIT", "validity": "DAY",
    "trigger_price": 0, "disclosed_quantity": 0, "transaction_type": "BUY", "average_price": Decimal("0.8"),
    "filled_quantity": 1, "pending_quantity": 0, "status_message": None, "status_message_raw": None,
    "exchange_order_id": "1697686200000169148", "parent_order_id": None, "order_id": "231019025057849",
    "variety": "SIMPLE", "order_timestamp": "2023-10-19 09:23:23", "exchange_timestamp": "2023-10-19 09:23:24",
    "is_amo": False, "order_request_id": "2", "order_ref_id": "57744821658411",
}  # fmt: skip
REJECTED: dict[str, Any] = COMPLETE | {
    "exchange": "NFO", "product": "I", "price": 0, "quantity": 1500, "status": "rejected", "tag": None,
    "instrument_token": "NSE_FO|52567", "trading_symbol": "SBIN23OCTFUT", "order_type": "SL-M", "trigger_price": 570,
    "transaction_type": "SELL", "average_price": 0, "filled_quantity": 0, "exchange_order_id": None,
    "status_message": "You need to add Rs. 138385.27 in your account\nto place this trade.",
    "exchange_timestamp": None,
}  # fmt: skip
TRADE: dict[str, Any] = {
    "exchange": "NSE", "product": "D", "trading_symbol": "GMRINFRA-EQ", "tradingsymbol": "GMRINFRA-EQ",
    "instrument_token": "NSE_EQ|INE776C01039", "order_type": "MARKET", "transaction_type": "BUY", "quantity": 1,
    "exchange_order_id": "221013001021540", "order_id": "221013001021539", "exchange_timestamp": "03-Aug-2017 15:03:42",
    "average_price": Decimal("299.4"), "trade_id": "50091502", "order_timestamp": "23-Apr-2021 14:22:06",
}  # fmt: skip


def test_an_order_as_documented():
    (order,) = mapping.orders_of([COMPLETE], {})
    assert order.broker_order_id == "231019025057849"
    assert (order.tag, order.exchange, order.symbol) == ("arrowtag0001", Exchange.BSE, "FCONSUMER")
    assert (order.side, order.product, order.price_type) == (Side.BUY, Product.CNC, PriceType.LIMIT)
    assert (order.quantity, order.filled_quantity, order.state) == (1, 1, OrderState.COMPLETE)
    assert (order.price, order.trigger_price, order.average_price) == (Decimal("0.8"), None, Decimal("0.8"))
    assert (order.reason, order.validity) == (None, Validity.DAY)
    assert order.exchange_order_id == "1697686200000169148"
    assert order.placed_at == datetime(2023, 10, 19, 3, 53, 23, tzinfo=UTC)
    assert order.updated_at == datetime(2023, 10, 19, 3, 53, 24, tzinfo=UTC)


def test_a_rejected_order_says_why_in_one_line():
    (order,) = mapping.orders_of([REJECTED], {})
    assert order.state is OrderState.REJECTED
    assert order.reason == "You need to add Rs. 138385.27 in your account to place this trade."
    assert (order.tag, order.average_price, order.trigger_price) == (None, None, Decimal(570))
    assert (order.side, order.product, order.symbol) == (Side.SELL, Product.MIS, "SBIN23OCTFUT")
    assert order.updated_at == order.placed_at


@pytest.mark.parametrize(
    ("word", "price_type", "filled", "state"),
    [
        ("put order req received", "LIMIT", 0, "PENDING"),
        ("validation pending", "LIMIT", 0, "PENDING"),
        ("open pending", "LIMIT", 0, "PENDING"),
        ("after market order req received", "LIMIT", 0, "PENDING"),
        ("open", "LIMIT", 0, "OPEN"),
        ("open", "SL", 0, "OPEN"),
        ("open", "LIMIT", 3, "PARTIALLY_FILLED"),
        ("trigger pending", "SL", 0, "TRIGGER_PENDING"),
        ("modify pending", "LIMIT", 0, "OPEN"),
        ("modified", "SL-M", 0, "TRIGGER_PENDING"),
        ("cancel pending", "LIMIT", 2, "PARTIALLY_FILLED"),
        ("not cancelled", "LIMIT", 0, "OPEN"),
        ("complete", "LIMIT", 10, "COMPLETE"),
        ("cancelled", "LIMIT", 4, "CANCELLED"),
        ("cancelled after market order", "LIMIT", 0, "CANCELLED"),
        ("rejected", "MARKET", 0, "REJECTED"),
        ("Complete", "LIMIT", 10, "COMPLETE"),
        ("a word of tomorrow", "LIMIT", 0, "PENDING"),
        ("a word of tomorrow", "LIMIT", 1, "PARTIALLY_FILLED"),
    ],
)
def test_states(word: str, price_type: str, filled: int, state: str):
    assert words.state_of(word, PriceType(price_type), filled) is OrderState(state)


def test_what_is_filled_where_it_is_not_said():
    (order,) = mapping.orders_of([{**COMPLETE, "filled_quantity": None}], {})
    assert (order.state, order.filled_quantity) == (OrderState.COMPLETE, 1)
    (order,) = mapping.orders_of([{**COMPLETE, "status": "open", "filled_quantity": None}], {})
    assert (order.state, order.filled_quantity) == (OrderState.OPEN, 0)


def test_products_come_back_as_what_they_were():
    for exchange, products in words.CAPABILITIES.products.items():
        for product in products:
            assert words.product_of(words.product_word(product), exchange) is product
    assert words.product_of("CO", Exchange.NSE) is None


def test_every_exchange_that_it_takes_has_products():
    assert words.CAPABILITIES.products.keys() == words.CAPABILITIES.exchanges


@pytest.mark.parametrize(
    ("written", "exchange", "symbol"),
    [
        ("RELIANCE-EQ", "NSE", "RELIANCE"),
        ("reliance", "NSE", "RELIANCE"),
        ("BAJAJ-AUTO", "NSE", "BAJAJ-AUTO"),
        ("M&M-EQ", "NSE", "M&M"),
        ("JOCIL-BE", "NSE", "JOCIL"),
        ("SBIN23OCTFUT", "NFO", "SBIN23OCTFUT"),
        ("BANKNIFTY FUT 29 DEC 26", "NFO", "BANKNIFTY26DECFUT"),
        ("NIFTY 24500 CE 29 DEC 26", "NFO", "NIFTY26DEC24500CE"),
        ("NIFTY 24500 PE 03 DEC 26", "NFO", "NIFTY26D0324500PE"),
        ("IDEA 7.50 CE 29 DEC 26", "NFO", "IDEA26DEC7.5CE"),
        ("NIFTY 24500 CE 31 FEB 26", "NFO", None),
        ("SOMETHING ELSE", "NFO", None),
    ],
)
def test_symbols(written: str, exchange: str, symbol: str | None):
    assert words.plain_symbol(written, Exchange(exchange)) == symbol


def test_symbols_of_contracts():
    day = date(2026, 12, 29)
    assert contract_symbol("NIFTY", day, "FUT") == "NIFTY26DECFUT"
    assert contract_symbol("NIFTY", day, "CE", Decimal("24500.0")) == "NIFTY26DEC24500CE"
    assert contract_symbol("NIFTY", date(2026, 9, 1), "PE", Decimal(20000), weekly=True) == "NIFTY2690120000PE"


def test_a_known_key_goes_before_what_is_written():
    row = {**REJECTED, "trading_symbol": "NIFTY 24500 CE 03 DEC 26"}
    (order,) = mapping.orders_of([row], {"NSE_FO|52567": "NIFTY26D0324500CE"})
    assert order.symbol == "NIFTY26D0324500CE"


def test_a_trade_as_documented():
    (trade,) = mapping.trades_of([TRADE], {})
    assert (trade.trade_id, trade.broker_order_id, trade.symbol) == ("50091502", "221013001021539", "GMRINFRA")
    assert (trade.quantity, trade.price, trade.product) == (1, Decimal("299.4"), Product.CNC)
    assert trade.at == datetime(2017, 8, 3, 9, 33, 42, tzinfo=UTC)


def test_what_we_have_no_words_for_is_left_out():
    others = [{**COMPLETE, "exchange": "MCX"}, {**COMPLETE, "product": "CO"}]
    assert mapping.orders_of([*others, COMPLETE], {}) == mapping.orders_of([COMPLETE], {})
    assert mapping.trades_of([{**TRADE, "exchange": "CDS"}], {}) == []


@pytest.mark.parametrize("book", [None, {}, "", [None], [COMPLETE, 1]])
def test_a_book_that_is_none_is_not_empty(book: Any):
    with pytest.raises(UnreadableError):
        mapping.orders_of(book, {})
    with pytest.raises(UnreadableError):
        mapping.trades_of(book, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantity", None), ("quantity", -1), ("quantity", "1.5"), ("filled_quantity", "many"), ("order_id", ""),
        ("status", None), ("transaction_type", "HOLD"), ("order_type", "GTT"), ("trading_symbol", "\x00"),
        ("exchange", None), ("product", 7.5),
    ],
)  # fmt: skip
def test_one_broken_row_makes_the_book_unreadable(field: str, value: Any):
    broken = {**COMPLETE, field: value, **({"tradingsymbol": value} if field == "trading_symbol" else {})}
    with pytest.raises(UnreadableError):
        mapping.orders_of([COMPLETE, broken], {})


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.decimals(), st.text(max_size=30), st.lists(st.integers(), max_size=2),
    st.just({}),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(COMPLETE)), JUNK, max_size=4))
def test_whatever_a_row_holds_it_is_read_left_out_or_refused(changes: dict[str, Any]):
    row = deepcopy(COMPLETE) | changes
    try:
        orders = mapping.orders_of([row], {})
    except UnreadableError:
        return
    for order in orders:
        assert order.filled_quantity >= 0
        assert order.symbol
        assert order.broker_order_id
        assert order.state.value not in {"INTENT", "SENDING", "UNKNOWN", "NOT_SENT"}
    if not orders:
        assert "exchange" in changes or "product" in changes


def test_positions():
    row = {
        "exchange": "NFO", "product": "D", "instrument_token": "NSE_FO|52618", "quantity": -15,
        "trading_symbol": "BANKNIFTY23O2544000PE", "average_price": None, "buy_price": 0,
        "sell_price": Decimal("116.9"), "last_price": Decimal("110.3"), "unrealised": 99, "realised": Decimal("-4.5"),
    }  # fmt: skip
    (position,) = mapping.positions_of([row], {})
    assert (position.product, position.net_quantity, position.average_price) == (Product.NRML, -15, Decimal("116.9"))
    assert (position.last_price, position.realised) == (Decimal("110.3"), Decimal("-4.5"))
    assert position.unrealised == Decimal(99)
    assert mapping.positions_of(None, {}) == []
    with pytest.raises(UnreadableError):
        mapping.positions_of([{**row, "quantity": "x"}], {})


def test_holdings():
    row = {
        "isin": "INE528G01035", "quantity": 36, "t1_quantity": 4, "trading_symbol": "YESBANK", "exchange": "NSE",
        "average_price": Decimal("18.75"), "last_price": Decimal("17.05"), "instrument_token": "NSE_EQ|INE528G01035",
    }  # fmt: skip
    (holding,) = mapping.holdings_of([row], {})
    assert (holding.exchange, holding.symbol, holding.isin) == (Exchange.NSE, "YESBANK", "INE528G01035")
    assert (holding.quantity, holding.average_price, holding.last_price) == (36, Decimal("18.75"), Decimal("17.05"))
    assert mapping.holdings_of([{**row, "quantity": 0}], {})[0].quantity == 4
    assert mapping.holdings_of([{**row, "quantity": 0, "t1_quantity": 0}], {}) == []


def test_funds_are_added_up():
    both = {
        "equity": {"used_margin": Decimal("0.8"), "available_margin": Decimal("15507.46")},
        "commodity": {"used_margin": 0, "available_margin": Decimal("4.54")},
    }
    funds = mapping.funds_of(both)
    assert funds == (Decimal("15512.00"), Decimal("0.8"), Decimal("15512.80"))
    assert mapping.funds_of({"equity": both["equity"]}).available == Decimal("15507.46")
    for wrong in (None, {}, {"equity": {}}, {"equity": {"used_margin": 1}}, {"equity": [1]}):
        with pytest.raises(UnreadableError):
            mapping.funds_of(wrong)


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-11-23T10:00", "2026-11-24T03:30"),
        ("2026-11-23T03:29", "2026-11-23T03:30"),
        ("2026-11-23T03:30", "2026-11-24T03:30"),
        ("2026-11-23T23:59", "2026-11-24T03:30"),
    ],
)
def test_tokens_die_at_half_past_three(now: str, end: str):
    indian = "+05:30"
    died = mapping.tokens_die(datetime.fromisoformat(now + indian).astimezone(UTC))
    assert died == datetime.fromisoformat(end + indian)
    assert died.tzinfo is UTC


def test_orders_have_a_host_of_their_own_at_upstox_alone():
    assert mapping.order_base("https://api.upstox.com/") == "https://api-hft.upstox.com"
    assert mapping.api_base("https://api-hft.upstox.com") == "https://api.upstox.com"
    assert mapping.order_base("http://127.0.0.1:9") == mapping.api_base("http://127.0.0.1:9/") == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "content", [None, {}, {"data": None}, {"data": {"order_ids": []}}, {"data": {"order_ids": [1, 2]}}]
)
def test_an_answer_without_exactly_one_id_places_nothing(content: Any):
    assert mapping.placed_id(content) is None
