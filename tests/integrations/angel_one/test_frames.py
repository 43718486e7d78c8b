"""The feed's frames: what is written by the table is read back, by the vendor's own parser alike, and garbage never."""

import gc
import json
import math
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.integrations.angel_one.frames import (
    AnyFrame,
    DepthFrame,
    Exchange,
    Frame,
    FrameError,
    FrameParser,
    Level,
    Ltp,
    Mode,
    Pong,
    Quote,
    Refusal,
    SnapQuote,
    divisor_of,
    parse_text,
)
from tests.integrations.angel_one.sdk import Sdk
from tests.simulators.angel_one.layout import DEPTH_FIELDS, FIELDS, SIZES, Step, encode

I16, I32, I64 = (st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64))
U16 = st.integers(0, 2**16 - 1)
TOKENS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=24)
VALUES = st.fixed_dictionaries(
    {name: st.floats(allow_nan=False) if letter == "d" else I64 for _, letter, name in (*FIELDS, *DEPTH_FIELDS)}
)
KINDS = {Mode.LTP: Ltp, Mode.QUOTE: Quote, Mode.SNAP_QUOTE: SnapQuote, Mode.DEPTH: DepthFrame}


def steps(
    count: int, quantity: st.SearchStrategy[int], orders: st.SearchStrategy[int]
) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.builds(Step, quantity, quantity, orders), min_size=count, max_size=count)


BOOKS = {mode: (st.just([]), st.just([])) for mode in (Mode.LTP, Mode.QUOTE)}
BOOKS |= {Mode.SNAP_QUOTE: (steps(5, I64, U16),) * 2, Mode.DEPTH: (steps(20, I32, I16),) * 2}


@st.composite
def written(draw: st.DrawFn) -> tuple[Mode, Exchange, str, dict[str, float], list[Step], list[Step], bytes]:
    mode, exchange = draw(st.sampled_from(Mode)), draw(st.sampled_from(Exchange))
    token, values = draw(TOKENS), draw(VALUES)
    buys, sells = (draw(side) for side in BOOKS[mode])
    return mode, exchange, token, values, buys, sells, encode(mode, exchange, token, values, buys=buys, sells=sells)


@settings(max_examples=60, deadline=None)
@given(written())
def test_every_field_is_read_from_its_place(frame: Any):
    mode, exchange, token, values, buys, sells, raw = frame
    read = FrameParser().parse(raw)

    assert type(read) is KINDS[mode]
    assert (read.exchange, read.token) == (exchange, token)
    assert len(raw) == SIZES[mode]
    for name in read.__struct_fields__:
        if name not in {"exchange", "token", "levels"}:
            assert getattr(read, name) == values[name], name
    if isinstance(read, SnapQuote | DepthFrame):
        assert list(read.depth().buys) == [Level(*step) for step in buys]
        assert list(read.depth().sells) == [Level(*step) for step in sells]


# The SDK's names for our fields.
THEIR_NAMES = {
    "sequence": "sequence_number",
    "exchange_time": "exchange_timestamp",
    "last_price": "last_traded_price",
    "last_quantity": "last_traded_quantity",
    "average_price": "average_traded_price",
    "volume": "volume_trade_for_the_day",
    "total_buy_quantity": "total_buy_quantity",
    "total_sell_quantity": "total_sell_quantity",
    "open": "open_price_of_the_day",
    "high": "high_price_of_the_day",
    "low": "low_price_of_the_day",
    "close": "closed_price",
    "last_trade_time": "last_traded_timestamp",
    "open_interest": "open_interest",
    "upper_circuit": "upper_circuit_limit",
    "lower_circuit": "lower_circuit_limit",
    "year_high": "52_week_high_price",
    "year_low": "52_week_low_price",
}


def in_their_words(frame: AnyFrame) -> dict[str, Any]:
    """A frame of ours as the SDK would give it. It reads the two times of a depth frame from the wrong places."""
    if isinstance(frame, DepthFrame):
        words: dict[str, Any] = {"exchange_timestamp": frame.received_time, "packet_received_time": frame.received_time}
        for side, levels in (("buy", frame.depth().buys), ("sell", frame.depth().sells)):
            words[f"depth_20_{side}_data"] = [
                {"quantity": level.quantity, "price": level.price, "num_of_orders": level.orders} for level in levels
            ]
        return words
    words = {THEIR_NAMES[name]: getattr(frame, name) for name in frame.__struct_fields__ if name in THEIR_NAMES}
    if isinstance(frame, SnapQuote):
        for side, flag, levels in (("buy", 1, frame.depth().buys), ("sell", 0, frame.depth().sells)):
            words[f"best_5_{side}_data"] = [
                {"flag": flag, "quantity": level.quantity, "price": level.price, "no of orders": level.orders}
                for level in levels
            ]
    return words


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(st.lists(written(), min_size=1, max_size=12))
def test_the_vendors_parser_agrees(sdk: Sdk, frames: list[Any]):
    parser = FrameParser()
    theirs = sdk.ask("parse", [raw.hex() for *_, raw in frames])

    for (mode, exchange, token, *_, raw), their in zip(frames, theirs, strict=True):
        ours = in_their_words(parser.parse(raw))
        assert (their.pop("subscription_mode"), their.pop("exchange_type"), their.pop("token")) == (
            mode,
            exchange,
            token,
        )
        for extra in ("subscription_mode_val", "open_interest_change_percentage"):
            their.pop(extra, None)
        assert their == json.loads(json.dumps(ours))


def test_the_vendors_parser_agrees_on_every_mode_in_bulk(sdk: Sdk):
    """The same, for many plain frames of each mode: hypothesis may happen to avoid one."""
    frames = [
        encode(
            mode,
            1 + 2 * (number % 2),
            str(99926000 + number),
            {name: (number + 1) * (place + 3) for place, (_, _, name) in enumerate((*FIELDS, *DEPTH_FIELDS))},
            buys=[Step(i + 1, i + 2, i + 3) for i in range({3: 5, 4: 20}.get(mode, 0))],
            sells=[Step(i + 4, i + 5, i + 6) for i in range({3: 5, 4: 20}.get(mode, 0))],
        )
        for mode in (1, 2, 3)
        for number in range(50)
    ]
    parser = FrameParser()
    for raw, their in zip(frames, sdk.ask("parse", [raw.hex() for raw in frames]), strict=True):
        ours = in_their_words(parser.parse(raw))
        assert ours == {name: their[name] for name in ours}


# What is no frame


@given(
    st.binary(max_size=600) | st.sampled_from([51, 123, 379, 443]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
)
def test_any_bytes_are_a_frame_or_refused(raw: bytes):
    try:
        frame = FrameParser().parse(raw)
    except FrameError as error:
        assert error.fault in {"size", "mode", "exchange", "token"}
        assert str(error)
    else:
        assert isinstance(frame, Frame)
        assert SIZES[raw[0]] == len(raw)
        assert frame.exchange == raw[1]
        assert raw[2:].startswith(frame.token.encode() + b"\0")


@settings(max_examples=60, deadline=None)
@given(written(), st.data())
def test_a_damaged_frame_is_a_frame_or_refused(frame: Any, data: st.DataObject):
    raw = bytearray(frame[-1])
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=8)):
        raw[place] = data.draw(st.integers(0, 255))
    try:
        read = FrameParser().parse(bytes(raw))
    except FrameError:
        return
    if isinstance(read, SnapQuote | DepthFrame):
        depth = read.depth()
        assert len(depth.buys) + len(depth.sells) == (10 if isinstance(read, SnapQuote) else 40)


GOOD = encode(1, 1, "99926000", {"exchange_time": 1_790_000_000_000, "last_price": 2_450_055})


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", "size"),
        (GOOD[:-1], "size"),
        (GOOD + b"\0", "size"),
        (b"pong", "size"),
        (b"\x02" + GOOD[1:], "mode"),
        (b"\x00" + GOOD[1:], "mode"),
        (GOOD[:1] + b"\x06" + GOOD[2:], "exchange"),
        (GOOD[:2] + bytes(25) + GOOD[27:], "token"),
        (GOOD[:2] + b"9" * 25 + GOOD[27:], "token"),
        (GOOD[:2] + b"9992\xff000".ljust(25, b"\0") + GOOD[27:], "token"),
        (GOOD[:2] + b"999 26".ljust(25, b"\0") + GOOD[27:], "token"),
        (GOOD[:2] + b"999\n26".ljust(25, b"\0") + GOOD[27:], "token"),
    ],
)
def test_what_is_wrong_with_a_frame_is_named(raw: bytes, fault: str):
    with pytest.raises(FrameError) as refused:
        FrameParser().parse(raw)

    assert refused.value.fault == fault


def test_a_refused_token_is_refused_again_and_tokens_are_remembered_within_bounds():
    parser = FrameParser()
    bad = GOOD[:2] + bytes(25) + GOOD[27:]
    for _ in range(2):
        with pytest.raises(FrameError):
            parser.parse(bad)
    for number in range(20_000):
        assert parser.parse(encode(1, 1, str(number), {})).token == str(number)

    assert len(parser._known) <= 8_192


# Values


def test_prices_are_exact_rupees():
    frame = FrameParser().parse(GOOD)
    assert isinstance(frame, Ltp)
    assert frame.rupees(frame.last_price) == Decimal("24500.55")
    currency = FrameParser().parse(encode(1, 13, "1", {"last_price": 845_075_000}))
    assert isinstance(currency, Ltp)
    assert currency.rupees(currency.last_price) == Decimal("84.5075")
    assert {exchange for exchange in Exchange if divisor_of(exchange) != 100} == {Exchange.CDE_FO}


@given(I64, st.sampled_from(Exchange))
def test_rupees_lose_nothing(price: int, exchange: Exchange):
    frame = Ltp(exchange, "1", 0, 0, price)

    assert frame.rupees(price) * frame.divisor == price


def test_quantities_that_are_no_numbers_are_passed_on_for_the_pipeline_to_judge():
    raw = bytearray(encode(2, 1, "1", {}))
    struct.pack_into("<dd", raw, 75, math.nan, math.inf)
    frame = FrameParser().parse(bytes(raw))

    assert isinstance(frame, Quote)
    assert math.isnan(frame.total_buy_quantity)
    assert math.isinf(frame.total_sell_quantity)


def test_frames_are_immutable_and_nothing_for_the_garbage_collector():
    frame = FrameParser().parse(encode(3, 1, "1", {}))

    with pytest.raises(AttributeError):
        frame.token = "2"  # type: ignore[misc]
    assert not gc.is_tracked(frame)
    assert hash(frame) == hash(FrameParser().parse(encode(3, 1, "1", {})))


# Text messages


def test_text_messages():
    assert parse_text("pong") == Pong()
    refusal = parse_text('{"correlationID": "s1", "errorCode": "E1002", "errorMessage": "Invalid mode", "more": 1}')
    assert refusal == Refusal("E1002", "Invalid mode", "s1")
    assert parse_text('{"correlationID": null, "errorCode": "E1001", "errorMessage": "x"}') == Refusal("E1001", "x")


@settings(max_examples=50, deadline=None)
@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_other_text_is_refused(text: str):
    try:
        parse_text(text)
    except FrameError as error:
        assert error.fault == "text"
    else:
        assert text == "pong"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"errorCode": 1}', '{"errorCode"', "\ud800", "PONG", ""])
def test_texts_that_mean_nothing_are_refused(text: str):
    with pytest.raises(FrameError):
        parse_text(text)
