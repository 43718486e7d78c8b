"""What the listing needs of whoever runs jobs: to start a sync, once in all processes, and to wait for it."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from app.core.scheduler import RunView, StartedRun

TOP_50: Final = "crypto.top50"
TOP_200: Final = "crypto.top200"
SYNC: Final = "crypto.sync"
"""Jobs by name; the last one is for whoever asks: `limit`, `provider`, and `unless_listed` (see `CryptoSync`)."""
GROUP: Final = "crypto"
"""Two of them never overlap."""


class Runs(Protocol):
    """Starts runs and knows how they went."""

    async def start(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, requested_by: str | None = None
    ) -> StartedRun:
        """Start the job `name`, or join the run of it that is under way with the same arguments."""

    async def wait(self, run_id: str, seconds: float) -> RunView | None:
        """The run once it has finished, or as it is after `seconds`; None if there is no such run."""
