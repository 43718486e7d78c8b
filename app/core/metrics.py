"""Prometheus metrics of one application; each `create_app` has its own registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters that the core and the features add to; read as text by `GET /metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "arrow_http_requests",
            "HTTP requests by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "arrow_http_request_duration_seconds",
            "Time from the request's head to the answer's end.",
            ["route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            registry=self.registry,
        )
        self.in_progress = Gauge("arrow_http_requests_in_progress", "Requests under way.", registry=self.registry)
        self.alerts = Counter("arrow_alerts", "Alert deliveries by outcome.", ["outcome"], registry=self.registry)
        self.alert_batch = Histogram(
            "arrow_alert_batch_size",
            "Alerts stored by one durable write.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
