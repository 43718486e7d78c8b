"""The active account: what it holds, what that is worth, what it has made."""

import asyncio
import json
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal, localcontext
from typing import Any, Final

from beanie import PydanticObjectId
from starlette.responses import Response

from app.brokerage.orders.schemas import OrderRow
from app.brokerage.portfolio.book_rows import Row, book_rows, day_rows, snapshot_rows
from app.brokerage.portfolio.broker_view import BrokerView, Seen
from app.brokerage.portfolio.charts import CurvePoint, equity_chart
from app.brokerage.portfolio.ledger import Ledger
from app.brokerage.portfolio.lots import ZERO
from app.brokerage.portfolio.naming import day_id, day_of
from app.brokerage.portfolio.ports import AccountsHere, OrdersHere
from app.brokerage.portfolio.price_list import price_list
from app.brokerage.portfolio.profit import pnl_of
from app.brokerage.portfolio.schemas import ChartFormat, PnlBy
from app.brokerage.portfolio.standing_schemas import (
    BrokerState,
    Dashboard,
    FundsSeen,
    HoldingList,
    Pnl,
    PositionList,
)
from app.brokerage.portfolio.trades import Trades
from app.brokerage.portfolio.valuation import Ground, Standing, snapshot_books, standing, wanted
from app.brokerage.ports import Prices
from app.brokerage.words import BrokerName
from app.core.charges.words import EXACT
from app.core.clock import Clock
from app.core.errors import FieldError, InvalidInputError, NotFoundError
from app.core.figures import Theme, figure_page

LONGEST: Final = timedelta(days=1100)
"""Three years and a bit."""
_PATIENCE: Final = 4.0
_NO_ACCOUNT: Final = "You have no brokerage with this id."
_OPEN_ORDERS, _LATEST = 50, 20
_SNAPSHOT_AGE: Final = timedelta(days=14)
"""An older snapshot says nothing about yesterday: there was none for longer than any holidays last."""


class Portfolio:
    """Answers about one user's account at a time: the active one, unless another of theirs is named."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        view: BrokerView,
        trades: Trades,
        orders: OrdersHere,
        sessions: AccountsHere,
        prices: Prices,
        clock: Clock,
    ) -> None:
        self._ledger, self._view, self._trades, self._orders = ledger, view, trades, orders
        self._sessions, self._prices, self._clock = sessions, prices, clock

    async def dashboard(self, user_id: PydanticObjectId) -> Dashboard:
        """All in one answer. A broker that is away leaves what it said last, marked."""
        account_id = await self._sessions.active(str(user_id))
        (state, found, seen), orders = await asyncio.gather(
            self._standing(user_id, account_id),
            self._orders.open_orders(str(user_id), account_id, _OPEN_ORDERS),
        )
        return Dashboard(
            at=self._clock.now(),
            account=state,
            funds=seen.funds and FundsSeen(**seen.funds._asdict()),
            totals=found.totals,
            realised_pnl=found.totals.realised_pnl,
            unrealised_pnl=found.totals.unrealised_pnl,
            day_pnl=found.totals.day_pnl,
            positions=found.positions,
            holdings=found.holdings,
            open_orders=[OrderRow.model_validate(one) for one in orders],
            latest_trades=await self._trades.latest(user_id, account_id, _LATEST),
        )

    async def positions(self, user_id: PydanticObjectId) -> PositionList:
        """What is open, and what was traded today."""
        account_id = await self._sessions.active(str(user_id))
        state, found, _ = await self._standing(user_id, account_id)
        return PositionList(at=self._clock.now(), account=state, positions=found.positions)

    async def holdings(self, user_id: PydanticObjectId) -> HoldingList:
        """Shares in the account."""
        account_id = await self._sessions.active(str(user_id))
        state, found, _ = await self._standing(user_id, account_id)
        return HoldingList(at=self._clock.now(), account=state, holdings=found.holdings)

    async def _standing(self, user_id: PydanticObjectId, account_id: str) -> tuple[BrokerState, Standing, Seen]:
        broker, seen, _ = await asyncio.gather(
            self._sessions.broker_of(account_id),
            self._view.look(account_id, user_id),
            self._ledger.settle(account_id),
        )
        today = day_of(self._clock.now()).isoformat()
        books = await books_now(account_id, today)
        prices = await price_list(self._prices, wanted(books, seen), _PATIENCE)
        ground = Ground(
            today=today,
            books=books,
            seen=seen,
            prices=prices,
            day=await day_rows().find_one({"_id": day_id(account_id, today)}) or {},
            before=await newest_snapshot(account_id, today),
            sums=await sums_of(account_id),
        )
        return _state(account_id, broker, seen), standing(ground), seen

    async def pnl(
        self, user_id: PydanticObjectId, account_id: str | None, start: date | None, end: date | None, by: PnlBy
    ) -> Pnl:
        """What was realised from `start` to `end`: by default this financial year. Raises `InvalidInputError` for a
        span that is too long or ends before it begins, and `NotFoundError` for an account that is not the user's."""
        if not account_id:
            account_id = await self._sessions.active(str(user_id))
        elif not await self._may_read(user_id, account_id):
            raise NotFoundError(_NO_ACCOUNT)
        start, end = self._span(start, end)
        await self._ledger.settle(account_id)
        return pnl_of(account_id, await self._days(user_id, account_id, start, end), start, end, by)

    async def _may_read(self, user_id: PydanticObjectId, account_id: str) -> bool:
        """What was made in an account can be read after it was removed."""
        if await self._sessions.owns(str(user_id), account_id):
            return True
        return await day_rows().find_one({"account_id": account_id, "user_id": user_id}, {"_id": 1}) is not None

    async def curve(
        self,
        user_id: PydanticObjectId,
        start: date | None,
        end: date | None,
        format_: ChartFormat,
        theme: Theme,
        base_url: str,
    ) -> Response:
        """The equity curve: profit day by day. Raises what `pnl` does."""
        account_id = await self._sessions.active(str(user_id))
        broker = await self._sessions.broker_of(account_id)
        start, end = self._span(start, end)
        await self._ledger.settle(account_id)
        points = await self._points(user_id, account_id, start, end)
        figure = equity_chart(str(broker), points, theme=theme)
        headers = {"Cache-Control": "no-store"}
        if format_ is ChartFormat.JSON:
            content = json.dumps(figure, separators=(",", ":"), allow_nan=False)
            return Response(content, media_type="application/json", headers=headers)
        page, policy = figure_page(figure, "Equity curve", base_url=base_url)
        return Response(page, media_type="text/html", headers={**headers, "Content-Security-Policy": policy})

    async def _points(self, user_id: PydanticObjectId, account_id: str, start: date, end: date) -> list[CurvePoint]:
        days = {row["day"]: row for row in await self._days(user_id, account_id, start, end)}
        marks = {row["day"]: row["unrealised"] for row in await _snapshots(user_id, account_id, start, end)}
        today = day_of(self._clock.now())
        if start <= today <= end:
            now = await self._open_now(account_id, today.isoformat())
            if now is not None:
                marks[today.isoformat()] = now
        with localcontext(EXACT):
            net = await _net_before(account_id, start)
            points = []
            for day in sorted({*days, *marks}):
                made = _net(days[day]) if day in days else ZERO
                net += made
                points.append(CurvePoint(date.fromisoformat(day), made, net, marks.get(day)))
        return points

    async def _open_now(self, account_id: str, today: str) -> Decimal | None:
        """What is not realised of open positions, as far as they have a price; None of nothing."""
        books = [row for row in await books_now(account_id, today) if row["open"]]
        prices = await price_list(self._prices, wanted(books, Seen()), _PATIENCE)
        priced, unrealised, _ = snapshot_books(books, prices)
        return unrealised if priced else None

    async def _days(self, user_id: PydanticObjectId, account_id: str, start: date, end: date) -> list[Row]:
        span = {"$gte": start.isoformat(), "$lte": end.isoformat()}
        rows = await day_rows().find({"account_id": account_id, "day": span}).to_list()
        # An account of somebody else's has no days, as one that never traded.
        return [row for row in rows if row["user_id"] == user_id and row.get("trades")]

    def _span(self, start: date | None, end: date | None) -> tuple[date, date]:
        today = day_of(self._clock.now())
        end = end or max(today, start or today)
        if start is None:
            start = date(end.year - (end.month < 4), 4, 1)
        if start > end:
            raise _wrong("start is after end")
        if end - start > LONGEST:
            raise _wrong(f"A P&L covers {LONGEST.days} days at most; ask for a part of it")
        return start, end


def _wrong(what: str) -> InvalidInputError:
    return InvalidInputError(f"query.start: {what}.", [FieldError(("query", "start"), what, "value_error")])


def _state(account_id: str, broker: BrokerName, seen: Seen) -> BrokerState:
    return BrokerState(
        account_id=account_id,
        broker=broker,
        reachable=seen.current,
        as_of=seen.at,
        problem=seen.problem,
        login_url=seen.login_url,
    )


async def books_now(account_id: str, today: str) -> list[Row]:
    """The account's books that are open, or were traded today."""
    found = {row["_id"]: row for row in await book_rows().find({"account_id": account_id, "open": True}).to_list()}
    traded = await book_rows().find({"account_id": account_id, "last_day": today}).to_list()
    return list((found | {row["_id"]: row for row in traded}).values())


async def newest_snapshot(account_id: str, today: str) -> Row:
    """The newest of the days before today; empty if there is none."""
    oldest = (date.fromisoformat(today) - _SNAPSHOT_AGE).isoformat()
    rows = await snapshot_rows().find({"account_id": account_id, "day": {"$gte": oldest, "$lt": today}}).to_list()
    return max(rows, key=lambda row: str(row["day"]), default={})


async def _snapshots(user_id: PydanticObjectId, account_id: str, start: date, end: date) -> list[Row]:
    span = {"$gte": start.isoformat(), "$lte": end.isoformat()}
    rows = await snapshot_rows().find({"account_id": account_id, "day": span}, {"books": 0}).to_list()
    return [row for row in rows if row["user_id"] == user_id]


_SUMS: Final = {"day": 1, "realised": 1, "charges": 1, "interest": 1}


async def sums_of(account_id: str) -> dict[str, Decimal]:
    """`realised`, `charges` and `interest` of all the account's days: a few hundred rows a year."""
    rows = await day_rows().find({"account_id": account_id}, _SUMS).to_list()
    with localcontext(EXACT):
        return {
            "realised": sum((row.get("realised", ZERO) for row in rows), ZERO),
            "charges": sum(((row.get("charges") or {}).get("total", ZERO) for row in rows), ZERO),
            "interest": sum((row.get("interest", ZERO) for row in rows), ZERO),
        }


async def _net_before(account_id: str, start: date) -> Decimal:
    span = {"$gte": "", "$lt": start.isoformat()}
    rows = await day_rows().find({"account_id": account_id, "day": span}, _SUMS).to_list()
    return sum((_net(row) for row in rows), ZERO)


def _net(row: Mapping[str, Any]) -> Decimal:
    charges: Decimal = (row.get("charges") or {}).get("total", ZERO)
    realised: Decimal = row.get("realised", ZERO)
    interest: Decimal = row.get("interest", ZERO)
    return realised - charges - interest
