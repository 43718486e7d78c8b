"""Sign-in in two steps on a real database: a challenge is good once, for a while, and for a few tries."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from beanie import PydanticObjectId
from pymongo.asynchronous.database import AsyncDatabase

from app.auth.challenges import (
    LIFETIME,
    MAX_TRIES,
    Challenge,
    SecondFactorRequiredError,
    SecondStep,
    WrongSecondFactorError,
)
from app.auth.models import OneTimeSecretDocument
from app.auth.passwords import Passwords
from app.core.errors import RateLimitedError, UnauthorizedError, UnavailableError
from tests.auth.conftest import HERE
from tests.auth.second_factor_kit import App, Kit, Person

Outcomes = Callable[[Awaitable[Any]], Awaitable[type[BaseException] | None]]


@pytest.fixture
async def kit(
    auth_db: AsyncDatabase[dict[str, Any]],  # noqa: ARG001 (the documents live there)
    passwords: Passwords,
    tmp_path: Path,
) -> Kit:
    return Kit(tmp_path, passwords)


@pytest.fixture
async def person(kit: Kit) -> Person:
    """Somebody with a second factor."""
    made = await kit.person()
    await made.enrol()
    return made


@pytest.fixture
def app(person: Person) -> App:
    assert person.app
    return person.app


async def test_it_is_asked_for_where_it_is_enrolled(kit: Kit, person: Person) -> None:
    other = await kit.person()
    await kit.challenges.ask(other.id, "password", 0)
    await other.begin()
    await kit.challenges.ask(other.id, "password", 0)  # not confirmed

    with pytest.raises(SecondFactorRequiredError) as asked:
        await kit.challenges.ask(person.id, "password", 0)

    error = asked.value
    assert (error.status, error.slug, error.title) == (401, "second-factor-required", "Second factor required")
    assert error.headers == {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"}
    assert set(error.extensions) == {"challenge_token", "expires_in", "methods"}
    assert (error.extensions["expires_in"], error.extensions["methods"]) == (300, ["totp", "recovery_code"])
    assert error.extensions["challenge_token"] not in f"{error} {error!r} {error.detail}"
    assert len(error.extensions["challenge_token"]) == 43


@pytest.mark.parametrize("method", ["password", "otp"])
async def test_a_code_completes_a_sign_in_once(kit: Kit, person: Person, app: App, method: str) -> None:
    for code, factor in ((app.code(), "totp"), (person.recovery[0], "recovery_code")):
        challenge = await kit.challenges.open(person.id, method, 0)

        step = await kit.challenges.redeem(challenge.token, code, HERE)

        assert step == SecondStep(person.id, f"{method}+{factor}", 0)
        with pytest.raises(UnauthorizedError, match="begin it again"):
            await kit.challenges.redeem(challenge.token, person.recovery[1], HERE)
    assert await kit.factors.check(person.id, person.recovery[1]) == "recovery_code"  # not used up by that


async def test_a_token_is_not_kept_in_clear(kit: Kit, person: Person) -> None:
    challenge = await kit.challenges.open(person.id, "password", 0)

    rows = await OneTimeSecretDocument.get_pymongo_collection().find({"user_id": person.id}).to_list()
    assert len(rows) == 1
    assert challenge.token not in f"{rows} {challenge!r}"


async def test_wrong_codes_end_a_challenge(kit: Kit, person: Person, app: App) -> None:
    challenge = await kit.challenges.open(person.id, "password", 0)
    for _ in range(MAX_TRIES):
        with pytest.raises(WrongSecondFactorError) as wrong:
            await kit.challenges.redeem(challenge.token, app.wrong(), HERE)
        assert (wrong.value.user_id, wrong.value.method) == (person.id, "password")

    with pytest.raises(UnauthorizedError, match="begin it again"):
        await kit.challenges.redeem(challenge.token, app.code(), HERE)
    again = await kit.challenges.open(person.id, "password", 0)
    assert (await kit.challenges.redeem(again.token, app.code(), HERE)).user_id == person.id


async def test_before_the_last_wrong_code_the_right_one_is_taken(kit: Kit, person: Person, app: App) -> None:
    challenge = await kit.challenges.open(person.id, "password", 0)
    for _ in range(MAX_TRIES - 1):
        with pytest.raises(WrongSecondFactorError):
            await kit.challenges.redeem(challenge.token, app.wrong(), HERE)

    assert await kit.challenges.redeem(challenge.token, app.code(), HERE) == SecondStep(person.id, "password+totp", 0)


async def test_a_code_that_was_used_is_a_wrong_one(kit: Kit, person: Person, app: App) -> None:
    code = app.code()
    first, second = [await kit.challenges.open(person.id, "password", 0) for _ in range(2)]
    await kit.challenges.redeem(first.token, code, HERE)

    with pytest.raises(WrongSecondFactorError):
        await kit.challenges.redeem(second.token, code, HERE)
    kit.clock.move(seconds=30)
    await kit.challenges.redeem(second.token, app.code(), HERE)


async def test_a_challenge_ends_in_time_whatever_is_tried(kit: Kit, person: Person, app: App) -> None:
    tried, untouched = [await kit.challenges.open(person.id, "password", 0) for _ in range(2)]
    kit.clock.move(seconds=LIFETIME.total_seconds() - 1)
    with pytest.raises(WrongSecondFactorError):
        await kit.challenges.redeem(tried.token, app.wrong(), HERE)  # which must not prolong it

    kit.clock.move(seconds=1)

    for challenge in (tried, untouched):
        with pytest.raises(UnauthorizedError, match="begin it again"):
            await kit.challenges.redeem(challenge.token, app.code(), HERE)


async def test_tokens_of_nobody(kit: Kit, app: App) -> None:
    for token in ("", "x", "A" * 43, "$ne", "é"):
        with pytest.raises(UnauthorizedError, match="begin it again"):
            await kit.challenges.redeem(token, app.code(), HERE)


async def test_a_challenge_serves_its_own_account(kit: Kit, person: Person, app: App) -> None:
    other = await kit.person()
    other_app = await other.enrol()
    challenge = await kit.challenges.open(person.id, "password", 0)

    with pytest.raises(WrongSecondFactorError):
        await kit.challenges.redeem(challenge.token, other_app.code(), HERE)
    await kit.challenges.redeem(challenge.token, app.code(), HERE)


async def test_of_many_at_once_one_signs_in(kit: Kit, person: Person, app: App, outcome: Outcomes) -> None:
    challenge = await kit.challenges.open(person.id, "password", 0)
    several = [challenge, *[await kit.challenges.open(person.id, "password", 0) for _ in range(3)]]

    def redeem(one: Challenge, code: str) -> Awaitable[type[BaseException] | None]:
        return outcome(kit.challenges.redeem(one.token, code, HERE))

    # One challenge with a code each, then one code for a challenge each.
    ends = await asyncio.gather(*(redeem(challenge, code) for code in person.recovery))
    assert sorted(map(str, ends)) == sorted([str(None), *[str(UnauthorizedError)] * 9])
    assert (await kit.factors.status(person.id)).recovery_codes_left == 9
    ends = await asyncio.gather(*(redeem(one, app.code()) for one in several[1:]))
    assert sorted(map(str, ends)) == sorted([str(None), *[str(WrongSecondFactorError)] * 2])


async def test_wrong_codes_at_once_are_no_more_than_one_by_one(
    kit: Kit, person: Person, app: App, outcome: Outcomes
) -> None:
    challenge = await kit.challenges.open(person.id, "password", 0)
    ends: list[type[BaseException] | None] = []
    for _ in range(6):
        ends += await asyncio.gather(
            *(outcome(kit.challenges.redeem(challenge.token, app.wrong(), HERE)) for _ in range(4))
        )

    assert 1 <= ends.count(WrongSecondFactorError) <= MAX_TRIES
    assert await outcome(kit.challenges.redeem(challenge.token, app.code(), HERE)) is UnauthorizedError


async def test_guessing_over_many_challenges_is_bounded(
    auth_db: AsyncDatabase[dict[str, Any]],  # noqa: ARG001
    passwords: Passwords,
    tmp_path: Path,
) -> None:
    """Whoever knows the password can open as many challenges as they like."""
    kit = Kit(tmp_path, passwords, per_minute=4)
    person = await kit.person()
    app = await person.enrol()  # one of the four
    for _ in range(3):
        challenge = await kit.challenges.open(person.id, "password", 0)
        with pytest.raises(WrongSecondFactorError):
            await kit.challenges.redeem(challenge.token, app.wrong(), HERE)

    challenge = await kit.challenges.open(person.id, "password", 0)
    for _ in range(MAX_TRIES + 1):
        with pytest.raises(RateLimitedError):
            await kit.challenges.redeem(challenge.token, app.code(), HERE)
    # They were no tries of this challenge, which waits as it was; and the code was not used up.
    row = await OneTimeSecretDocument.find_one({"user_id": person.id, "details.tries": "0"})
    assert row is not None
    assert await kit.factors.check(person.id, app.code()) == "totp"


async def test_what_cannot_be_checked_costs_no_try(kit: Kit, person: Person, app: App) -> None:
    challenge = await kit.challenges.open(person.id, "password", 0)
    without_keys = kit.challenges_of(kit.with_keys())

    for _ in range(MAX_TRIES + 1):
        with pytest.raises(UnavailableError, match="recovery code"):
            await without_keys.redeem(challenge.token, app.code(), HERE)

    assert (await without_keys.redeem(challenge.token, person.recovery[0], HERE)).method == "password+recovery_code"


async def test_after_it_was_turned_off_its_challenges_are_worthless(kit: Kit, person: Person, app: App) -> None:
    challenge = await kit.challenges.open(person.id, "password", 0)
    await kit.factors.remove(person.id)

    for code in (app.code(), person.recovery[0]):
        with pytest.raises(WrongSecondFactorError):
            await kit.challenges.redeem(challenge.token, code, HERE)
    await kit.challenges.ask(PydanticObjectId(person.id), "password", 0)  # not asked for any more
