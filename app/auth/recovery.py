"""Addresses verified and passwords changed, reset and forgotten, without telling anybody who has an account."""

import unicodedata
from dataclasses import replace
from typing import Any

import structlog

from app.auth.accounts import Accounts
from app.auth.api_tokens import ApiTokens
from app.auth.guard import SignInGuard
from app.auth.mail_limits import MailLimits
from app.auth.mailed_tokens import MailedTokens, Purpose, request_for
from app.auth.models import SessionDocument, UserDocument
from app.auth.notices import Notices
from app.auth.places import SignInPlaces
from app.auth.schemas.accounts import TokenPair
from app.auth.schemas.recovery import PasswordChangeBody, PasswordResetBody
from app.auth.sessions import Client, Sessions
from app.auth.take_over import NOTHING, Evicted, TakeOvers
from app.core.audit import Act, Actor, AuditTrail, Outcome
from app.core.client_address import network_of
from app.core.clock import Clock
from app.core.errors import ConflictError, FieldError, InvalidInputError, UnauthorizedError, UnavailableError
from app.core.mail import MailRequest, Mails
from app.core.security import Principal

log = structlog.get_logger(__name__)


class Recovery:
    """What an account's owner does about their address and their password.

    Asking for a mail costs one write whoever it is for: whether there is an account is looked up when the mail is made.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        accounts: Accounts,
        sessions: Sessions,
        api_tokens: ApiTokens,
        tokens: MailedTokens,
        mails: Mails,
        notices: Notices,
        audit: AuditTrail,
        guard: SignInGuard,
        places: SignInPlaces,
        take_overs: TakeOvers,
        mail_limits: MailLimits,
    ) -> None:
        self._clock = clock
        self._accounts = accounts
        self._sessions = sessions
        self._api_tokens = api_tokens
        self._tokens = tokens
        self._mails = mails
        self._notices = notices
        self._audit = audit
        self._guard = guard
        self._places = places
        self._take_overs = take_overs
        self._mail_limits = mail_limits

    async def resend(self, email: str, client: Client) -> None:
        """Have a token for verifying the address sent to it, if an account needs one.

        Raises `RateLimitedError`, and `UnavailableError` where no mail can be sent, both whatever the address.
        """
        await self._ask_for_mail(Purpose.VERIFY_EMAIL, email, client)

    async def forgot(self, email: str, client: Client) -> None:
        """Have a token for setting a new password sent, if there is an account. Raises as `resend` does."""
        await self._ask_for_mail(Purpose.PASSWORD_RESET, email, client)

    async def verify_email(self, token: str, client: Client) -> None:
        """Take a token from a mail for proof that its reader owns the address; `InvalidInputError` for any other.

        Where whoever signed up was, the account is theirs with it. From elsewhere it says nothing of who made the
        account: see `TakeOvers`.
        """
        user = await self._owner(Purpose.VERIFY_EMAIL, token)
        at_home = await self._places.familiar(str(user.id), network_of(client.address))
        if not await self._tokens.redeem(Purpose.VERIFY_EMAIL, token):
            raise _unusable()
        if await self._accounts.mark_verified(user.id, user.email, owner_proven=at_home):
            log.info("address verified", user_id=str(user.id))
            await self._audit.note(Act("auth.email_verified", user.id, target=("account", str(user.id))))

    async def reset(self, body: PasswordResetBody, client: Client) -> None:
        """Set a new password by a token from a mail, and end every session and every API token.

        Whoever forgot a password may as well have lost it to somebody. Where the token is the first proof of the
        mailbox, and somebody else may have made the account, everything ends that it could be used with: see
        `TakeOvers`.

        Raises `InvalidInputError` for a token or a password that will not do. The token is spent when nothing can
        refuse the password any more: a bad one, or a busy moment, does not cost another mail.
        """
        user = await self._owner(Purpose.PASSWORD_RESET, body.token)
        hashed = await self._accounts.new_hash(user, body.new_password.get_secret_value())
        taken_over = await self._take_overs.due(user, client)
        if not await self._tokens.redeem(Purpose.PASSWORD_RESET, body.token):
            raise _unusable()
        # Before the password, too: with that stored, its owner has no reason to try again, whatever fails after it.
        if taken_over:
            ended = await self._take_overs.disarm(user.id)
        else:
            ended = Evicted(api_tokens=await self._api_tokens.revoke_all(user.id))
        await self._accounts.replace_password(user, hashed)
        if taken_over:
            ended = await self._take_overs.evict(user.id, "password_reset", before=ended)
        sessions = await self._sessions.end_outdated(user.id, "the password was reset")
        api_tokens = ended.api_tokens + await self._api_tokens.revoke_all(user.id)
        # Who reads the mail owns the address, and nobody else has the account any more.
        await self._accounts.mark_verified(user.id, user.email)
        act = Act("auth.password_reset", user.id, target=("account", str(user.id)))
        done = replace(act, details={"sessions_ended": sessions, "api_tokens_ended": api_tokens})
        await self._settled(user, client, done, ended._replace(api_tokens=api_tokens))

    async def change(self, caller: Principal, body: PasswordChangeBody, client: Client) -> TokenPair:
        """Replace the caller's password, end every session, and open a new one in place of the caller's.

        Raises `InvalidInputError` for a wrong current password (a 401 would tell clients that their token is dead),
        counted like any other attempt to guess it, `RateLimitedError` after too many, and `ConflictError` when
        somebody else was quicker.
        """
        current, new = body.current_password.get_secret_value(), body.new_password.get_secret_value()
        user = await self._accounts.get(caller.user_id)
        if user is None:
            raise UnauthorizedError("This account does not exist any more.")
        await self._check_current(user, current, caller, client)
        if _same(current, new):
            raise _refused("new_password", "The new password must differ from the current one")
        hashed = await self._accounts.new_hash(user, new)
        present = await SessionDocument.find_one({"_id": caller.session_id})
        if not await self._accounts.replace_password(user, hashed, unless_changed=True):
            raise ConflictError("The password was changed at the same moment by another request; sign in with that.")
        sessions = await self._sessions.end_outdated(user.id, "the password was changed")
        act = Act("auth.password_changed", user.id, Actor.of(caller), target=("account", str(user.id)))
        done = replace(act, details={"sessions_ended": sessions, "api_tokens_ended": 0})
        await self._settled(user, client, done, NOTHING)
        return await self._sessions.reopen(user, client, present.method if present else "password")

    async def _ask_for_mail(self, purpose: Purpose, email: str, client: Client) -> None:
        await self._mail_limits.ask(purpose, email, client)
        if not self._mails.available:
            raise UnavailableError("This service cannot send e-mail; ask its administrator for help.", retry_after=3600)
        await self._mails.request(request_for(purpose, email))

    async def _owner(self, purpose: Purpose, token: str) -> UserDocument:
        """The active account of a good token."""
        user = await self._tokens.owner(purpose, token)
        if user is None or not user.is_active:
            raise _unusable()
        return user

    async def _check_current(self, user: UserDocument, password: str, caller: Principal, client: Client) -> None:
        attempt = await self._guard.admit("password", user.id, client)
        if await self._accounts.verify(user, password):
            await self._guard.succeeded(attempt)
            return
        await self._guard.failed(attempt)
        wrong = {"reason": "wrong current password"}
        await self._audit.note(
            Act("auth.password_changed", user.id, Actor.of(caller), Outcome.FAILURE, ("account", str(user.id)), wrong)
        )
        raise _refused("current_password", "This is not the current password; nothing was changed")

    async def _settled(self, user: UserDocument, client: Client, act: Act, ended: Evicted) -> None:
        """What follows a new password, once everything `ended` that the old one opened: the owner is told."""
        await self._tokens.drop(Purpose.PASSWORD_RESET, user.id)
        # Somebody else may have signed in with the old one: their places are no better than any other from now on.
        await self._places.forget(user.id)
        await self._places.note(user.id, client)
        log.info("password set", user_id=str(user.id), **act.details)
        values: dict[str, Any] = {
            "when": self._clock.now().isoformat(),
            "address": client.address,
            "api_tokens_ended": ended.api_tokens,
            "strategy_keys_ended": ended.strategy_keys,
        }
        await self._notices.send(MailRequest("password_changed", user.email, values))
        await self._audit.note(act)


def _same(one: str, other: str) -> bool:
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def _refused(field: str, fault: str) -> InvalidInputError:
    return InvalidInputError(f"{fault}.", [FieldError(("body", field), fault, "value_error")])


def _unusable() -> InvalidInputError:
    """One text for every reason."""
    return _refused("token", "This token is not valid (any more); have a new mail sent and use the token in that")
