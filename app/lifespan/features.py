"""Alerts, charts and streams, put together."""

from app.alerts.chart_service import AlertCharts
from app.alerts.deliveries import Deliveries
from app.alerts.ingest import AlertIngest
from app.alerts.keys import KeyDirectory
from app.alerts.rejected import RejectedDeliveries
from app.alerts.service import AlertService
from app.core.clock import Sequence
from app.core.deps import Registry
from app.core.events import AccountChanged, AlertStored, PeersChanged, SessionRevoked
from app.core.figures import FigureImages
from app.core.hub import Hub
from app.core.metrics import Metrics
from app.core.outbox import Channel
from app.core.settings import Settings
from app.job_runs.service import JobRuns
from app.lifespan.accounts import People
from app.lifespan.ground import Ground
from app.stream.conversation import Limits
from app.stream.ports import Replays, Snapshots
from app.stream.service import StreamService


def features(
    registry: Registry,
    settings: Settings,
    ground: Ground,
    people: People,
    hub: Hub,
    *,
    replays: Replays,
    snapshots: Snapshots,
) -> None:
    """Make the services of the features and provide what endpoints ask for.

    `replays`, `snapshots`: of other features' channels, for those who subscribe to them.
    """
    clock, bus = ground.clock, ground.bus
    metrics = registry.get(Metrics)
    sequence = Sequence(clock)
    directory = registry.provide(KeyDirectory, KeyDirectory(bus, clock, people.accounts))
    rejected = registry.provide(RejectedDeliveries, RejectedDeliveries(settings, clock, sequence))
    ingest = registry.provide(AlertIngest, AlertIngest(settings, bus, sequence, metrics))
    registry.provide(Deliveries, Deliveries(settings, directory, ingest, rejected, ground.limiter, metrics))
    alerts = registry.provide(AlertService, AlertService(settings, people.keys, ingest, bus, clock))
    registry.provide(AlertCharts, AlertCharts(alerts, ground.cache, FigureImages(), bus))

    limits = Limits(
        max_connections=settings.ws_max_connections, max_connections_per_address=settings.ws_max_connections_per_address
    )
    streams = StreamService(
        hub=hub,
        authenticator=people.authenticator,
        replays={Channel.ALERTS: alerts, Channel.JOBS: registry.get(JobRuns), **replays},
        snapshots=snapshots,
        clock=clock,
        limits=limits,
        connected=lambda: bus.connected,
    )
    registry.provide(StreamService, streams)
    bus.subscribe(AlertStored, lambda event: _stream_alert(hub, event))
    bus.subscribe(SessionRevoked, streams.on_session_revoked)
    bus.subscribe(AccountChanged, streams.on_account_changed)
    bus.subscribe(PeersChanged, streams.on_peers_changed)


def _stream_alert(hub: Hub, event: AlertStored) -> None:
    hub.publish(Channel.ALERTS, event.body, seq=event.seq, owner=event.user_id)
