"""Who an account belongs to: what proves it, what does not, and what an owner is told of who had it before."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from pymongo.errors import AutoReconnect

from app.auth.accounts import NewAccount
from app.auth.challenges import SecondFactorRequiredError
from app.auth.mailed_tokens import Purpose
from app.auth.places import REMEMBERED
from app.auth.schemas.accounts import SignupBody, TokenPair
from app.auth.sessions import Client, Sessions
from app.auth.tokens import AccessTokens
from app.core.errors import ConflictError, InvalidInputError, WrongCredentialsError
from tests.auth.conftest import HERE, PASSWORD, Outcome, Parts, Queries
from tests.auth.recovery_kit import ELSEWHERE, NEW, Kit
from tests.auth.second_factor_kit import App
from tests.auth.test_take_over import Planted, new_email, taken_over


@pytest.fixture
def kit(parts: Parts, tmp_path: Path) -> Kit:
    return Kit(parts, tmp_path)


@pytest.fixture
async def planted(kit: Kit) -> Planted:
    return await Planted.by(kit)


async def come_in(kit: Kit, planted: Planted, proof: str) -> TokenPair:
    """The owner of the address, from elsewhere."""
    if proof == "code":
        return await kit.service.otp_login(planted.email, await kit.code(planted.email), ELSEWHERE)
    await kit.reset(await kit.token(Purpose.PASSWORD_RESET, await planted.user()))
    return await kit.service.login(planted.email, NEW, ELSEWHERE)


@pytest.mark.parametrize("proof", ["code", "reset"])
async def test_an_address_confirmed_from_elsewhere_makes_nobody_the_owner(
    kit: Kit, planted: Planted, proof: str
) -> None:
    token = await kit.token(Purpose.VERIFY_EMAIL, await planted.user())
    await kit.recovery.verify_email(token, ELSEWHERE)
    assert (await planted.user()).is_verified
    assert all((await planted.left()).values()), "it ends nothing"

    mine = await come_in(kit, planted, proof)  # and no planted second factor is asked for

    assert not any((await planted.left()).values())
    assert len(taken_over(kit)) == 1
    # From now on it is an account like any other.
    await kit.service.otp_login(planted.email, await kit.code(planted.email), Client("203.0.113.5"))
    assert await kit.alive(mine) == [True]


async def test_a_proof_at_home_follows_a_confirmation_from_elsewhere(kit: Kit, planted: Planted) -> None:
    await kit.recovery.verify_email(await kit.token(Purpose.VERIFY_EMAIL, await planted.user()), ELSEWHERE)
    for where in (HERE, ELSEWHERE):
        with pytest.raises(SecondFactorRequiredError):
            await kit.service.otp_login(planted.email, await kit.code(planted.email), where)
    assert taken_over(kit) == []


@pytest.mark.parametrize("known", [{"$set": {"is_verified": True}}, {"$set": {"is_verified": False}}])
async def test_an_account_from_before_has_yet_to_be_proven(
    kit: Kit, planted: Planted, known: dict[str, object]
) -> None:
    user = await planted.user()
    await kit.parts.db.users.update_one({"_id": user.id}, {"$unset": {"owner_proven": ""}, **known})

    await come_in(kit, planted, "code")

    assert not any((await planted.left()).values())
    user = await planted.user()
    assert (user.is_verified, user.owner_proven) == (True, True)


async def test_an_account_that_the_operator_made_is_its_owners(kit: Kit, parts: Parts) -> None:
    email = new_email()
    user = await parts.accounts.create(NewAccount(email, PASSWORD, owner_proven=True))

    await kit.service.otp_login(email, await kit.code(email), ELSEWHERE)

    assert await kit.has(user, PASSWORD)
    assert taken_over(kit) == []
    row = await parts.accounts.get(user.id)
    assert row is not None
    assert row.is_verified


async def test_a_reset_that_fails_half_way_lets_nobody_in(kit: Kit, planted: Planted, outcome: Outcome) -> None:
    """With the new password stored its owner would go on, at a place that is theirs then, where nothing is due."""
    kit.keys.away = True
    token = await kit.token(Purpose.PASSWORD_RESET, await planted.user())
    assert await outcome(kit.reset(token)) is AutoReconnect
    assert await outcome(kit.service.login(planted.email, NEW, ELSEWHERE)) is WrongCredentialsError
    kit.keys.away = False

    await come_in(kit, planted, "reset")

    assert not any((await planted.left()).values())
    [done] = taken_over(kit)
    assert (done["strategy_keys_ended"], done["sessions_ended"]) == (2, 1)


async def test_keys_and_second_factor_end_before_the_password_is_stored(
    kit: Kit, planted: Planted, queries: Queries
) -> None:
    token = await kit.token(Purpose.PASSWORD_RESET, await planted.user())
    queries.writes.clear()
    await kit.reset(token)
    first = queries.writes.index("users")
    assert {"api_tokens", "second_factors"} <= set(queries.writes[:first])
    assert "second_factors" in queries.writes[first:], "and once more, when nothing can be made any more"


@pytest.mark.parametrize("proof", ["code", "reset"])
async def test_the_owner_is_told_of_the_keys_that_ended(kit: Kit, planted: Planted, proof: str) -> None:
    await come_in(kit, planted, proof)
    [mail] = kit.post.sent("password_changed")
    assert (mail.values["api_tokens_ended"], mail.values["strategy_keys_ended"]) == (1, 2)
    letter = await kit.letters["password_changed"](mail)
    assert letter is not None
    assert letter.values["strategy_keys_ended"] == 2


async def test_a_second_factor_under_way_is_not_switched_on_by_who_is_out(kit: Kit, parts: Parts) -> None:
    email = new_email()
    thief = await kit.service.signup(SignupBody(email=email, password=SecretStr(PASSWORD)), HERE)
    caller = await kit.caller(thief)  # what they send now is past the door
    app = App((await kit.factors.begin(caller, PASSWORD, HERE)).otpauth_uri)
    await kit.service.otp_login(email, await kit.code(email), ELSEWHERE)

    with pytest.raises(ConflictError):
        await kit.factors.confirm(caller, app.code(), HERE)
    with pytest.raises(InvalidInputError):
        await kit.factors.begin(caller, PASSWORD, HERE)

    user = await parts.accounts.find(email)
    assert user is not None
    assert not await kit.factors.enrolled(user.id)


# ── Where somebody stays signed in ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def refreshing(kit: Kit) -> Sessions:
    """Sessions that tell of refreshes, as the lifespan puts them together."""
    parts = kit.parts
    tokens = AccessTokens(secret_key="s" * 40, lifetime=timedelta(minutes=30), clock=parts.clock)
    life = timedelta(days=7)
    return Sessions(
        clock=parts.clock, bus=parts.bus, tokens=tokens, lifetime=life, audit=parts.trail, seen=kit.places.renew
    )


async def signed_up(kit: Kit) -> tuple[str, TokenPair]:
    email = new_email()
    return email, await kit.service.signup(SignupBody(email=email, password=SecretStr(PASSWORD)), HERE)


async def test_who_stays_signed_in_at_home_stays_at_home(kit: Kit, parts: Parts, refreshing: Sessions) -> None:
    email, pair = await signed_up(kit)
    for day in range(0, 100, 6):
        parts.clock.ahead = timedelta(days=day)
        pair = await refreshing.refresh(pair.refresh_token, HERE)

    await kit.service.otp_login(email, await kit.code(email), HERE)

    user = await parts.accounts.find(email)
    assert user is not None
    assert await kit.has(user, PASSWORD)
    assert kit.keys.ended == []
    assert taken_over(kit) == []


async def test_a_refresh_makes_no_place_familiar(kit: Kit, parts: Parts, refreshing: Sessions) -> None:
    email, pair = await signed_up(kit)
    user = await parts.accounts.find(email)
    assert user is not None
    pair = await refreshing.refresh(pair.refresh_token, ELSEWHERE)
    assert not await kit.places.familiar(str(user.id), ELSEWHERE.address)
    # Nor one that was familiar once: the database may remove its row any time.
    await parts.db.sign_in_places.update_one(
        {"_id": f"{user.id}:{HERE.address}"}, {"$set": {"expires_at": parts.clock.now() - timedelta(seconds=1)}}
    )
    await refreshing.refresh(pair.refresh_token, HERE)
    assert not await kit.places.familiar(str(user.id), HERE.address)


async def test_a_place_is_written_once_a_day_at_most(kit: Kit, parts: Parts, refreshing: Sessions) -> None:
    email, pair = await signed_up(kit)
    user = await parts.accounts.find(email)
    assert user is not None
    ends = []
    for hours in (0, 23, 25, 26, 50):
        parts.clock.ahead = timedelta(hours=hours)
        pair = await refreshing.refresh(pair.refresh_token, HERE)
        row = await parts.db.sign_in_places.find_one({"_id": f"{user.id}:{HERE.address}"})
        assert row is not None
        ends.append(round((row["expires_at"] - REMEMBERED - parts.clock.now()).total_seconds() / 3600))
        assert row["expires_at"] - REMEMBERED == row["last_seen_at"]
    assert ends == [0, -23, 0, -1, 0]
