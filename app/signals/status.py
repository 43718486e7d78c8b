"""The states of a user's signal: `ACTIVE` → `COMPLETED` or `CANCELLED`, and nothing else."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from app.core.errors import ConflictError


class SignalType(StrEnum):
    """The side of a signal."""

    BUY = "BUY"
    SELL = "SELL"


class OptionType(StrEnum):
    """Of an option."""

    PE = "PE"
    CE = "CE"


class Status(StrEnum):
    """How far a signal is."""

    ACTIVE = "ACTIVE"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


NEXT: Final[Mapping[Status, frozenset[Status]]] = {
    Status.ACTIVE: frozenset({Status.COMPLETED, Status.CANCELLED}),
    Status.COMPLETED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""What may follow each state; staying as it is, is no change."""


def check_change(present: Status, wanted: Status) -> None:
    """Raises `ConflictError` unless `wanted` is the present state or may follow it."""
    if wanted is not present and wanted not in NEXT[present]:
        raise ConflictError(f"This signal is {present}, which is final: it cannot become {wanted}.")


def check_open(present: Status) -> None:
    """Raises `ConflictError` for a signal whose prices cannot change any more."""
    if not NEXT[present]:
        raise ConflictError(f"This signal is {present}: only its notes can still be changed.")
