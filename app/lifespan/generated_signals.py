"""Indicators, and signals that rules make of them, put together."""

from collections.abc import Callable, Sequence
from datetime import time

from app.core.candles import CandleHistory
from app.core.charges import ChargeEngine
from app.core.clock import Sequence as Numbers
from app.core.deps import Registry
from app.core.events import SignalMade
from app.core.hub import Hub
from app.core.outbox import Channel
from app.core.scheduler import Job, Scheduler, without_run
from app.core.settings import Settings
from app.lifespan.ground import Ground
from app.lifespan.market import Market
from app.market_data.watchlist import Watchlist
from app.quotes.naming import INDICES, resolve
from app.signals.analyses import Analyses
from app.signals.at_close import SignalsAtClose
from app.signals.generate import SignalGenerator
from app.signals.generated_reading import GeneratedSignals
from app.signals.indicator_reading import IndicatorReading
from app.signals.signal_chart_service import SignalCharts

EXPIRY = time(4, 50)
"""When old signals go, in India: long before the market opens."""


def generated_signals(
    registry: Registry,
    settings: Settings,
    ground: Ground,
    hub: Hub,
    jobs: Scheduler,
    candles: CandleHistory,
    market: Market,
) -> None:
    """Make the services and provide what endpoints ask for."""
    cache, clock = ground.cache, ground.clock
    analyses = Analyses(candles=candles, charges=ChargeEngine(), cache=cache)
    generator = SignalGenerator(analyses=analyses, cache=cache, bus=ground.bus, clock=clock, sequence=Numbers(clock))
    registry.provide(SignalGenerator, generator)
    registry.provide(GeneratedSignals, GeneratedSignals(names=_names, clock=clock))
    registry.provide(IndicatorReading, IndicatorReading(candles=candles, cache=cache))
    registry.provide(SignalCharts, SignalCharts(analyses))
    at_close = SignalsAtClose(
        generator=generator,
        analyses=analyses,
        followed=_followed(registry.get(Watchlist)),
        calendar=market.calendar,
        clock=clock,
        timeframes=settings.signals_timeframes,
    )
    jobs.add(at_close.job())
    jobs.add(Job("signals.expire", without_run(generator.expire), at=EXPIRY))
    ground.bus.subscribe(SignalMade, lambda event: _stream(hub, event))


def _stream(hub: Hub, event: SignalMade) -> None:
    hub.publish(Channel.SIGNALS, event.body, seq=event.seq)


def _names(symbol: str) -> Sequence[str]:
    found = resolve(symbol)
    return [found.name, *([found.otherwise] if found.otherwise else [])]


def _followed(watchlist: Watchlist) -> Callable[[], Sequence[str]]:
    """What the feed follows, as the providers of candles call it."""

    def symbols() -> Sequence[str]:
        names = []
        for one in watchlist.followed():
            if one.kind == "INDEX":
                if one.symbol.replace(" ", "") in INDICES:  # the providers have no candles of the others
                    names.append(one.symbol)
            elif one.kind in {"", "EQ"} and one.exchange in {"NSE", "BSE"}:
                share = one.symbol.removesuffix("-EQ")
                names.append(f"{share}.BO" if one.exchange == "BSE" else share)
        return list(dict.fromkeys(names))

    return symbols
