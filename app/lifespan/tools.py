"""What programs have at hand that a person runs to see to accounts, beside a running service or without one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from beanie import Document

from app.alerts.keys import KeyService
from app.audit.trail import ChainedAuditTrail
from app.auth.accounts import Accounts
from app.auth.api_tokens import ApiTokens
from app.auth.digests import KeyedDigests
from app.auth.guard import SignInGuard
from app.auth.mailed_tokens import MailedTokens
from app.auth.notices import Notices
from app.auth.one_time import OneTimeSecrets
from app.auth.passwords import Passwords
from app.auth.places import SignInPlaces
from app.auth.second_factor import SecondFactors
from app.auth.sessions import Sessions
from app.auth.take_over import TakeOvers
from app.auth.tokens import AccessTokens
from app.core.bus import Bus
from app.core.clock import Clock, Sequence, SystemClock
from app.core.encryption import Vault
from app.core.errors import UnavailableError
from app.core.mail import MailRequest
from app.core.maintenance import tool_database
from app.core.migrations import check_migrations
from app.core.rate_limit import RateLimiter
from app.core.security import Principal
from app.core.settings import Settings
from app.lifespan.ground import transport_of


@dataclass(frozen=True, slots=True)
class AccountTools:
    """The services of accounts; what they change is heard by the service's processes at once."""

    clock: Clock
    bus: Bus
    accounts: Accounts
    sessions: Sessions
    api_tokens: ApiTokens
    guard: SignInGuard
    places: SignInPlaces
    take_overs: TakeOvers
    mailed_tokens: MailedTokens
    trail: ChainedAuditTrail


class _NoMails:
    """A program sends no mail: whoever runs it tells the owner."""

    available = False

    async def request(self, request: MailRequest) -> None:
        raise UnavailableError(f"Programs send no mails ({request.kind}).")


class _NoCallers:
    """Nobody is signed in to a program, so nobody binds keys here."""

    async def holds(self, caller: Principal) -> bool:  # noqa: ARG002 (the port's)
        return False


@asynccontextmanager
async def account_tools(
    settings: Settings, documents: list[type[Document]], *, must_exist: bool = False
) -> AsyncIterator[AccountTools]:
    """Work on the service's database as one of its processes.

    `must_exist`: raise `StartupError` instead of making an embedded database where there is none.
    """
    clock, bus, passwords = (
        SystemClock(),
        Bus(transport_of(settings)),
        Passwords(passes=settings.password_hash_passes, kib=settings.password_hash_kib),
    )
    try:
        async with tool_database(settings, must_exist=must_exist) as database:
            await check_migrations(database.db, documents)
            await database.register(documents)
            await bus.start()
            trail = ChainedAuditTrail(database.db, clock)
            yield _tools(settings, clock, bus, passwords, trail)
            await trail.drain()
    finally:
        await bus.stop()
        passwords.close()


def _tools(settings: Settings, clock: Clock, bus: Bus, passwords: Passwords, trail: ChainedAuditTrail) -> AccountTools:
    accounts = Accounts(clock=clock, passwords=passwords)
    life = timedelta(minutes=1)  # no session begins here
    tokens = AccessTokens(secret_key=settings.secret_key.get_secret_value(), lifetime=life, clock=clock)
    digests = KeyedDigests.of(settings)
    places = SignInPlaces(clock=clock, digests=digests)
    sessions = Sessions(clock=clock, bus=bus, tokens=tokens, lifetime=life, audit=trail)
    notices = Notices(_NoMails())
    api_tokens = ApiTokens(clock=clock, bus=bus, audit=trail, accounts=accounts, notices=notices)
    guard = SignInGuard(clock=clock, limiter=RateLimiter(), settings=settings, places=places)
    take_overs = TakeOvers(
        clock=clock,
        accounts=accounts,
        sessions=sessions,
        api_tokens=api_tokens,
        keys=KeyService(bus, clock, Sequence(clock), trail, _NoCallers()),
        second_factors=SecondFactors(
            app_name=settings.app_name,
            clock=clock,
            vault=Vault([]),  # they are removed here, and no code is checked
            accounts=accounts,
            guard=guard,
            audit=trail,
            notices=notices,
        ),
        places=places,
        notices=notices,
        audit=trail,
    )
    return AccountTools(
        clock=clock,
        bus=bus,
        accounts=accounts,
        sessions=sessions,
        api_tokens=api_tokens,
        guard=guard,
        places=places,
        take_overs=take_overs,
        mailed_tokens=MailedTokens(OneTimeSecrets(clock=clock, digests=digests)),
        trail=trail,
    )
