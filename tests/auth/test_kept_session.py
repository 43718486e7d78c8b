"""Ending all other sessions while somebody ends all of them: a session that has just ended is not brought back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beanie import PydanticObjectId
from pymongo import MongoClient

from app.auth.mailed_tokens import Purpose
from app.auth.models import UserDocument, all_sessions_end
from app.core.errors import SessionEndedError, UnavailableError
from tests.auth.conftest import HERE, Parts, Queries
from tests.auth.recovery_kit import ELSEWHERE, NEW, Kit

At = Callable[[dict[str, Any]], None]


@pytest.fixture
def kit(parts: Parts, tmp_path: Path) -> Kit:
    return Kit(parts, tmp_path)


async def reset(kit: Kit, user: UserDocument) -> None:
    await kit.reset(await kit.token(Purpose.PASSWORD_RESET, user))


async def change(kit: Kit, user: UserDocument) -> None:
    again = await kit.parts.accounts.get(user.id)
    assert again is not None
    await kit.change(await kit.caller(await kit.parts.sessions.open(again, ELSEWHERE)))


async def deactivate(kit: Kit, user: UserDocument) -> None:
    users = kit.parts.db.users
    await users.update_one({"_id": user.id}, {"$set": {"is_active": False}})
    await kit.parts.sessions.revoke_all(user.id, "the account was deactivated")


@pytest.mark.parametrize("end", [reset, change, deactivate])
async def test_a_request_that_was_let_in_before_the_end_keeps_nothing(kit: Kit, parts: Parts, end: Any) -> None:
    user, thief = await parts.session()
    await parts.accounts.mark_verified(user.id, user.email)
    caller = await kit.caller(thief)  # the request is past the door
    await end(kit, user)

    with pytest.raises(SessionEndedError):
        await parts.sessions.end_all(caller, keep_current=True)

    await parts.db.users.update_one({"_id": user.id}, {"$set": {"is_active": True}})
    assert await kit.alive(thief) == [False]
    assert "session.end_all" not in [act.action for act in parts.trail.acts]


async def test_it_ends_no_session_of_the_owner_either(kit: Kit, parts: Parts) -> None:
    user, thief = await parts.session()
    caller = await kit.caller(thief)
    await reset(kit, user)
    mine = await kit.service.login(user.email, NEW, ELSEWHERE)

    with pytest.raises(SessionEndedError):
        await parts.sessions.end_all(caller, keep_current=True)

    assert await kit.alive(mine, thief) == [True, False]


async def test_a_session_that_was_ended_by_itself_keeps_nothing(kit: Kit, parts: Parts) -> None:
    user, thief = await parts.session()
    mine = await parts.sessions.open(user, HERE)
    caller = await kit.caller(thief)
    await parts.sessions.end_one(await kit.caller(mine), caller.session_id)

    with pytest.raises(SessionEndedError):
        await parts.sessions.end_all(caller, keep_current=True)

    assert await kit.alive(mine, thief) == [True, False]


@pytest.fixture
def change_at_next_read(mongodb_url: str, parts: Parts, queries: Queries) -> Iterator[Callable[..., None]]:
    """Changes an account between the next read of an account and what follows from it, so many times."""
    with MongoClient[dict[str, Any]](mongodb_url, w="majority") as client:
        users = client[parts.db.name]["users"]

        def at_next_read(user_id: PydanticObjectId, update: dict[str, Any], times: int = 1) -> None:
            def then() -> None:
                users.update_one({"_id": user_id}, update)
                if times > 1:
                    at_next_read(user_id, update, times - 1)

            queries.then["users"] = then

        yield at_next_read
        queries.then.clear()


@pytest.mark.parametrize(
    "update", [all_sessions_end(), {"$set": {"is_active": False}}], ids=["a new password", "a deactivation"]
)
async def test_an_end_between_the_look_and_the_write_wins(
    kit: Kit, parts: Parts, change_at_next_read: Callable[..., None], update: dict[str, Any]
) -> None:
    user, thief = await parts.session()
    caller = await kit.caller(thief)
    change_at_next_read(user.id, update)

    with pytest.raises(SessionEndedError):
        await parts.sessions.end_all(caller, keep_current=True)

    row = await parts.accounts.get(user.id)
    assert row is not None
    assert row.kept_session is None
    assert await parts.sessions.end_outdated(user.id, "test") == (row.session_epoch > 0)


async def test_whose_own_other_request_was_quicker_tries_again(
    kit: Kit, parts: Parts, change_at_next_read: Callable[..., None]
) -> None:
    user, pair = await parts.session()
    other = await parts.sessions.open(user, HERE)
    caller = await kit.caller(pair)
    change_at_next_read(user.id, all_sessions_end(but=caller.session_id))

    assert await parts.sessions.end_all(caller, keep_current=True) == 1

    assert await kit.alive(pair, other) == [True, False]


async def test_it_does_not_try_for_ever(kit: Kit, parts: Parts, change_at_next_read: Callable[..., None]) -> None:
    user, pair = await parts.session()
    caller = await kit.caller(pair)
    change_at_next_read(user.id, all_sessions_end(but=caller.session_id), times=50)

    with pytest.raises(UnavailableError):
        await parts.sessions.end_all(caller, keep_current=True)
