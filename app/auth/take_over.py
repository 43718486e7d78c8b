"""An account handed over to who proves to read its mail, if somebody else may have made it.

Anybody can sign up with any address. Whoever does so with somebody else's, and waits until that person comes, must not
be left with a session, a token, a key or a second factor then. The first proof of the mailbox decides whose the account
is. Where it comes from a network that the account knows, it is taken for the one who signed up there: nothing changes.

A proof is a code or a reset. The mail of the sign-up is none when it is confirmed from elsewhere: its reader may have
nothing to do with the account, and whoever made it has the password still. So that says that the address is read by
somebody, and the first proof is yet to come.
"""

from typing import Any, NamedTuple

import structlog
from beanie import PydanticObjectId

from app.auth.accounts import Accounts
from app.auth.api_tokens import ApiTokens
from app.auth.models import UserDocument
from app.auth.notices import Notices
from app.auth.places import SignInPlaces
from app.auth.ports import StrategyKeys
from app.auth.second_factor import SecondFactors
from app.auth.sessions import Client, Sessions
from app.core.audit import Act, Actor, ActorKind, AuditTrail
from app.core.client_address import network_of
from app.core.clock import Clock
from app.core.mail import MailRequest

log = structlog.get_logger(__name__)


class Evicted(NamedTuple):
    """What was ended."""

    sessions: int = 0
    api_tokens: int = 0
    strategy_keys: int = 0
    second_factor: bool = False


NOTHING = Evicted()


class TakeOvers:
    """Ends everything that whoever had the account before could still use it with.

    All of it can be done again. The account has to be marked as its owner's after it (`Accounts.mark_verified`): until
    then, whatever failed half-way is made good by the next proof.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        accounts: Accounts,
        sessions: Sessions,
        api_tokens: ApiTokens,
        keys: StrategyKeys,
        second_factors: SecondFactors,
        places: SignInPlaces,
        notices: Notices,
        audit: AuditTrail,
    ) -> None:
        self._clock = clock
        self._accounts = accounts
        self._sessions = sessions
        self._api_tokens = api_tokens
        self._keys = keys
        self._second_factors = second_factors
        self._places = places
        self._notices = notices
        self._audit = audit

    async def due(self, user: UserDocument, client: Client) -> bool:
        """Whether a proof of the mailbox that comes from `client` now makes somebody else the owner."""
        return not user.owner_proven and not await self._places.familiar(str(user.id), network_of(client.address))

    async def by_code(self, user: UserDocument, client: Client) -> UserDocument | None:
        """Take the account over for who sent a code from its mailbox: its password fits nobody from now on.

        The account as it is after that, None if it is gone.
        """
        await self._accounts.replace_password(user, await self._accounts.unusable_hash())
        ended = await self.evict(user.id, "otp")
        values: dict[str, Any] = {
            "when": self._clock.now().isoformat(),
            "address": client.address,
            "api_tokens_ended": ended.api_tokens,
            "strategy_keys_ended": ended.strategy_keys,
        }
        await self._notices.send(MailRequest("password_changed", user.email, values))
        # Whatever was counted meanwhile was the doing of who is out now, and must not keep the owner out.
        return await self._accounts.get(user.id)

    async def disarm(self, user_id: PydanticObjectId) -> Evicted:
        """End what works without the password. By itself it is not enough: sessions can make more of it.

        For before a password is stored that its owner chose: with that they are in, and have no reason to try again
        when something fails after it.
        """
        api_tokens = await self._api_tokens.revoke_all(user_id)
        factor = await self._second_factors.remove(user_id)
        keys = await self._keys.revoke_all(user_id)
        return Evicted(0, api_tokens, keys, factor)

    async def evict(
        self, user_id: PydanticObjectId, method: str, *, before: Evicted = NOTHING, actor: Actor | None = None
    ) -> Evicted:
        """End all that the account could be used with, once its password is another; what that was, with `before`.

        For the trail: `method` is how the mailbox was proven, `before` what was ended before, `actor` who did it (the
        owner).
        """
        # The sessions first: what one of them was about to make is refused, or found by what follows.
        sessions = await self._sessions.end_outdated(user_id, "the account was taken over by the owner of its address")
        rest = await self.disarm(user_id)
        await self._places.forget(user_id)
        ended = Evicted(
            before.sessions + sessions,
            before.api_tokens + rest.api_tokens,
            before.strategy_keys + rest.strategy_keys,
            before.second_factor or rest.second_factor,
        )
        log.warning("account taken over by the owner of its address", user_id=str(user_id), method=method)
        details: dict[str, Any] = {
            "method": method,
            "sessions_ended": ended.sessions,
            "api_tokens_ended": ended.api_tokens,
            "strategy_keys_ended": ended.strategy_keys,
            "second_factor_removed": ended.second_factor,
        }
        by = actor or Actor(ActorKind.NOBODY, user_id)
        await self._audit.note(Act("auth.taken_over", user_id, by, target=("account", str(user_id)), details=details))
        return ended
