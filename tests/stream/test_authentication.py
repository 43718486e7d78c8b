"""Who is signed in: by message, by query string, until expiry or revocation, and as somebody else."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from app.core.events import PeersChanged, SessionRevoked
from app.core.outbox import Channel
from app.stream.conversation import Limits
from tests.stream.server import Client, Server


@pytest.fixture
def auth_server() -> Iterator[Server]:
    """A server whose authenticator and connection to other processes the test may break."""
    with Server(Limits(patience_seconds=60)) as running:
        yield running


async def revoke(server: Server, token: str) -> None:
    event = SessionRevoked(server.accounts.user_id(token), [server.accounts.session_id(token)])
    await server.do(lambda: server.service.on_session_revoked(event))


async def test_by_message(server: Server) -> None:
    token = server.accounts.token("ann")
    async with server.connect() as client:
        refused = await client.ask({"action": "subscribe", "channel": "alerts"})
        assert refused["code"] == "unauthorized"
        assert "authenticate" in refused["detail"]
        await client.sign_in(token)
        await client.subscribe("alerts")
        await server.publish("alerts", {"id": "1"}, seq=41, owner=server.accounts.user_id(token))
        message = await client.receive()
        assert set(message) == {"type", "channel", "seq", "ts", "data"}
        assert (message["type"], message["channel"], message["seq"]) == ("alert", "alerts", 41)


async def test_by_query_string(server: Server) -> None:
    token = server.accounts.token("ann")
    async with server.connect(f"?token={token}") as client:
        # Sent before the answer is read: requests are followed in order, the query's token first.
        await client.send({"action": "subscribe", "channel": "orders"})
        assert (await client.receive())["type"] == "authenticated"
        assert (await client.receive())["type"] == "subscribed"


async def test_a_bad_token_in_the_query_string_leaves_the_public_channels(server: Server) -> None:
    for query in ("?token=unknown", "?token="):
        async with server.connect(query) as client:
            answer = await client.receive()
            assert (answer["type"], answer["code"]) == ("error", "unauthorized")
            await client.subscribe("ticks")
            assert (await client.ask({"action": "subscribe", "channel": "jobs"}))["code"] == "unauthorized"


async def test_the_token_is_in_no_log_line(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    # Not DEBUG: there the server's WebSocket library writes out whole frames, which core.logging never allows.
    caplog.set_level(logging.INFO, logger="uvicorn.error")
    async with server.connect("?a=1&token=ann-secret-token&b=2") as client:
        await client.receive()
        await client.ask({"action": "auth", "token": "ann-secret-token"})
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("uvicorn", "app"))]
    assert any("/ws?a=1&b=2" in line for line in lines), lines
    assert not any("ann-secret-token" in line for line in lines)


async def test_an_expired_token_opens_nothing(server: Server) -> None:
    token = server.accounts.token("ann", seconds=-1)
    async with server.connect() as client:
        assert (await client.ask({"action": "auth", "token": token}))["code"] == "token_expired"
        assert (await client.ask({"action": "subscribe", "channel": "alerts"}))["code"] == "unauthorized"


async def test_private_subscriptions_end_with_the_token(server: Server) -> None:
    async with server.connect() as client:
        await client.sign_in(server.accounts.token("ann"))
        await client.subscribe("alerts")
        await client.subscribe("ticks")
        await sign_in_for_a_moment(server, client)
        told = await client.receive()
        assert (told["type"], told["code"]) == ("error", "token_expired")
        assert "alerts" in told["detail"]
        assert await server.publish("alerts", {}, owner=server.accounts.user_id("ann-0")) == 0
        await server.publish("ticks", {"price": 1}, key="A")
        assert (await client.receive())["channel"] == "ticks"


async def test_a_refreshed_token_carries_the_subscriptions_on(server: Server) -> None:
    kept = server.accounts.token("ann")
    for seconds in (0.4, 4.0, 20.0):  # the others only where the machine was too slow for the token before
        async with server.connect() as client:
            await client.sign_in(kept)
            await client.subscribe("alerts")
            await sign_in_for_a_moment(server, client, seconds)
            if (await client.ask({"action": "auth", "token": kept}))["type"] == "error":
                continue
            await asyncio.sleep(seconds * 1.5)
            await server.publish("alerts", {"n": 1}, owner=server.accounts.user_id(kept))
            assert (await client.receive())["data"] == {"n": 1}
            return
    raise AssertionError("the token ended before it was followed by another")


async def sign_in_for_a_moment(server: Server, client: Client, seconds: float = 0.4) -> None:
    """With a token that ends soon; again if it had ended on its way."""
    while True:
        token = server.accounts.token("ann", seconds=seconds)
        answer = await client.ask({"action": "auth", "token": token})
        if answer["type"] == "authenticated":
            return
        assert answer["code"] == "token_expired"


async def test_another_user_on_the_same_socket_hears_nothing_of_the_former(server: Server) -> None:
    ann, bob = server.accounts.token("ann"), server.accounts.token("bob")
    async with server.connect() as client:
        await client.sign_in(ann)
        await client.subscribe("alerts")
        await client.subscribe("ticks")
        await client.sign_in(bob)
        assert await server.publish("alerts", {"of": "ann"}, owner=server.accounts.user_id(ann)) == 0
        assert await server.publish("alerts", {"of": "bob"}, owner=server.accounts.user_id(bob)) == 0
        assert await server.publish("ticks", {}, key="A") == 1
        assert (await client.receive())["type"] == "tick"
        await client.nothing_more()


async def test_a_failed_sign_in_changes_nothing(server: Server) -> None:
    ann = server.accounts.token("ann")
    async with server.connect() as client:
        await client.sign_in(ann)
        await client.subscribe("alerts")
        assert (await client.ask({"action": "auth", "token": "unknown"}))["code"] == "unauthorized"
        await server.publish("alerts", {"n": 1}, owner=server.accounts.user_id(ann))
        assert (await client.receive())["data"] == {"n": 1}


async def test_a_revoked_session_is_told_and_others_live_on(server: Server) -> None:
    gone, kept = server.accounts.token("ann"), server.accounts.token("ann")
    owner = server.accounts.user_id(gone)
    async with server.connect() as one, server.connect() as other:
        for client, token in ((one, gone), (other, kept)):
            await client.sign_in(token)
            await client.subscribe("alerts")
            await client.subscribe("orders")
        await one.subscribe("ticks")
        await revoke(server, gone)
        told = await one.receive()
        assert (told["type"], told["code"]) == ("error", "session_ended")
        assert await server.publish("alerts", {"n": 1}, owner=owner) == 1
        assert (await other.receive())["data"] == {"n": 1}
        await server.publish("ticks", {"n": 2}, key="A")
        assert (await one.receive())["data"] == {"n": 2}
        assert (await one.ask({"action": "subscribe", "channel": "alerts"}))["code"] == "unauthorized"
        await one.sign_in(kept)
        await one.subscribe("alerts")


async def test_a_session_revoked_while_its_token_is_checked_opens_nothing(auth_server: Server) -> None:
    server, token = auth_server, auth_server.accounts.token("ann")
    server.accounts.checking.clear()
    server.accounts.gate = asyncio.Event()
    async with server.connect() as client:
        await client.send({"action": "auth", "token": token})
        await asyncio.to_thread(server.accounts.checking.wait, 30)
        await revoke(server, token)
        await server.do(server.accounts.gate.set)
        assert (await client.receive())["code"] == "unauthorized"
        assert (await client.ask({"action": "subscribe", "channel": "alerts"}))["code"] == "unauthorized"
    server.accounts.gate = None


async def test_nothing_waiting_is_delivered_after_a_revocation(auth_server: Server) -> None:
    server, token = auth_server, auth_server.accounts.token("ann")
    owner = server.accounts.user_id(token)
    async with server.connect() as client:
        await client.sign_in(token)
        await client.subscribe("alerts")

        def publish_then_revoke() -> None:
            for number in range(20):
                server.hub.publish(Channel.ALERTS, b'{"n":%d}' % number, owner=owner)
            server.service.on_session_revoked(SessionRevoked(owner, [server.accounts.session_id(token)]))

        await server.do(publish_then_revoke)
        assert (await client.receive())["code"] == "session_ended"
        await client.nothing_more()


async def test_an_authenticator_that_is_away_is_said_to_be(auth_server: Server) -> None:
    token = auth_server.accounts.token("ann")
    async with auth_server.connect() as client:
        auth_server.accounts.away = True
        assert (await client.ask({"action": "auth", "token": token}))["code"] == "unavailable"
        auth_server.accounts.away = False
        await client.sign_in(token)


async def signed_in(server: Server, client: Client) -> str:
    token = server.accounts.token("ann")
    await client.sign_in(token)
    await client.subscribe("alerts")
    return token


async def test_sessions_are_asked_after_when_revocations_may_have_been_missed(auth_server: Server) -> None:
    server = auth_server
    async with server.connect() as one, server.connect() as other:
        gone, kept = await signed_in(server, one), await signed_in(server, other)
        watching = asyncio.run_coroutine_threadsafe(server.service.run(), server.loop)  # type: ignore[arg-type]
        # The revocation itself never arrives; what arrives is the news that something may be missing.
        principal = server.accounts.principals.pop(gone)
        await server.do(lambda: server.service.on_peers_changed(PeersChanged("test")))
        messages = [await one.receive(), await one.receive()]
        assert {message.get("code", message["type"]) for message in messages} == {"session_ended", "resync"}
        assert (await other.receive())["type"] == "resync"
        await other.nothing_more()
        owner = server.accounts.user_id(kept)
        assert owner == str(principal.user_id)
        assert await server.publish("alerts", {}, owner=owner) == 1
        watching.cancel()


async def test_every_signed_in_session_is_asked_after_again_and_again_whatever_is_heard() -> None:
    with Server(recheck_seconds=0.3) as server:
        await _asked_after_again_and_again(server)


async def _asked_after_again_and_again(server: Server) -> None:
    async with server.connect() as one, server.connect() as other, server.connect() as public:
        gone, kept = await signed_in(server, one), await signed_in(server, other)
        await public.subscribe("ticks")
        # Nobody says anything of it: no news, and no lost link.
        del server.accounts.principals[gone]
        watching = asyncio.run_coroutine_threadsafe(server.service.run(), server.loop)  # type: ignore[arg-type]
        assert (await one.receive())["code"] == "session_ended"
        assert await server.publish("alerts", {}, owner=server.accounts.user_id(kept)) == 1
        assert (await other.receive())["channel"] == "alerts"
        del server.accounts.principals[kept]
        assert (await other.receive())["code"] == "session_ended", "in the next round"
        await public.nothing_more()
        watching.cancel()


async def test_a_session_survives_a_check_that_cannot_be_made(auth_server: Server) -> None:
    server = auth_server
    async with server.connect() as client:
        token = await signed_in(server, client)
        server.accounts.away = True
        await server.run(server.service.revalidate())
        server.accounts.away = False
        assert await server.publish("alerts", {"n": 1}, owner=server.accounts.user_id(token)) == 1
        assert (await client.receive())["data"] == {"n": 1}


async def test_clients_are_told_where_to_resume_once_peers_are_back(auth_server: Server) -> None:
    server = auth_server
    async with server.connect() as client, server.connect() as public:
        await signed_in(server, client)
        await public.subscribe("ticks")
        lost_at = await server.do(lambda: server.hub.position(Channel.ALERTS))
        server.connected = False
        await server.do(lambda: server.service.on_peers_changed(PeersChanged("lost")))
        await client.nothing_more()
        server.connected = True
        await server.do(lambda: server.service.on_peers_changed(PeersChanged("back")))
        told = await client.receive()
        assert (told["type"], told["channel"]) == ("resync", "alerts")
        assert told["since"] < lost_at
        await public.nothing_more()
