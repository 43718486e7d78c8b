"""Risk of what a user holds, and charts of it: today's weights on the days that were."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Final

from beanie import PydanticObjectId
from starlette.responses import Response

from app.core.figures import Figure, Theme
from app.crypto import risk
from app.crypto.chart_service import chart_response
from app.crypto.charts import Share, allocation_chart, portfolio_chart
from app.crypto.holdings import Holdings
from app.crypto.naming import CoinName
from app.crypto.risk_service import COMMON, CoinRisks, Series, correlation_matrix, measures, with_enough
from app.crypto.schemas.history import ChartFormat
from app.crypto.schemas.portfolio import HoldingValue
from app.crypto.schemas.risk import MAX_COINS, LeftOut, PortfolioChart, PortfolioRisk, RiskMeasures, Weight
from app.crypto.valuation import EXACT

COVERED: Final = Decimal("0.8")
"""Share of the value that has to have enough history: figures of less would be those of another portfolio."""
_CHART_DAYS: Final = 365


class PortfolioRisks:
    """Measures and draws portfolios."""

    def __init__(self, *, holdings: Holdings, risks: CoinRisks) -> None:
        self._holdings, self._risks = holdings, risks

    async def of(self, user_id: PydanticObjectId, days: int) -> PortfolioRisk:
        """The measures of what the user holds, over the last `days`."""
        portfolio = await self._holdings.portfolio(user_id)
        held = [one for one in portfolio.holdings if one.value]
        series = [await self._risks.series(_name(one), days) for one in held]
        unpriced = [
            LeftOut(slug=one.slug, symbol=one.symbol, reason=one.reason or "It is worth nothing.")
            for one in portfolio.holdings
            if not one.value
        ]
        return await asyncio.to_thread(portfolio_risk, portfolio.at, held, series, unpriced, days)

    async def chart(
        self, user_id: PydanticObjectId, kind: PortfolioChart, format_: ChartFormat, theme: Theme, base_url: str
    ) -> Response:
        """What the user holds as a chart: its parts, or what they would have been worth."""
        portfolio = await self._holdings.portfolio(user_id)
        held = [one for one in portfolio.holdings if one.value]
        if kind is PortfolioChart.ALLOCATION:
            shares = [Share(one.symbol, one.value, one.weight) for one in held if one.value and one.weight]
            return await chart_response(
                lambda: allocation_chart(shares, theme=theme), "Portfolio: allocation", format_, base_url
            )
        series = [await self._risks.series(_name(one), _CHART_DAYS) for one in held]

        def draw() -> Figure:
            kept, left_out = with_enough(series)
            quantities = {one.slug: float(one.quantity) for one in held}
            days = risk.summed_values([one.days for one in kept], [quantities[one.coin.slug] for one in kept])
            return portfolio_chart(days, [one.symbol for one in left_out], theme=theme)

        return await chart_response(draw, "Portfolio: value", format_, base_url)


def portfolio_risk(
    at: datetime, held: Sequence[HoldingValue], series: Sequence[Series], unpriced: Sequence[LeftOut], asked: int
) -> PortfolioRisk:
    """The measures of these holdings, which all have a value; `series` are theirs, in their order."""
    values = {one.slug: one.value or Decimal(0) for one in held}
    kept, left_out = with_enough(series)
    with localcontext(EXACT):
        total = sum(values.values(), Decimal(0))
        value = sum((values[one.coin.slug] for one in kept), Decimal(0))
        covered = value / total if total else None
        weights = [float(values[one.coin.slug] / value) for one in kept]
    formula, source = risk.PORTFOLIO
    return PortfolioRisk(
        at=at,
        value=value,
        covered=None if covered is None else float(covered),
        weights=[
            Weight(**one.coin.stored, weight=weight, value=values[one.coin.slug])
            for one, weight in zip(kept, weights, strict=True)
        ],
        left_out=[*left_out, *unpriced],
        correlation=correlation_matrix(kept[:MAX_COINS]),
        formula=formula,
        source=source,
        **dict(_measured(kept, weights, value, _refusal(covered), asked)),
    )


def _measured(
    kept: Sequence[Series], weights: Sequence[float], value: Decimal, refused: str | None, asked: int
) -> RiskMeasures:
    days, aligned = risk.on_common_days([one.returns for one in kept])
    returns = [risk.Return(day, one) for day, one in zip(days, risk.weighted(aligned, weights), strict=True)]
    path = risk.mixed_values([one.days for one in kept], weights)
    shortest = min(kept, key=lambda one: len(one.returns), default=None)
    whose = f"{shortest.coin.symbol} has the shortest history." if shortest else ""
    return measures(path, returns, asked, what=COMMON, value=value, refused=refused, advice=whose)


def _refusal(covered: Decimal | None) -> str | None:
    if covered is None:
        return "You hold nothing that has a price."
    if covered < COVERED:
        share, needed = f"{covered * 100:.1f} %", f"{COVERED * 100:.0f} %"
        return f"Only {share} of the value is in coins with {risk.NEEDED} daily returns; {needed} are needed."
    return None


def _name(one: HoldingValue) -> CoinName:
    return CoinName(one.slug, one.symbol, one.name)
