"""A real TCP proxy on loopback that can be cut, stalled, or made to swallow the answers."""

import asyncio
from types import TracebackType
from typing import Self

from tests.support.service import free_port


class TcpProxy:
    """Passes bytes between its own port, which stays the same, and `target` (a port on loopback)."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._there, self._back = asyncio.Event(), asyncio.Event()
        # Not one that the system hands out: it stays ours while the proxy is cut and nobody listens.
        self.port = free_port()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Take connections and pass on everything."""
        self._there.set()
        self._back.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def stall(self) -> None:
        """Keep connections open and take new ones, but pass nothing on, as a network does that has lost its way."""
        self._there.clear()
        self._back.clear()

    def swallow_answers(self) -> None:
        """Requests arrive, answers do not."""
        self._back.clear()

    async def cut(self) -> None:
        """Break all connections, what is under way is lost; refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._server is None:  # taken in the moment of the cut
            writer.transport.abort()
            return
        self._links.add(task)
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        finally:
            self._links.discard(task)
        self._writers.add(far_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, self._there)),
            asyncio.create_task(self._pump(far_reader, writer, self._back)),
        ]
        for pump in pumps:
            self._links.add(pump)
            pump.add_done_callback(self._links.discard)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, far_writer):
            end.transport.abort()
            self._writers.discard(end)

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        try:
            while data := await reader.read(65536):
                await gate.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
