"""What the broker says of an account; and while it does not answer, what it said last."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from bson import ObjectId
from cachetools import TTLCache

from app.brokerage.errors import BrokerError, BrokerSessionError
from app.brokerage.portfolio.book_rows import Row, seen_rows
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession, Sessions
from app.brokerage.words import BrokerHolding, BrokerName, BrokerPosition, Exchange, Funds, Product
from app.core.clock import Clock

_PATIENCE: Final = 6.0
"""Seconds for all that a broker is asked at one time."""
_FRESH: Final = 2.0
"""Seconds for which an answer serves everybody who asks: brokers count requests."""
_KEEP_EVERY: Final = timedelta(seconds=30)
"""How old what is stored may get while the broker answers."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an account at its broker."""

    at: datetime | None = None
    """When the broker said so; None if it never did."""
    funds: Funds | None = None
    positions: tuple[BrokerPosition, ...] = ()
    holdings: tuple[BrokerHolding, ...] = ()
    problem: str | None = None
    """Why it is not of now, for a person; None if it is."""
    login_url: str | None = None
    stored: datetime | None = field(default=None, compare=False)

    @property
    def current(self) -> bool:
        """Whether the broker answered just now."""
        return self.problem is None


class BrokerView:
    """Asks brokers for funds, positions and holdings; never raises for what goes wrong there."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        brokers: Mapping[BrokerName, Broker],
        clock: Clock,
        patience: float = _PATIENCE,
    ) -> None:
        self._sessions, self._brokers, self._clock, self._patience = sessions, brokers, clock, patience
        self._answers: TTLCache[str, Seen] = TTLCache(1024, _FRESH, timer=clock.monotonic)
        self._asking: dict[str, asyncio.Task[Seen]] = {}
        self._stored: TTLCache[str, datetime] = TTLCache(4096, 3600, timer=clock.monotonic)

    async def look(self, account_id: str, user_id: ObjectId) -> Seen:
        """What the broker says, or said last."""
        if (known := self._answers.get(account_id)) is not None:
            return known
        task = self._asking.get(account_id)
        if task is None:
            task = asyncio.create_task(self._ask(account_id, user_id))
            self._asking[account_id] = task
            task.add_done_callback(lambda _: self._asking.pop(account_id, None))
        # Others wait for the same answer: who goes away does not end it.
        return await asyncio.shield(task)

    async def _ask(self, account_id: str, user_id: ObjectId) -> Seen:
        try:
            async with asyncio.timeout(self._patience):
                account, session = await self._sessions.open(account_id)
                seen = await self._answer(account, session)
        except BrokerSessionError as error:
            seen = await self._last(account_id, error.detail, error.login_url)
        except BrokerError as error:
            seen = await self._last(account_id, error.detail)
        except TimeoutError:
            seen = await self._last(account_id, f"The broker did not answer within {self._patience:g} seconds.")
        else:
            await self._keep(account_id, user_id, seen)
        self._answers[account_id] = seen
        return seen

    async def _answer(self, account: BrokerAccount, session: BrokerSession) -> Seen:
        broker = self._brokers[account.broker]
        calls: list[Coroutine[Any, Any, Any]] = [
            broker.funds(account, session),
            broker.positions(account, session),
            broker.holdings(account, session),
        ]
        # All three to their end: an error that nobody waits for any more would be nobody's.
        answers: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        errors = [one for one in answers if isinstance(one, BaseException)]
        if any(isinstance(error, BrokerSessionError) for error in errors):
            await self._sessions.expired(account.account_id, session)
        if errors:
            # What a person can do something about comes first.
            raise min(errors, key=lambda error: not isinstance(error, BrokerSessionError))
        funds, positions, holdings = answers
        return Seen(self._clock.now(), funds, tuple(positions), tuple(holdings))

    async def _keep(self, account_id: str, user_id: ObjectId, seen: Seen) -> None:
        last = self._stored.get(account_id)
        if seen.at is None or seen.funds is None or (last is not None and seen.at - last < _KEEP_EVERY):
            return
        row = {
            "_id": account_id,
            "schema_version": 1,
            "user_id": user_id,
            "at": seen.at,
            "funds": seen.funds._asdict(),
            "positions": [_plain(one) for one in seen.positions],
            "holdings": [_plain(one) for one in seen.holdings],
        }
        await seen_rows().replace_one({"_id": account_id}, row, upsert=True)
        self._stored[account_id] = seen.at

    async def _last(self, account_id: str, problem: str, login_url: str | None = None) -> Seen:
        row: Row | None = await seen_rows().find_one({"_id": account_id})
        if row is None:
            return Seen(problem=problem, login_url=login_url)
        return Seen(
            row["at"],
            Funds(**row["funds"]),
            tuple(_position(one) for one in row["positions"]),
            tuple(_holding(one) for one in row["holdings"]),
            problem,
            login_url,
        )


def _plain(one: BrokerPosition | BrokerHolding) -> Row:
    values = {name: str(value) if name in {"exchange", "product"} else value for name, value in one._asdict().items()}
    return {name: value for name, value in values.items() if value is not None}


def _position(row: Mapping[str, Any]) -> BrokerPosition:
    return BrokerPosition(
        Exchange(row["exchange"]),
        row["symbol"],
        Product(row["product"]),
        row["net_quantity"],
        row["average_price"],
        row.get("last_price"),
        row.get("realised"),
        row.get("unrealised"),
    )


def _holding(row: Mapping[str, Any]) -> BrokerHolding:
    return BrokerHolding(
        Exchange(row["exchange"]),
        row["symbol"],
        row.get("isin"),
        row["quantity"],
        row["average_price"],
        row.get("last_price"),
    )
