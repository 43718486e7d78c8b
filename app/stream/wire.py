"""One client's socket: accept or refuse, receive, send, and an end that never waits for the client.

ASGI alone cannot end a connection whose client has stopped reading: the server's `websocket.close` waits for the very
buffer that does not drain, and so does its shutdown, without limit. `TransportMiddleware` therefore notes the
connection's transport in the scope; with it `Wire` keeps little in flight for slow clients and aborts stalled ones.
Where there is no transport (another server, a test client) everything but that still works.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlencode

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

EXTENSION: Final = "arrow.transport"

WRITE_BUFFER = 16 * 1024
"""Bytes that wait in this process, and again in the kernel, before a client counts as slow. What is in a buffer is on
its way and grows old; what waits in the outbox can still be replaced by something newer."""
CLOSE_SECONDS = 0.5
"""How long a close frame may take to be written."""
LINGER_SECONDS = 1.0
"""How long a closed connection may take to flush and to shake hands before it is cut off."""

GOING_AWAY, TRY_AGAIN_LATER, SERVICE_RESTART, INTERNAL_ERROR = 1001, 1013, 1012, 1011


class TransportMiddleware:
    """Puts the transport of WebSocket connections into their scope; must be the outermost middleware.

    The server's `send` is a method of the connection's protocol; further in, it is wrapped and cannot be recognised.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the transport and pass on."""
        if scope["type"] == "websocket":
            transport = getattr(getattr(send, "__self__", None), "transport", None)
            if callable(getattr(transport, "abort", None)):
                scope.setdefault("extensions", {})[EXTENSION] = transport
        await self.app(scope, receive, send)


class GoneError(Exception):
    """The client is not there any more."""


class Wire:
    """A WebSocket connection as the session sees it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._transport = cast("asyncio.WriteTransport | None", websocket.scope.get("extensions", {}).get(EXTENSION))
        self._gone = False

    def take_token(self) -> str | None:
        """The access token in the query string, which is taken out of the scope: the server logs what stands there."""
        scope = self._websocket.scope
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in pairs if name == "token"]
        if tokens:
            scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != "token"]).encode()
        return tokens[-1] if tokens else None

    async def refuse(self, response: Response) -> None:
        """Answer the handshake with an HTTP error instead of a connection."""
        if "websocket.http.response" in self._websocket.scope.get("extensions", {}):
            await self._websocket.send_denial_response(response)
        else:
            await self._websocket.close(TRY_AGAIN_LATER)

    async def accept(self) -> None:
        """Complete the handshake; raises `GoneError`."""
        try:
            await self._websocket.accept()
        except (WebSocketDisconnect, OSError, RuntimeError) as error:
            raise self._lost() from error
        if self._transport is not None:
            self._keep_little_in_flight(self._transport)

    @staticmethod
    def _keep_little_in_flight(transport: asyncio.WriteTransport) -> None:
        # Not every transport has every option (TLS, Unix sockets, other systems): without them, more is in flight.
        with suppress(NotImplementedError, AttributeError):
            transport.set_write_buffer_limits(high=WRITE_BUFFER)
        unsent = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        raw: Any = transport.get_extra_info("socket")
        if unsent is not None and raw is not None:
            with suppress(OSError, NotImplementedError, AttributeError):
                raw.setsockopt(socket.IPPROTO_TCP, unsent, WRITE_BUFFER)

    async def receive(self) -> str | bytes:
        """The next message, text or binary; raises `GoneError`."""
        if self._gone:
            raise self._lost()
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise self._lost()
        text = message.get("text")
        return text if text is not None else message.get("bytes") or b""

    async def send(self, text: str) -> None:
        """Write one message, as soon as the client takes it; raises `GoneError`."""
        try:
            await self._websocket.send({"type": "websocket.send", "text": text})
        except (WebSocketDisconnect, OSError, RuntimeError) as error:
            # RuntimeError: the server has sent a close frame by itself, for instance after a missing pong.
            raise self._lost() from error

    def _lost(self) -> GoneError:
        self._gone = True
        return GoneError("the client is gone")

    @property
    def closing(self) -> bool:
        """Whether the server is closing the connection by itself (and may be waiting for the client to read)."""
        return self._transport is not None and self._transport.is_closing()

    @property
    def can_abort(self) -> bool:
        """Whether the connection can be cut off from here."""
        return self._transport is not None

    async def close(self, code: int, reason: str) -> None:
        """End the connection within `CLOSE_SECONDS`, and cut it off if the client does not play along."""
        written = self._gone
        if not self._gone:
            with suppress(TimeoutError, WebSocketDisconnect, OSError, RuntimeError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._websocket.close(code, reason)
                written = True
            self._gone = True
        if self._transport is None:
            return
        if written:
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)
        else:
            self._transport.abort()
