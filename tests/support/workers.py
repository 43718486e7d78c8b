"""Which worker of a service holds a connection, and clients that stay with one of them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import psutil
from websockets.asyncio.client import ClientConnection, connect

from tests.support.http import NO_TLS
from tests.support.service import ServiceProcess

PATIENCE = 40.0
"""Seconds after which a worker that got no connection is taken to be dead. The system deals them out as it likes."""


def worker_behind(service: ServiceProcess, port: int) -> int:
    """The process id of the worker at the other end of the connection from local `port`."""
    for pid in service.worker_pids():
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if getattr(connection.raddr, "port", None) == port and connection.laddr.port == service.port:
                return pid
    raise AssertionError(f"no worker of {service.worker_pids()} holds the connection from port {port}")


def _port(answer: httpx.Response) -> int:
    port: int = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
    return port


async def _pinned(service: ServiceProcess) -> tuple[int, httpx.AsyncClient]:
    """A client with one connection, and the worker behind it; it fails rather than change to another connection."""
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60)
    client = httpx.AsyncClient(base_url=service.url, timeout=30, limits=limits, verify=NO_TLS)
    port = _port(await client.get("/health/live"))

    async def same_connection(answer: httpx.Response) -> None:
        assert _port(answer) == port, "the connection to this worker was lost, the answer is from any of them"

    client.event_hooks["response"] = [same_connection]
    return worker_behind(service, port), client


@asynccontextmanager
async def one_client_each(service: ServiceProcess) -> AsyncIterator[dict[int, httpx.AsyncClient]]:
    """By process id, a client of each worker. To be used soon: the service ends connections that idle for a minute."""
    clients: dict[int, httpx.AsyncClient] = {}
    try:
        deadline = time.monotonic() + PATIENCE
        while len(clients) < service.workers and time.monotonic() < deadline:
            pid, client = await _pinned(service)
            if pid in clients:
                await client.aclose()
            else:
                clients[pid] = client
        assert len(clients) == service.workers, f"only {list(clients)} of {service.worker_pids()} took connections"
        yield clients
    finally:
        for client in clients.values():
            await client.aclose()


@asynccontextmanager
async def socket_to(service: ServiceProcess, pid: int) -> AsyncIterator[ClientConnection]:
    """A WebSocket whose other end is the worker `pid`."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        async with connect(service.ws_url, open_timeout=PATIENCE) as socket:
            if worker_behind(service, socket.local_address[1]) == pid:
                yield socket
                return
    raise AssertionError(f"the worker {pid} took no connection")
