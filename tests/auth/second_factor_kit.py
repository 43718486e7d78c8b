"""What tests of the second factor share: the feature put together, people, and their authenticator apps."""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyotp
from beanie import PydanticObjectId
from pydantic import SecretStr

from app.auth.accounts import Accounts
from app.auth.challenges import Challenges
from app.auth.digests import KeyedDigests
from app.auth.guard import SignInGuard
from app.auth.models import UserDocument
from app.auth.notices import Notices
from app.auth.one_time import OneTimeSecrets
from app.auth.passwords import Passwords
from app.auth.places import SignInPlaces
from app.auth.second_factor import SecondFactors
from app.core.audit import Act, Outcome
from app.core.clock import Clock, Sequence
from app.core.encryption import Vault
from app.core.encryption_keys import new_key
from app.core.mail import MailRequest
from app.core.rate_limit import RateLimiter
from app.core.security import Principal, Role
from app.core.settings import Settings
from tests.auth.conftest import HERE, PASSWORD
from tests.support.clocks import StandingClock

GENEROUS = 1_000_000
_HASHES: dict[str, str] = {}


@dataclass
class Recorder:
    """Fills the ports of the trail and of mails, and keeps what it got."""

    available: bool = True
    acts: list[Act] = field(default_factory=list)
    requests: list[MailRequest] = field(default_factory=list)

    async def record(self, act: Act) -> None:
        self.acts.append(act)

    async def note(self, act: Act) -> None:
        self.acts.append(act)

    async def request(self, request: MailRequest) -> None:
        self.requests.append(request)

    @property
    def told(self) -> list[tuple[str, Outcome]]:
        return [(act.action, act.outcome) for act in self.acts]


class App:
    """An authenticator app: it knows what the URI says and what time it is (by the system, without a clock)."""

    def __init__(self, uri: str, clock: StandingClock | None = None) -> None:
        totp = pyotp.parse_uri(uri)
        assert isinstance(totp, pyotp.TOTP)
        self.totp, self.clock = totp, clock

    def code(self, *, steps: int = 0) -> str:
        """What it shows now, or so many steps of 30 s away."""
        now = self.clock.moment if self.clock else datetime.now(UTC)
        return self.totp.at(now + timedelta(seconds=30 * steps))

    def wrong(self) -> str:
        """Six digits that are no code at any time near."""
        near = {self.code(steps=steps) for steps in range(-3, 4)}
        return next(code for code in ("000000", "111111", "222222", "333333") if code not in near)


@dataclass
class Person:
    """An account with a session."""

    caller: Principal
    email: str
    factors: SecondFactors
    clock: StandingClock
    app: App | None = None
    recovery: list[str] = field(default_factory=list)

    @property
    def id(self) -> PydanticObjectId:
        return self.caller.user_id

    async def begin(self) -> App:
        enrolment = await self.factors.begin(self.caller, PASSWORD, HERE)
        return App(enrolment.otpauth_uri, self.clock)

    async def enrol(self) -> App:
        """On, and a step later, so that the present code is an unused one."""
        self.app = await self.begin()
        shown = await self.factors.confirm(self.caller, self.app.code(), HERE)
        self.recovery = shown.recovery_codes
        self.clock.move(seconds=30)
        return self.app


class Kit:
    """The feature put together as the lifespan does it."""

    def __init__(self, folder: Path, passwords: Passwords, per_minute: int = GENEROUS) -> None:
        self.clock, self.recorder, self.keys = StandingClock(), Recorder(), [new_key()]
        self.passwords, self.sequence = passwords, Sequence(self.clock)
        self.settings = Settings(
            data_dir=folder,
            secret_key=SecretStr(secrets.token_hex(32)),
            auth_rate_limit_per_minute=per_minute,
            auth_address_rate_limit_per_minute=GENEROUS,
        )
        clock: Clock = self.clock
        self.digests = KeyedDigests.of(self.settings)
        self.accounts = Accounts(clock=clock, passwords=passwords)
        self.restart()

    def restart(self) -> None:
        """As after a restart: what was counted in memory alone is forgotten."""
        places = SignInPlaces(clock=self.clock, digests=self.digests)
        self.guard = SignInGuard(clock=self.clock, limiter=RateLimiter(), settings=self.settings, places=places)
        self.factors = self.with_keys(*self.keys)
        self.challenges = self.challenges_of(self.factors)

    def challenges_of(self, factors: SecondFactors) -> Challenges:
        """All of them work on the same database."""
        one_time = OneTimeSecrets(clock=self.clock, digests=self.digests)
        return Challenges(clock=self.clock, one_time=one_time, factors=factors)

    def with_keys(self, *keys: str) -> SecondFactors:
        """The same with other ENCRYPTION_KEYS, as after a restart."""
        return SecondFactors(
            app_name="Arrow: Test",
            clock=self.clock,
            vault=Vault(keys),
            accounts=self.accounts,
            guard=self.guard,
            audit=self.recorder,
            notices=Notices(self.recorder),
        )

    async def person(self) -> Person:
        """A new account, whose password was hashed once for everybody: that is what takes time."""
        if PASSWORD not in _HASHES:
            _HASHES[PASSWORD] = await self.passwords.hash(PASSWORD)
        now = self.clock.now()
        user = UserDocument(
            seq=self.sequence.next(),
            email=f"{secrets.token_hex(6)}+x@example.com",
            hashed_password=_HASHES[PASSWORD],
            created_at=now,
            updated_at=now,
        )
        await user.insert()
        expires_at = now + timedelta(minutes=30)
        caller = Principal(user.id, PydanticObjectId(), Role.USER, expires_at)
        return Person(caller, user.email, self.factors, self.clock)
