"""API tokens hear what their scopes allow, and a deactivated account hears nothing that is private."""

import asyncio
from collections.abc import Iterator

import pytest

from app.core.events import AccountChanged
from app.core.outbox import Channel
from app.core.security import Scope
from app.stream.conversation import Limits
from tests.stream.server import Client, Server

PRIVATE = ["alerts", "orders", "signals", "jobs", "candles"]
NEEDS = {
    "alerts": Scope.ALERTS_READ,
    "orders": Scope.ORDERS_READ,
    "jobs": Scope.JOBS_READ,
    "signals": Scope.SIGNALS_READ,
}


async def account_changed(server: Server, token: str, *, is_active: bool) -> None:
    event = AccountChanged(user_id=server.accounts.user_id(token), is_active=is_active)
    await server.do(lambda: server.service.on_account_changed(event))


async def open_channels(client: Client) -> set[str]:
    """Those of the private channels that the client may subscribe to; the others say which scope is missing."""
    found = set()
    for channel in PRIVATE:
        answer = await client.ask({"action": "subscribe", "channel": channel, "id": channel})
        assert answer["id"] == channel
        if answer["type"] == "subscribed":
            found.add(channel)
        else:
            assert answer["code"] == "insufficient_scope"
            assert NEEDS[channel] in answer["detail"]
    return found


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ([], set()),
        ([Scope.ALERTS_READ], {"alerts"}),
        ([Scope.ORDERS_READ, Scope.ALERTS_WRITE], {"orders"}),
        ([Scope.ORDERS_WRITE, Scope.ALERTS_WRITE, Scope.ACCOUNT_READ], set()),
        (list(Scope), {"alerts", "orders", "jobs", "signals"}),
        (None, {"alerts", "orders", "jobs", "signals"}),  # a signed-in person
    ],
)
async def test_channels_by_scope(server: Server, scopes: list[Scope] | None, allowed: set[str]) -> None:
    token = server.accounts.token("ann", scopes=scopes)
    owner = server.accounts.user_id(token)
    async with server.connect(f"?token={token}") as client:
        assert (await client.receive())["type"] == "authenticated"
        assert await open_channels(client) == {"candles"} | allowed
        for channel in NEEDS:
            assert await server.publish(channel, {"of": channel}, owner=owner) == (channel in allowed)
        for _ in allowed:
            assert (await client.receive())["channel"] in allowed
        # The socket stays open, the public channel too.
        await client.subscribe("ticks")
        await client.nothing_more()


async def test_a_refused_subscription_replays_nothing(server: Server) -> None:
    token = server.accounts.token("ann", scopes=[Scope.ORDERS_READ])
    server.stored.rows[server.accounts.user_id(token)] = [(5, b'{"n":5}')]
    async with server.connect() as client:
        await client.sign_in(token)
        answer = await client.ask({"action": "subscribe", "channel": "alerts", "since": 0})
        assert answer["code"] == "insufficient_scope"
        await client.nothing_more()
        await client.sign_in(server.accounts.token("ann", scopes=[Scope.ALERTS_READ]))
        assert (await client.ask({"action": "subscribe", "channel": "alerts", "since": 0}))["data"] == {"n": 5}


async def test_a_narrower_token_of_the_same_account_ends_what_it_does_not_allow(server: Server) -> None:
    async with server.connect() as client:
        person = server.accounts.token("ann")
        await client.sign_in(person)
        for channel in ("alerts", "orders", "candles"):
            await client.subscribe(channel)
        owner = server.accounts.user_id(person)
        await client.sign_in(server.accounts.token("ann", scopes=[Scope.ORDERS_READ]))
        told = await client.receive()
        assert (told["type"], told["code"]) == ("error", "insufficient_scope")
        assert "alerts" in told["detail"]
        assert await server.publish("alerts", {}, owner=owner) == 0
        for channel in ("orders", "candles"):
            assert await server.publish(channel, {"n": 1}, owner=owner) == 1
            assert (await client.receive())["data"] == {"n": 1}
        await client.nothing_more()


async def test_a_deactivated_account_is_told_and_others_live_on(server: Server) -> None:
    person, bot = server.accounts.token("ann"), server.accounts.token("ann", scopes=[Scope.ALERTS_READ])
    other = server.accounts.token("bob")
    async with server.connect() as one, server.connect() as two, server.connect() as bob:
        for client, token in ((one, person), (two, bot), (bob, other)):
            await client.sign_in(token)
            await client.subscribe("alerts")
            await client.subscribe("ticks")
        await account_changed(server, person, is_active=True)  # another role
        await one.nothing_more()

        def publish_then_deactivate() -> None:
            server.hub.publish(Channel.ALERTS, b"{}", owner=server.accounts.user_id(person))
            server.service.on_account_changed(AccountChanged(server.accounts.user_id(person), is_active=False))

        await server.do(publish_then_deactivate)
        for client in (one, two):
            # Nothing that waited is delivered any more.
            told = await client.receive()
            assert (told["type"], told["code"]) == ("error", "session_ended")
            assert "deactivated" in told["detail"]
            assert (await client.ask({"action": "subscribe", "channel": "alerts"}))["code"] == "unauthorized"
        assert await server.publish("alerts", {"n": 2}, owner=server.accounts.user_id(other)) == 1
        assert (await bob.receive())["data"] == {"n": 2}
        assert await server.publish("ticks", {"n": 3}, key="A") == 3
        assert (await one.receive())["data"] == {"n": 3}


@pytest.fixture
def slow_server() -> Iterator[Server]:
    """A server whose authenticator the test holds up."""
    with Server(Limits(patience_seconds=60)) as running:
        yield running


@pytest.mark.parametrize("is_active", [False, True])
async def test_an_account_deactivated_while_its_token_is_checked_opens_nothing(
    slow_server: Server, is_active: bool
) -> None:
    server, token = slow_server, slow_server.accounts.token("ann")
    server.accounts.checking.clear()
    server.accounts.gate = asyncio.Event()
    async with server.connect() as client:
        await client.send({"action": "auth", "token": token})
        await asyncio.to_thread(server.accounts.checking.wait, 30)
        await account_changed(server, token, is_active=is_active)
        await account_changed(server, server.accounts.token("bob"), is_active=False)
        await server.do(server.accounts.gate.set)
        answer = await client.receive()
        if is_active:
            assert answer["type"] == "authenticated"
        else:
            assert answer["code"] == "unauthorized"
            assert (await client.ask({"action": "subscribe", "channel": "alerts"}))["code"] == "unauthorized"
    server.accounts.gate = None
