"""What goes over the wire of `WS /ws`: the client's messages, and the answers to them."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.core.outbox import Channel

Symbol: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Tag: TypeAlias = str | int
"""The `id` that a client may give a message; the answer carries it."""

MAX_TAG_CHARS = 128
MAX_TAG_INT = 2**53


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every message of a client has."""

    action: str
    id: Tag | None = None


class Authenticate(Request, frozen=True, kw_only=True):
    """Opens the private channels of the account behind an access token, or those that an API token's scopes allow."""

    token: Annotated[str, Meta(min_length=1, max_length=8192)]


class Subscribe(Request, frozen=True, kw_only=True):
    """Asks for a channel, of which only some symbols if they are named, and for what was stored after `since`."""

    channel: str
    symbols: Annotated[list[Symbol], Meta(min_length=1)] | None = None
    since: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class Unsubscribe(Request, frozen=True, kw_only=True):
    """Ends a subscription, or takes symbols out of it."""

    channel: str
    symbols: Annotated[list[Symbol], Meta(min_length=1)] | None = None


class Ping(Request, frozen=True, kw_only=True):
    """Asks for a sign of life."""


ACTIONS: Final[Mapping[str, type[Request]]] = MappingProxyType(
    {"auth": Authenticate, "subscribe": Subscribe, "unsubscribe": Unsubscribe, "ping": Ping}
)


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What every answer has."""

    ts: str
    id: Tag | None = None

    def encode(self) -> str:
        """The answer as JSON."""
        return msgspec.json.encode(self).decode()


class Authenticated(Reply, frozen=True, kw_only=True, tag="authenticated"):
    """The private channels of `user_id` are open until `expires_at`."""

    user_id: str
    expires_at: datetime


class Subscribed(Reply, frozen=True, kw_only=True, tag="subscribed"):
    """The subscription stands. Everything up to `seq` was before it or has been replayed."""

    channel: Channel
    seq: int
    symbols: list[str] | UnsetType = UNSET
    """Where the subscription is for single symbols: all of them, those of earlier messages included."""
    replayed: int | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    """More was stored after `since` than is replayed, or the channel is not stored: read the list over REST."""


class Unsubscribed(Reply, frozen=True, kw_only=True, tag="unsubscribed"):
    """The subscription is gone, or cut down to `symbols`."""

    channel: Channel
    symbols: list[str] | UnsetType = UNSET


class Pong(Reply, frozen=True, kw_only=True, tag="pong"):
    """A sign of life."""


class Resync(Reply, frozen=True, kw_only=True, tag="resync"):
    """Messages may have been lost between the service's processes: subscribe again with this `since` to have them."""

    channel: Channel
    since: int


class Failure(Reply, frozen=True, kw_only=True, tag="error"):
    """What went wrong: a stable word, and a sentence that a person can act on."""

    code: str
    detail: str


class ProtocolError(Exception):
    """A client's message cannot be followed; becomes a `Failure`."""

    def __init__(self, code: str, detail: str, tag: Tag | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.tag = code, detail[:300], tag


def parse(message: str | bytes, *, max_bytes: int, max_symbols: int) -> Request:
    """The request in a client's message; raises `ProtocolError`."""
    if isinstance(message, bytes):
        raise ProtocolError("invalid_message", "Send JSON as a text message, not a binary one.")
    # The characters are counted first, so that a huge message is not encoded only to be measured.
    if len(message) > max_bytes or len(encoded := message.encode()) > max_bytes:
        raise ProtocolError("too_large", f"A message may have at most {max_bytes} bytes.")
    try:
        content = msgspec.json.decode(encoded)
    except (msgspec.MsgspecError, RecursionError):
        raise ProtocolError("invalid_json", "The message is not JSON.") from None
    if not isinstance(content, dict):
        raise ProtocolError("invalid_message", 'A message is a JSON object such as {"action": "ping"}.')
    tag = _tag(content.get("id"))
    action = content.get("action")
    kind = ACTIONS.get(action) if isinstance(action, str) else None
    if kind is None:
        raise ProtocolError("unknown_action", f"`action` is one of: {', '.join(ACTIONS)}.", tag)
    symbols = content.get("symbols")
    if isinstance(symbols, list) and len(symbols) > max_symbols:
        raise ProtocolError("too_many_symbols", f"A message may name at most {max_symbols} symbols.", tag)
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError("invalid_message", f"{error}.", tag) from None


def _tag(value: Any) -> Tag | None:
    if isinstance(value, str):
        if len(value) <= MAX_TAG_CHARS:
            return value
    elif value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_TAG_INT):
        return value
    raise ProtocolError("invalid_message", f"`id` is a text of up to {MAX_TAG_CHARS} characters or an integer.")


def channel_of(name: str, tag: Tag | None) -> Channel:
    """The channel called `name`; raises `ProtocolError`."""
    try:
        return Channel(name)
    except ValueError:
        raise ProtocolError("unknown_channel", f"`channel` is one of: {', '.join(Channel)}.", tag) from None
