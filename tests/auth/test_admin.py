"""Administrators' use cases, on a real database: who is found, who may be shut out, and what others hear of it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from beanie import PydanticObjectId
from cryptography.fernet import Fernet

from app.auth.accounts import NewAccount
from app.auth.admin import MAX_MATCHES, AccountAdministration
from app.auth.digests import KeyedDigests
from app.auth.guard import SignInGuard
from app.auth.models import SecondFactorDocument, UserDocument
from app.auth.notices import Notices
from app.auth.places import SignInPlaces
from app.auth.schemas.accounts import User
from app.auth.schemas.admin import AccountChanges, AccountDetails
from app.auth.schemas.api_tokens import ApiTokenBody
from app.auth.second_factor import SecondFactors
from app.core.audit import Act, ActorKind, Outcome
from app.core.clock import to_micros
from app.core.encryption import Vault
from app.core.errors import ConflictError, InvalidInputError, NotFoundError, UnauthorizedError
from app.core.events import AccountChanged, Event, SessionRevoked
from app.core.pagination import PageRequest
from app.core.rate_limit import RateLimiter
from app.core.security import Principal, Role, Scope
from app.core.settings import Settings
from tests.auth.conftest import HERE, PASSWORD, Parts


@dataclass
class Office:
    """Two processes of the service that share the database, and what is heard and written."""

    parts: Parts
    here: AccountAdministration
    there: AccountAdministration
    heard: list[Event] = field(default_factory=list)

    @property
    def acts(self) -> list[Act]:
        """What was written down about administrators."""
        return [act for act in self.parts.trail.acts if act.action == "admin.user_update"]

    async def account(
        self, role: Role = Role.USER, name: str | None = None, username: str | None = None
    ) -> UserDocument:
        """A new account."""
        email = f"{name or secrets.token_hex(8)}@example.com"
        return await self.parts.accounts.create(NewAccount(email, PASSWORD, username=username, role=role))

    async def row(self, user: UserDocument) -> dict[str, Any]:
        """The account as it is stored now."""
        row = await self.parts.db["users"].find_one({"_id": user.id})
        assert row is not None
        return row

    async def listed(self, limit: int = 1000, **filters: Any) -> list[User]:
        """All pages of a list, after one another."""
        rows: list[User] = []
        request = PageRequest(limit)
        while True:
            page = await self.here.page(request, **({"q": None, "role": None, "is_active": None} | filters))
            assert len(page.rows) <= limit
            rows += page.rows
            if page.next is None:
                return rows
            request = PageRequest(limit, page.next)


def acting(user: UserDocument) -> Principal:
    """`user` with a session."""
    expires_at = user.created_at + timedelta(hours=1)
    return Principal(user.id, PydanticObjectId(), user.role, expires_at)


@pytest_asyncio.fixture
async def office(parts: Parts) -> AsyncIterator[Office]:
    await parts.db["users"].delete_many({})
    settings = Settings.load(secret_key="s" * 40, _env_file=None)
    places = SignInPlaces(clock=parts.clock, digests=KeyedDigests.of(settings))
    second_factors = SecondFactors(
        app_name="Arrow",
        clock=parts.clock,
        vault=Vault([Fernet.generate_key().decode()]),
        accounts=parts.accounts,
        guard=SignInGuard(clock=parts.clock, limiter=RateLimiter(None, "test"), settings=settings, places=places),
        audit=parts.trail,
        notices=Notices(parts.post),
    )

    def process() -> AccountAdministration:
        return AccountAdministration(
            clock=parts.clock,
            bus=parts.bus,
            sessions=parts.sessions,
            api_tokens=parts.api_tokens,
            second_factors=second_factors,
            audit=parts.trail,
        )

    room = Office(parts, process(), process())
    parts.bus.subscribe(SessionRevoked, room.heard.append)
    parts.bus.subscribe(AccountChanged, room.heard.append)
    yield room
    await parts.db["users"].delete_many({})


# Lists


async def test_accounts_are_listed_newest_first_page_by_page(office: Office):
    made = [await office.account() for _ in range(5)]
    years_ago = office.parts.clock.now() - timedelta(days=2000)
    await office.parts.db["users"].update_one({"_id": made[0].id}, {"$set": {"seq": to_micros(years_ago)}})
    expected = [str(user.id) for user in reversed(made)]

    for limit in (1, 2, 5, 50):
        assert [user.id for user in await office.listed(limit)] == expected


async def test_filters_hold_together(office: Office):
    rows = {
        (role, active): await office.account(role, f"common-{role}-{active}")
        for role in (Role.USER, Role.OPERATOR, Role.ADMIN)
        for active in (True, False)
    }
    for (_, active), user in rows.items():
        await office.parts.db["users"].update_one({"_id": user.id}, {"$set": {"is_active": active}})
    await office.account(name="another")

    for role in (None, *Role):
        for active in (None, True, False):
            expected = [
                str(user.id) for (its, on), user in rows.items() if role in {None, its} and active in {None, on}
            ][::-1]
            found = await office.listed(2, q="common", role=role, is_active=active)
            assert [user.id for user in found] == expected, (role, active)
            others = await office.listed(2, role=role, is_active=active)
            assert [user.id for user in others if not user.email.startswith("another")] == expected, (role, active)


async def test_a_search_goes_by_the_beginning_of_names_and_by_ids(office: Office):
    asha = await office.account(name="asha.rao", username="trader")
    ashok = await office.account(name="ashok", username="asha_k")
    await office.account(name="natasha", username="xasha")

    async def found(q: str) -> list[str]:
        return [user.id for user in await office.listed(q=q)]

    assert await found("asha") == [str(ashok.id), str(asha.id)]
    assert await found("asha.") == [str(asha.id)]
    assert await found("asha.rao@example.com") == [str(asha.id)]
    assert await found("trad") == [str(asha.id)]
    assert await found(str(ashok.id)) == [str(ashok.id)]
    part_of_an_id, nobodys = str(ashok.id)[:23], str(PydanticObjectId())
    for nothing in (".*", "as.a", "$ne", "@example.com", part_of_an_id, nobodys, "zz", "\U0010ffff"):
        assert await found(nothing) == [], nothing


async def test_a_search_that_too_many_match_says_so(office: Office):
    template = (await office.account(name="zzz")).model_dump(exclude={"id", "username", "name", "mobile"})
    rows = [template | {"email": f"crowd{number:04}@example.com", "seq": number} for number in range(MAX_MATCHES + 1)]
    await office.parts.db["users"].insert_many(rows[:-1])

    assert len(await office.listed(300, q="crowd")) == MAX_MATCHES
    await office.parts.db["users"].insert_one(rows[-1])
    with pytest.raises(InvalidInputError, match="type more") as refused:
        await office.listed(q="crowd")
    assert refused.value.errors[0].loc == ("query", "q")
    assert len(await office.listed(q="crowd000")) == 10


# Changes


async def test_a_role_is_changed_told_and_written_down(office: Office):
    admin, user = await office.account(Role.ADMIN), await office.account()

    answer = await office.here.change(acting(admin), user.id, AccountChanges(role=Role.OPERATOR, is_verified=True))

    assert (answer.role, answer.is_verified, answer.is_active) == (Role.OPERATOR, True, True)
    assert (await office.row(user))["role"] == "operator"
    assert await office.here.get(user.id) == answer
    assert office.heard == [AccountChanged(user_id=str(user.id), is_active=True)]
    [act] = office.acts
    assert (act.action, act.account_id, act.outcome) == ("admin.user_update", user.id, Outcome.SUCCESS)
    assert (act.actor.kind, act.actor.user_id) == (ActorKind.SESSION, admin.id)
    assert act.target == ("account", str(user.id))
    assert act.details == {"role": "user → operator", "is_verified": "false → true"}


async def test_deactivation_ends_every_session_before_it_returns(office: Office):
    admin, user = await office.account(Role.ADMIN), await office.account()
    pairs = [await office.parts.sessions.open(user, HERE) for _ in range(3)]
    for pair in pairs:
        await office.parts.authenticator.authenticate(pair.access_token)

    await office.here.change(acting(admin), user.id, AccountChanges(is_active=False))

    for pair in pairs:
        with pytest.raises(UnauthorizedError):
            await office.parts.authenticator.authenticate(pair.access_token)
        with pytest.raises(UnauthorizedError):
            await office.parts.sessions.refresh(pair.refresh_token, HERE)
    assert not await office.parts.accounts.is_active(user.id)
    assert AccountChanged(user_id=str(user.id), is_active=False) in office.heard
    ended = [event for event in office.heard if isinstance(event, SessionRevoked)]
    assert sum(len(event.session_ids) for event in ended) == 3
    assert office.acts[0].details == {"is_active": "true → false", "sessions_ended": 3}

    await office.here.change(acting(admin), user.id, AccountChanges(is_active=True))
    assert await office.parts.accounts.is_active(user.id)
    assert office.heard[-1] == AccountChanged(user_id=str(user.id), is_active=True)


async def test_a_deactivation_is_announced_before_anything_else_can_fail(office: Office):
    admin, user = await office.account(Role.ADMIN), await office.account()
    await office.parts.sessions.open(user, HERE)

    await office.here.change(acting(admin), user.id, AccountChanges(is_active=False))

    # What somebody has open by an API token ends by the first of these alone; the second goes session by session.
    assert [type(event) for event in office.heard] == [AccountChanged, SessionRevoked]
    assert office.heard[0] == AccountChanged(user_id=str(user.id), is_active=False)


async def test_api_tokens_are_suspended_by_a_deactivation_and_revoked_when_asked_for(office: Office):
    admin, user = await office.account(Role.ADMIN), await office.account()
    pair = await office.parts.sessions.open(user, HERE)
    owner = await office.parts.authenticator.authenticate(pair.access_token)
    wish = ApiTokenBody(name="bot", scopes=[Scope.ALERTS_READ], expires_in_days=90)
    bots = [(await office.parts.api_tokens.create(owner, wish, HERE)).token for _ in range(2)]

    await office.here.change(acting(admin), user.id, AccountChanges(is_active=False))
    for bot in bots:
        with pytest.raises(UnauthorizedError):
            await office.parts.authenticator.authenticate(bot)
    await office.here.change(acting(admin), user.id, AccountChanges(is_active=True))
    for bot in bots:
        assert (await office.parts.authenticator.authenticate(bot)).user_id == user.id

    for ended in (2, 0):
        await office.here.change(acting(admin), user.id, AccountChanges(api_tokens=False))
        assert office.acts[-1].details == {"api_tokens_revoked": ended}
    await office.here.change(acting(admin), user.id, AccountChanges(is_active=True))
    for bot in bots:
        with pytest.raises(UnauthorizedError):
            await office.parts.authenticator.authenticate(bot)


async def test_what_was_changed_is_no_error_when_it_cannot_be_written_down_now(office: Office):
    admin, user = await office.account(Role.ADMIN), await office.account()
    office.parts.trail.broken = True
    answer = await office.here.change(acting(admin), user.id, AccountChanges(role=Role.OPERATOR))
    assert answer.role is Role.OPERATOR
    assert office.acts[-1].details == {"role": "user → operator"}


async def test_the_same_again_repairs_what_a_crash_left_half_done(office: Office):
    """The process died after it had stored the change, before anything that follows from it."""
    admin, user = await office.account(Role.ADMIN), await office.account()
    pair = await office.parts.sessions.open(user, HERE)
    await office.parts.authenticator.authenticate(pair.access_token)  # and now it is cached
    await office.parts.db["users"].update_one({"_id": user.id}, {"$set": {"is_active": False}})

    await office.here.change(acting(admin), user.id, AccountChanges(is_active=False))

    with pytest.raises(UnauthorizedError):
        await office.parts.authenticator.authenticate(pair.access_token)
    [session] = await office.parts.db["sessions"].find({"user_id": user.id}).to_list()
    assert session["live"] is False
    assert AccountChanged(user_id=str(user.id), is_active=False) in office.heard
    assert office.acts[-1].details == {"is_active": "false, as before", "sessions_ended": 1}


async def test_a_lost_second_factor_is_removed_and_its_owner_told(office: Office):
    admin, user = await office.account(Role.ADMIN), await office.account()
    now = office.parts.clock.now()
    await SecondFactorDocument(id=user.id, secret="sealed", created_at=now, confirmed_at=now).insert()
    assert (await office.here.get(user.id)).second_factor

    answer = await office.here.change(acting(admin), user.id, AccountChanges(second_factor=False))

    assert not answer.second_factor
    assert [(mail.kind, mail.to) for mail in office.parts.post.requests] == [("second_factor_changed", user.email)]
    await office.here.change(acting(admin), user.id, AccountChanges(second_factor=False))
    assert [act.details["second_factor"] for act in office.acts] == ["removed", "there was none"]
    assert len(office.parts.post.requests) == 1


async def test_an_unknown_account_is_not_found(office: Office):
    admin = await office.account(Role.ADMIN)
    with pytest.raises(NotFoundError):
        await office.here.get(PydanticObjectId())
    with pytest.raises(NotFoundError):
        await office.here.change(acting(admin), PydanticObjectId(), AccountChanges(is_active=False))


# Nobody locks everybody out


@pytest.mark.parametrize(
    "changes",
    [
        AccountChanges(is_active=False),
        AccountChanges(role=Role.OPERATOR),
        AccountChanges(role=Role.USER, is_active=True, is_verified=True),
        AccountChanges(second_factor=False),
    ],
    ids=lambda changes: ",".join(sorted(changes.model_fields_set)),
)
async def test_nobody_takes_power_or_protection_from_themselves(office: Office, changes: AccountChanges):
    admin, _ = await office.account(Role.ADMIN), await office.account(Role.ADMIN)
    before = await office.row(admin)

    with pytest.raises(ConflictError, match="your own"):
        await office.here.change(acting(admin), admin.id, changes)

    assert await office.row(admin) == before
    assert office.heard == []
    [act] = office.acts
    assert (act.outcome, act.account_id) == (Outcome.REFUSED, admin.id)


async def test_what_is_so_already_can_be_asked_for_oneself(office: Office):
    admin = await office.account(Role.ADMIN)

    answer = await office.here.change(
        acting(admin), admin.id, AccountChanges(is_active=True, role=Role.ADMIN, is_verified=True)
    )

    assert (answer.role, answer.is_active, answer.is_verified) == (Role.ADMIN, True, True)


@pytest.mark.parametrize("changes", [AccountChanges(is_active=False), AccountChanges(role=Role.USER)])
async def test_the_last_active_administrator_stays(office: Office, changes: AccountChanges):
    last, former, inactive = [await office.account(Role.ADMIN) for _ in range(3)]
    await office.here.change(acting(last), former.id, AccountChanges(role=Role.USER))
    await office.here.change(acting(last), inactive.id, AccountChanges(is_active=False))

    with pytest.raises(ConflictError, match="last active administrator"):
        await office.there.change(acting(former), last.id, changes)

    row = await office.row(last)
    assert (row["role"], row["is_active"]) == ("admin", True)
    assert office.acts[-1].outcome is Outcome.REFUSED


async def test_two_who_demote_one_another_leave_one(office: Office):
    one, other = await office.account(Role.ADMIN), await office.account(Role.ADMIN)
    users = office.parts.db["users"]
    for number in range(8):
        await users.update_many({}, {"$set": {"role": "admin", "is_active": True}})
        change = AccountChanges(role=Role.USER) if number % 2 else AccountChanges(is_active=False)

        results = await asyncio.gather(
            office.here.change(acting(one), other.id, change),
            office.there.change(acting(other), one.id, change),
            return_exceptions=True,
        )

        assert sorted(type(result).__name__ for result in results) == ["AccountDetails", "ConflictError"]
        assert await users.count_documents({"role": "admin", "is_active": True}) == 1


async def test_changes_at_the_same_moment_all_hold_and_the_trail_says_whose_it_was(office: Office):
    admin, user = await office.account(Role.ADMIN), await office.account()

    def change(where: AccountAdministration, **changes: Any) -> Awaitable[AccountDetails]:
        return where.change(acting(admin), user.id, AccountChanges(**changes))

    for _ in range(8):
        await office.parts.db["users"].update_one({"_id": user.id}, {"$set": {"is_verified": False, "role": "user"}})
        office.parts.trail.acts.clear()

        await asyncio.gather(
            change(office.here, is_verified=True), change(office.there, is_verified=True, role=Role.ADMIN)
        )

        row = await office.row(user)
        assert (row["role"], row["is_verified"]) == ("admin", True)
        told = sorted(str(act.details["is_verified"]) for act in office.acts)
        assert told == ["false → true", "true, as before"]
