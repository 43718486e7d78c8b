"""How the tests talk to the simulator: plain HTTP and a plain WebSocket, without the service."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from websockets.asyncio.client import ClientConnection, connect

from app.integrations.angel_one.frames import Exchange, Mode
from app.integrations.angel_one.subscriptions import Action, Instrument, Request, Subscription, requests
from tests.simulators.angel_one import INDICES, AngelOneSimulator

NIFTY = INDICES[0]
TLS = ssl.create_default_context()
"""Made once: it takes longer than a request."""
NIFTY_KEY = (Mode.LTP, 1, NIFTY.token)


def headers(simulator: AngelOneSimulator, jwt: str | None = None) -> dict[str, str]:
    sent = {
        "X-PrivateKey": simulator.account.api_key,
        "X-UserType": "USER",
        "X-SourceID": "WEB",
        "X-ClientLocalIP": "127.0.0.1",
        "X-ClientPublicIP": "127.0.0.1",
        "X-MACAddress": "02:00:00:00:00:00",
    }
    return sent | ({"Authorization": f"Bearer {jwt}"} if jwt else {})


async def post(simulator: AngelOneSimulator, path: str, body: object, jwt: str | None = None) -> httpx.Response:
    async with httpx.AsyncClient(base_url=simulator.rest_url, timeout=30, verify=TLS) as client:
        return await client.post(path, json=body, headers=headers(simulator, jwt))


def credentials(simulator: AngelOneSimulator, **changes: str) -> dict[str, str]:
    account = simulator.account
    right = {
        "clientcode": account.client_code,
        "password": account.pin,
        "totp": account.totp(simulator.now()),
    }
    return right | changes


@asynccontextmanager
async def listening(simulator: AngelOneSimulator) -> AsyncIterator[ClientConnection]:
    tokens = simulator.sessions.issue()
    sent = {
        "Authorization": f"Bearer {tokens.jwt}",
        "x-api-key": simulator.account.api_key,
        "x-client-code": simulator.account.client_code,
        "x-feed-token": tokens.feed,
    }
    async with connect(simulator.feed.url, additional_headers=sent, ping_interval=None, close_timeout=0.2) as socket:
        yield socket


def nifty(action: Action = Action.SUBSCRIBE, mode: Mode = Mode.LTP) -> Request:
    (request,) = requests(action, [Subscription(mode, Instrument(Exchange.NSE_CM, NIFTY.token))])
    return request


async def subscribe(simulator: AngelOneSimulator, socket: ClientConnection) -> None:
    await socket.send(nifty().text())
    await simulator.feed.subscribed([NIFTY_KEY])
