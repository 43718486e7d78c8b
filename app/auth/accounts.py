"""Accounts: made, found, and their passwords checked."""

from dataclasses import dataclass

import structlog
from beanie import PydanticObjectId
from pymongo.errors import DuplicateKeyError

from app.auth.models import UserDocument
from app.auth.passwords import Passwords
from app.auth.schemas import normalise_email
from app.core.clock import Clock
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

    async def create(self, new: NewAccount) -> UserDocument:
        """Store a new account; raises `ConflictError` when the e-mail or the username is taken.

        The unique indexes decide that, so of many at once exactly one succeeds.
        """
        now = self._clock.now()
        user = UserDocument(
            email=new.email,
            username=new.username,
            name=new.name,
            mobile=new.mobile,
            role=new.role,
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
            # Only if nobody changed the password meanwhile.
            await UserDocument.get_pymongo_collection().update_one(
                {"_id": user.id, "hashed_password": user.hashed_password},
                {"$set": {"hashed_password": verdict.replacement, "updated_at": self._clock.now()}},
            )
            log.info("password hash replaced by a stronger one", user_id=str(user.id))
        return user
