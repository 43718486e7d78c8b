"""Users see only what is theirs, ids of any form that is not theirs are 404, and no input is an operator."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.people import Person, alert, somebody
from tests.support.service import ServiceProcess

UNKNOWN = ["6b02893a002b26997921d778", "1", "0", "-1", "xyz", "6b02893a002b26997921d77", "é", "$ne", "null", "a" * 200]
OPERATORS: list[Any] = [{"$ne": None}, {"$gt": ""}, {"$regex": ".*"}, {"$where": "1"}, ["$ne"], {"a": {"$in": []}}]
ALERT_FIELDS = ["contract", "trade_type", "quantity", "price", "exchange", "stop_loss", "comment", "alert_time"]


@pytest_asyncio.fixture
async def asha(service: ServiceProcess) -> AsyncIterator[Person]:
    async with somebody(service.url) as person:
        yield person


@pytest_asyncio.fixture
async def ben(service: ServiceProcess) -> AsyncIterator[Person]:
    async with somebody(service.url) as person:
        yield person


@pytest_asyncio.fixture
async def ashas(asha: Person, client: httpx.AsyncClient) -> dict[str, Any]:
    """All that Asha has: an alert, a key, a refused delivery."""
    key = await asha.bind("Secret plan")
    stored = await client.post(f"/data/{key}", json=alert(contract="ASHAS"))
    await client.post(f"/data/{key}", content="not JSON")
    [info] = (await asha.client.get("/keys/")).json()
    return {"alert": stored.json(), "key": key, "key_id": info["id"]}


def by_hand(**values: Any) -> dict[str, Any]:
    return alert(strategy_name="Mine", **values)


async def test_another_users_alert_is_not_there(asha: Person, ben: Person, ashas: dict[str, Any]):
    await ben.bind("Mine")
    path = f"/data/{ashas['alert']['id']}"
    unknown = f"/data/{UNKNOWN[0]}"

    for method, body in (("GET", None), ("PUT", by_hand()), ("DELETE", None)):
        theirs = await ben.client.request(method, path, json=body)
        nobodys = await ben.client.request(method, unknown, json=body)
        assert (method, theirs.status_code) == (method, 404)
        # Nothing tells what exists from what does not.
        assert theirs.json()["detail"] == nobodys.json()["detail"]

    assert (await asha.client.get(path)).json() == ashas["alert"]


async def test_another_users_key_cannot_be_revoked(asha: Person, ben: Person, ashas: dict[str, Any]):
    answer = await ben.client.delete(f"/keys/{ashas['key_id']}")

    assert answer.status_code == 404
    assert (await asha.client.get("/keys/")).json()[0]["revoked_at"] is None
    assert (await ben.client.get(f"/keys/{ashas['key']}")).json() == {
        "name": "Secret plan"
    }  # the key is the credential


async def test_lists_and_charts_hold_nothing_of_another_user(asha: Person, ben: Person, ashas: dict[str, Any]):
    for query in ({}, {"strategy_name": "Secret plan"}, {"contract": "ASHAS"}):
        assert (await ben.client.get("/data/", params=query)).json() == []
    assert (await ben.client.get("/keys/")).json() == []
    assert (await ben.client.get("/alerts/strategy_names")).json() == []
    assert (await ben.client.get("/alerts/rejected")).json() == []
    assert (await ben.client.get("/alerts/rejected", params={"strategy_name": "Secret plan"})).json() == []

    for chart_type in ("price", "volume", "trade_types", "position", "pnl"):
        body = {"chart_type": chart_type}
        hers = await asha.client.post("/data/chart/filters", json=body)
        his = await ben.client.post("/data/chart/filters", json=body)
        named = await ben.client.post("/data/chart/filters", json={**body, "strategy_name": "Secret plan"})
        assert [answer.status_code for answer in (hers, his, named)] == [200, 200, 200]
        assert "ASHAS" not in his.text + named.text
    assert ashas["alert"]["id"]


async def test_strategies_of_one_name_are_two(asha: Person, ben: Person, ashas: dict[str, Any]):
    key = await ben.bind("Secret plan")
    assert (await ben.client.post(f"/data/{key}", json=alert(contract="BENS"))).status_code == 201

    hers, his = [
        (await person.client.get("/data/", params={"strategy_name": "Secret plan"})).json() for person in (asha, ben)
    ]
    assert hers == [ashas["alert"]]
    assert [row["contract"] for row in his] == ["BENS"]
    assert hers[0]["strategy_id"] != his[0]["strategy_id"]


async def test_an_alert_cannot_be_put_into_another_users_strategy(asha: Person, ben: Person, ashas: dict[str, Any]):
    await ben.bind("Mine")
    mine = (await ben.client.post("/data/", json=by_hand())).json()

    created = await ben.client.post("/data/", json=alert(strategy_name="Secret plan"))
    moved = await ben.client.put(f"/data/{mine['id']}", json=alert(strategy_name="Secret plan"))

    assert (created.status_code, moved.status_code) == (422, 422)
    assert len((await asha.client.get("/data/")).json()) == 1
    assert ashas["alert"]["strategy_name"] == "Secret plan"


async def test_a_cursor_of_another_user_opens_nothing(asha: Person, ben: Person, ashas: dict[str, Any]):
    for number in range(2):
        await asha.client.post(f"/data/{ashas['key']}", json=alert(quantity=number + 1))
    cursor = (await asha.client.get("/data/", params={"limit": 1})).headers["X-Next-Cursor"]

    assert (await ben.client.get("/data/", params={"cursor": cursor})).json() == []
    assert (await ben.client.get("/keys/", params={"cursor": cursor})).json() == []


async def test_an_idempotency_key_belongs_to_its_user(asha: Person, ben: Person):
    for person in (asha, ben):
        await person.bind("Mine")
        answer = await person.client.post("/data/", json=by_hand(), headers={"Idempotency-Key": "1"})
        assert answer.status_code == 201


@pytest.mark.parametrize("item", UNKNOWN)
async def test_an_id_of_any_other_form_is_404(ben: Person, item: str):
    await ben.bind("Mine")
    for method, path, body in (
        ("GET", "/data/{}", None),
        ("PUT", "/data/{}", by_hand()),
        ("DELETE", "/data/{}", None),
        ("DELETE", "/keys/{}", None),
        ("GET", "/keys/{}", None),
        ("POST", "/data/{}", alert()),
        ("POST", "/alerts/create/{}", alert()),
    ):
        answer = await ben.client.request(method, path.format(item), json=body)
        assert (method, path, answer.status_code) == (method, path, 404)
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
async def test_no_field_of_a_body_takes_an_operator(ben: Person, operator: Any):
    key = await ben.bind("Mine")
    stored = (await ben.client.post("/data/", json=by_hand())).json()
    bodies: list[tuple[str, str, dict[str, Any]]] = []
    for name in (*ALERT_FIELDS, "strategy_name", "alert_id", "unknown"):
        bodies += [("POST", "/data/", by_hand() | {name: operator})]
        bodies += [("PUT", f"/data/{stored['id']}", by_hand() | {name: operator})]
    bodies += [("POST", f"/data/{key}", alert(**{name: operator})) for name in (*ALERT_FIELDS, "alert_id")]
    for name in ("contract", "trade_type", "strategy_name", "start", "end", "chart_type"):
        bodies += [("POST", "/data/chart/filters", {name: operator})]
    bodies += [("POST", "/alerts/bind_key", {"name": operator})]
    for name in ("email", "password", "username"):
        bodies += [("POST", "/api/v1/auth/login", {"email": ben.email, "password": "x", name: operator})]
        bodies += [("POST", "/api/v1/auth/register", {"email": ben.email, "password": "x" * 12, name: operator})]
    for path in ("/api/v1/auth/refresh", "/api/v1/auth/logout"):
        bodies += [("POST", path, {"refresh_token": operator})]

    for method, path, body in bodies:
        answer = await ben.client.request(method, path, json=body)
        assert (path, body, answer.status_code) == (path, body, 422)
    assert (await ben.client.get("/data/")).json() == [stored]


@pytest.mark.parametrize("body", [{"$where": "1"}, {"$set": {"role": "admin"}}, {"a.b": 1}, {"role": "admin"}], ids=str)
async def test_names_of_fields_are_checked_too(ben: Person, body: dict[str, Any]):
    await ben.bind("Mine")
    registered = {"email": "mallory@example.com", "password": "x" * 12}
    for path, rest in (
        ("/data/", by_hand()),
        ("/data/chart/filters", {}),
        ("/alerts/bind_key", {"name": "Mine"}),
        ("/api/v1/auth/register", registered),
        ("/api/v1/auth/login", registered),
    ):
        assert (path, (await ben.client.post(path, json=rest | body)).status_code) == (path, 422)
    assert (await ben.client.get("/api/v1/auth/me")).json()["role"] == "user"


@pytest.mark.parametrize(
    "query",
    [
        "contract[$ne]=x",
        "contract[$regex]=.*",
        'contract={"$ne":null}',
        "contract=$ne",
        "strategy_name[$gt]=",
        "strategy_name=.*",
        "user_id=6b02893a002b26997921d778",
        "user_id[$ne]=x",
        "$where=1",
        "limit=50&limit=1",
    ],
)
async def test_no_query_is_an_operator(asha: Person, ben: Person, ashas: dict[str, Any], query: str):
    """Either refused, or taken as the text that it is; never more than the caller's own."""
    for path in ("/data/", "/keys/", "/alerts/rejected", "/alerts/strategy_names"):
        answer = await ben.client.get(f"{path}?{query}")
        assert answer.status_code in {200, 422}
        if answer.status_code == 200:
            assert answer.json() == []
    mine = await asha.client.get(f"/data/?{query}")
    assert mine.status_code in {200, 422}
    if mine.status_code == 200:
        literal = query.startswith(("contract=", "strategy_name="))
        assert mine.json() == ([] if literal else [ashas["alert"]])


@pytest.mark.parametrize(
    "query", ["trade_type[]=buy&trade_type=x", "trade_type={}", "start=$now", "end=[]", "limit={}"]
)
async def test_wrong_queries_are_422(ben: Person, query: str):
    assert (await ben.client.get(f"/data/?{query}")).status_code == 422


async def test_the_sign_in_form_takes_no_operator(ben: Person, client: httpx.AsyncClient):
    for form in ({"username[$ne]": "x", "password": "x"}, {"username": ben.email, "password[$ne]": "x"}):
        assert (await client.post("/api/v1/auth/signin", data=form)).status_code == 422
    wrong = await client.post("/api/v1/auth/signin", data={"username": '{"$ne": null}', "password": '{"$ne": null}'})
    assert wrong.status_code == 401


async def test_without_a_token_nothing_is_there(client: httpx.AsyncClient, ashas: dict[str, Any]):
    item = ashas["alert"]["id"]
    for method, path in (
        ("GET", "/data/"),
        ("POST", "/data/"),
        ("GET", f"/data/{item}"),
        ("PUT", f"/data/{item}"),
        ("DELETE", f"/data/{item}"),
        ("POST", "/data/chart/filters"),
        ("POST", "/alerts/bind_key"),
        ("GET", "/alerts/strategy_names"),
        ("GET", "/alerts/rejected"),
        ("GET", "/keys/"),
        ("DELETE", f"/keys/{ashas['key_id']}"),
        ("GET", "/api/v1/auth/me"),
        ("GET", "/api/auth/me"),
    ):
        for headers in ({}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic eDp5"}):
            answer = await client.request(method, path, headers=headers, json={} if method in {"POST", "PUT"} else None)
            assert (method, path, answer.status_code) == (method, path, 401)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
