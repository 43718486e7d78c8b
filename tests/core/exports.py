"""Documents of every type, and files of them, for the tests of transfers."""

from datetime import UTC
from pathlib import Path
from typing import Any

import bson
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import strategies as st

from app.core.clock import SystemClock
from app.core.transfer_file import RAW, ExportFile, ExportWriter

NOW = SystemClock().now()

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: not name.startswith("$") and "." not in name
)
int64 = st.integers(-(2**63), 2**63 - 1)
decimals = st.decimals(-(10**20), 10**20, places=6).map(Decimal128) | st.sampled_from(
    ["0E-6176", "-0", "1.10", "9.999999999999999999999999999999999E+6144", "NaN", "Infinity"]
).map(Decimal128)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    int64.map(Int64),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.builds(Binary, st.binary(max_size=20), st.sampled_from([3, 4, 5, 128])).filter(
        lambda value: value.subtype not in (3, 4, 5) or len(value) == 16
    ),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    decimals,
    st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0)),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 1)),
    st.builds(Regex, st.sampled_from(["^a.*", "b"]), st.sampled_from(["", "i", "ms"])),
    st.builds(Code, st.just("return 1")),
    st.sampled_from([MinKey(), MaxKey()]),
)
odd_scalars = st.integers(-(2**63), 2**63 - 1).map(DatetimeMS) | st.binary(min_size=16, max_size=16).map(
    Decimal128.from_bid
)
"""What BSON and MongoDB hold, but not the embedded database: dates of any year, decimals of any bits."""


values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(names, values, max_size=5)
odd_documents = st.dictionaries(names, values | odd_scalars, max_size=5)


def raw(document: dict[str, Any]) -> RawBSONDocument:
    return RawBSONDocument(bson.encode(document), RAW)


def header() -> dict[str, Any]:
    return {
        "service_version": "0.1.0",
        "created_at": NOW,
        "database_mode": "embedded",
        "database_name": "arrow",
        "collections": ["things"],
        "complete": True,
        "schema_versions": {"things": 1},
        "migrations": [],
    }


def write(path: Path, content: dict[str, list[RawBSONDocument]], **changes: Any) -> ExportFile:
    with ExportWriter(path, header() | changes) as writer:
        for name, rows in content.items():
            writer.begin(name)
            for row in rows:
                writer.add(row)
        writer.finish()
    return ExportFile(path)


def checked(path: Path) -> ExportFile:
    file = ExportFile(path)
    file.check()
    return file


def user(login: str, **more: Any) -> dict[str, Any]:
    """An account, as it is stored."""
    row = {"_id": ObjectId(), "schema_version": 1, "email": f"{login}@example.com", "hashed_password": "x"}
    return row | {"created_at": NOW, "updated_at": NOW} | more
