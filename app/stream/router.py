"""`WS /ws`."""

from typing import Annotated

from fastapi import APIRouter, WebSocket

from app.core.deps import ClientAddress, provided
from app.stream.service import StreamService

router = APIRouter()

Streams = Annotated[StreamService, provided(StreamService)]


@router.websocket("/ws")
async def ws(websocket: WebSocket, streams: Streams, address: ClientAddress) -> None:
    """Live messages; see `stream.schemas` for what a client may ask."""
    await streams.serve(websocket, address)
