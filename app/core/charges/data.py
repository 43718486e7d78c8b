"""Rates and brokers' plans as data: the format of the file, and its checks.

Everything is dated: a list of rows, each of which holds from its day (`since`) until the next. Each row names its
source, and `sources` says of what kind that is: the project's specification, something published, or memory.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from decimal import Decimal
from enum import StrEnum
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from app.core.charges.words import ChargesDataError, Exchange, Segment

LEVIED: Final = tuple(segment for segment in Segment if segment.levied_as is segment)
_HUNDRED: Final = Decimal(100)


class SourceKind(StrEnum):
    """How far a figure can be trusted."""

    SPECIFICATION = "specification"
    PUBLISHED = "published"
    RECALLED = "recalled"


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No unknown fields."""


class Source(Strict, frozen=True, kw_only=True):
    """Where figures come from."""

    kind: SourceKind
    as_of: date
    what: str


class Dated(Strict, frozen=True, kw_only=True):
    """A row that holds from a day on."""

    since: date
    source: str
    """A name in `sources`."""


class Rate(Dated, frozen=True, kw_only=True):
    """The same for both sides, in per cent."""

    percent: Decimal


class SidedRate(Dated, frozen=True, kw_only=True):
    """By side, in per cent."""

    buy: Decimal
    sell: Decimal


class Amount(Dated, frozen=True, kw_only=True):
    """Rupees."""

    amount: Decimal


class Plan(Dated, frozen=True, kw_only=True):
    """What a broker takes of an executed order: a flat amount, or a percentage between two amounts."""

    flat: Decimal | None = None
    percent: Decimal | None = None
    most: Decimal | None = None
    """Rupees at most."""
    least: Decimal = Decimal(0)
    """Rupees at least."""
    bound_percent: Decimal | None = None
    """`least` never makes it more than this part of the turnover (the regulator's limit)."""


class Interest(Dated, frozen=True, kw_only=True):
    """What the broker's credit costs: a percentage a year (of 365 days), or an amount a day for each begun slab."""

    percent_a_year: Decimal | None = None
    slab: Decimal | None = None
    a_day: Decimal | None = None


class Broker(Strict, frozen=True, kw_only=True):
    """A broker's usual plan."""

    name: str
    brokerage: dict[Segment, tuple[Plan, ...]]
    depository: tuple[Amount, ...]
    """Before goods and services tax, for a share and day."""
    mtf_interest: tuple[Interest, ...]


BySegment = dict[Segment, tuple[Rate, ...]]


class ChargesData(Strict, frozen=True, kw_only=True):
    """The whole file."""

    version: str
    about: str
    first: date
    """The first day that it knows."""
    last: date
    """The last day that it vouches for: until then nothing else is announced."""
    sources: dict[str, Source]
    stt: dict[Segment, tuple[SidedRate, ...]]
    exercise: tuple[Rate, ...]
    """Securities transaction tax on an option that is exercised, of what it is worth then."""
    transaction: dict[Exchange, BySegment]
    investor_protection: dict[Exchange, BySegment]
    stamp: dict[Segment, tuple[SidedRate, ...]]
    sebi: tuple[Rate, ...]
    gst: tuple[Rate, ...]
    brokers: dict[str, Broker]


D = TypeVar("D", bound=Dated)


def holding(rows: Sequence[D], on: date) -> D:
    """The row that holds on a day; before the first one, this."""
    return next((row for row in reversed(rows) if row.since <= on), rows[0])


def load_charges(path: Path | None = None) -> ChargesData:
    """The data in the file at `path`, or in the one that comes with the service; raises `ChargesDataError`."""
    try:
        if path is None:
            raw = (resources.files("app.core.charges") / "assets" / "charges.json").read_bytes()
        else:
            raw = path.read_bytes()
        data = msgspec.json.decode(raw, type=ChargesData)
    except OSError as error:
        raise ChargesDataError(f"The charges cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ChargesDataError(f"The charges' data is wrong: {error}") from None
    _check(data)
    return data


def _check(data: ChargesData) -> None:
    if data.first > data.last:
        raise ChargesDataError("The charges' data ends before it begins.")
    if "none" not in data.brokers:
        raise ChargesDataError("The charges' data has no broker called none.")
    for what, keys, wanted in _tables(data):
        if missing := [str(key) for key in wanted if key not in keys]:
            raise ChargesDataError(f"The charges' {what} lacks {', '.join(missing)}.")
        if extra := [str(key) for key in keys if key not in wanted]:
            raise ChargesDataError(f"The charges' {what} knows no {', '.join(extra)}.")
    for what, rows in _lists(data):
        _check_rows(what, rows, data)


def _tables(data: ChargesData) -> Iterator[tuple[str, Collection[str], Collection[str]]]:
    yield "stt", data.stt, LEVIED
    yield "stamp", data.stamp, LEVIED
    for name, table in (("transaction", data.transaction), ("investor_protection", data.investor_protection)):
        yield name, table, tuple(Exchange)
        for exchange, rates in table.items():
            yield f"{name} of {exchange}", rates, LEVIED
    for name, broker in data.brokers.items():
        yield f"brokerage of {name}", broker.brokerage, tuple(Segment)


def _lists(data: ChargesData) -> Iterator[tuple[str, Sequence[Dated]]]:
    yield "exercise", data.exercise
    yield "sebi", data.sebi
    yield "gst", data.gst
    for name, sided in (("stt", data.stt), ("stamp", data.stamp)):
        for segment, rows in sided.items():
            yield f"{name} for {segment}", rows
    for name, table in (("transaction", data.transaction), ("investor_protection", data.investor_protection)):
        for exchange, rates in table.items():
            for segment, some in rates.items():
                yield f"{name} of {exchange} for {segment}", some
    for name, broker in data.brokers.items():
        yield f"depository of {name}", broker.depository
        yield f"mtf_interest of {name}", broker.mtf_interest
        for segment, plans in broker.brokerage.items():
            yield f"brokerage of {name} for {segment}", plans


def _check_rows(what: str, rows: Sequence[Dated], data: ChargesData) -> None:
    if not rows or rows[0].since > data.first:
        raise ChargesDataError(f"The charges' {what} must be known from {data.first} on.")
    if not all(one.since < other.since for one, other in pairwise(rows)) or rows[-1].since > data.last:
        raise ChargesDataError(f"The charges' {what} must be in order, each day once, and not after {data.last}.")
    for row in rows:
        where = f"The charges' {what} since {row.since}"
        if row.source not in data.sources:
            raise ChargesDataError(f"{where}: there is no source called {row.source}.")
        if fault := _fault(row):
            raise ChargesDataError(f"{where}: {fault}.")


def _fault(row: Dated) -> str | None:
    """What is wrong with a row's figures."""
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if isinstance(value, Decimal):
            # The comparison of a value that is no number would raise.
            if not value.is_finite() or value < 0:
                return f"{name} is not a number from zero on"
            if "percent" in name and value > _HUNDRED:
                return f"{name} is over a hundred"
    if isinstance(row, Plan):
        return _plan_fault(row)
    if isinstance(row, Interest):
        yearly = row.percent_a_year is not None
        slabs = row.slab is not None and row.a_day is not None and row.slab > 0
        if yearly == slabs or (yearly and (row.slab is not None or row.a_day is not None)):
            return "it is either percent_a_year, or slab (over zero) and a_day"
    return None


def _plan_fault(plan: Plan) -> str | None:
    if (plan.flat is None) == (plan.percent is None):
        return "it is either flat or percent"
    if plan.flat is not None and (plan.most is not None or plan.least or plan.bound_percent is not None):
        return "what is flat has no bounds"
    if plan.most is not None and plan.least > plan.most:
        return "least is more than most"
    return None
