"""What stands before every call to a provider: its budget and its circuit, one row in the database for all processes.

A call is counted before it is made, by one conditional write: whatever happens to the process afterwards, to the
others, or to the answer, no more calls leave than the plan allows.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError

from app.core.breaker import Circuit
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.crypto.budget import Plan, Used, next_month
from app.crypto.errors import BudgetUsedError, CircuitOpenError, KeyRefusedError, ProviderError, QuotaUsedError
from app.crypto.ports import Cost, Provider

log = structlog.get_logger(__name__)

COLLECTION: Final = "crypto_providers"
_TRIES: Final = 100
_ADVICE: Final = {
    "minute": "The plan's calls of this minute are made, or kept for the periodic syncs.",
    "month": "The plan's calls of this month are made; it goes on with the next month.",
    "kept for the schedule": "What is left of this month's calls is kept for the periodic syncs.",
    "categories of the day": "The calls for categories of this day are made; it goes on with the next day (UTC).",
}


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with a provider."""

    used: Used = Used()
    circuit: Circuit = Circuit()
    last_error: str | None = None
    """What the newest call failed with; None if it did not."""
    last_error_at: datetime | None = None
    key_refused: bool = False


_Change = Callable[[Standing, datetime], Standing]


class Gate:
    """Lets calls to one provider pass, or says why not."""

    def __init__(self, db: AsyncDatabase[dict[str, Any]], clock: Clock, provider: Provider, plan: Plan) -> None:
        self._rows, self._clock, self._provider, self._plan = db[COLLECTION], clock, provider, plan
        self._known: tuple[int, Standing] | None = None
        # One after the other: else many at once would take each other's turns in the database.
        self._turn = asyncio.Lock()

    async def enter(self, cost: Cost, *, spare: bool = False) -> None:
        """Count a call that is about to be made.

        Raises `BudgetUsedError`, `CircuitOpenError`, or what the database raises; then nothing was counted.
        `spare`: the call is on demand, and leaves alone what the schedule needs.
        """

        def take(standing: Standing, now: datetime) -> Standing:
            used = standing.used.at(now)
            if (rest := standing.circuit.wait(now)) is not None:
                why = standing.last_error or "probe under way"
                raise CircuitOpenError(self._provider, why, retry_after=rest.total_seconds())
            if refusal := self._plan.wait(used, now, cost, spare=spare):
                word, wait = refusal
                raise BudgetUsedError(self._provider, word, _ADVICE[word], retry_after=wait.total_seconds())
            return msgspec.structs.replace(
                standing, used=self._plan.take(used, now, cost), circuit=standing.circuit.admitted(now)
            )

        await self._change(take)

    async def leave(self, error: ProviderError | None) -> None:
        """Say what became of a call that was let pass. Never raises but for a cancellation."""

        def settle(standing: Standing, now: datetime) -> Standing:
            if error is None or not error.trips:
                circuit = standing.circuit.succeeded(now)  # an answer, if not the one that was hoped for
            else:
                asked = timedelta(seconds=error.retry_after) if error.told else None
                circuit = standing.circuit.failed(now, asked)
            used = standing.used.at(now)
            if isinstance(error, QuotaUsedError):
                used = msgspec.structs.replace(used, all_used=True)
            return Standing(
                used=used,
                circuit=circuit,
                last_error=error.word if error else None,
                last_error_at=now if error else None,
                key_refused=isinstance(error, KeyRefusedError),
            )

        # The usual case, which needs no write: all was well, and still is.
        if error is None and self._known is not None:
            standing = self._known[1]
            if standing.circuit == Circuit() and standing.last_error is None:
                return
        try:
            await self._change(settle)
        except (PyMongoError, UnavailableError) as failure:
            raise_if_cancelled()
            log.warning("state of a provider is not kept", provider=self._provider, error=type(failure).__name__)

    async def standing(self) -> Standing:
        """How it stands now, for all processes."""
        _, standing = await self._read()
        return msgspec.structs.replace(standing, used=standing.used.at(self._clock.now()))

    async def state(self) -> dict[str, Any]:
        """The same in words and numbers, for `/health`."""
        standing, now = await self.standing(), self._clock.now()
        used, plan, circuit = standing.used, self._plan, standing.circuit
        line: dict[str, Any] = {
            "circuit": circuit.word(now),
            "month": {
                "name": used.month,
                "used": used.credits,
                "limit": plan.credits_per_month,
                "left": 0 if used.all_used else max(plan.credits_per_month - used.credits, 0),
                "ends": next_month(now),
            },
            "minute": {"used": len(used.recent), "limit": plan.calls_per_minute},
        }
        if standing.last_error:
            line |= {"last_error": standing.last_error, "last_error_at": standing.last_error_at}
        if (wait := circuit.wait(now)) is not None:
            line["tried_again"] = now + wait
        return line

    async def _change(self, change: _Change) -> None:
        async with self._turn:
            for _ in range(_TRIES):
                remembered = self._known is not None
                version, standing = self._known or await self._read()
                try:
                    changed = change(standing, self._clock.now())
                except ProviderError:
                    if not remembered:
                        raise
                    self._known = None  # another process may know better by now: look before refusing
                    continue
                if await self._write(version, changed):
                    return
        raise UnavailableError("Too many processes ask for cryptocurrencies at once; try again.", retry_after=1)

    async def _read(self) -> tuple[int, Standing]:
        row = await self._rows.find_one({"_id": self._provider.value})
        if row is None:
            return 0, Standing()
        return row["version"], msgspec.convert(row["standing"], Standing)

    async def _write(self, version: int, standing: Standing) -> bool:
        """Whether nobody else has changed the row since `version`, so that this change stands."""
        self._known = None
        values = {
            "version": version + 1,
            "standing": msgspec.to_builtins(standing, builtin_types=(datetime,)),
        }
        if version == 0:
            try:
                await self._rows.insert_one({"_id": self._provider.value, **values})
            except DuplicateKeyError:
                return False
        else:
            found = await self._rows.update_one({"_id": self._provider.value, "version": version}, {"$set": values})
            if found.matched_count != 1:
                return False
        self._known = version + 1, standing
        return True
