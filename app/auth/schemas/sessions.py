"""A session as its owner sees it."""

from datetime import datetime

from pydantic import ConfigDict

from app.core.schemas import ResponseModel, example


class SessionInfo(ResponseModel):
    """One sign-in and everything refreshed from it.

    `device` and `user_agent` are what the client says of itself. `last_used_at` may be a minute behind.
    """

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "id": "6b02893a002b26997921d778",
                "current": True,
                "device": "Chrome on Windows",
                "user_agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
                "Chrome/142.0.0.0 Safari/537.36",
                "address": "203.0.113.7",
                "method": "password+totp",
                "created_at": "2026-11-22T06:20:00.123Z",
                "last_used_at": "2026-11-22T07:05:00.456Z",
                "expires_at": "2026-11-29T06:50:00.123Z",
            }
        )
    )

    id: str
    current: bool
    """Whether it is the session that asks."""
    device: str | None
    user_agent: str | None
    address: str
    """Where it was signed in or last refreshed from."""
    method: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
