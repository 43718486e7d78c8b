"""One event makes one alert, however often and however it is delivered; what is refused leaves a trace."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.http import NO_TLS
from tests.support.people import Person, alert, somebody
from tests.support.service import ServiceProcess

AT_ONCE = 40
MANY = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
CONTENT_TYPES = ["application/json", "application/json; charset=utf-8", "text/plain", "text/plain; charset=utf-8"]
KEPT, PER_MINUTE = 10, 40
PROXY = "198.51.100.9"
"""Where deliveries are taken from at the strict service, as its proxy reports it."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A short window for repeats, few rejected rows, a small limit per key, one allowed address, a trusted proxy."""
    settings = {
        "ALERT_DEDUP_SECONDS": "1",
        "REJECTED_MAX_PER_STRATEGY": str(KEPT),
        "ALERT_RATE_LIMIT_PER_MINUTE": str(PER_MINUTE),
        "WEBHOOK_ALLOWED_IPS": f"{PROXY}, 10.1.0.0/16, tradingview",
        "TRUSTED_PROXIES": "127.0.0.0/8",
    }
    service = ServiceProcess(tmp_path_factory.mktemp("strict"), **settings)
    try:
        yield service.start()
    finally:
        service.close()


@pytest_asyncio.fixture
async def trader(service: ServiceProcess) -> AsyncIterator[Person]:
    async with somebody(service.url) as person:
        yield person


@pytest_asyncio.fixture
async def guarded(strict: ServiceProcess) -> AsyncIterator[Person]:
    """Somebody at the strict service, whose deliveries come from the allowed address."""
    async with somebody(strict.url) as person:
        person.client.headers["X-Forwarded-For"] = PROXY
        yield person


async def deliver(
    person: Person, key: str, body: Any, content_type: str = "application/json", **headers: str
) -> httpx.Response:
    """A delivery without any token, as TradingView sends it."""
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    sent = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if forwarded := person.client.headers.get("X-Forwarded-For"):
        sent = {"X-Forwarded-For": forwarded} | sent
    async with httpx.AsyncClient(base_url=person.client.base_url, timeout=50, verify=NO_TLS) as sender:
        return await sender.post(f"/data/{key}", content=content, headers=sent)


async def rejected(person: Person, **query: Any) -> list[dict[str, Any]]:
    answer = await person.client.get("/alerts/rejected", params=query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()
    return rows


async def alerts(person: Person) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await person.client.get("/data/")).json()
    return rows


@pytest.mark.parametrize("path", ["/data/{}", "/data/{}/", "/alerts/create/{}", "/alerts/create/{}/"])
@pytest.mark.parametrize("named_by", ["alert_id", "Idempotency-Key", "body alone"])
async def test_concurrent_deliveries_of_one_event(trader: Person, path: str, named_by: str):
    key = await trader.bind()
    body = json.dumps(alert(**({"alert_id": "tv-1"} if named_by == "alert_id" else {}), extra=[1, {"a": "b"}]))
    headers = {"Idempotency-Key": "event 1"} if named_by == "Idempotency-Key" else {}
    async with httpx.AsyncClient(base_url=trader.client.base_url, timeout=50, limits=MANY, verify=NO_TLS) as sender:
        deliveries = [
            sender.post(path.format(key), content=body, headers={**headers, "Content-Type": CONTENT_TYPES[n % 4]})
            for n in range(AT_ONCE)
        ]
        answers = await asyncio.gather(*deliveries)

    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: AT_ONCE - 1}
    first = next(answer for answer in answers if answer.status_code == 201).json()
    assert all(answer.json() == first for answer in answers)
    assert await alerts(trader) == [first]
    assert first["raw"] == {"extra": [1, {"a": "b"}]}


@pytest.mark.parametrize("content_type", [*CONTENT_TYPES, "application/x-www-form-urlencoded", "nonsense"])
async def test_the_content_type_decides_nothing(trader: Person, content_type: str):
    """TradingView chooses it by whether the text parses; what counts is the text."""
    key = await trader.bind()

    taken = await deliver(trader, key, alert(comment=content_type), content_type)
    refused = await deliver(trader, key, f"{content_type} is not JSON", content_type)

    assert (taken.status_code, refused.status_code) == (201, 422)
    assert [row["content_type"] for row in await rejected(trader)] == [content_type]


async def test_the_same_alert_id_with_another_body_is_another_alert(trader: Person):
    """Strategies send a constant order id."""
    key = await trader.bind()

    first = await deliver(trader, key, alert(alert_id="Long", price=100))
    second = await deliver(trader, key, alert(alert_id="Long", price=101))
    third = await deliver(trader, key, alert(alert_id="Long", price=100))

    assert [answer.status_code for answer in (first, second, third)] == [201, 201, 200]
    assert third.json() == first.json()
    assert [row["price"] for row in await alerts(trader)] == [101, 100]


async def test_what_makes_two_events_different(trader: Person):
    key, other_key = await trader.bind(), await trader.bind("Another")
    body = alert()

    assert (await deliver(trader, key, body)).status_code == 201
    assert (await deliver(trader, other_key, body)).status_code == 201
    assert (await deliver(trader, key, body, Idempotency_Key="a")).status_code == 201
    assert (await deliver(trader, key, body, Idempotency_Key="b")).status_code == 201
    assert (await deliver(trader, key, alert(quantity=76), Idempotency_Key="b")).status_code == 201
    assert (await deliver(trader, key, body, Idempotency_Key="b")).status_code == 200
    assert (await deliver(trader, key, body)).status_code == 200
    assert len(await alerts(trader)) == 5


async def test_a_repeat_of_a_deleted_alert_does_not_revive_it(trader: Person):
    key = await trader.bind()
    first = await deliver(trader, key, alert(alert_id="x", extra="kept"))
    assert (await trader.client.delete(f"/data/{first.json()['id']}")).status_code == 204

    repeats = [await deliver(trader, key, alert(alert_id="x", extra="kept")) for _ in range(2)]

    assert [answer.status_code for answer in repeats] == [200, 200]
    assert {answer.json()["id"] for answer in repeats} == {first.json()["id"]}
    assert await alerts(trader) == []
    assert (await trader.client.get(f"/data/{first.json()['id']}")).status_code == 404


async def test_a_repeat_of_a_replaced_alert_changes_nothing(trader: Person):
    key = await trader.bind()
    first = (await deliver(trader, key, alert(alert_id="x"))).json()
    corrected = alert(strategy_name="My Strategy", price=5, alert_id="x")
    replaced = await trader.client.put(f"/data/{first['id']}", json=corrected)

    repeat = await deliver(trader, key, alert(alert_id="x"))

    assert (replaced.status_code, repeat.status_code) == (200, 200)
    assert repeat.json() == replaced.json()
    assert [row["price"] for row in await alerts(trader)] == [5]


async def test_an_alert_by_hand_is_repeated_by_its_key_only(trader: Person):
    await trader.bind()
    body = alert(strategy_name="My Strategy")

    plain = [await trader.client.post("/data/", json=body) for _ in range(2)]
    keyed = await asyncio.gather(
        *(trader.client.post("/data/", json=body, headers={"Idempotency-Key": "k"}) for _ in range(10))
    )

    assert [answer.status_code for answer in plain] == [201, 201]
    assert Counter(answer.status_code for answer in keyed) == {201: 1, 200: 9}
    assert len(await alerts(trader)) == 3


async def test_without_an_identity_a_repeat_is_new_after_the_window(guarded: Person):
    for quantity in range(1, 6):  # once more where the machine was too slow for the window
        key = await guarded.bind(f"Try {quantity}")
        body = alert(quantity=quantity)
        began = time.monotonic()
        first = await deliver(guarded, key, body)
        within = await deliver(guarded, key, body)
        if within.status_code == 200:
            break
    # Up to twice ALERT_DEDUP_SECONDS it may still be taken for a repeat.
    later = within
    while later.status_code == 200 and time.monotonic() - began < 20:
        await asyncio.sleep(0.1)
        later = await deliver(guarded, key, body)

    assert (first.status_code, within.status_code, later.status_code) == (201, 200, 201)
    assert within.json() == first.json()
    assert time.monotonic() - began > 0.9
    assert len([row for row in await alerts(guarded) if row["quantity"] == quantity]) == 2


async def test_with_an_identity_a_repeat_is_known_after_the_window(guarded: Person):
    key = await guarded.bind()
    sent = [({"alert_id": "x"}, {}), ({"comment": "y"}, {"Idempotency_Key": "y"})]
    first = [await deliver(guarded, key, alert(**extra), **headers) for extra, headers in sent]
    await asyncio.sleep(2.1)
    again = [await deliver(guarded, key, alert(**extra), **headers) for extra, headers in sent]

    assert [answer.status_code for answer in [*first, *again]] == [201, 201, 200, 200]
    assert [answer.json() for answer in again] == [answer.json() for answer in first]


BAD: dict[str, tuple[Any, str]] = {
    "empty": (b"", "body"),
    "blank": (b" \r\n ", "body"),
    "plain text": (b"NIFTY Crossing 24350", "body"),
    "unquoted placeholder": (b'{"contract": NIFTY, "trade_type": "buy", "quantity": 1, "price": 1}', "body"),
    "a list": ([alert()], "body"),
    "a string": ('"buy"', "body"),
    "null": (b"null", "body"),
    "not UTF-8": (b'{"contract": "\xff"}', "body"),
    "cut off": (json.dumps(alert())[:-9], "body"),
    "nested too deep": (b'{"x":' * 500 + b"1" + b"}" * 500, "body"),
    "missing price": ({k: v for k, v in alert().items() if k != "price"}, "price"),
    "missing contract": ({k: v for k, v in alert().items() if k != "contract"}, "contract"),
    "empty contract": (alert(contract="  "), "contract"),
    "long contract": (alert(contract="N" * 65), "contract"),
    "NUL in contract": (alert(contract="NIF\0TY"), "contract"),
    "operator as contract": (alert(contract={"$ne": ""}), "contract"),
    "unknown trade type": (alert(trade_type="hold"), "trade_type"),
    "zero quantity": (alert(quantity=0), "quantity"),
    "negative quantity": (alert(quantity=-1), "quantity"),
    "boolean quantity": (alert(quantity=True), "quantity"),
    "NaN price": (b'{"contract": "N", "trade_type": "buy", "quantity": 1, "price": NaN}', "price"),
    "infinite price": (b'{"contract": "N", "trade_type": "buy", "quantity": 1, "price": -Infinity}', "price"),
    "overflowing price": (b'{"contract": "N", "trade_type": "buy", "quantity": 1, "price": 1e999}', "price"),
    "unfilled price": (alert(price="{{close}}"), "price"),
    "negative stop": (alert(stop_loss=-5), "stop_loss"),
    "no time": (alert(alert_time="yesterday"), "alert_time"),
    "long comment": (alert(comment="c" * 1001), "comment"),
    "operator among the rest": (alert(note={"$where": "1"}), "note"),
}


async def test_every_bad_body_is_refused_by_name_and_kept(trader: Person):
    keys = {name: await trader.bind(name) for name in BAD}
    for name, (body, field) in BAD.items():
        answer = await deliver(trader, keys[name], body, "text/plain")
        problem = answer.json()

        assert answer.status_code == 422, name
        assert answer.headers["content-type"] == "application/problem+json"
        assert field in {part for error in problem["errors"] for part in error["loc"]}, (name, problem)
        [row] = await rejected(trader, strategy_name=name)
        sent = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        assert row["body"] == sent.decode("utf-8", "replace"), name
        assert row["reason"] == problem["detail"], name
        assert (row["status"], row["size"], row["content_type"]) == (422, len(sent), "text/plain"), name
        assert row["address"] == "127.0.0.1"
    assert await alerts(trader) == []


@pytest.mark.parametrize("header", ["", "k" * 256, "a\tb"])
async def test_a_bad_idempotency_key_is_refused_and_recorded(trader: Person, header: str):
    key = await trader.bind()

    answer = await deliver(trader, key, alert(), Idempotency_Key=header)

    assert answer.status_code == 422
    assert "Idempotency-Key" in str(answer.json()["errors"])
    assert [row["status"] for row in await rejected(trader)] == [422]


async def test_numbers_as_texts_and_names_in_any_case(trader: Person):
    key = await trader.bind()

    answer = await deliver(trader, key, alert(trade_type=" Long_Entry ", price="24350.50", quantity="75", stop_loss=""))

    assert answer.status_code == 201
    taken = answer.json()
    assert (taken["trade_type"], taken["price"], taken["quantity"]) == ("long_entry", 24350.5, 75)
    assert taken["stop_loss"] is None


@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_is_recorded_with_its_first_kib(trader: Person, chunked: bool):
    key = await trader.bind()
    body = json.dumps(alert(comment="c" * 70_000)).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 8192):
            yield body[start : start + 8192]

    async with httpx.AsyncClient(base_url=trader.client.base_url, timeout=50, verify=NO_TLS) as sender:
        answer = await sender.post(f"/data/{key}", content=pieces() if chunked else body)

    assert answer.status_code == 413
    [row] = await rejected(trader)
    assert (row["status"], row["body"]) == (413, body[:1024].decode())
    assert row["size"] > 65_536


async def test_too_large_elsewhere_is_413_too(trader: Person):
    key = await trader.bind()
    stored = (await deliver(trader, key, alert())).json()
    body = alert(strategy_name="My Strategy", comment="c" * 70_000)

    for method, path in (
        ("POST", "/data/"),
        ("PUT", f"/data/{stored['id']}"),
        ("POST", "/data/chart/filters"),
        ("POST", "/alerts/bind_key"),
        ("POST", "/api/v1/auth/login"),
    ):
        answer = await trader.client.request(method, path, json=body)
        assert (method, path, answer.status_code) == (method, path, 413)


@pytest.mark.within_a_minute(10)
async def test_too_many_are_429_and_recorded(guarded: Person):
    key = await guarded.bind()
    answers = await asyncio.gather(*(deliver(guarded, key, alert(quantity=n + 1)) for n in range(PER_MINUTE)))
    over = alert(comment="x" * 900, extra="y" * 900)
    refused = await deliver(guarded, key, over)

    assert {answer.status_code for answer in answers} == {201}
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    [row] = await rejected(guarded)
    assert (row["status"], row["body"], row["size"]) == (429, json.dumps(over)[:1024], len(json.dumps(over)))


async def test_a_delivery_from_elsewhere_is_403_and_recorded(guarded: Person):
    key = await guarded.bind()

    elsewhere = await deliver(guarded, key, alert(), X_Forwarded_For="203.0.113.5")
    # The client can write what it likes in front: the proxy adds the address that it sees at the end.
    spoofed = await deliver(guarded, key, alert(), X_Forwarded_For=f"{PROXY}, 203.0.113.6")
    direct = await deliver(guarded, key, alert(), X_Forwarded_For="127.0.0.1")
    within = await deliver(guarded, key, alert(), X_Forwarded_For="203.0.113.7, 10.1.2.3, 127.0.0.1")
    tradingview = await deliver(guarded, key, alert(comment="tv"), X_Forwarded_For="52.89.214.238")
    mapped = await deliver(guarded, key, alert(comment="mapped"), X_Forwarded_For=f"::ffff:{PROXY}")

    assert [answer.status_code for answer in (elsewhere, spoofed, direct)] == [403, 403, 403]
    assert [answer.status_code for answer in (within, tradingview, mapped)] == [201, 201, 201]
    rows = await rejected(guarded)
    assert [(row["status"], row["address"]) for row in rows] == [
        (403, "127.0.0.1"),
        (403, "203.0.113.6"),
        (403, "203.0.113.5"),
    ]
    assert json.loads(rows[0]["body"]) == alert()


async def test_nobody_believes_a_header_without_trusted_proxies(trader: Person):
    key = await trader.bind()

    spoofed = {"X_Forwarded_For": "192.0.2.1", "X_Real_IP": "192.0.2.2", "Forwarded": "for=192.0.2.3"}
    answer = await deliver(trader, key, "no JSON", **spoofed)

    assert answer.status_code == 422
    assert [row["address"] for row in await rejected(trader)] == ["127.0.0.1"]


@pytest.mark.within_a_minute(15)
async def test_the_rejected_list_is_bounded_per_strategy(guarded: Person):
    """Rows of one strategy, whatever their kind, and however many deliveries are refused in a minute."""
    keys, calm = [await guarded.bind(), await guarded.bind()], await guarded.bind("Calm")
    await deliver(guarded, calm, "kept")
    for number in range(PER_MINUTE + 5):
        await asyncio.gather(*(deliver(guarded, key, f"not JSON {number}") for key in keys))
    rows = await rejected(guarded, strategy_name="My Strategy", limit=1000)

    assert len(rows) == KEPT
    assert {row["status"] for row in rows[:4]} == {429}
    assert len(await rejected(guarded, strategy_name="Calm")) == 1
