"""What a sync changed, over the wire."""

from pydantic import Field

from app.core.scheduler import RunState
from app.core.schemas import ResponseModel
from app.crypto.ports import Provider
from app.crypto.schemas.listing import NamedCoin


class RenamedCoin(NamedCoin):
    """A coin that is called otherwise than before."""

    was: NamedCoin


class SyncReport(ResponseModel):
    """What became of a sync. While it runs, what it changes is not known yet."""

    run_id: str = Field(description="Follow it at `/api/v1/jobs/{run_id}`.")
    state: RunState
    joined: bool = Field(description="Whether the same sync was under way already: this is what became of that one.")
    provider: Provider | None = Field(description="Who answered.")
    failed_over: str | None = Field(description="Why an earlier provider was passed over.")
    duration_ms: int | None
    rows: int = Field(description="Coins that the provider listed.")
    rejected: int = Field(description="Rows of the provider that could not be read.")
    listed: int = Field(description="Coins in the listing now.")
    changed: int = Field(description="Coins of which any figure is another.")
    unchanged: int
    added: list[NamedCoin] = Field(description="Were not listed before.")
    renamed: list[RenamedCoin]
    left: list[NamedCoin] = Field(description="Are not listed any more.")
