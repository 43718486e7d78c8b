"""How audit entries are chained: each holds the hash of the one before and a hash of all that it says itself.

The hash of an entry is the SHA-256, in small hexadecimal digits, of its canonical text in UTF-8. `schema_version` 1:

- the canonical text is JSON of the stored document without its field `hash`; whatever else stands in the document is
  covered, `_id`, `number` and `previous_hash` too, and a field that somebody adds changes the hash;
- names sorted by code point, no white space, everything beyond ASCII as `\\uXXXX`;
- texts, whole numbers, true, false and null as they are; an ObjectId as `{"$oid": "…"}` and a time as `{"$date": …}`
  with milliseconds since the Unix epoch; anything else (a fraction, a name that begins with `$`) has no canonical text.

The first entry has number 1, and `previous_hash` is 64 zeros. Entries are never rewritten, by migrations neither: an
encoding that has to change gets a new `schema_version`, and this one stays to read the older entries.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from beanie import PydanticObjectId
from bson import ObjectId

Row = dict[str, Any]

FORMAT = 1
GENESIS = "0" * 64
"""What the first entry follows."""

_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)


def new_id() -> PydanticObjectId:
    """The id of a new entry: all of it random.

    The driver counts the ids that it makes: two of one's own entries would tell how many others came between.
    """
    return PydanticObjectId(secrets.token_bytes(12))


class NotCanonicalError(ValueError):
    """The document holds something that no entry holds."""


def canonical(row: Mapping[str, Any]) -> bytes:
    """What is hashed of an entry; raises `NotCanonicalError`."""
    plain = _plain({name: value for name, value in row.items() if name != "hash"})
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, ObjectId):
        return {"$oid": str(value)}
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return {"$date": (moment - _EPOCH) // _MILLISECOND}
    if isinstance(value, Mapping):
        if any(not isinstance(name, str) or name.startswith("$") for name in value):
            raise NotCanonicalError("a name that no entry has")
        return {name: _plain(item) for name, item in value.items()}
    raise NotCanonicalError(f"a value of the type {type(value).__name__}")


def digest(row: Mapping[str, Any]) -> str:
    """The hash that an entry should have; raises `NotCanonicalError`."""
    return hashlib.sha256(canonical(row)).hexdigest()


def is_whole(row: Mapping[str, Any]) -> bool:
    """Whether an entry is as it was written: it has the hash of what it says."""
    try:
        return bool(row.get("hash") == digest(row))
    except NotCanonicalError:
        return False


def chained(drafts: Iterable[Row], number: int, previous: str, seq: int) -> list[Row]:
    """The `drafts` as entries that follow the one with this number, hash and seq; each draft has its own `seq`."""
    rows: list[Row] = []
    for draft in drafts:
        number, seq = number + 1, _order(draft["seq"], seq)
        row = {**draft, "number": number, "seq": seq, "previous_hash": previous}
        row["hash"] = previous = digest(row)
        rows.append(row)
    return rows


_HOUR = 3_600_000_000
"""Microseconds."""


def _order(own: int, last: int) -> int:
    """Lists are ordered by `seq`, the chain by number: the same order, unless a clock was over an hour ahead."""
    return max(own, last + 1) if last - own < _HOUR else own
