"""A broker's session as a state machine, apart from the sign-in to this service. Pure.

    none ──a session──▶ valid ──an hour before its end──▶ expiring ──its end──▶ expired
                          ▲                                  │                    │
                          └─────────a new session────────────┴────────────────────┘

What the broker refuses is `expired` at once, whatever the clock says.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final


class SessionState(StrEnum):
    """Of an account at a broker."""

    NONE = "none"
    """There never was one: sign in at the broker."""
    VALID = "valid"
    EXPIRING = "expiring"
    """It still works, and its end is near."""
    EXPIRED = "expired"

    @property
    def open(self) -> bool:
        """Whether orders can go through."""
        return self in {SessionState.VALID, SessionState.EXPIRING}


NEXT: Final[Mapping[SessionState, frozenset[SessionState]]] = {
    SessionState.NONE: frozenset({SessionState.VALID, SessionState.EXPIRING}),
    SessionState.VALID: frozenset({SessionState.EXPIRING, SessionState.EXPIRED, SessionState.VALID}),
    SessionState.EXPIRING: frozenset({SessionState.EXPIRED, SessionState.VALID, SessionState.EXPIRING}),
    SessionState.EXPIRED: frozenset({SessionState.VALID, SessionState.EXPIRING}),
}
"""What may follow what: all but `valid` to `none` and whatever skips a session."""


def state_of(row: Mapping[str, Any], now: datetime, warn_before: timedelta) -> SessionState:
    """The state of a stored account at `now`."""
    if not row.get("session_live"):
        return SessionState.EXPIRED if row.get("session_made_at") else SessionState.NONE
    ends = row.get("session_expires_at")
    if ends is None or now < ends - warn_before:
        return SessionState.VALID
    return SessionState.EXPIRING if now < ends else SessionState.EXPIRED
