"""When a provider that fails is left alone, and how it comes back. Pure: the state is a value, the time is given."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

FAILURES: Final = 3
"""So many in a row open the circuit."""
FIRST_REST: Final = timedelta(seconds=60)
LONGEST_REST: Final = timedelta(minutes=15)
"""Rests double with every probe that fails."""
LONGEST_BELIEVED: Final = timedelta(hours=1)
"""Of what a provider asks us to wait, no more is believed."""
PROBE: Final = timedelta(seconds=60)
"""A probe whose process died blocks others no longer; more than a call can take."""


class Circuit(msgspec.Struct, frozen=True, kw_only=True):
    """Closed (calls pass), open until `open_until`, then half-open: one call, the probe, decides."""

    failures: int = 0
    """In a row."""
    rests: int = 0
    """How often it has opened since it was last closed."""
    open_until: datetime | None = None
    probe_until: datetime | None = None
    """A probe is under way, at most until then."""

    def word(self, now: datetime) -> str:
        """`closed`, `open` or `half-open`."""
        if self.open_until is None:
            return "closed"
        return "open" if now < self.open_until else "half-open"

    def wait(self, now: datetime) -> timedelta | None:
        """How long a call has to wait; None if it may go now."""
        for until in (self.open_until, self.probe_until):
            if until is not None and now < until:
                return until - now
        return None

    def admitted(self, now: datetime) -> "Circuit":
        """With a call under way: the probe, if the circuit is not closed."""
        return self if self.open_until is None else msgspec.structs.replace(self, probe_until=now + PROBE)

    def succeeded(self, now: datetime) -> "Circuit":
        """After an answer: closed, unless it opened while that was on its way."""
        return self if self.word(now) == "open" else Circuit()

    def failed(self, now: datetime, asked_to_wait: timedelta | None = None) -> "Circuit":
        """After a failure; `asked_to_wait` is what the provider asked for, which opens at once."""
        if asked_to_wait is None and self.word(now) == "open":
            return self  # the call began before it opened
        failures = self.failures + 1
        if asked_to_wait is None and failures < FAILURES and self.open_until is None:
            return msgspec.structs.replace(self, failures=failures)
        rest = min(FIRST_REST * 2 ** min(self.rests, 8), LONGEST_REST)
        if asked_to_wait is not None:
            rest = max(min(asked_to_wait, LONGEST_BELIEVED), timedelta(seconds=1))
        until = max(now + rest, self.open_until or now)
        return Circuit(failures=failures, rests=self.rests + 1, open_until=until)
