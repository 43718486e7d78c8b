"""Accounts, their mails and the audit trail, put together."""

from datetime import timedelta
from typing import NamedTuple

from app.alerts.keys import KeyService
from app.audit.retention import AuditRetention
from app.audit.service import AuditReader
from app.audit.trail import ChainedAuditTrail
from app.auth.accounts import Accounts
from app.auth.admin import AccountAdministration
from app.auth.api_tokens import ApiTokens
from app.auth.authenticator import SessionAuthenticator
from app.auth.challenges import Challenges
from app.auth.digests import KeyedDigests
from app.auth.guard import SignInGuard
from app.auth.letters import Letters
from app.auth.mail_limits import MailLimits
from app.auth.mailed_tokens import MailedTokens
from app.auth.notices import Notices
from app.auth.one_time import OneTimeSecrets
from app.auth.otp import KIND as OTP
from app.auth.otp import OtpCodes
from app.auth.passwords import Passwords
from app.auth.places import SignInPlaces
from app.auth.recovery import Recovery
from app.auth.second_factor import SecondFactors
from app.auth.service import AuthService
from app.auth.sessions import Sessions
from app.auth.take_over import TakeOvers
from app.auth.tokens import AccessTokens
from app.auth.uses import CredentialUses
from app.core.audit import AuditTrail
from app.core.clock import Sequence
from app.core.deps import Registry
from app.core.encryption import Vault
from app.core.lease_holder import Lease
from app.core.rate_limit import RateLimiter
from app.core.security import Authenticator
from app.core.settings import Settings
from app.lifespan.ground import Ground
from app.mail.outbox import MailOutbox


class People(NamedTuple):
    """What the rest of the composition needs of it."""

    accounts: Accounts
    audit: ChainedAuditTrail
    authenticator: Authenticator
    keys: KeyService
    mails: MailOutbox
    retention: AuditRetention
    uses: CredentialUses


def accounts(registry: Registry, settings: Settings, ground: Ground) -> People:
    """Make the services of accounts, provide what endpoints ask for, and give what others build on."""
    clock, bus, limiter = ground.clock, ground.bus, registry.provide(RateLimiter, ground.limiter)
    audit = ChainedAuditTrail(ground.database.db, clock)
    registry.provide(AuditTrail, audit)  # type: ignore[type-abstract]  # provided under its port
    registry.provide(AuditReader, AuditReader(ground.database.db, clock))
    mails = MailOutbox(settings=settings, clock=clock, bus=bus, lease=lambda length: _mail_lease(ground, length))
    notices = Notices(mails)
    vault = registry.provide(Vault, Vault([key.get_secret_value() for key in settings.encryption_keys]))

    tokens = AccessTokens(
        secret_key=settings.secret_key.get_secret_value(),
        previous_keys=[key.get_secret_value() for key in settings.secret_key_previous],
        algorithm=settings.algorithm,
        lifetime=timedelta(minutes=settings.access_token_expire_minutes),
        clock=clock,
    )
    uses = CredentialUses(clock)
    people = Accounts(
        clock=clock,
        passwords=registry.provide(
            Passwords, Passwords(passes=settings.password_hash_passes, kib=settings.password_hash_kib)
        ),
    )
    api_tokens = registry.provide(
        ApiTokens, ApiTokens(clock=clock, bus=bus, audit=audit, accounts=people, notices=notices)
    )
    authenticator = SessionAuthenticator(tokens=tokens, api_tokens=api_tokens, uses=uses, clock=clock, bus=bus)
    registry.provide(Authenticator, authenticator)  # type: ignore[type-abstract]  # provided under its port
    digests = KeyedDigests.of(settings)
    places = SignInPlaces(clock=clock, digests=digests)
    sessions = registry.provide(
        Sessions,
        Sessions(
            clock=clock,
            bus=bus,
            tokens=tokens,
            lifetime=timedelta(days=settings.refresh_token_expire_days),
            audit=audit,
            mails=mails,
            limiter=limiter,
            seen=places.renew,
        ),
    )

    one_time = OneTimeSecrets(clock=clock, digests=digests)
    guard = SignInGuard(clock=clock, limiter=limiter, settings=settings, places=places)
    otp = OtpCodes(
        settings=settings, clock=clock, accounts=people, secrets=one_time, mails=mails, digests=digests, audit=audit
    )
    factors = registry.provide(
        SecondFactors,
        SecondFactors(
            app_name=settings.app_name,
            clock=clock,
            vault=vault,
            accounts=people,
            guard=guard,
            audit=audit,
            notices=notices,
        ),
    )
    keys = registry.provide(KeyService, KeyService(bus, clock, Sequence(clock), audit, authenticator))
    take_overs = TakeOvers(
        clock=clock,
        accounts=people,
        sessions=sessions,
        api_tokens=api_tokens,
        keys=keys,
        second_factors=factors,
        places=places,
        notices=notices,
        audit=audit,
    )
    mail_limits = MailLimits(limiter, settings)
    mailed = MailedTokens(one_time)
    registry.provide(
        Recovery,
        Recovery(
            clock=clock,
            accounts=people,
            sessions=sessions,
            api_tokens=api_tokens,
            tokens=mailed,
            mails=mails,
            notices=notices,
            audit=audit,
            guard=guard,
            places=places,
            take_overs=take_overs,
            mail_limits=mail_limits,
        ),
    )
    registry.provide(
        AuthService,
        AuthService(
            clock=clock,
            accounts=people,
            sessions=sessions,
            guard=guard,
            places=places,
            otp=otp,
            challenges=Challenges(clock=clock, one_time=one_time, factors=factors),
            second_factors=factors,
            take_overs=take_overs,
            mail_limits=mail_limits,
            notices=notices,
            audit=audit,
        ),
    )
    registry.provide(
        AccountAdministration,
        AccountAdministration(
            clock=clock, bus=bus, sessions=sessions, api_tokens=api_tokens, second_factors=factors, audit=audit
        ),
    )
    mails.add_composer(OTP, otp.compose)
    for kind, composer in Letters(clock=clock, accounts=people, tokens=mailed).composers().items():
        mails.add_composer(kind, composer)
    retention = AuditRetention(audit, clock, settings.audit_retention_days)
    return People(people, audit, authenticator, keys, mails, retention, uses)


def _mail_lease(ground: Ground, length: float) -> Lease:
    return Lease(ground.database.db, ground.clock, "mail", ground.holder, length)
