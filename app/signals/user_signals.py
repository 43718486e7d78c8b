"""The use cases around users' signals: enter, list, read, change, delete."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from beanie import PydanticObjectId

from app.core.audit import Act, Actor, AuditTrail
from app.core.bus import Bus
from app.core.clock import Clock, Sequence
from app.core.errors import ConflictError, FieldError, InvalidInputError, NotFoundError
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.problem import summary
from app.core.security import Principal
from app.signals.price_names import PriceNames, as_written
from app.signals.status import SignalType, Status, check_change, check_open
from app.signals.user_schemas import SignalChange, SignalFilters, SignalInput, contract_type
from app.signals.user_wire import Row, changed, signal_json, signal_rows, signals_json

MAX_ACTIVE: Final = 200
"""Signals of one user that are followed at one time."""
_NO_SIGNAL: Final = "You have no signal with this id."
_LEVELS: Final = ("target_price", "stop_loss")
_ATTEMPTS: Final = 5


class UserSignals:
    """Signals of one user at a time; nobody sees anybody else's."""

    def __init__(
        self, *, bus: Bus, clock: Clock, sequence: Sequence, audit: AuditTrail, names: PriceNames = as_written
    ) -> None:
        """`names`: what live prices call the symbols of signals."""
        self._bus, self._clock, self._sequence, self._audit = bus, clock, sequence, audit
        self._names = names

    async def create(self, caller: Principal, given: SignalInput) -> bytes:
        """Store a new signal: its JSON. Raises `InvalidInputError` for levels on the wrong side of the entry, and
        `ConflictError` over the limit."""
        row = self._draft(caller.user_id, given)
        _check_levels(row, trailing=False)
        active = {"user_id": caller.user_id, "status": Status.ACTIVE}
        if await signal_rows().count_documents(active) >= MAX_ACTIVE:
            raise ConflictError(f"You can have {MAX_ACTIVE} active signals at most: close or delete some.")
        await signal_rows().insert_one(row)
        await self._tell(caller, row, "created", "signal.create")
        return signal_json(row, self._names)

    def _draft(self, user_id: PydanticObjectId, given: SignalInput) -> Row:
        now = self._clock.now()
        row = {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "user_id": user_id,
            "symbol": given.symbol,
            "signal_type": given.signal_type.value,
            "entry_price": given.entry_price,
            "target_price": given.target_price,
            "stop_loss": given.stop_loss,
            "quantity": given.quantity,
            "confidence": given.confidence,
            "status": Status.ACTIVE.value,
            "seq": self._sequence.next(),
            "revision": 1,
            "levels_at": now,
            "created_at": now,
            "updated_at": now,
        }
        if option_type := given.option_type or contract_type(given.symbol):
            row["option_type"] = option_type.value
        if given.notes:
            row["notes"] = given.notes
        return row

    async def page(self, user_id: PydanticObjectId, filters: SignalFilters, page: PageRequest) -> Page[Row]:
        """The user's signals that match, newest first."""
        equality: dict[str, Any] = {"user_id": user_id}
        if filters.status is not None:
            equality["status"] = filters.status.value
        if filters.symbol is not None:
            equality["symbol"] = filters.symbol
        rows = newest_first(signal_rows(), equality, page=page, account=user_id, clock=self._clock)
        return await read_page(rows, page)

    def json(self, rows: Iterable[Row]) -> bytes:
        """Rows of a page as a JSON array."""
        return signals_json(rows, self._names)

    async def get(self, user_id: PydanticObjectId, signal_id: PydanticObjectId) -> bytes:
        """One signal's JSON; raises `NotFoundError`."""
        return signal_json(await _mine(user_id, signal_id), self._names)

    async def change(self, caller: Principal, signal_id: PydanticObjectId, given: SignalChange) -> bytes:
        """Change what was given: the signal's JSON. Raises `NotFoundError`, `InvalidInputError` for levels that do not
        fit, and `ConflictError` for what a closed signal does not allow.

        Only the revision that was read is changed: a signal that its price completes meanwhile stays completed.
        """
        values = {name: getattr(given, name) for name in given.model_fields_set}
        for _ in range(_ATTEMPTS):
            row = await _mine(caller.user_id, signal_id)
            wanted = self._changed(row, values)
            if wanted is row:
                return signal_json(row, self._names)
            result = await signal_rows().replace_one(
                {"_id": signal_id, "user_id": caller.user_id, "revision": row["revision"]}, wanted
            )
            if result.modified_count:
                word = wanted["status"].lower() if wanted["status"] != row["status"] else "changed"
                action = {"completed": "signal.complete", "cancelled": "signal.cancel"}.get(word, "signal.change")
                await self._tell(caller, wanted, word, action)
                return signal_json(wanted, self._names)
        raise ConflictError("This signal is being changed by somebody else at this moment; try again.")

    def _changed(self, row: Row, values: dict[str, Any]) -> Row:
        """The row with `values`; the same row if that changes nothing."""
        present = Status(row["status"])
        status: Status = values.get("status", present)
        check_change(present, status)
        fresh: Row = {**row, **{name: value for name, value in values.items() if name != "status"}}
        if not fresh.get("notes"):
            fresh.pop("notes", None)
        fresh["status"] = status.value
        if fresh == row:
            return row
        if any(fresh[name] != row[name] for name in values if name not in {"notes", "status"}):
            check_open(present)
            if not values.keys().isdisjoint({"entry_price", *_LEVELS}):
                _check_levels(fresh, trailing=True)
        now = self._clock.now()
        fresh |= {"revision": row["revision"] + 1, "updated_at": now}
        if any(fresh[name] != row[name] for name in _LEVELS):
            fresh["levels_at"] = now
        if status is not present:
            fresh["closed_at"] = now
        return fresh

    async def delete(self, caller: Principal, signal_id: PydanticObjectId) -> None:
        """Delete a signal, whatever its state; raises `NotFoundError`."""
        row = await _mine(caller.user_id, signal_id)
        if not (await signal_rows().delete_one({"_id": signal_id, "user_id": caller.user_id})).deleted_count:
            raise NotFoundError(_NO_SIGNAL)
        await self._tell(caller, row, "deleted", "signal.delete")

    async def _tell(self, caller: Principal, row: Row, change: str, action: str) -> None:
        self._bus.announce(changed(row, change, self._sequence.next(), self._names))
        details = {"symbol": row["symbol"], "side": row["signal_type"], "status": row["status"]}
        target = ("signal", str(row["_id"]))
        await self._audit.note(Act(action, caller.user_id, Actor.of(caller), target=target, details=details))


async def _mine(user_id: PydanticObjectId, signal_id: PydanticObjectId) -> Row:
    row: Row | None = await signal_rows().find_one({"_id": signal_id, "user_id": user_id})
    if row is None:
        raise NotFoundError(_NO_SIGNAL)
    return row


def _check_levels(row: Row, *, trailing: bool) -> None:
    """Raises `InvalidInputError` unless the target is a gain and the stop a loss.

    `trailing`: the stop may have passed the entry, but not the target: who moves it after the price secures a gain.
    """
    side = SignalType(row["signal_type"])
    entry, target, stop = (Decimal(row[name]) for name in ("entry_price", *_LEVELS))
    sign = 1 if side is SignalType.BUY else -1
    above, below = ("above", "below") if side is SignalType.BUY else ("below", "above")
    faults = []
    if (target - entry) * sign <= 0:
        faults.append(_fault("target_price", f"The target of a {side} is {above} its entry ({entry})"))
    if trailing:
        if (target - stop) * sign <= 0:
            faults.append(_fault("stop_loss", f"The stop of a {side} is {below} its target ({target})"))
    elif (entry - stop) * sign <= 0:
        faults.append(_fault("stop_loss", f"The stop of a {side} is {below} its entry ({entry})"))
    if faults:
        raise InvalidInputError(f"{summary(faults)}.", faults)


def _fault(name: str, message: str) -> FieldError:
    return FieldError(("body", name), message, "signal_levels")
