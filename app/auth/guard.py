"""Slows the guessing of passwords and codes, without letting a stranger lock an owner out.

Three brakes, in this order:

1. At most so many attempts a minute from a network, right or wrong, whatever they are for and whomever they name.
2. At most so many a minute for an account, per purpose and per *side*. An account's side is the network itself where it
   has signed in from there lately (see `SignInPlaces`), else one side for all strangers together. So strangers,
   however many addresses they have, share a few attempts, and never take those of the owner at a familiar place.
3. After failures in a row, waiting: 30 s, then doubling up to 15 min, by side of an account; and by network over all
   accounts, which strikes who tries one password on many. While one waits nothing is tried, not even the right
   password: whoever guesses would only go on until it is right. A wait is stored, so it outlives restarts and holds in
   every process. A success ends those of its side. A network's failures are forgotten one by one, since others than
   its guesser may sit behind the same address; for the same reason its waits do not hold for accounts that know it.

What strangers can do who never stop: make the owner wait at a *new* network, 15 min at a time, and be quicker than
them afterwards. Purposes are counted apart, so a code by e-mail may still do; and a password reset does in any case,
because its token cannot be guessed and needs no guard: who redeems it proves the mailbox from where they are, and
`SignInPlaces.note` then makes that network familiar. Who guesses from the owner's own network shares the owner's side.

An account's answers here tell nothing of whether it exists, except to somebody who sits in a network that the account
knows: there its waits are its own.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from beanie import PydanticObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from app.auth.digests import KeyedDigests
from app.auth.models import SignInGuardDocument
from app.auth.places import SignInPlaces
from app.auth.sessions import Client
from app.core.client_address import network_of
from app.core.clock import Clock
from app.core.errors import RateLimitedError
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings

log = structlog.get_logger(__name__)

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(minutes=15)
FORGOTTEN_AFTER = timedelta(hours=24)
"""Without a further failure, all before are forgotten."""
NETWORK_FORGETS_ONE_EACH = LONGEST_WAIT
"""As slowly as one who waits the longest time may fail again: nobody gains by pausing."""
_DOUBLINGS = 10  # of the first wait; more than the longest has
_STRANGERS = "strangers"
PURPOSES = ("password", "otp", "second-factor")


@dataclass(frozen=True, slots=True)
class Tally:
    """Failures in a row of one side or network, as an attempt found them; `free` of them bring no wait."""

    id: str
    free: int
    row: SignInGuardDocument | None = None
    """As it was stored; None if nothing was."""
    failures: int = 0
    """What age has left of those in the row."""
    charged_at: datetime | None = None
    """When this attempt was counted as a failure beforehand; None if it was not."""

    @property
    def waits_until(self) -> datetime | None:
        """When the next attempt may be made; None if no wait was earned."""
        if self.row is None or self.row.failures < self.free:
            return None
        return self.row.last_failure_at + wait_after(self.row.failures - self.free)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that was let through, to be handed back with its outcome."""

    account: Tally
    network: Tally


def wait_after(excess: int) -> timedelta:
    """The wait after so many failures beyond the first that brings one."""
    return min(FIRST_WAIT * (1 << min(excess, _DOUBLINGS)), LONGEST_WAIT)


class SignInGuard:
    """Lets attempts through or refuses them, and counts how they end.

    Waits begin after as many failures as the settings allow an account's side in one minute, or a network in two: who
    relaxes the limits relaxes the waits with them.

    Many at once: while a side may still fail freely, as many slip through together as the limits a minute allow
    (shared by processes where there is a Redis, else each counts its own). From the first wait on, an attempt has to
    be claimed by a conditional write that counts it as failed, so after each wait exactly one gets through, in all
    processes together; a success takes it back, and one whose end nobody saw stays counted.
    """

    def __init__(self, *, clock: Clock, limiter: RateLimiter, settings: Settings, places: SignInPlaces) -> None:
        self._clock = clock
        self._limiter = limiter
        self._places = places
        self._digests = KeyedDigests.of(settings)
        self._per_minute = settings.auth_rate_limit_per_minute
        self._network_per_minute = settings.auth_address_rate_limit_per_minute

    async def admit(self, purpose: str, account: PydanticObjectId | str, client: Client) -> Attempt:
        """Let an attempt begin; `RateLimitedError` says how long to wait before the next one.

        `purpose` is one of `PURPOSES`: what is guessed. `account` is an account's id, or as text the normalised
        identifier that belongs to none: three reads by key either way. The type tells them apart, not the form: who
        types the id of somebody's account gets no nearer to that account. Of the identifier only a digest is kept,
        since people type passwords there.
        """
        name = _name(account)
        network = network_of(client.address)
        # The network first: who is over that limit must not use up the attempts of somebody else's account.
        await self._limiter.hit("auth-address", network, self._network_per_minute)
        familiar = await self._places.familiar(name, network)
        side = network if familiar else _STRANGERS
        key = self._key(purpose, name, side)
        of_network = await self._tally(_network_key(network), 2 * self._network_per_minute, fades=True)
        of_account = await self._tally(key, self._per_minute, fades=False)
        self._refuse_while_waiting(of_account if familiar else of_network, of_account)
        await self._limiter.hit("auth-account", key, self._per_minute)
        if not familiar:
            of_network = await self._claim(of_network)
        return Attempt(await self._claim(of_account), of_network)

    async def failed(self, attempt: Attempt) -> None:
        """Count a failure against the account's side and the network."""
        for tally in (attempt.network, attempt.account):
            if tally.charged_at is None:
                await self._count(tally)

    async def succeeded(self, attempt: Attempt) -> None:
        """Forget the failures of the account's side. The network's stay: one owned account must not excuse the rest."""
        if attempt.account.row is not None:
            await _collection().delete_one({"_id": attempt.account.id})
        network = attempt.network
        if network.row is not None and network.charged_at is not None:
            await _collection().update_one(
                {"_id": network.id, "failures": network.failures + 1, "last_failure_at": network.charged_at},
                {"$set": {"failures": network.row.failures, "last_failure_at": network.row.last_failure_at}},
            )

    async def forgive(self, user_id: PydanticObjectId, *addresses: str) -> None:
        """Forget the failures counted against an account, from wherever they came, and those of these addresses.

        For whoever has proven by other means whose the account is. Deletes by key: an account has the sides of the
        networks that it knows, and that of all strangers.
        """
        sides = [_STRANGERS, *await self._places.networks(user_id)]
        counted = [self._key(purpose, _name(user_id), side) for purpose in PURPOSES for side in sides]
        counted += [_network_key(network_of(address)) for address in addresses]
        for key in counted:
            await _collection().delete_one({"_id": key})

    def _key(self, purpose: str, name: str, side: str) -> str:
        return f"{purpose}:{self._digests.make('sign-in-guard', name)[:32]}:{side}"

    async def _tally(self, tally_id: str, free: int, *, fades: bool) -> Tally:
        """What is counted under `tally_id` by now."""
        row = await SignInGuardDocument.find_one({"_id": tally_id})
        if row is None:
            return Tally(tally_id, free)
        passed = self._clock.now() - row.last_failure_at
        faded = passed // NETWORK_FORGETS_ONE_EACH if fades else 0
        left = 0 if passed >= FORGOTTEN_AFTER else max(0, row.failures - max(0, faded))
        return Tally(tally_id, free, row, left)

    def _refuse_while_waiting(self, *tallies: Tally) -> None:
        now = self._clock.now()
        until = max(tally.waits_until or now for tally in tallies)
        if until > now:
            raise self._refusal(until - now)

    async def _claim(self, tally: Tally) -> Tally:
        """Count an attempt after a wait as failed before it is made; refuse it if another one came first."""
        if tally.failures < tally.free:
            return tally
        now = self._clock.now()
        if not await _one_more(tally, now):
            raise self._refusal(wait_after(tally.failures + 1 - tally.free))
        log.info("attempt after a wait", guard=tally.id.partition(":")[0], failures=tally.failures)
        return replace(tally, charged_at=now)

    async def _count(self, tally: Tally) -> None:
        now = self._clock.now()
        aged = tally.row is not None and tally.failures < tally.row.failures
        if aged and await _one_more(tally, now):
            return
        change: dict[str, Any] = {
            "$inc": {"failures": 1},
            "$set": {"last_failure_at": now, "expires_at": now + FORGOTTEN_AFTER},
            "$setOnInsert": {"schema_version": SignInGuardDocument.model_fields["schema_version"].default},
        }
        try:
            await _collection().update_one({"_id": tally.id}, change, upsert=True)
        except DuplicateKeyError:
            # Two found nothing and both inserted. It is there now.
            await _collection().update_one({"_id": tally.id}, change, upsert=True)

    def _refusal(self, wait: timedelta) -> RateLimitedError:
        seconds = max(1, math.ceil(wait.total_seconds()))
        shown = f"{seconds} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
        return RateLimitedError(
            f"Too many attempts failed; nothing was tried now. Try again in {shown}, or reset your password by e-mail.",
            retry_after=seconds,
            limit=self._per_minute,
        )


def _name(account: PydanticObjectId | str) -> str:
    """One for each account and each thing that somebody typed; an id that was typed is no account's."""
    return f"typed:{account}" if isinstance(account, str) else str(account)


def _network_key(network: str) -> str:
    return f"network:{network}"


def _collection() -> AsyncCollection[dict[str, Any]]:
    return SignInGuardDocument.get_pymongo_collection()


async def _one_more(tally: Tally, now: datetime) -> bool:
    """Store one failure more than age has left; False if the row was changed since it was read."""
    if tally.row is None:
        return False
    result = await _collection().update_one(
        {"_id": tally.id, "failures": tally.row.failures, "last_failure_at": tally.row.last_failure_at},
        {"$set": {"failures": tally.failures + 1, "last_failure_at": now, "expires_at": now + FORGOTTEN_AFTER}},
    )
    return result.modified_count == 1
