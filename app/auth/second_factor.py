"""The second factor: enrolled with an authenticator app, asked for at sign-in, and got rid of again.

Every code works once. That is decided by conditional updates, so of two that arrive together one is refused.
"""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, Literal

import structlog
from beanie import PydanticObjectId
from pymongo.errors import DuplicateKeyError

from app.auth import factor_codes as codes
from app.auth.accounts import Accounts
from app.auth.guard import SignInGuard
from app.auth.models import SecondFactorDocument, UserDocument
from app.auth.notices import Notices
from app.auth.schemas.second_factor import Enrolment, RecoveryCodes, SecondFactorStatus
from app.auth.sessions import Client
from app.core.audit import Act, Actor, AuditTrail, Outcome
from app.core.clock import Clock
from app.core.encryption import UndecryptableError, Vault
from app.core.errors import ConflictError, FieldError, InvalidInputError, UnavailableError
from app.core.mail import MailRequest
from app.core.security import Principal

log = structlog.get_logger(__name__)

Factor = Literal["totp", "recovery_code"]

ENROLMENT_LIFETIME = timedelta(minutes=30)
"""How long a secret waits to be confirmed: what was on a screen yesterday may have been seen by others."""
RESEAL_AT_ONCE = 100
"""Secrets that are looked at, after a change of keys, before others have a turn."""


class SecondFactors:
    """Authenticator apps and recovery codes of accounts."""

    def __init__(
        self,
        *,
        app_name: str,
        clock: Clock,
        vault: Vault,
        accounts: Accounts,
        guard: SignInGuard,
        audit: AuditTrail,
        notices: Notices,
    ) -> None:
        """`app_name` is the name under which authenticator apps list the account."""
        self._app_name = app_name
        self._clock = clock
        self._vault = vault
        self._accounts = accounts
        self._guard = guard
        self._audit = audit
        self._notices = notices
        self._said_fresh = False

    async def status(self, user_id: PydanticObjectId) -> SecondFactorStatus:
        """Whether a sign-in of this account asks for a second factor."""
        document = await self._confirmed(user_id)
        if document is None:
            return SecondFactorStatus(enabled=False, since=None, recovery_codes_left=0)
        return SecondFactorStatus(
            enabled=True, since=document.confirmed_at, recovery_codes_left=len(document.recovery_digests)
        )

    async def enrolled(self, user_id: PydanticObjectId) -> bool:
        """The same in one word; an enrolment that was begun and not confirmed is none."""
        return await self._confirmed(user_id) is not None

    async def begin(self, caller: Principal, password: str, client: Client) -> Enrolment:
        """A new secret for an authenticator app, to be confirmed by a code; the one of an earlier beginning is void.

        Raises `InvalidInputError` for a wrong password, `ConflictError` when a second factor is on already,
        `RateLimitedError`, and `UnavailableError` where ENCRYPTION_KEYS is missing.
        """
        secret = codes.new_totp_secret()
        sealed = self._vault.encrypt(secret, context=_context(caller.user_id))
        user = await self._with_password(caller, password, client)
        fresh = {
            "schema_version": 1,
            "secret": sealed,
            "created_at": self._clock.now(),
            "last_step": 0,
            "recovery_digests": [],
        }
        try:
            # Where one is confirmed the filter finds nothing, and the insertion meets it at the unique `_id`.
            await SecondFactorDocument.get_pymongo_collection().update_one(
                {"_id": user.id, "confirmed_at": None}, {"$set": fresh}, upsert=True
            )
        except DuplicateKeyError:
            raise _already_on() from None
        uri = codes.otpauth_uri(secret, issuer=self._app_name, account=user.email)
        return Enrolment(
            secret=secret,
            otpauth_uri=uri,
            qr_svg=await asyncio.to_thread(codes.qr_svg, uri),  # some 15 ms
            expires_in=int(ENROLMENT_LIFETIME.total_seconds()),
        )

    async def confirm(self, caller: Principal, code: str, client: Client) -> RecoveryCodes:
        """Turn the second factor on, with a code of the app; the recovery codes exist in this answer alone.

        Raises `InvalidInputError` for a wrong code, `ConflictError` when there is nothing to confirm (any more), and
        `RateLimitedError`.
        """
        document = await self._pending(caller.user_id)
        attempt = await self._guard.admit("second-factor", caller.user_id, client)
        step = self._step(document, codes.totp_form(code))
        if step is None:
            await self._guard.failed(attempt)
            await self._note(caller, "enable", Outcome.FAILURE)
            raise _wrong_code()
        await self._guard.succeeded(attempt)
        shown = codes.new_recovery_codes()
        confirmed = {
            **self._resealed(document.secret),
            "confirmed_at": self._clock.now(),
            "last_step": step,
            "recovery_digests": _digests(caller.user_id, shown),
        }
        result = await SecondFactorDocument.get_pymongo_collection().update_one(
            {"_id": caller.user_id, "secret": document.secret, "confirmed_at": None}, {"$set": confirmed}
        )
        if not result.modified_count:
            raise ConflictError("The enrolment was begun anew or confirmed meanwhile; look at its status.")
        await self._changed(caller, client, enabled=True)
        return RecoveryCodes(recovery_codes=shown)

    async def new_recovery_codes(self, caller: Principal, code: str, client: Client) -> RecoveryCodes:
        """Ten new recovery codes for a code of the second factor; those from before stop working.

        Raises `InvalidInputError` for a wrong code, `ConflictError` without a second factor, and `RateLimitedError`.
        """
        await self._with_code(caller, code, client, act="recovery_codes")
        shown = codes.new_recovery_codes()
        result = await SecondFactorDocument.get_pymongo_collection().update_one(
            {"_id": caller.user_id, "confirmed_at": {"$ne": None}},
            {"$set": {"recovery_digests": _digests(caller.user_id, shown)}},
        )
        if not result.modified_count:
            raise _not_on()
        await self._note(caller, "recovery_codes")
        return RecoveryCodes(recovery_codes=shown)

    async def disable(self, caller: Principal, password: str, code: str, client: Client) -> None:
        """Turn the second factor off, with both factors; the app's secret and the recovery codes are forgotten.

        Raises `InvalidInputError` for a wrong password or code, `ConflictError` when it is off, `RateLimitedError`.
        """
        if not await self.enrolled(caller.user_id):
            raise _not_on()
        await self._with_password(caller, password, client, act="disable")
        await self._with_code(caller, code, client, act="disable")
        await SecondFactorDocument.get_pymongo_collection().delete_one({"_id": caller.user_id})
        await self._changed(caller, client, enabled=False)

    async def remove(self, user_id: PydanticObjectId) -> bool:
        """Without a code: for an administrator, when the owner lost app and recovery codes, or at a take-over.

        Whether there was a second factor. The owner is told by mail; the trail's entry is the caller's to make.
        """
        document = await self._confirmed(user_id)
        result = await SecondFactorDocument.get_pymongo_collection().delete_one({"_id": user_id})
        if document is None or not result.deleted_count:
            return False
        log.warning("second factor removed without a code", user_id=str(user_id))
        await self._tell(user_id, address=None, enabled=False)
        return True

    async def check(self, user_id: PydanticObjectId, code: str) -> Factor | None:
        """Which of the account's factors `code` belongs to, and it is used up by this; None for a wrong or used one.

        Guessing is not limited here; see `attempt`. Raises `UnavailableError` where ENCRYPTION_KEYS does not open the
        account's secret: recovery codes work nevertheless.
        """
        if digits := codes.totp_form(code):
            return "totp" if await self._use_totp(user_id, digits) else None
        if recovery := codes.recovery_form(code):
            return "recovery_code" if await self._use_recovery_code(user_id, recovery) else None
        return None

    async def attempt(self, user_id: PydanticObjectId, code: str, client: Client) -> Factor | None:
        """`check`, slowed for whoever guesses; raises `RateLimitedError` as well."""
        attempt = await self._guard.admit("second-factor", user_id, client)
        factor = await self.check(user_id, code)
        if factor is None:
            await self._guard.failed(attempt)
        else:
            await self._guard.succeeded(attempt)
        return factor

    async def _use_totp(self, user_id: PydanticObjectId, digits: str) -> bool:
        document = await self._confirmed(user_id)
        step = self._step(document, digits) if document else None
        if document is None or step is None:
            return False
        # Its beginning says that it is still the same enrolment; its secret may have been sealed anew meanwhile.
        result = await SecondFactorDocument.get_pymongo_collection().update_one(
            {"_id": user_id, "created_at": document.created_at, "last_step": {"$lt": step}},
            {"$set": {"last_step": step, **self._resealed(document.secret)}},
        )
        return result.modified_count == 1

    async def reseal_all(self) -> None:
        """Seal every secret that needs an older one of ENCRYPTION_KEYS with the newest; for a periodic job.

        Logs once nothing needs the older keys any more: then they can be taken out of the setting. An enrolment that
        waits to be confirmed is left alone, and counts until it expires.
        """
        if not self._vault.available:
            return
        found: Counter[str] = Counter()
        rows = SecondFactorDocument.get_pymongo_collection().find(
            {}, {"secret": 1, "confirmed_at": 1, "created_at": 1}, batch_size=RESEAL_AT_ONCE
        )
        async for row in rows:
            found[await self._reseal(row)] += 1
            if not found.total() % RESEAL_AT_ONCE:
                await asyncio.sleep(0)  # others have a turn; nothing was awaited for those that are in order
        if found["unreadable"]:
            log.error("TOTP secrets that none of the ENCRYPTION_KEYS opens", secrets=found["unreadable"])
        if found["resealed"]:
            log.info("TOTP secrets sealed with the newest of ENCRYPTION_KEYS", secrets=found["resealed"])
        if found["waiting"] or found["unreadable"]:
            self._said_fresh = False
        elif found["resealed"] or not self._said_fresh:
            self._said_fresh = True
            log.info("no TOTP secret needs any but the newest of ENCRYPTION_KEYS", secrets=found.total())

    async def _reseal(self, row: dict[str, Any]) -> Literal["in order", "expired", "waiting", "unreadable", "resealed"]:
        """What was found at one stored secret, and done."""
        if not self._vault.outdated(row["secret"]):
            return "in order"
        if row.get("confirmed_at") is None:
            return "waiting" if row["created_at"] + ENROLMENT_LIFETIME > self._clock.now() else "expired"
        try:
            change = {"$set": self._resealed(row["secret"])}
        except UndecryptableError:
            return "unreadable"
        # Only in place of what was read: it may be enrolled anew or in use at this moment.
        await SecondFactorDocument.get_pymongo_collection().update_one(
            {"_id": row["_id"], "secret": row["secret"]}, change
        )
        return "resealed"

    def _resealed(self, sealed: str) -> dict[str, str]:
        """What is to be stored so that the secret opens with the newest key; nothing if it does."""
        return {"secret": self._vault.rotate(sealed)} if self._vault.outdated(sealed) else {}

    async def _use_recovery_code(self, user_id: PydanticObjectId, code: str) -> bool:
        digest = codes.recovery_digest(user_id, code)
        result = await SecondFactorDocument.get_pymongo_collection().update_one(
            {"_id": user_id, "recovery_digests": digest}, {"$pull": {"recovery_digests": digest}}
        )
        return result.modified_count == 1

    def _step(self, document: SecondFactorDocument, digits: str | None) -> int | None:
        """The unused time step that `digits` are the code of."""
        try:
            secret = self._vault.decrypt(document.secret, context=_context(document.id))
        except (UndecryptableError, UnavailableError):
            log.exception("a TOTP secret cannot be decrypted", user_id=str(document.id))
            raise UnavailableError(
                "Codes of authenticator apps cannot be checked here until the operator restores ENCRYPTION_KEYS; "
                "a recovery code works nevertheless.",
                retry_after=600,
            ) from None
        if digits is None:
            return None
        seconds = self._clock.now().timestamp()
        return codes.matching_step(secret, digits, seconds=seconds, after=document.last_step)

    async def _confirmed(self, user_id: PydanticObjectId) -> SecondFactorDocument | None:
        document = await SecondFactorDocument.find_one({"_id": user_id})
        return document if document and document.confirmed_at else None

    async def _pending(self, user_id: PydanticObjectId) -> SecondFactorDocument:
        document = await SecondFactorDocument.find_one({"_id": user_id})
        if document and document.confirmed_at:
            raise _already_on()
        if document is None or document.created_at + ENROLMENT_LIFETIME <= self._clock.now():
            raise ConflictError("There is no enrolment to confirm, or it has expired; begin it with your password.")
        return document

    async def _with_password(self, caller: Principal, password: str, client: Client, act: str = "") -> UserDocument:
        """The caller's account, if the password is right; trying counts like a sign-in."""
        attempt = await self._guard.admit("password", caller.user_id, client)
        user = await self._accounts.verify(await self._accounts.get(caller.user_id), password)
        if user is None:
            await self._guard.failed(attempt)
            if act:
                await self._note(caller, act, Outcome.FAILURE)
            raise _wrong("password", "The password is not right")
        await self._guard.succeeded(attempt)
        return user

    async def _with_code(self, caller: Principal, code: str, client: Client, *, act: str) -> None:
        if not await self.enrolled(caller.user_id):
            raise _not_on()
        if await self.attempt(caller.user_id, code, client) is None:
            await self._note(caller, act, Outcome.FAILURE)
            raise _wrong_code()

    async def _changed(self, caller: Principal, client: Client, *, enabled: bool) -> None:
        log.info("second factor changed", user_id=str(caller.user_id), enabled=enabled)
        await self._note(caller, "enable" if enabled else "disable")
        await self._tell(caller.user_id, address=client.address, enabled=enabled)

    async def _note(self, caller: Principal, act: str, outcome: Outcome = Outcome.SUCCESS) -> None:
        await self._audit.note(
            Act(
                action=f"second_factor.{act}",
                account_id=caller.user_id,
                actor=Actor.of(caller),
                outcome=outcome,
                target=("account", str(caller.user_id)),
            )
        )

    async def _tell(self, user_id: PydanticObjectId, *, address: str | None, enabled: bool) -> None:
        user = await self._accounts.get(user_id)
        if user is not None:
            when = self._clock.now().isoformat()
            notice = MailRequest(
                "second_factor_changed", user.email, {"when": when, "address": address, "enabled": enabled}
            )
            await self._notices.send(notice)


def _context(user_id: PydanticObjectId) -> str:
    return f"totp:{user_id}"


def _digests(user_id: PydanticObjectId, shown: list[str]) -> list[str]:
    return [codes.recovery_digest(user_id, code.replace("-", "")) for code in shown]


def _wrong(field: str, text: str) -> InvalidInputError:
    """The session holds, so this is no 401: programs would take that for the end of it."""
    return InvalidInputError(f"{text}.", [FieldError(("body", field), text, "value_error")])


def _wrong_code() -> InvalidInputError:
    return _wrong("code", "The code is not right, or it was used already: wait for the next one")


def _already_on() -> ConflictError:
    return ConflictError("A second factor is on already; turn it off first to enrol another app.")


def _not_on() -> ConflictError:
    return ConflictError("No second factor is on for this account.")
