"""Requests, acknowledgements and every kind of bad message, over a real socket."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.stream.schemas import ProtocolError, Request, parse
from tests.stream.server import Server, parse_time

BAD: list[tuple[Any, str]] = [
    ("not JSON", "invalid_json"),
    ("", "invalid_json"),
    ('{"action":"ping"', "invalid_json"),
    ('{"action":NaN}', "invalid_json"),
    ("[" * 16_000, "invalid_json"),
    (b'{"action":"ping"}', "invalid_message"),
    (b"\xff\x00", "invalid_message"),
    ("[]", "invalid_message"),
    ('"ping"', "invalid_message"),
    ("null", "invalid_message"),
    ({}, "unknown_action"),
    ({"action": "order"}, "unknown_action"),
    ({"action": 5}, "unknown_action"),
    ({"action": ["ping"]}, "unknown_action"),
    ({"action": {"$ne": ""}}, "unknown_action"),
    ({"action": "ping", "extra": 1}, "invalid_message"),
    ({"action": "ping", "id": True}, "invalid_message"),
    ({"action": "ping", "id": 1.5}, "invalid_message"),
    ({"action": "ping", "id": {}}, "invalid_message"),
    ({"action": "ping", "id": "x" * 129}, "invalid_message"),
    ('{"action":"ping","id":' + "9" * 400 + "}", "invalid_message"),
    ({"action": "auth"}, "invalid_message"),
    ({"action": "auth", "token": ""}, "invalid_message"),
    ({"action": "auth", "token": None}, "invalid_message"),
    ({"action": "auth", "token": 7}, "invalid_message"),
    ({"action": "auth", "token": "x" * 8193}, "invalid_message"),
    ({"action": "auth", "token": "unknown"}, "unauthorized"),
    ({"action": "subscribe"}, "invalid_message"),
    ({"action": "subscribe", "channel": None}, "invalid_message"),
    ({"action": "subscribe", "channel": ["ticks"]}, "invalid_message"),
    ({"action": "subscribe", "channel": "tick"}, "unknown_channel"),
    ({"action": "subscribe", "channel": "TICKS"}, "unknown_channel"),
    ({"action": "unsubscribe", "channel": ""}, "unknown_channel"),
    ({"action": "subscribe", "channel": "ticks", "symbols": "NIFTY 50"}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "symbols": []}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "symbols": [1]}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "symbols": [""]}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "symbols": ["A", "  "]}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "symbols": ["a\u0000"]}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "symbols": ["x" * 65]}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "symbols": [str(n) for n in range(201)]}, "too_many_symbols"),
    ({"action": "subscribe", "channel": "ticks", "since": -1}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "since": "1"}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "since": 1.5}, "invalid_message"),
    ({"action": "subscribe", "channel": "ticks", "since": 2**64}, "invalid_message"),
    ({"action": "ping", "pad": "x" * 16_384}, "too_large"),
    ('{"action":"ping","pad":"' + "µ" * 8_192 + '"}', "too_large"),
    ("x" * 1_000_000, "too_large"),
    ({"action": "subscribe", "channel": "candles"}, "unauthorized"),
    ({"action": "subscribe", "channel": "alerts"}, "unauthorized"),
    ({"action": "subscribe", "channel": "alerts", "since": 0}, "unauthorized"),
    ({"action": "subscribe", "channel": "signals"}, "unauthorized"),
    ({"action": "subscribe", "channel": "orders"}, "unauthorized"),
    ({"action": "subscribe", "channel": "jobs"}, "unauthorized"),
]


async def test_every_bad_message_is_answered_and_the_socket_stays(server: Server) -> None:
    async with server.connect() as client:
        await client.subscribe("ticks")
        for message, code in BAD:
            answer = await client.ask(message)
            assert (answer["type"], answer["code"]) == ("error", code), (str(message)[:80], answer)
            assert answer["detail"].endswith(".")
            assert len(answer["detail"]) <= 301
            parse_time(answer["ts"])
        await server.publish("ticks", {"price": 1}, key="NIFTY 50")
        assert (await client.receive())["data"] == {"price": 1}


async def test_symbols_for_a_channel_without_any(server: Server) -> None:
    async with server.connect_as("ann") as client:
        for action in ("subscribe", "unsubscribe"):
            answer = await client.ask({"action": action, "channel": "alerts", "symbols": ["A"]})
            assert answer["code"] == "invalid_message"
            assert "alerts" in answer["detail"]


@pytest.mark.parametrize("tag", ["a", "", 0, -5, 2**53, "é" * 128])
async def test_the_id_of_a_message_comes_back(server: Server, tag: str | int) -> None:
    async with server.connect_as("ann") as client:
        for message in (
            {"action": "ping"},
            {"action": "subscribe", "channel": "ticks"},
            {"action": "subscribe", "channel": "alerts", "since": 1},
            {"action": "subscribe", "channel": "nope"},
            {"action": "subscribe", "channel": 3},
            {"action": "unsubscribe", "channel": "ticks"},
            {"action": "auth", "token": server.accounts.token("ann")},
            {"action": "auth", "token": "unknown"},
            {"action": "what"},
        ):
            answer = await client.ask(message | {"id": tag})
            assert answer["id"] == tag, answer


async def test_answers_have_the_documented_form(server: Server) -> None:
    token = server.accounts.token("ann")
    async with server.connect() as client:
        answer = await client.ask({"action": "ping"})
        assert set(answer) == {"type", "ts"}
        answer = await client.sign_in(token)
        assert set(answer) == {"type", "ts", "user_id", "expires_at"}
        assert answer["user_id"] == server.accounts.user_id(token)
        assert parse_time(answer["expires_at"]) == server.accounts.principals[token].expires_at
        answer = await client.subscribe("ticks")
        assert set(answer) == {"type", "ts", "channel", "seq"}
        answer = await client.ask({"action": "unsubscribe", "channel": "ticks"})
        assert set(answer) == {"type", "ts", "channel"}
        assert answer["type"] == "unsubscribed"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
almost_requests = st.fixed_dictionaries(
    {"action": st.sampled_from(["auth", "subscribe", "unsubscribe", "ping"])},
    optional={
        "id": json_values,
        "channel": json_values,
        "symbols": json_values,
        "since": json_values,
        "token": json_values,
    },
).map(json.dumps)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.binary() | json_values.map(json.dumps) | almost_requests)
def test_whatever_arrives_is_a_request_or_a_protocol_error(message: str | bytes) -> None:
    try:
        assert isinstance(parse(message, max_bytes=16_384, max_symbols=200), Request)
    except ProtocolError as error:
        assert error.code in {"invalid_json", "invalid_message", "unknown_action", "too_many_symbols", "too_large"}
