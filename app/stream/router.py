"""`WS /ws`."""

from typing import Annotated

from fastapi import APIRouter, WebSocket

from app.core.deps import ClientAddress, provided
from app.core.errors import UpgradeRequiredError
from app.stream.service import StreamService

router = APIRouter()

Streams = Annotated[StreamService, provided(StreamService)]


@router.websocket("/ws")
async def ws(websocket: WebSocket, streams: Streams, address: ClientAddress) -> None:
    """Live messages; see `stream.schemas` for what a client may ask."""
    await streams.serve(websocket, address)


@router.get("/ws", include_in_schema=False)
async def not_upgraded() -> None:
    """A WebSocket request that lost its upgrade on the way, usually in a reverse proxy."""
    raise UpgradeRequiredError(
        "This is a WebSocket, and the request was not an upgrade. A reverse proxy must speak HTTP/1.1 to this service"
        " and pass the headers Upgrade and Connection on."
    )
