"""taskiq's side of it: how the id of a run reaches whoever carries it out.

Imported only where runs are sent or carried out: taskiq brings a good deal with it, and a process that serves requests
should start without. One task serves every job: the record says which job it is.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any, Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from taskiq import AckableMessage, AsyncBroker, InMemoryBroker, TaskiqEvents, TaskiqScheduler, TaskiqState
from taskiq.exceptions import TaskiqError
from taskiq.schedule_sources import LabelScheduleSource
from taskiq_redis import RedisStreamBroker

from app.core.cancelling import raise_if_cancelled
from app.core.scheduler.record import NotSentError

log = structlog.get_logger(__name__)

RUN_TASK: Final = "arrow.run"
LOOK_TASK: Final = "arrow.look"
MAX_MESSAGES: Final = 10_000
"""In the stream, old ones included: what is dropped is sent again, because the record still waits."""
SEND_SECONDS: Final = 3.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_AWAY: Final = (RedisError, OSError, TimeoutError)
"""How a Redis server that is away is met."""

Execute = Callable[[str], Awaitable[None]]


class Worker(Protocol):
    """What a worker process needs of the service."""

    async def execute(self, run_id: str) -> None:
        """Carry out a run."""

    async def look(self, *, patience: float = 0) -> None:
        """Queue what is due, and what was lost."""


class Sender:
    """Sends ids of runs through a broker."""

    def __init__(self, broker: AsyncBroker, execute: Execute) -> None:
        self._broker = broker

        async def run(run_id: str) -> None:
            await execute(run_id)

        self._task = broker.register_task(run, task_name=RUN_TASK)

    async def start(self) -> None:
        """Connect; an unreachable broker is no error."""
        await self._broker.startup()

    async def send(self, run_id: str) -> None:
        """Send one; raises `NotSentError`."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._task.kiq(run_id)
        except (TaskiqError, *_AWAY) as error:
            raise_if_cancelled()
            raise NotSentError(type(error.__cause__ or error).__name__) from error

    async def close(self) -> None:
        """Give the connections up."""
        await self._broker.shutdown()


def in_process(execute: Execute) -> Sender:
    """Runs are carried out by tasks of this event loop."""
    return Sender(InMemoryBroker(), execute)


def distributed(url: str, database: str) -> Sender:
    """Runs are carried out by the workers of the service with this database."""

    async def nowhere(run_id: str) -> None:
        raise AssertionError(f"{run_id} was to be carried out elsewhere")

    return Sender(TaskStream(url, database), nowhere)


class TaskStream(RedisStreamBroker):
    """A Redis stream with acknowledgements, read in a way that outlives the absence of its server.

    The library's own reader ends with the first lost connection, looks for messages of dead workers only when a new one
    comes, and cannot be ended while redis-py swallows the one cancellation that taskiq sends.
    """

    def __init__(self, url: str, database: str) -> None:
        super().__init__(
            url,
            queue_name=f"arrow:{database}:tasks",  # several services may share one Redis
            consumer_id="0",  # a message that was sent before the first worker came is still for it
            maxlen=MAX_MESSAGES,
            xread_block=1000,
            socket_timeout=5,
            socket_connect_timeout=2,
        )

    async def startup(self) -> None:
        """See `AsyncBroker.startup`; the server may be away."""
        await AsyncBroker.startup(self)
        await self._prepare()

    async def _prepare(self) -> None:
        try:
            await self._declare_consumer_group()
        except _AWAY as error:
            raise_if_cancelled()
            log.warning("the broker of jobs cannot be reached", error=type(error).__name__)

    async def shutdown(self) -> None:
        """See `AsyncBroker.shutdown`; what this worker did not carry out is sent again, because its record waits."""
        if self.is_worker_process:
            with suppress(*_AWAY):
                async with asyncio.timeout(1), Redis(connection_pool=self.connection_pool) as redis:
                    await redis.xgroup_delconsumer(self.queue_name, self.consumer_group_name, self.consumer_name)
        await super().shutdown()

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """See `AsyncBroker.listen`; goes on when the server was away, or came back without its data."""
        pause = _SHORTEST_PAUSE
        while True:
            messages: list[Any] = []
            try:
                messages = await self._fetch()
                pause = _SHORTEST_PAUSE
            except _AWAY as error:
                raise_if_cancelled()
                log.warning("the broker of jobs does not answer", error=type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                await self._prepare()
            for number, fields in messages:
                yield AckableMessage(data=fields[b"data"], ack=_gently(self._ack_generator(number, self.queue_name)))
            if not messages:
                raise_if_cancelled()

    async def _fetch(self) -> list[Any]:
        """The next message; where none comes soon, those that a worker took and never acknowledged."""
        async with Redis(connection_pool=self.connection_pool) as redis:
            group, consumer = self.consumer_group_name, self.consumer_name
            # One at a time: what a busy worker has not begun, another can.
            fetched: Any = await redis.xreadgroup(group, consumer, {self.queue_name: ">"}, count=1, block=self.block)
            if fetched:
                return list(fetched[0][1])
            claimed: Any = await redis.xautoclaim(self.queue_name, group, consumer, self.idle_timeout, count=10)
            return list(claimed[1])


def _gently(ack: Callable[[], Any]) -> Callable[[], Awaitable[None]]:
    """An acknowledgement that is lost only means that the message comes again, to a record that does not wait."""

    async def acknowledge() -> None:
        try:
            await ack()
        except _AWAY as error:
            log.warning("a message of a job was not acknowledged", error=type(error).__name__)

    return acknowledge


def worker_broker(url: str, database: str, services: Callable[[], AbstractAsyncContextManager[Worker]]) -> AsyncBroker:
    """The broker for `taskiq worker` and `taskiq scheduler`; each worker process makes `services` once."""
    broker = TaskStream(url, database)
    stack = AsyncExitStack()
    workers: list[Worker] = []

    async def start(_: TaskiqState) -> None:
        workers.append(await stack.enter_async_context(services()))

    async def stop(_: TaskiqState) -> None:
        workers.clear()
        await stack.aclose()

    async def run(run_id: str) -> None:
        await workers[0].execute(run_id)

    async def look() -> None:
        # The scheduler's clock may be a little ahead of this one's.
        await workers[0].look(patience=2)

    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, start)
    broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, stop)
    broker.register_task(run, task_name=RUN_TASK)
    broker.register_task(look, task_name=LOOK_TASK, schedule=[{"cron": "* * * * *"}])
    return broker


def clock_of(broker: AsyncBroker) -> TaskiqScheduler:
    """The scheduler for `taskiq scheduler`: has a worker look every minute for what is due."""
    return TaskiqScheduler(broker, [LabelScheduleSource(broker)])
