"""Accounts: made, found, and their passwords checked."""

import secrets
from dataclasses import dataclass
from typing import Any

import structlog
from beanie import PydanticObjectId
from pymongo.errors import DuplicateKeyError

from app.auth.models import UserDocument, all_sessions_end
from app.auth.password_rules import demand_good
from app.auth.passwords import Passwords
from app.auth.schemas.accounts import normalise_email
from app.core.clock import Clock, Sequence
from app.core.errors import ConflictError
from app.core.security import Role

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What an account is made of. E-mail, username and mobile are normalised, the password follows the rules."""

    email: str
    password: str
    name: str | None = None
    username: str | None = None
    mobile: str | None = None
    role: Role = Role.USER
    owner_proven: bool = False
    """Whether who makes it may speak for the owner of the address: who runs the service may."""


def normalise_identifier(text: str) -> str:
    """An e-mail address or a username as it is stored; other text comes back in lower case, and finds nobody."""
    stripped = text.strip()
    if "@" in stripped:
        try:
            return normalise_email(stripped)
        except ValueError:
            pass
    return stripped.lower()


class Accounts:
    """The users collection."""

    def __init__(self, *, clock: Clock, passwords: Passwords) -> None:
        self._clock = clock
        self._passwords = passwords
        self._sequence = Sequence(clock)

    async def create(self, new: NewAccount) -> UserDocument:
        """Store a new account; raises `ConflictError` when the e-mail or the username is taken.

        The unique indexes decide that, so of many at once exactly one succeeds. A password that must not be this
        account's (`password_rules`) is an `InvalidInputError`.
        """
        demand_good(new.password, email=new.email, username=new.username, field="password")
        now = self._clock.now()
        user = UserDocument(
            seq=self._sequence.next(),
            email=new.email,
            username=new.username,
            name=new.name,
            mobile=new.mobile,
            role=new.role,
            owner_proven=new.owner_proven,
            hashed_password=await self._passwords.hash(new.password),
            created_at=now,
            updated_at=now,
        )
        try:
            await user.insert()
        except DuplicateKeyError as error:
            taken = "username" if "username" in ((error.details or {}).get("keyPattern") or {}) else "e-mail address"
            raise ConflictError(f"There is an account with this {taken} already; sign in, or choose another.") from None
        log.info("account created", user_id=str(user.id), role=user.role)
        return user

    async def get(self, user_id: PydanticObjectId) -> UserDocument | None:
        """The account with this id."""
        return await UserDocument.find_one({"_id": user_id})

    async def is_active(self, user_id: PydanticObjectId) -> bool:
        """Whether the account exists and is not deactivated."""
        row = await UserDocument.get_pymongo_collection().find_one({"_id": user_id}, {"is_active": 1})
        return row is not None and bool(row["is_active"])

    async def find(self, identifier: str) -> UserDocument | None:
        """The account with this (normalised) e-mail or username."""
        field = "email" if "@" in identifier else "username"
        return await UserDocument.find_one({field: identifier})

    async def verify(self, user: UserDocument | None, password: str) -> UserDocument | None:
        """The account, if the password is its own.

        No account costs the same time as a wrong password. A hash by an outdated method is replaced.
        """
        verdict = await self._passwords.verify(password, user.hashed_password if user else None)
        if user is None or not verdict.correct:
            return None
        if verdict.replacement:
            # Only if nobody changed the password meanwhile. It is the same password, so no session ends.
            if await self._store(user, {"$set": {"hashed_password": verdict.replacement}}, unless_changed=True):
                user.hashed_password = verdict.replacement
            log.info("password hash replaced by a stronger one", user_id=str(user.id))
        return user

    async def new_hash(self, user: UserDocument, password: str) -> str:
        """The hash of a new password for `user`; `InvalidInputError` (field `new_password`) if it must not be theirs.

        Apart from storing it, so that what is spent for a change is spent when nothing can refuse it any more.
        """
        demand_good(password, email=user.email, username=user.username, field="new_password")
        return await self._passwords.hash(password)

    async def replace_password(self, user: UserDocument, hashed: str, *, unless_changed: bool = False) -> bool:
        """Make `hashed` the account's and end all its sessions, in one write: no failure can come between the two.

        With `unless_changed` only if it still has the hash that `user` was read with; False if nothing was stored.
        Announcing the end is the caller's to do (`Sessions.end_outdated`).
        """
        change = all_sessions_end()
        change["$set"]["hashed_password"] = hashed
        return await self._store(user, change, unless_changed=unless_changed)

    async def _store(self, user: UserDocument, change: dict[str, dict[str, Any]], *, unless_changed: bool) -> bool:
        expected = {"hashed_password": user.hashed_password} if unless_changed else {}
        change["$set"]["updated_at"] = self._clock.now()
        result = await UserDocument.get_pymongo_collection().update_one({"_id": user.id, **expected}, change)
        return result.modified_count == 1

    async def set_password(self, user: UserDocument, password: str) -> None:
        """Give the account a new password, whatever it was, and end its sessions, as `replace_password` does."""
        await self.replace_password(user, await self.new_hash(user, password))
        log.info("password set", user_id=str(user.id))

    async def unusable_hash(self) -> str:
        """A hash that no password fits: trying one costs the same time as with any other account."""
        return await self._passwords.hash(secrets.token_urlsafe(32))

    async def mark_verified(self, user_id: PydanticObjectId, email: str, *, owner_proven: bool = True) -> bool:
        """Note that somebody reads mail at `email`, and (`owner_proven`) that the account is theirs alone.

        False if it has another address, or all of that was noted before.
        """
        noted = 0
        for name in ("is_verified", "owner_proven") if owner_proven else ("is_verified",):
            result = await UserDocument.get_pymongo_collection().update_one(
                {"_id": user_id, "email": email, name: {"$ne": True}},
                {"$set": {name: True, "updated_at": self._clock.now()}},
            )
            noted += result.modified_count
        return noted > 0

    async def vouch(self, user_id: PydanticObjectId) -> None:
        """Note that the account is its owner's alone, on the word of who runs the service."""
        await UserDocument.get_pymongo_collection().update_one({"_id": user_id}, {"$set": {"owner_proven": True}})
