"""Ticks newest first, read window by window.

The embedded database pays for every row that a filter matches, whatever `sort` and `limit` say (about 25 µs), so a
query asks for a two-sided window of `received_at`, as wide as the page needs: what was found there before tells how
dense rows are, an empty window is followed by a wider one, and no window reaches from closed hours into a session
(where rows are dense) or back. So a page costs the same in a collection of ten thousand ticks and of a million, and
across a weekend. On MongoDB the same queries are index range scans, which `limit` bounds.
"""

from collections.abc import Mapping
from typing import Any, Final

from bson import ObjectId
from pymongo import DESCENDING
from pymongo.asynchronous.collection import AsyncCollection

from app.core.clock import Clock
from app.core.market_calendar import IST, MarketCalendar
from app.core.pagination import Cursor, Page, PageRequest
from app.market_data.rows import from_ms, to_ms

Row = dict[str, Any]

NOWHERE: Final = ObjectId("0" * 24)
"""The id in a cursor that stands between rows: none is below it."""
PATIENCE_SECONDS: Final = 1.0
"""After which a page is given as it is, with a cursor that leads on: filters that match little make it long."""
SLOW_SECONDS: Final = 0.12
"""For one query: the next window is not wider."""
_SHORTEST_MS: Final = 250
_WIDER: Final = 8
_AIR: Final = 1.25
_FIRST_GUESS: Final = {True: 0.05, False: 0.001}
"""Rows per millisecond, in sessions and in closed hours, of a name that was never asked for: narrow windows cost
little, wide ones may cost a lot."""
_WIDEST_FIRST_MS: Final = 3_600_000
"""In closed hours: that they were empty yesterday does not make them so today."""
_TELLING: Final = 8
"""Rows from which a density is told."""
_NAMES: Final = 4_096


class TickWindows:
    """Reads pages of ticks; remembers how dense they were."""

    def __init__(self, collection: AsyncCollection[Row], calendar: MarketCalendar, clock: Clock) -> None:
        self._collection, self._calendar, self._clock = collection, calendar, clock
        self._density: dict[tuple[str, bool], float] = {}

    async def page(
        self,
        symbol: str | None,
        also: Mapping[str, Any],
        page: PageRequest,
        *,
        low: int,
        top: int,
        high: int | None = None,
    ) -> Page[Row]:
        """The rows of `symbol` (None: of all) with `low <= received_at <= top` (milliseconds since the epoch), newest
        first, equal times by id; of these the ones that `also` match.

        `high`: up to where rows may be that are newer than `top`, the newest one known.
        """
        match: Row = {} if symbol is None else {"symbol": symbol}
        walk = _Walk(self._density, symbol or "", page.limit + 1, remember=not also)
        if page.after:
            high = min(top if high is None else high, page.after.seq)
            top = min(top, page.after.seq)
        deadline = self._clock.monotonic() + PATIENCE_SECONDS
        found: list[Row] = []
        while top >= low and len(found) <= page.limit:
            floor, in_session = self._segment(top)
            bottom = max(low, floor, top - walk.width(in_session, len(found)) + 1)
            began = self._clock.monotonic()
            rows, reached = await self._window(
                match, also, bottom, top if high is None else high, page.limit + 2 - len(found)
            )
            walk.learn(in_session, len(rows), top - reached + 1, self._clock.monotonic() - began)
            high, top = None, reached - 1
            found += [row for row in rows if page.after is None or _place(row) < page.after]
            if self._clock.monotonic() > deadline:
                break
        rows = found[: page.limit]
        if len(found) > page.limit:
            return Page(rows, Cursor(*_place(rows[-1])))
        return Page(rows, Cursor(top + 1, NOWHERE) if top >= low else None)

    async def _window(
        self, match: Row, also: Mapping[str, Any], bottom: int, top: int, most: int
    ) -> tuple[list[Row], int]:
        """The newest rows of a window, at most about `most`, and down to which millisecond they are complete."""
        rows = await self._find(match, also, bottom, top, most)
        if len(rows) >= most:
            last = to_ms(rows[-1]["received_at"])
            whole = [row for row in rows if to_ms(row["received_at"]) > last]
            if whole:
                rows, bottom = whole, last + 1
            else:  # more rows than were asked for have the same time
                rows, bottom = await self._find(match, also, last, last, 0), last
        rows.sort(key=_place, reverse=True)
        return rows, bottom

    async def _find(self, match: Row, also: Mapping[str, Any], bottom: int, top: int, most: int) -> list[Row]:
        window = {**match, "received_at": {"$gte": from_ms(bottom), "$lte": from_ms(top)}}
        if not also:
            return await self._collection.find(window).sort("received_at", DESCENDING).limit(most).to_list()
        # In a step of its own: in one filter with the window the embedded database would take another index, or none
        # (measured: 60 ms instead of 2 in 3,000 ticks). MongoDB joins the two by itself.
        steps: list[Row] = [{"$match": window}, {"$match": also}, {"$sort": {"received_at": DESCENDING}}]
        if most:
            steps.append({"$limit": most})
        return await (await self._collection.aggregate(steps)).to_list()

    def _segment(self, top: int) -> tuple[int, bool]:
        """Where the stretch of trading, or of closed hours, begins that `top` lies in; and whether it is trading."""
        moment = from_ms(top)
        day = moment.astimezone(IST).date()
        session = self._calendar.session_of(day)
        for window in reversed(session.windows if session else ()):
            if moment >= window.closes:
                return to_ms(window.closes), False
            if moment >= window.opens:
                return to_ms(window.opens), True
        return to_ms(self._calendar.previous_session(day).closes), False


class _Walk:
    """How wide the windows of one page are: apart for sessions and for closed hours."""

    def __init__(self, density: dict[tuple[str, bool], float], name: str, need: int, *, remember: bool) -> None:
        self._density, self._name, self._need, self._remember = density, name, need, remember
        self._width: dict[bool, int] = {}
        self._rows, self._length = {True: 0, False: 0}, {True: 0, False: 0}

    def width(self, in_session: bool, found: int) -> int:
        """Milliseconds of the next window."""
        if in_session not in self._width:
            density = self._density.get((self._name, in_session), _FIRST_GUESS[in_session])
            width = max(int((self._need - found) / density * _AIR), _SHORTEST_MS)
            self._width[in_session] = width if in_session else min(width, _WIDEST_FIRST_MS)
        return self._width[in_session]

    def learn(self, in_session: bool, rows: int, length: int, took: float) -> None:
        """A window that was complete over `length` milliseconds had so many rows and took so many seconds."""
        width = self._width[in_session]
        total = self._rows[in_session] = self._rows[in_session] + rows
        span = self._length[in_session] = self._length[in_session] + length
        wanted = width * _WIDER
        if total >= _TELLING:
            density = total / span
            self._keep(in_session, density)
            wanted = min(wanted, max(int(self._need / density * _AIR), _SHORTEST_MS))
        elif not total and not in_session:
            self._keep(in_session, 1 / span)
        if took > SLOW_SECONDS:
            wanted = min(wanted, width if took <= 2 * SLOW_SECONDS else max(width // _WIDER, _SHORTEST_MS))
        self._width[in_session] = wanted

    def _keep(self, in_session: bool, density: float) -> None:
        if self._remember:
            if len(self._density) >= _NAMES:
                self._density.clear()
            self._density[self._name, in_session] = density


def _place(row: Mapping[str, Any]) -> tuple[int, ObjectId]:
    return to_ms(row["received_at"]), row["_id"]
