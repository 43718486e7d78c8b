"""Risk of coins from their stored history."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from app.core.errors import FieldError, InvalidInputError, NotFoundError
from app.crypto import risk
from app.crypto.chart_service import NO_HISTORY
from app.crypto.history_reading import HistoryReading
from app.crypto.history_slots import DAY, EPOCH
from app.crypto.naming import CoinName, CoinNames
from app.crypto.risk import Day, Measure, Return
from app.crypto.schemas.listing import NamedCoin
from app.crypto.schemas.risk import (
    MAX_COINS,
    CoinRisk,
    CorrelationMatrix,
    DrawdownMeasure,
    LeftOut,
    RiskData,
    RiskMeasure,
    RiskMeasures,
    TailMeasure,
)
from app.crypto.valuation import EXACT, cents

DAILY: Final = "daily returns"
COMMON: Final = "common daily returns"


class Series(NamedTuple):
    """A coin's daily prices, and the returns that they give."""

    coin: CoinName
    days: list[Day]
    returns: list[Return]


class CoinRisks:
    """Measures coins by what `HistoryReading` finds."""

    def __init__(self, *, reading: HistoryReading, names: CoinNames) -> None:
        self._reading, self._names = reading, names

    async def of(self, symbol: str, slug: str | None, days: int) -> CoinRisk:
        """The measures of one coin over the last `days`. Raises `NotFoundError` for an unknown one."""
        coin = await self._names.find(symbol, slug)
        series = await self.series(coin, days)
        if coin.name is None and not series.days and not await self._reading.exists(coin.slug):
            raise NotFoundError(NO_HISTORY)
        measured = measures(series.days, series.returns, days)
        return CoinRisk(coin=NamedCoin(**coin.stored), **dict(measured))

    async def correlation(self, symbols: Sequence[str], slugs: Sequence[str], days: int) -> CorrelationMatrix:
        """How the coins' returns went together over the last `days`.

        Raises `InvalidInputError` for a coin that is not listed, for fewer than two and for more than `MAX_COINS`.
        """
        coins = [await self._names.chosen(symbol, None, ("query", "symbols")) for symbol in symbols]
        coins += [await self._names.chosen(None, slug, ("query", "slugs")) for slug in slugs]
        coins = list(dict.fromkeys(coins))
        if not 2 <= len(coins) <= MAX_COINS:
            message = f"Name 2 to {MAX_COINS} different coins, separated by commas"
            raise InvalidInputError(
                f"query.symbols: {message}.", [FieldError(("query", "symbols"), message, "coin_count")]
            )
        series = [await self.series(coin, days) for coin in coins]
        return await asyncio.to_thread(correlation_matrix, series)

    async def series(self, coin: CoinName, days: int) -> Series:
        """A coin's daily prices of the last `days`. Raises `PyMongoError`."""
        found = risk.days_of(await self._reading.daily(coin.slug, days))
        return Series(coin, found, risk.daily_returns(found))


# From series to what clients get


def measures(
    days: Sequence[Day],
    returns: Sequence[Return],
    asked: int,
    *,
    what: str = DAILY,
    value: Decimal | None = None,
    refused: str | None = None,
    advice: str = "",
) -> RiskMeasures:
    """Everything that is measured of one series.

    `what` its returns are called, `value` in US dollars that losses are a share of, `refused`: why nothing is measured,
    however many data there are; `advice` follows the reasons of what there are too few for.
    """
    values = [one.value for one in returns]

    def final(measure: Measure) -> Measure:
        if measure.reason is None and refused is None:
            return measure
        return measure._replace(value=None, reason=refused or f"{measure.reason} {advice}".rstrip())

    tails = [risk.tail(values, percent, what) for percent in risk.TAIL_PERCENT]
    return RiskMeasures(
        data=RiskData(
            asked_days=asked,
            points=len(days),
            returns=len(returns),
            gaps=risk.gaps_of(days),
            first=days[0].at if days else None,
            last=days[-1].at if days else None,
        ),
        volatility=_measure(final(risk.volatility(values, what)), risk.VOLATILITY),
        maximum_drawdown=_drawdown(days, refused),
        value_at_risk=[_tail(final(each.value_at_risk), each.percent, risk.VALUE_AT_RISK, value) for each in tails],
        expected_shortfall=[
            _tail(final(each.expected_shortfall), each.percent, risk.EXPECTED_SHORTFALL, value) for each in tails
        ],
    )


def _measure(measure: Measure, method: tuple[str, str]) -> RiskMeasure:
    return RiskMeasure(**measure._asdict(), formula=method[0], source=method[1])


def _tail(measure: Measure, percent: int, method: tuple[str, str], value: Decimal | None) -> TailMeasure:
    amount = None
    if value is not None and measure.value is not None:
        amount = cents(EXACT.multiply(value, Decimal(repr(measure.value))))
    return TailMeasure(
        **measure._asdict(), formula=method[0], source=method[1], confidence=(100 - percent) / 100, amount=amount
    )


def _drawdown(days: Sequence[Day], refused: str | None) -> DrawdownMeasure:
    formula, source = risk.DRAWDOWN
    found = None if refused else risk.maximum_drawdown(days)
    if found is None:
        return DrawdownMeasure(
            value=None,
            reason=refused or risk.too_few(len(days), 2, "daily points"),
            peak_at=None,
            trough_at=None,
            recovered_at=None,
            current=None,
            formula=formula,
            source=source,
        )
    return DrawdownMeasure(
        value=found.depth,
        reason=None,
        peak_at=found.peak_at,
        trough_at=found.trough_at,
        recovered_at=found.recovered_at,
        current=found.current,
        formula=formula,
        source=source,
    )


def with_enough(series: Sequence[Series]) -> tuple[list[Series], list[LeftOut]]:
    """The coins that have the returns that anything takes, and the others with the reason."""
    kept, left_out = [], []
    for one in series:
        reason = risk.too_few(len(one.returns), risk.NEEDED)
        if reason is None:
            kept.append(one)
        else:
            left_out.append(LeftOut(slug=one.coin.slug, symbol=one.coin.symbol, reason=reason))
    return kept, left_out


def correlation_matrix(series: Sequence[Series]) -> CorrelationMatrix:
    """The matrix of the coins that have enough returns, on the days that they share. Takes some 10 ms for twenty."""
    kept, left_out = with_enough(series)
    days, aligned = risk.on_common_days([one.returns for one in kept])
    reason = None
    if len(kept) < 2:
        reason = f"Fewer than two of the coins have {risk.NEEDED} daily returns."
    else:
        reason = risk.too_few(len(days), risk.NEEDED, COMMON)
    formula, source = risk.CORRELATION
    return CorrelationMatrix(
        coins=[NamedCoin(**one.coin.stored) for one in kept],
        matrix=None if reason else risk.correlations(aligned),
        reason=reason,
        observations=len(days),
        first=_end_of(days[0]) if days else None,
        last=_end_of(days[-1]) if days else None,
        left_out=left_out,
        formula=formula,
        source=source,
    )


def _end_of(day: int) -> datetime:
    return EPOCH + day * DAY
