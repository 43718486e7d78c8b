"""Angel One's order stream beside its simulator: a real WebSocket server that tells of every change in the book."""

import asyncio
import json
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.simulators.brokers.smartapi.simulator import SmartApiSimulator

GREETING = {"user-id": "A1", "status-code": "200", "order-status": "AB00", "error-message": "", "orderData": {}}


class OrderStream:
    """Use as an asynchronous context manager."""

    def __init__(self, simulator: SmartApiSimulator) -> None:
        self._simulator = simulator
        self._server: Server | None = None
        self.port = 0
        self.handshakes = 0
        self.refuse: int | None = None
        self.redirect: str | None = None
        self.connections: list[ServerConnection] = []
        self.headers: list[Any] = []

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve, "127.0.0.1", self.port, process_request=self._authorize, compression=None, close_timeout=0.2
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/smart-order-update"

    def _authorize(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes += 1
        self.headers.append(request.headers)
        if self.redirect is not None:
            response = connection.respond(HTTPStatus.FOUND, "")
            response.headers["Location"] = self.redirect
            return response
        if self.refuse is not None:
            return connection.respond(HTTPStatus(self.refuse), "no")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        fault = self._simulator.sessions.jwt_fault(token if scheme == "Bearer" else None)
        account = self._simulator.account
        known = request.headers.get("x-client-code") == account.client_code
        if fault or not known or request.headers.get("x-api-key") != account.api_key:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "AG8001")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.connections.append(socket)
        self._simulator.streams.append(queue)
        reading = asyncio.create_task(socket.wait_closed())
        try:
            await socket.send(json.dumps(GREETING))
            while not reading.done():
                getting = asyncio.create_task(queue.get())
                await asyncio.wait([getting, reading], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    break
                await socket.send(json.dumps(getting.result(), default=str))
        except ConnectionClosed:
            return
        finally:
            reading.cancel()
            with suppress(ValueError):
                self._simulator.streams.remove(queue)
                self.connections.remove(socket)
