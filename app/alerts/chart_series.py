"""The series behind the charts of alerts: traded quantity over time, positions and realised profit. Exact decimals."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol

from app.alerts.positions import Fill, Step, add_exactly, replay
from app.core.figures import AXIS_ZONE, quiet_hours

_ZERO: Final = Decimal(0)
_MOST_BARS: Final = 60
_DAY: Final = timedelta(days=1)
# Where every series would have a value at every moment, this many values at most; else only where it changes.
_MOST_VALUES: Final = 20_000


class TimedFill(Fill, Protocol):
    """A fill and when it was."""

    @property
    def time(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Series:
    """A stepped line: `values[i]` holds from `times[i]` on. `contract` is empty for a total."""

    contract: str
    times: list[datetime]
    values: list[Decimal]


class Bar(NamedTuple):
    """The quantity traded from one moment to another."""

    start: datetime
    end: datetime
    quantity: Decimal
    label: str

    @property
    def middle(self) -> datetime:
        return self.start + (self.end - self.start) / 2

    @property
    def width_ms(self) -> float:
        """The bar's width on a time axis, a little less than its stretch of time."""
        return (self.end - self.start) / timedelta(milliseconds=1) * 0.84


class Bars(NamedTuple):
    """Bars of each contract, what one spans in words, their ends, and the stretches of the axis to leave out."""

    of: dict[str, list[Bar]]
    bucket: str
    days: bool
    """Whether a bar spans a day or more."""
    first: datetime
    last: datetime
    breaks: list[dict[str, Any]]


class _Bucket(NamedTuple):
    words: str
    about: timedelta
    bounds: Callable[[datetime], tuple[datetime, datetime]]
    label: Callable[[datetime, datetime], str]


def _intraday(words: str, step: timedelta) -> _Bucket:
    def bounds(moment: datetime) -> tuple[datetime, datetime]:
        # Counted from the exchange's opening, 09:15, as candles are.
        opening = moment.replace(hour=9, minute=15, second=0, microsecond=0)
        start = opening + (moment - opening) // step * step
        return start, start + step

    return _Bucket(words, step, bounds, lambda start, end: f"{start:%a %d %b %Y, %H:%M} – {end:%H:%M}")


def _day(moment: datetime) -> tuple[datetime, datetime]:
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + _DAY


def _week(moment: datetime) -> tuple[datetime, datetime]:
    start = _day(moment)[0] - moment.weekday() * _DAY
    return start, start + 7 * _DAY


def _month(moment: datetime) -> tuple[datetime, datetime]:
    start = _day(moment)[0].replace(day=1)
    return start, (start + 32 * _DAY).replace(day=1)


_BUCKETS: Final = (
    _intraday("minute", timedelta(minutes=1)),
    _intraday("5 minutes", timedelta(minutes=5)),
    _intraday("15 minutes", timedelta(minutes=15)),
    _intraday("30 minutes", timedelta(minutes=30)),
    _intraday("hour", timedelta(hours=1)),
    _Bucket("day", _DAY, _day, lambda start, _: f"{start:%a %d %b %Y}"),
    _Bucket("week", 7 * _DAY, _week, lambda start, end: f"{start:%d %b} – {end - _DAY:%d %b %Y}"),
    _Bucket("month", 30 * _DAY, _month, lambda start, _: f"{start:%B %Y}"),
)


def volume_bars(points: Iterable[TimedFill]) -> Bars:
    """The quantity traded per contract over time, in stretches that suit the whole span: about 60 bars at most."""
    found = list(points)
    local = [point.time.astimezone(AXIS_ZONE) for point in found]
    span = max(local) - min(local)
    bucket = next((one for one in _BUCKETS if span <= _MOST_BARS * one.about), _BUCKETS[-1])
    sums: dict[str, dict[datetime, Decimal]] = defaultdict(dict)
    for point, moment in zip(found, local, strict=True):
        start, _ = bucket.bounds(moment)
        of_contract = sums[point.contract]
        of_contract[start] = add_exactly(of_contract.get(start, _ZERO), point.quantity)
    bars: dict[str, list[Bar]] = {contract: [] for contract in sums}
    for contract, quantities in sums.items():
        for start in sorted(quantities):
            _, end = bucket.bounds(start)
            bars[contract].append(Bar(start, end, quantities[start], bucket.label(start, end)))
    flat = [bar for of_contract in bars.values() for bar in of_contract]
    edges = [edge for bar in flat for edge in (bar.start, bar.end)]
    days = bucket.about >= _DAY
    if days:
        breaks = quiet_hours([bar.middle for bar in flat], nights=False) if bucket.about == _DAY else []
    else:
        breaks = quiet_hours(edges)
    return Bars(bars, bucket.words, days, min(edges), max(edges), breaks)


def position_series(points: Sequence[TimedFill], contracts: Sequence[str]) -> list[Series]:
    """The signed open quantity of each contract over time: the sum of its strategies' positions."""
    positions: dict[tuple[str, str], Decimal] = {}

    def change(point: TimedFill, step: Step) -> Decimal:
        book = (point.strategy_name, point.contract)
        before = positions.get(book, _ZERO)
        positions[book] = step.position
        return add_exactly(step.position, -before)

    changes = [(point, change(point, step)) for point, step in zip(points, replay(points), strict=True)]
    return _running_sums(changes, contracts)


def profit_series(points: Sequence[TimedFill], contracts: Sequence[str]) -> tuple[list[Series], Series]:
    """The realised profit of each contract so far, and of all together. Before charges."""
    changes = [(point, step.realised) for point, step in zip(points, replay(points), strict=True)]
    total = _running_sums(changes, [""], key=lambda _: "")[0]
    return _running_sums(changes, contracts), total


def _running_sums(
    changes: Sequence[tuple[TimedFill, Decimal]],
    names: Sequence[str],
    key: Callable[[TimedFill], str] = lambda point: point.contract,
) -> list[Series]:
    """Running sums of changes of the names asked for, each from zero at the first moment to the last.

    Several changes of one moment make one value: what holds after them.
    """
    dense = len(changes) * len(names) <= _MOST_VALUES
    first, last = changes[0][0].time, changes[-1][0].time
    sums = dict.fromkeys(names, _ZERO)
    lines = {name: Series(name, [first], [_ZERO]) for name in names}
    for index, (point, change) in enumerate(changes):
        name = key(point)
        if name in sums:
            sums[name] = add_exactly(sums[name], change)
        ends_moment = index + 1 == len(changes) or changes[index + 1][0].time != point.time
        if dense and ends_moment:
            for other in names:
                _extend(lines[other], point.time, sums[other])
        elif not dense and name in sums:
            _extend(lines[name], point.time, sums[name])
    if not dense:
        for name in names:
            _extend(lines[name], last, sums[name])
    return list(lines.values())


def _extend(line: Series, moment: datetime, value: Decimal) -> None:
    # The zero at the very first moment stays, so that the first step is seen.
    if len(line.times) > 1 and line.times[-1] == moment:
        line.values[-1] = value
    else:
        line.times.append(moment)
        line.values.append(value)
