"""What the live feed did, for Prometheus: read when `/metrics` is asked, so that ticks pay nothing for it."""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.market_data.counters import Counters

_OUTCOMES: Final = (
    "received",
    "stored",
    "duplicate",
    "after_hours",
    "late",
    "moved",
    "lost",
    "spilled",
    "drained",
)


class FeedCollector(Collector):
    """Metrics of the feed of this process; all zero where another one leads."""

    def __init__(self, counters: Counters, *, live: Callable[[], bool], waiting: Callable[[], int]) -> None:
        """`live`: whether ticks come here; `waiting`: ticks that are not stored yet."""
        self._counters, self._live, self._waiting = counters, live, waiting

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        ticks = CounterMetricFamily("arrow_ticks", "Ticks by what became of them.", labels=["outcome"])
        for outcome in _OUTCOMES:
            ticks.add_metric([outcome], getattr(self._counters, outcome))
        yield ticks
        rejected = CounterMetricFamily("arrow_ticks_rejected", "Ticks refused by the checks.", labels=["reason"])
        for reason, count in sorted(self._counters.rejected.items()):
            rejected.add_metric([reason], count)
        yield rejected
        yield GaugeMetricFamily("arrow_ticks_waiting", "Ticks that are not stored yet.", self._waiting())
        yield GaugeMetricFamily("arrow_feed_live", "1 while this process gets live ticks.", int(self._live()))
