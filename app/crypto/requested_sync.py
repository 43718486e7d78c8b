"""A sync that somebody asks for, and waits for."""

from typing import Any, Final

from app.core.errors import UnavailableError
from app.core.scheduler import RunState, RunView
from app.crypto.generations import GenerationStore
from app.crypto.ports import Provider
from app.crypto.runs import SYNC, Runs
from app.crypto.schemas.sync import SyncReport

PATIENCE: Final = 20.0
"""Seconds until somebody is told to follow the run instead."""
_COUNTS: Final = ("rows", "rejected", "listed", "changed", "unchanged")


class RequestedSync:
    """Starts syncs on request."""

    def __init__(self, runs: Runs, store: GenerationStore, patience: float = PATIENCE) -> None:
        self._runs = runs
        self._store = store
        self._patience = patience

    async def sync(self, limit: int, provider: Provider | None, account: str) -> SyncReport:
        """Sync the `limit` largest coins for `account` (its id), and tell what changed.

        Of a sync that takes longer than `PATIENCE` the report says that it is under way. Raises `UnavailableError` with
        the reason for one that failed.
        """
        arguments: dict[str, Any] = {"limit": limit, "provider": None if provider is None else str(provider)}
        started = await self._runs.start(SYNC, arguments, requested_by=account)
        run = await self._runs.wait(started.id, self._patience)
        if run is not None and run.finished and run.state is not RunState.SUCCEEDED:
            raise UnavailableError(f"{run.error or 'The sync failed.'} The listing stays as it was.", retry_after=60)
        return await self._report(started.id, run, joined=started.joined)

    async def _report(self, run_id: str, run: RunView | None, *, joined: bool) -> SyncReport:
        result = (run and run.result) or {}
        number = result.get("generation")
        changes = (await self._store.report(number) if number is not None else None) or {}
        return SyncReport(
            run_id=run_id,
            state=run.state if run else RunState.QUEUED,
            joined=joined,
            provider=result.get("provider"),
            failed_over=result.get("failed_over"),
            duration_ms=run.duration_ms if run else None,
            **{name: result.get(name, 0) for name in _COUNTS},
            **{name: changes.get(name, []) for name in ("added", "renamed", "left")},
        )
