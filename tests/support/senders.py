"""Concurrent senders of alerts, and the check that what they were told is true."""

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.http import NO_TLS
from tests.support.people import Person, alert

COUNT = 16
"""Senders at once, each with one delivery under way at a time."""


@dataclass
class Sent:
    """One alert of a sender: every answer it got, and the stored alert's id once it was acknowledged."""

    alert_id: str
    answers: list[int | str] = field(default_factory=list)
    acknowledged: str | None = None


class Senders:
    """Post alerts with unique `alert_id`s until told to stop.

    `retries`: how often an alert is sent again, `wait` seconds later, after a 5xx or a broken connection (TradingView
    does it up to 3 times). Without retries a sender goes on with its next alert.
    """

    def __init__(self, url: str, key: str, *, retries: int = 0, wait: float = 1.0, count: int = COUNT) -> None:
        self.sent: list[Sent] = []
        self._url = f"{url}/data/{key}"
        self._retries, self._wait, self._count = retries, wait, count
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._send(number)) for number in range(self._count)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Each sender finishes the alert that it is sending, its retries included."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    @property
    def acknowledged(self) -> list[Sent]:
        """The alerts that were answered 200 or 201 so far."""
        return [sent for sent in self.sent if sent.acknowledged]

    @property
    def answers(self) -> Counter[int | str]:
        """How often each status was answered; a connection error counts under its name."""
        return Counter(answer for sent in self.sent for answer in sent.answers)

    async def until_acknowledged(self, more: int, seconds: float = 40) -> None:
        """Wait until `more` further alerts have been acknowledged."""
        goal, deadline = len(self.acknowledged) + more, time.monotonic() + seconds
        while len(self.acknowledged) < goal:
            assert time.monotonic() < deadline, f"{more} alerts were not taken within {seconds} s: {self.answers}"
            await asyncio.sleep(0.02)

    async def _send(self, sender: int) -> None:
        # One connection each, kept alive, as a sender's HTTP library does it.
        async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=1), verify=NO_TLS) as client:
            for number in itertools.count():
                if self._stopping:
                    return
                sent = Sent(f"{sender}-{number}")
                self.sent.append(sent)
                for attempt in range(1 + self._retries):
                    if attempt:
                        await asyncio.sleep(self._wait)
                    if await self._deliver(client, sent, number):
                        break
                else:
                    # Nobody answers: do not spin.
                    await asyncio.sleep(0.05)

    async def _deliver(self, client: httpx.AsyncClient, sent: Sent, number: int) -> bool:
        """Whether it needs no retry."""
        body = alert(alert_id=sent.alert_id, quantity=number + 1)
        try:
            answer = await client.post(self._url, json=body)
        except httpx.TransportError as error:
            sent.answers.append(type(error).__name__)
            return False
        sent.answers.append(answer.status_code)
        if answer.status_code in {200, 201}:
            sent.acknowledged = answer.json()["id"]
        return answer.status_code < 500


async def all_alerts(person: Person, limit: int = 500, **filters: Any) -> list[dict[str, Any]]:
    """Every alert of a person, page by page, as `X-Next-Cursor` leads."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {"limit": limit, **filters} | ({"cursor": cursor} if cursor else {})
        answer = await person.client.get("/data/", params=query)
        assert answer.status_code == 200, answer.text
        rows += answer.json()
        following = answer.headers.get("X-Next-Cursor")
        if following is None:
            return rows
        assert following != cursor, "this page leads to itself"
        cursor = following


async def check_kept(person: Person, senders: Senders) -> None:
    """Every acknowledged alert is stored exactly once, under the id that was answered; the others at most once."""
    rows = await all_alerts(person)
    stored = Counter(row["alert_id"] for row in rows)
    ids = {row["alert_id"]: row["id"] for row in rows}
    acknowledged = senders.acknowledged
    lost = [sent.alert_id for sent in acknowledged if not stored[sent.alert_id]]
    twice = [alert_id for alert_id, times in stored.items() if times > 1]
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged alerts are lost: {lost[:5]} {senders.answers}"
    assert not twice, f"stored more than once: {twice[:5]}"
    assert {sent.alert_id: sent.acknowledged for sent in acknowledged}.items() <= ids.items()
    assert set(stored) <= {sent.alert_id for sent in senders.sent}
