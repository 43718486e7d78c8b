"""Programs of ours that run beside the service, as the service sees them: started when needed, ended when idle.

For what takes more memory or time than the service may: it runs as `python -m module`, reads its questions with
`child_program.Pipes`, and ends when its input does, so also when the service is killed.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, Literal

import structlog

from app.core.child_program import HEAD, LONGEST

log = structlog.get_logger(__name__)

START_SECONDS: Final = 60.0
"""What a busy machine may need to import libraries."""
IDLE_SECONDS: Final = 900.0
"""Without a question the program is ended after so long: its memory is wanted elsewhere."""
_COLLECT_SECONDS: Final = 1.0
"""What a program may take to end when it has closed its output."""
_ROOT: Final = str(Path(__file__).resolve().parents[2])
# What a program needs of the environment: no secret of the service.
_PASSED: Final = frozenset({
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE",
})  # fmt: skip
_OF_NETWORKS: Final = frozenset({
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
})  # fmt: skip

Lost = Literal["not started", "ended", "stuck", "nonsense", "closed"]


class ChildLostError(Exception):
    """There is no answer, and no program any more."""

    def __init__(self, why: Lost, status: int | None = None) -> None:
        super().__init__(why)
        self.why: Lost = why
        self.status = status
        """How it ended, as `subprocess` says it: below 0 by that signal. None if it is not known."""


class Exchange:
    """A question that was asked. `reply` brings the last answer, or raises `ChildLostError`; cancel it, and whatever
    still comes is ignored."""

    def __init__(self, number: int, heard: Callable[[bytes], None] | None) -> None:
        self.number = number
        self.heard = heard
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()


class _Life:
    """One run of the program."""

    def __init__(self, process: asyncio.subprocess.Process, idle: Callable[[], None]) -> None:
        self.process = process
        self.ready = False
        self.waiting: dict[int, Exchange] = {}
        self._idle = idle
        self._numbers = count(1)
        self._reading = asyncio.create_task(self._read(), name="answers of a program")

    @property
    def running(self) -> bool:
        return not self._reading.done()

    async def send(self, question: bytes, heard: Callable[[bytes], None] | None = None) -> Exchange:
        """Ask. Cancelled, it is as if nothing had been asked."""
        if not self.running:
            raise ChildLostError("ended", self.process.returncode)
        exchange = Exchange(next(self._numbers), heard)
        self.waiting[exchange.number] = exchange
        exchange.reply.add_done_callback(lambda _: self._over(exchange.number))
        try:
            await self.write(exchange.number, question)
        except BaseException:
            exchange.reply.cancel()
            raise
        return exchange

    async def write(self, number: int, message: bytes) -> None:
        """Nothing happens when nobody reads it any more: replies end with an error then."""
        assert self.process.stdin is not None  # noqa: S101 (a pipe)
        with suppress(ConnectionError, OSError):
            self.process.stdin.write(HEAD.pack(len(message), number, False) + message)
            await self.process.stdin.drain()

    def _over(self, number: int) -> None:
        del self.waiting[number]
        if not self.waiting:
            self._idle()

    async def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 (a pipe)
        why: Lost = "ended"
        try:
            while True:
                length, number, more = HEAD.unpack(await self.process.stdout.readexactly(HEAD.size))
                if length > LONGEST:
                    why = "nonsense"
                    break
                self._heard(number, await self.process.stdout.readexactly(length), more=more)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        await self._collect(0 if why == "nonsense" else _COLLECT_SECONDS)
        for exchange in list(self.waiting.values()):
            if not exchange.reply.done():
                exchange.reply.set_exception(ChildLostError(why, self.process.returncode))

    def _heard(self, number: int, body: bytes, *, more: bool) -> None:
        exchange = self.waiting.get(number)
        if exchange is None or exchange.reply.done():
            return
        if not more:
            exchange.reply.set_result(body)
        elif exchange.heard is not None:
            # Not called here: what goes wrong in it must not end the reading.
            asyncio.get_running_loop().call_soon(exchange.heard, body)

    async def _collect(self, patience: float) -> None:
        """See it end, so that it is no zombie, and how."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.process.wait()
                return
        self.kill()
        await self.process.wait()

    def kill(self) -> None:
        """It holds nothing that would be lost."""
        with suppress(ProcessLookupError):
            self.process.kill()

    async def end(self) -> None:
        self.kill()
        await asyncio.wait([self._reading])


class ChildProcess:
    """Asks the program `module`, and starts it when there is none. Belongs to one event loop."""

    def __init__(
        self,
        module: str,
        setup: bytes,
        *,
        environment: Mapping[str, str] | None = None,
        online: bool = False,
        start_seconds: float = START_SECONDS,
        idle_seconds: float | None = IDLE_SECONDS,
        once: bool = False,
    ) -> None:
        """`setup` is the first question of each run; nothing else is asked before its reply. `environment` is added to
        what a program needs anyway, and to be `online` the proxies and certificates, too. With `idle_seconds` None it
        stays. Where it knows what a new one would not, it runs `once`."""
        self.setup = setup
        self._module = module
        self._environment = dict(environment or {})
        self._passed = _PASSED | _OF_NETWORKS if online else _PASSED
        self._start_seconds = start_seconds
        self._idle_seconds = idle_seconds
        self._once = once
        self._life: _Life | None = None
        self._starting: asyncio.Task[_Life] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._resting: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the program; None while there is none."""
        return self._life.process.pid if self._life is not None and self._life.running else None

    @property
    def ready(self) -> bool:
        """Whether it was set up, and runs."""
        return self._life is not None and self._life.running and self._life.ready

    async def start(self) -> None:
        """Have it ready. Raises `ChildLostError`."""
        await self._started()

    async def ask(self, question: bytes, seconds: float) -> bytes:
        """The reply. A program that takes longer than `seconds`, when it was started, is ended.

        Raises `ChildLostError`.
        """
        life = await self._started()
        try:
            async with asyncio.timeout(seconds):
                return await (await life.send(question)).reply
        except TimeoutError:
            log.warning("a program is stuck and ended", program=self._module, seconds=seconds)
            await self.end()
            raise ChildLostError("stuck") from None

    async def begin(self, question: bytes, heard: Callable[[bytes], None] | None = None) -> Exchange:
        """Ask, and wait for the reply elsewhere; `heard` gets the answers before the last. Raises `ChildLostError`."""
        return await (await self._started()).send(question, heard)

    async def add(self, exchange: Exchange, message: bytes) -> None:
        """Say something further to a question that was asked."""
        if self._life is not None and self._life.waiting.get(exchange.number) is exchange:
            await self._life.write(exchange.number, message)

    async def end(self) -> None:
        """End it, whatever it does; the next question starts it again."""
        life, self._life = self._life, None
        if life is not None:
            await life.end()

    async def close(self) -> None:
        """End it for good."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        await self.end()
        ending = [task for task in (self._starting, self._resting) if task is not None]
        if ending:
            await asyncio.wait(ending)

    async def _started(self) -> _Life:
        if self._life is not None and self._life.running and self._life.ready:
            return self._life
        if self._closed:
            raise ChildLostError("closed")
        if self._starting is None or self._starting.done():
            if self._once and self._starting is not None:
                raise ChildLostError("ended")
            self._starting = asyncio.create_task(self._start(), name=f"start {self._module}")
            # Whoever waits is told; nobody may be waiting any more.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._starting)

    async def _start(self) -> _Life:
        await self.end()  # one that has ended by itself
        life = _Life(await self._launch(), self._watch_idleness)
        if self._closed:
            await life.end()
            raise ChildLostError("closed")
        self._life = life
        try:
            async with asyncio.timeout(self._start_seconds):
                await (await life.send(self.setup)).reply
        except TimeoutError:
            log.warning("a program does not get ready and is ended", program=self._module)
            await self.end()
            raise ChildLostError("stuck") from None
        life.ready = True
        log.info("a program started", program=self._module, pid=life.process.pid)
        return life

    async def _launch(self) -> asyncio.subprocess.Process:
        passed = {name: value for name, value in os.environ.items() if name.upper() in self._passed}
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**passed, "PYTHONPATH": _ROOT, **self._environment},
            )
        except OSError as error:
            log.warning("a program does not start", program=self._module, error=type(error).__name__)
            raise ChildLostError("not started") from None

    def _watch_idleness(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._idle_seconds is not None and not self._closed:
            self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._rest)

    def _rest(self) -> None:
        life = self._life
        if life is None or life.waiting:
            return
        self._life = None  # at once: nobody is to ask what ends
        self._resting = asyncio.create_task(life.end(), name=f"end {self._module}")
