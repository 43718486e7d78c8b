"""Accounts at brokers, their sessions, their lists of instruments and what they push, put together."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from beanie import PydanticObjectId

from app.auth.accounts import Accounts
from app.brokerage.accounts.keeper import LEASE, LEASE_SECONDS, SessionKeeper
from app.brokerage.accounts.news import AccountMails, AccountNews, composers
from app.brokerage.accounts.ports import Owner
from app.brokerage.accounts.refusals import SignInRefusals
from app.brokerage.accounts.reseal import BrokerReseal
from app.brokerage.accounts.service import BrokerAccounts, UnsettledOrders
from app.brokerage.accounts.sessions import BrokerSessions
from app.brokerage.accounts.sign_ins import SignIns
from app.brokerage.accounts.store import AccountStore
from app.brokerage.adapters.upstox.client import UpstoxBroker
from app.brokerage.listing_store import ListingStore
from app.brokerage.ports import Broker, OrderNews
from app.brokerage.push import streams
from app.brokerage.push.angel_stream import AngelOrderStream, Counts
from app.brokerage.push.service import BrokerPushes, ReadOrder
from app.brokerage.words import BrokerName
from app.core.clock import Sequence
from app.core.deps import Registry
from app.core.encryption import Vault
from app.core.events import BrokerAccountChanged
from app.core.hub import Hub
from app.core.lease_holder import LeaseHolder
from app.core.outbox import Channel
from app.core.scheduler import Job, Scheduler, without_run
from app.core.settings import Settings
from app.core.staged_lists import ListSource
from app.lifespan.accounts import People
from app.lifespan.ground import Ground

Health = Callable[[], Awaitable[dict[str, Any]]]


class AccountOwners:
    """Fills the port `Owners` with the accounts of people."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def owner(self, user_id: PydanticObjectId) -> Owner | None:
        """See the port."""
        user = await self._accounts.get(user_id)
        return Owner(user.email, user.name) if user is not None and user.is_active else None


class BrokerGround(NamedTuple):
    """What the rest of brokerage stands on."""

    store: AccountStore
    sign_ins: SignIns
    sessions: BrokerSessions
    listings: ListingStore
    news: AccountNews


def broker_ground(
    settings: Settings,
    ground: Ground,
    people: People,
    hub: Hub,
    registry: Registry,
    brokers: Mapping[BrokerName, Broker],
    sources: Mapping[BrokerName, ListSource],
    stand_ins: Mapping[BrokerName, ListSource],
    stack: AsyncExitStack,
) -> BrokerGround:
    """Sessions and lists of instruments, before orders are put together."""
    clock, bus = ground.clock, ground.bus
    store = AccountStore(settings, registry.get(Vault), clock)
    warn_before = timedelta(minutes=settings.broker_session_warn_minutes)
    news = AccountNews(bus=bus, clock=clock, sequence=Sequence(clock), warn_before=warn_before)
    sign_ins = SignIns(
        store=store, refusals=SignInRefusals(clock), brokers=brokers, clock=clock, news=news, holder=ground.holder
    )
    mails = AccountMails(people.mails, AccountOwners(people.accounts))
    sessions = BrokerSessions(store=store, sign_ins=sign_ins, mails=mails, clock=clock, bus=bus)
    db, holder = ground.database.db, ground.holder
    listings = ListingStore(db=db, sources=sources, stand_ins=stand_ins, clock=clock, holder=holder)
    upstox = brokers.get(BrokerName.UPSTOX)
    if isinstance(upstox, UpstoxBroker):
        upstox.spell_by(partial(listings.symbols, BrokerName.UPSTOX))
    stack.push_async_callback(listings.close)
    stack.push_async_callback(sign_ins.close)
    for kind, composer in composers().items():
        people.mails.add_composer(kind, composer)
    bus.subscribe(BrokerAccountChanged, partial(_stream, hub))
    return BrokerGround(store, sign_ins, sessions, listings, news)


def broker_accounts(
    settings: Settings,
    ground: Ground,
    people: People,
    registry: Registry,
    jobs: Scheduler,
    made: BrokerGround,
    *,
    news: OrderNews,
    orders: UnsettledOrders,
    readers: Mapping[BrokerName, ReadOrder],
) -> Health:
    """What endpoints ask for, jobs and tasks, once there are orders; gives what `/health` asks.

    `readers` read one row of a broker's order book: those of Zerodha and Angel One.
    """
    clock = ground.clock
    registry.provide(
        BrokerAccounts,
        BrokerAccounts(
            settings=settings,
            store=made.store,
            sign_ins=made.sign_ins,
            sessions=made.sessions,
            news=made.news,
            clock=clock,
            audit=people.audit,
            limiter=ground.limiter,
            orders=orders,
        ),
    )
    registry.provide(
        BrokerPushes,
        BrokerPushes(
            secrets=settings.webhook_secrets,
            per_minute=settings.broker_webhook_rate_limit_per_minute,
            store=made.store,
            news=news,
            readers=readers,
            clock=clock,
            limiter=ground.limiter,
            audit=people.audit,
        ),
    )
    keeper = _keeper(ground, people, made)
    streaming = _streams(settings, ground, made, news, readers)
    _jobs(jobs, registry, made)
    if settings.background_tasks_enabled:
        lease = LeaseHolder(ground.database.db, clock, LEASE, ground.holder, LEASE_SECONDS)
        ground.supervisor.add("broker sessions", partial(lease.run, keeper.run))
        if settings.angel_one_orders_streamed:
            other = LeaseHolder(ground.database.db, clock, streams.LEASE, ground.holder, streams.LEASE_SECONDS)
            ground.supervisor.add("broker order streams", partial(other.run, streaming.run))

    async def health() -> dict[str, Any]:
        listed = await made.listings.health()
        return {
            "status": listed.pop("status"),
            "sessions": keeper.health(),
            "order_streams": streaming.health(),
            "listings": listed,
        }

    return health


def _keeper(ground: Ground, people: People, made: BrokerGround) -> SessionKeeper:
    owners = AccountOwners(people.accounts)
    return SessionKeeper(
        store=made.store,
        sign_ins=made.sign_ins,
        news=made.news,
        mails=AccountMails(people.mails, owners),
        owners=owners,
        clock=ground.clock,
        bus=ground.bus,
    )


def _streams(
    settings: Settings, ground: Ground, made: BrokerGround, news: OrderNews, readers: Mapping[BrokerName, ReadOrder]
) -> streams.AngelOrderStreams:
    def make(account_id: str, counts: Counts) -> AngelOrderStream:
        return AngelOrderStream(
            account_id,
            url=settings.angel_one_order_ws_url,
            sessions=made.sessions,
            news=news,
            read=readers[BrokerName.ANGEL_ONE],
            clock=ground.clock,
            counts=counts,
        )

    return streams.AngelOrderStreams(store=made.store, clock=ground.clock, bus=ground.bus, make=make)


def _jobs(jobs: Scheduler, registry: Registry, made: BrokerGround) -> None:
    async def listings() -> dict[str, Any]:
        used = await made.store.brokers_used()
        return await made.listings.refresh_due([BrokerName.PAPER, *used])

    reseal = BrokerReseal(registry.get(Vault))
    quarter, hour = timedelta(minutes=15), timedelta(hours=1)
    jobs.add(Job("brokerage.listings", without_run(listings), every=quarter, timeout=hour))
    jobs.add(Job("brokerage.reseal", without_run(reseal.run), every=hour, timeout=hour))


def _stream(hub: Hub, event: BrokerAccountChanged) -> None:
    hub.publish(Channel.ORDERS, event.body, seq=event.seq, owner=event.user_id)
