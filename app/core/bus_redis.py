"""The bus through Redis, for processes on any number of machines: publish and subscribe on one channel.

Redis keeps no messages and no list of who is there, so the processes settle that among themselves:

- A process that has subscribed says `Hello` and counts as connected once the others (Redis says how many got it) have
  answered `Present`. From then on they know that they have company. A late answer empties the caches again.
- A process without company encodes and sends nothing. Whether it has company it learns from each `Hello`, from the
  number of receivers that Redis reports for what it publishes, and from asking at every heartbeat.
- After an outage the queue is held back until as many processes have subscribed again as were there before.

Who can write to the channel can inject events: Redis' own password and access lists are the guard. Pub/sub ignores
database numbers, so the channel's name must tell services (and their databases) apart.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import Any, ClassVar

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.core.bus import CONFIRM_SECONDS, MAX_ENVELOPE, Ack, Confirmation, Envelope, Outbox, Outgoing, Receiver

log = structlog.get_logger(__name__)

BEAT_SECONDS = 1.0
"""Between two questions to Redis whether it, and anybody else, is there."""
MAX_SILENT_BEATS = 4
"""Heartbeats without a word from Redis, after which the connection counts as dead."""
FIRST_RETRY, LAST_RETRY = 0.05, 0.8
"""Seconds between attempts to connect, doubled each time, with jitter."""
RETURN_SECONDS = 1.5
"""How long the others are waited for after an outage; longer than `LAST_RETRY`."""
CONNECT_SECONDS, COMMAND_SECONDS = 1.0, 2.0
"""How long Redis may take to accept a connection, and to answer a command."""
START_SECONDS = 2.0
"""How long `start` waits for the first connection before it lets the service start without."""
BATCH = 128
"""Events sent to Redis in one round trip at most."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """`origin` has subscribed."""

    origin: str
    number: int


class Present(msgspec.Struct, frozen=True, array_like=True, tag="present"):
    """`peer` has taken note of that."""

    origin: str
    number: int
    peer: str


Message = Envelope | Ack | Hello | Present


class RedisTransport:
    """Carries events between the processes that share a Redis channel."""

    kind: ClassVar[str] = "redis"

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        beat_seconds: float = BEAT_SECONDS,
        command_seconds: float = COMMAND_SECONDS,
        return_seconds: float = RETURN_SECONDS,
    ) -> None:
        """`url`: redis:// or rediss://, with password. Raises `ValueError` if it is no such address.

        `command_seconds`: how long Redis may take to answer; `return_seconds`: how long the others are waited for.
        """
        self._url, self._channel, self._beat_seconds = url, channel, beat_seconds
        self._command_seconds, self._return_seconds = command_seconds, return_seconds
        parse_url(url)  # a wrong address is a wrong setting, to be heard of now
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
        self._task: asyncio.Task[None] | None = None
        self._outbox = Outbox()
        self._control: deque[bytes] = deque(maxlen=4096)
        """Answers to others, which go before events and are worthless after an outage."""
        self._sending = 0
        self._wake = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._up = asyncio.Event()
        self._heard = 0.0
        self._others = 0
        self._hellos = 0
        """How many times somebody joined: an answer of Redis to an older question must not deny their presence."""
        self._hello: Confirmation | None = None
        self._hello_number = 0
        self._dropped = 0
        self._last_error: str | None = None

    @property
    def has_peers(self) -> bool:
        """False only when connected and known to be alone."""
        return self._others > 0 or not self._up.is_set()

    @property
    def connected(self) -> bool:
        """Whether Redis is there, and the others know of this process."""
        return self._up.is_set() and time.monotonic() - self._heard < MAX_SILENT_BEATS * self._beat_seconds

    async def start(self, receiver: Receiver) -> None:
        """Connect; goes on in the background if that takes longer than `START_SECONDS`."""
        self._task = asyncio.create_task(self._run(receiver), name="bus")
        try:
            await asyncio.wait_for(self._up.wait(), START_SECONDS)
        except TimeoutError:
            log.warning("redis cannot be reached, this process is off the event bus", reason=self._last_error)

    def send(self, item: Outgoing) -> None:
        """Queue for the sender, which runs whenever Redis is there."""
        self._dropped += self._outbox.append(item)
        self._wake.set()

    def health(self) -> dict[str, object]:
        """How the connection does."""
        return {
            "connected": self.connected,
            "peers": self._others,
            "queued": self._unsent,
            "dropped": self._dropped,
            "last_error": self._last_error,
        }

    async def stop(self, flush_seconds: float) -> None:
        """Let queued events and answers leave, then disconnect."""
        deadline = time.monotonic() + flush_seconds
        while self._unsent and time.monotonic() < deadline:  # noqa: ASYNC110 (once in a process's life)
            await asyncio.sleep(0.005)
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CONNECT_SECONDS)
            self._task = None

    @property
    def _unsent(self) -> int:
        return len(self._outbox) + len(self._control) + self._sending

    # ------------------------------------------------------------------ connection

    async def _run(self, receiver: Receiver) -> None:
        retry = FIRST_RETRY
        while True:
            reason = ""
            try:
                await self._session(receiver)
            except (RedisError, OSError, TimeoutError) as error:
                self._last_error, reason = type(error).__name__, str(error)
            except Exception as error:  # whatever it was: without this task the process would be deaf for good
                log.exception("the event bus failed and is set up anew")
                self._last_error, reason = type(error).__name__, str(error)
            if self._up.is_set():
                self._up.clear()
                retry = FIRST_RETRY
                log.warning("redis went away, this process is off the event bus", error=self._last_error, reason=reason)
                receiver.peers_changed("redis went away")
            await asyncio.sleep(retry * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, not a secret)
            retry = min(retry * 2, LAST_RETRY)

    async def _session(self, receiver: Receiver) -> None:
        """From connecting until something fails, which is raised."""
        # The library's own retries are off: it would reconnect in silence, and what was missed would go unnoticed.
        client: Redis = Redis.from_url(
            self._url,
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=self._command_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        pubsub = client.pubsub()
        self._subscribed.clear()
        self._control.clear()
        try:
            await pubsub.subscribe(self._channel)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(pubsub, receiver))
                tasks.create_task(self._drain(client))
                tasks.create_task(self._attend(client, receiver))
        except ExceptionGroup as group:
            # uvloop raises RuntimeError for a write to a socket whose end it has seen: the same as a lost connection.
            if group.subgroup(lambda error: isinstance(error, RuntimeError) and _closed(error)):
                raise ConnectionResetError("the connection was closed") from None
            raise group.exceptions[0] from None
        finally:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(0.5):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
                    await client.aclose()

    async def _attend(self, client: Redis, receiver: Receiver) -> None:
        """Join the others, then keep asking how many there are."""
        async with asyncio.timeout(self._command_seconds):
            await self._subscribed.wait()
        await self._await_others(client)
        await self._greet(client, receiver)
        self._last_error = None
        self._up.set()
        self._wake.set()
        log.info("this process has joined the event bus", others=self._others)
        receiver.peers_changed("joined through redis")
        while True:
            await asyncio.sleep(self._beat_seconds)
            hellos = self._hellos
            self._count(await self._subscribers(client), hellos)

    async def _await_others(self, client: Redis) -> None:
        """After an outage: until the others are back too, so that they hear what was queued."""
        deadline = time.monotonic() + self._return_seconds
        while self._others > 0 and time.monotonic() < deadline:
            if await self._subscribers(client) > self._others:
                return
            await asyncio.sleep(0.05)

    async def _greet(self, client: Redis, receiver: Receiver) -> None:
        """Say hello and wait until all who got it (this process too) have taken note, or half a second."""
        self._hello_number += 1
        self._hello = Confirmation()
        hellos = self._hellos
        receivers = int(await client.publish(self._channel, self._encode(Hello(receiver.origin, self._hello_number))))
        self._hello.expect_count(receivers)
        try:
            await asyncio.wait_for(self._hello.done, CONFIRM_SECONDS)
        except TimeoutError:
            log.warning("not all processes on the event bus answered", missing=self._hello.missing)
        self._count(receivers, hellos)

    async def _subscribers(self, client: Redis) -> int:
        reply: list[tuple[Any, int]] = await client.pubsub_numsub(self._channel)
        return int(reply[0][1])

    def _count(self, subscribers: int, hellos: int) -> None:
        """Take over Redis' count, unless somebody joined after it was asked for."""
        if hellos == self._hellos:
            self._others = max(subscribers - 1, 0)

    # ------------------------------------------------------------------ out

    async def _drain(self, client: Redis) -> None:
        """Send answers and, once connected, events; what fails is put back for the next connection."""
        while True:
            while self._control:
                await client.publish(self._channel, self._control[0])
                self._control.popleft()
            if self._outbox and self._up.is_set():
                await self._send_batch(client)
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _send_batch(self, client: Redis) -> None:
        items = self._outbox.take(BATCH)
        self._sending = len(items)
        hellos = self._hellos
        try:
            pipeline = client.pipeline(transaction=False)
            for item in items:
                pipeline.publish(self._channel, item.frame)
            counts: list[int] = await pipeline.execute()
        except BaseException:
            # Some may have arrived; their numbers let the others ignore them the second time.
            self._outbox.restore(items)
            raise
        finally:
            self._sending = 0
        for item, count in zip(items, counts, strict=True):
            if item.confirmation:
                item.confirmation.expect_count(count)
        self._count(counts[-1], hellos)

    def _answer(self, message: Message) -> None:
        self._control.append(self._encode(message))
        self._wake.set()

    # ------------------------------------------------------------------ in

    async def _listen(self, pubsub: PubSub, receiver: Receiver) -> None:
        silent_beats = 0
        while True:
            message = await pubsub.get_message(timeout=self._beat_seconds)
            if message is None:
                # Beats and not seconds are counted, so that a process which itself stood still does not blame Redis.
                silent_beats += 1
                if silent_beats > MAX_SILENT_BEATS:
                    raise TimeoutError("redis gives no sign of life")
                await pubsub.ping()
                continue
            silent_beats, self._heard = 0, time.monotonic()
            if message["type"] == "subscribe":
                self._subscribed.set()
            elif message["type"] == "message":
                self._on_message(message["data"], receiver)

    def _on_message(self, data: bytes, receiver: Receiver) -> None:
        try:
            message = self._decoder.decode(data) if len(data) <= MAX_ENVELOPE else None
        except msgspec.MsgspecError:
            message = None
        if isinstance(message, Envelope):
            self._on_envelope(message, receiver)
        elif isinstance(message, Ack):
            receiver.acknowledge(message)
        elif isinstance(message, Hello):
            self._on_hello(message, receiver)
        elif isinstance(message, Present):
            self._on_present(message, receiver)
        else:
            log.warning("something on the event bus's redis channel is not an event", size=len(data))

    def _on_envelope(self, envelope: Envelope, receiver: Receiver) -> None:
        ack = receiver.deliver(envelope)
        if ack:
            self._answer(ack)
        elif envelope.confirm and envelope.origin == receiver.origin:
            # Our own event came back. Redis counts this process among the receivers, so it answers like the others.
            receiver.acknowledge(Ack(envelope.origin, envelope.seq, receiver.origin))

    def _on_hello(self, hello: Hello, receiver: Receiver) -> None:
        if hello.origin == receiver.origin:
            self._on_present(Present(hello.origin, hello.number, receiver.origin), receiver)
            return
        self._hellos += 1
        self._others = max(self._others, 1)
        self._answer(Present(hello.origin, hello.number, receiver.origin))

    def _on_present(self, present: Present, receiver: Receiver) -> None:
        hello = self._hello
        if hello is None or present.origin != receiver.origin or present.number != self._hello_number:
            return
        if self._up.is_set():
            # That process learns only now that it has company, and may have kept events to itself until then.
            receiver.peers_changed("a process noticed this one late")
        hello.answered(present.peer)


def _closed(error: BaseException) -> bool:
    return "the handler is closed" in str(error)
