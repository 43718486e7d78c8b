"""The list of instruments out of a program beside the service, which takes the memory that its reading needs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from app.core.list_process import FETCH_SECONDS, ListLostError, ListProcess
from app.core.list_program import ListRefusedError
from app.core.staged_lists import NewList
from app.market_data.listings import ListingsUnavailableError

PROGRAM: Final = "app.market_data.adapters.list_program"


class InstrumentProcess:
    """Fills `core.staged_lists.ListSource`."""

    def __init__(self, url: str, *, program: str = PROGRAM, seconds: float = FETCH_SECONDS) -> None:
        """`url`: of the list; `seconds`: for the whole of it."""
        self._process = ListProcess(program, url.encode(), seconds=seconds)

    @asynccontextmanager
    async def fetch(self, known: tuple[str, str] | None = None) -> AsyncIterator[NewList | None]:
        """See the port. Raises `ListingsUnavailableError`, also for a program that is lost."""
        try:
            async with self._process.fetch(known) as found:
                yield found
        except ListRefusedError as error:
            raise ListingsUnavailableError(error.refused.message, error.refused.retry_after) from None
        except ListLostError as error:
            raise ListingsUnavailableError(f"program {error.why}") from None
