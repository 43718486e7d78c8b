"""Exact numbers in rows that bypass Beanie: `Decimal` in Python, `Decimal128` in the database."""

from decimal import Decimal
from typing import Any

from bson import CodecOptions, Decimal128
from bson.codec_options import TypeCodec, TypeRegistry
from pymongo.asynchronous.collection import AsyncCollection


class _DecimalCodec(TypeCodec):
    python_type = Decimal
    bson_type = Decimal128

    def transform_python(self, value: Decimal) -> Decimal128:
        return Decimal128(value)

    def transform_bson(self, value: Decimal128) -> Decimal:
        return value.to_decimal()


_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, type_registry=TypeRegistry([_DecimalCodec()]))


def exact_rows(collection: AsyncCollection[dict[str, Any]]) -> AsyncCollection[dict[str, Any]]:
    """`collection`, with `Decimal` wherever the database has `Decimal128`, both ways; times are aware UTC."""
    return collection.with_options(codec_options=_OPTIONS)
