"""Live market data, put together: what every process reads and streams, and the feed that one of them runs."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from app.core.audit import AuditTrail
from app.core.deps import Registry
from app.core.errors import StartupError
from app.core.events import FeedChanged
from app.core.hub import Hub
from app.core.market_calendar import MarketCalendar
from app.core.market_days import CalendarDataError, load_calendar
from app.core.metrics import Metrics
from app.core.scheduler import Job, Scheduler, without_run
from app.core.settings import Settings
from app.integrations.angel_one.credentials import Credentials
from app.integrations.angel_one.feed import FeedClient
from app.integrations.angel_one.session import AngelOneSession
from app.lifespan.ground import Ground
from app.market_data.adapters.angel_one import AngelOneCandles, AngelOneTicks
from app.market_data.adapters.angel_one_instruments import MODES, plan_fault
from app.market_data.adapters.instrument_process import InstrumentProcess
from app.market_data.backfill import Backfill
from app.market_data.candle_reading import CandleReading
from app.market_data.candle_store import CandleStore
from app.market_data.candle_task import CandleTask
from app.market_data.candles import CandleBuilder
from app.market_data.chart_service import MarketCharts
from app.market_data.counters import Counters
from app.market_data.feed_health import feed_line
from app.market_data.feed_task import FeedTask
from app.market_data.instrument_search import InstrumentSearch
from app.market_data.instrument_task import InstrumentTask
from app.market_data.instruments import InstrumentMaster
from app.market_data.latest import LatestPrices
from app.market_data.leading import Part
from app.market_data.market_status import MarketHours
from app.market_data.metrics import FeedCollector
from app.market_data.models import TickDocument
from app.market_data.outlets import Outlets
from app.market_data.pipeline import Pipeline
from app.market_data.ports import Tick
from app.market_data.quality import DataQuality
from app.market_data.reading import MarketReading
from app.market_data.retention import TickRetention
from app.market_data.sink import TickStore
from app.market_data.snapshot import TickSnapshot
from app.market_data.spill import Spill
from app.market_data.stream import TickStream
from app.market_data.watchlist import Watchlist

HOUR = timedelta(hours=1)
DRAIN_SECONDS = 3.0
"""What the end of a process leaves the database for its last ticks; the rest goes to the disk."""

FeedHealth = Callable[[], Awaitable[dict[str, Any]]]


class Market:
    """Market data in this process."""

    def __init__(self, registry: Registry, settings: Settings, ground: Ground, hub: Hub, audit: AuditTrail) -> None:
        """What every process has; endpoints get it from `registry`. Raises `StartupError` for an unusable calendar."""
        self._settings, self._ground, self._metrics = settings, ground, registry.get(Metrics)
        clock = ground.clock
        try:
            days = load_calendar(settings.market_calendar_file)
        except CalendarDataError as error:
            raise StartupError(f"MARKET_CALENDAR_FILE: {error}") from None
        self.calendar = MarketCalendar(clock, days)
        # What arrives on a day whose hours are not known is not lost.
        self._feed_calendar = MarketCalendar(clock, days, generous=True)
        self.session = self._session() if settings.feed_enabled else None
        """Angel One's, where it is configured; closed with the feed."""
        self._stream = TickStream(hub=hub, bus=ground.bus, clock=clock)
        self._outlets = Outlets(self._stream)
        db, bus = ground.database.db, ground.bus
        program = InstrumentProcess(settings.angel_one_instruments_url) if settings.feed_enabled else None
        self.master = registry.provide(
            InstrumentMaster, InstrumentMaster(db=db, clock=clock, bus=bus, source=None, program=program)
        )
        self._watchlist = registry.provide(
            Watchlist,
            Watchlist(
                db=db,
                clock=clock,
                bus=bus,
                audit=audit,
                master=self.master,
                plan_fault=plan_fault,
                configured=settings.angel_one_symbols,
            ),
        )
        registry.provide(InstrumentSearch, InstrumentSearch(self.master, self._watchlist))
        reading = MarketReading(
            clock=clock,
            calendar=self.calendar,
            stream=self._stream,
            followed=self._watchlist.followed,
            doubt=self._watchlist.doubt,
        )
        candles = CandleReading(clock=clock, calendar=self.calendar, reading=reading)
        self.snapshot = TickSnapshot(reading)
        registry.provide(MarketReading, reading)
        registry.provide(CandleReading, candles)
        registry.provide(MarketCharts, MarketCharts(candles=candles, calendar=self.calendar))
        registry.provide(MarketHours, MarketHours(clock=clock, calendar=self.calendar))

    def newest(self, symbol: str) -> tuple[int, dict[str, Any]] | None:
        """The newest tick of `symbol` that passed by here, as clients get it, and its time in ms."""
        return self._stream.newest(symbol)

    def on_ticks(self, listener: Callable[[Sequence[Tick]], None]) -> None:
        """Hand `listener` the ticks that passed the checks, if the feed runs in this process; it must not raise."""
        self._outlets.add(listener)

    async def load(self) -> None:
        """Learn from the database what is followed; before `start`."""
        await self.master.load()
        await self._watchlist.load()

    def start(self, jobs: Scheduler, stack: AsyncExitStack) -> FeedHealth:
        """Hand the background work to the supervisor and the jobs; gives what `/health` asks."""
        ground, settings = self._ground, self._settings
        stack.callback(self._stream.close)
        retention = TickRetention(
            db=ground.database.db,
            clock=ground.clock,
            calendar=self.calendar,
            days=settings.tick_retention_days,
            after_hours=settings.store_after_hours,
        )
        jobs.add(Job("ticks.expire", without_run(retention.expire), every=HOUR, timeout=HOUR))
        ground.supervisor.add("instruments", self.master.run)
        ground.supervisor.add("watchlist", self._watchlist.run)
        if not settings.feed_enabled:
            return self._no_feed
        return self._start_feed(stack)

    async def _no_feed(self) -> dict[str, Any]:
        missing = self._settings.angel_one_missing
        reason = f"{' and '.join(missing)} not set" if missing else "BACKGROUND_TASKS_ENABLED is false"
        return self._line({"status": "off", "reason": reason})

    def _line(self, feed: dict[str, Any]) -> dict[str, Any]:
        return feed_line(feed, self.master.health(), self._watchlist.health(), caution=self.calendar.caution())

    def _start_feed(self, stack: AsyncExitStack) -> FeedHealth:
        settings, ground, calendar = self._settings, self._ground, self.calendar
        clock, db, supervisor = ground.clock, ground.database.db, ground.supervisor
        session = self.session
        assert session is not None  # noqa: S101 (made with the feed)
        stack.push_async_callback(session.close)

        counters, latest = Counters(), LatestPrices(db, clock)
        store = TickStore(
            db[TickDocument.Settings.name],
            clock=clock,
            counters=counters,
            spill=Spill(settings.data_dir / "spill", clock=clock, max_bytes=settings.tick_spill_max_mb * 1024 * 1024),
            on_stored=lambda rows, new: latest.note_stored(rows, counted=new),
            on_drained=latest.save,
        )
        builder, candle_store = CandleBuilder(calendar), CandleStore(db)
        pipeline = Pipeline(
            calendar=self._feed_calendar,
            clock=clock,
            latest=latest,
            candles=builder,
            outlet=self._outlets,
            sink=store,
            store_after_hours=settings.store_after_hours,
            counters=counters,
        )
        candles = CandleTask(
            db=db,
            clock=clock,
            calendar=calendar,
            builder=builder,
            store=candle_store,
            outlet=self._stream,
            wanted=self._watchlist.followed,
        )
        backfill = Backfill(
            source=AngelOneCandles(session, clock),
            builder=builder,
            store=candle_store,
            clock=clock,
            calendar=calendar,
            wanted=self._watchlist.followed,
        )
        wanted = self._watchlist.followed
        quality = DataQuality(db=db, clock=clock, calendar=calendar, counters=counters, wanted=wanted)
        feed = FeedTask(
            db=db,
            clock=clock,
            calendar=self._feed_calendar,
            holder=ground.holder,
            source=AngelOneTicks(
                FeedClient(url=settings.angel_one_ws_url, session=session, clock=clock),
                session,
                mode_of=lambda instrument: MODES[self._watchlist.mode_of(instrument)],
            ),
            wanted=self._watchlist.followed,
            takers=[pipeline.accept, quality.saw],
            parts=[Part(latest.load, latest.run, latest.save), candles, backfill, quality],
            counters=lambda: {**counters.as_dict(), "conflated": self._stream.health()["conflated"]},
            gaps=backfill,
            on_state=lambda state: ground.bus.announce(FeedChanged(state)),
            run_always=settings.feed_always,
        )
        registry = self._metrics.registry
        registry.register(FeedCollector(counters, live=lambda: feed.state == "live", waiting=lambda: store.waiting))
        supervisor.add("tick store", store.run)
        supervisor.add("feed", feed.run)
        instruments = InstrumentTask(master=self.master, db=db, clock=clock, holder=ground.holder)
        supervisor.add("instrument list", instruments.run)
        self._watchlist.on_change(feed.wake)
        self._watchlist.on_change(backfill.look)

        async def flush() -> None:  # after the supervisor has stopped: nothing arrives any more
            await store.drain(DRAIN_SECONDS)
            await latest.save()

        stack.push_async_callback(flush)

        async def health() -> dict[str, Any]:
            line, storing = await feed.health(), store.health()
            if storing["status"] != "ok":
                line["status"] = "degraded"
            if feed.leading:
                line |= {"storing": storing, "backfill": backfill.health()}
            return self._line(line)

        return health

    def _session(self) -> AngelOneSession:
        settings = self._settings
        api_key, client_id = settings.angel_one_api_key, settings.angel_one_client_id
        password, totp_key = settings.angel_one_password, settings.angel_one_totp_key
        if not (api_key and client_id and password and totp_key):
            raise StartupError("ANGEL_ONE_API_KEY: the feed needs all four credentials")
        return AngelOneSession(
            Credentials(api_key=api_key, client_id=client_id, password=password, totp_key=totp_key),
            clock=self._ground.clock,
            base_url=settings.angel_one_base_url,
            refusals_file=settings.data_dir / "angel_one" / "refused.json",
        )
