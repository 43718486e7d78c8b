"""An account that somebody made with another's address, and what the owner of the address finds there."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.errors import AutoReconnect

from app.auth.challenges import SecondFactorRequiredError
from app.auth.mailed_tokens import Purpose
from app.auth.models import UserDocument
from app.auth.otp import OtpCodes
from app.auth.schemas.accounts import RegisterBody, SignupBody, TokenPair
from app.core.errors import ForbiddenError, UnauthorizedError
from tests.auth.conftest import HERE, PASSWORD, Outcome, Parts
from tests.auth.recovery_kit import ELSEWHERE, NEW, Kit
from tests.auth.second_factor_kit import App


@pytest.fixture
def kit(parts: Parts, tmp_path: Path) -> Kit:
    return Kit(parts, tmp_path)


def new_email() -> str:
    return f"{secrets.token_hex(8)}@example.com"


@dataclass
class Planted:
    """What somebody at `HERE` has, who signed up with an address that may not be theirs."""

    kit: Kit
    email: str
    tokens: TokenPair
    api_token: str

    @classmethod
    async def by(cls, kit: Kit) -> "Planted":
        email = new_email()
        tokens = await kit.service.signup(SignupBody(email=email, password=SecretStr(PASSWORD)), HERE)
        caller = await kit.caller(tokens)
        enrolment = await kit.factors.begin(caller, PASSWORD, HERE)
        await kit.factors.confirm(caller, App(enrolment.otpauth_uri).code(), HERE)
        return cls(kit, email, tokens, await kit.api_token(caller))

    async def user(self) -> UserDocument:
        user = await self.kit.parts.accounts.find(self.email)
        assert user is not None
        return user

    async def left(self) -> dict[str, bool]:
        """What of it still works."""
        kit, user = self.kit, await self.user()
        try:
            await kit.parts.authenticator.authenticate(self.api_token)
            api_token = True
        except UnauthorizedError:
            api_token = False
        return {
            "session": await kit.alive(self.tokens) == [True],
            "API token": api_token,
            "keys": user.id not in kit.keys.ended,
            "second factor": await kit.factors.enrolled(user.id),
            "password": await kit.has(user, PASSWORD),
            "place": await kit.places.familiar(str(user.id), HERE.address),
        }


@pytest.fixture
async def planted(kit: Kit) -> Planted:
    return await Planted.by(kit)


def taken_over(kit: Kit) -> list[dict[str, Any]]:
    return [dict(act.details) for act in kit.post.acts if act.action == "auth.taken_over"]


ENDED = {"sessions_ended": 1, "api_tokens_ended": 1, "strategy_keys_ended": 2, "second_factor_removed": True}


async def test_a_code_from_elsewhere_takes_everything_from_who_was_there(kit: Kit, planted: Planted) -> None:
    fresh = await kit.service.otp_login(planted.email, await kit.code(planted.email), ELSEWHERE)

    assert not any((await planted.left()).values())
    user = await planted.user()
    assert (await kit.caller(fresh)).user_id == user.id
    assert user.is_verified
    assert taken_over(kit) == [{"method": "otp", **ENDED}]
    [mail] = kit.post.sent("password_changed")
    assert (mail.to, mail.values["address"], mail.values["api_tokens_ended"]) == (user.email, ELSEWHERE.address, 1)
    # From now on it is an account like any other.
    await kit.service.otp_login(planted.email, await kit.code(planted.email), HERE)
    assert await kit.alive(fresh) == [True]
    assert len(taken_over(kit)) == 1


async def test_a_reset_from_elsewhere_does_too(kit: Kit, planted: Planted) -> None:
    await kit.reset(await kit.token(Purpose.PASSWORD_RESET, await planted.user()))

    assert not any((await planted.left()).values())
    assert (await planted.user()).is_verified
    assert taken_over(kit) == [{"method": "password_reset", **ENDED}]
    [mail] = kit.post.sent("password_changed")
    assert mail.values["api_tokens_ended"] == 1
    await kit.service.login(planted.email, NEW, ELSEWHERE)  # and no second factor is asked for


async def test_at_home_a_code_changes_nothing(kit: Kit, planted: Planted) -> None:
    with pytest.raises(SecondFactorRequiredError):
        await kit.service.otp_login(planted.email, await kit.code(planted.email), HERE)

    assert all((await planted.left()).values())
    assert (await planted.user()).is_verified
    assert taken_over(kit) == []
    assert kit.post.sent("password_changed") == []


async def test_at_home_a_reset_ends_what_a_thief_may_have_and_no_more(kit: Kit, planted: Planted) -> None:
    await kit.reset(await kit.token(Purpose.PASSWORD_RESET, await planted.user()), client=HERE)

    left = await planted.left()
    assert {what for what, works in left.items() if works} == {"keys", "second factor", "place"}
    assert taken_over(kit) == []


@pytest.mark.parametrize("proof", ["code", "reset"])
async def test_after_a_proof_at_home_a_later_one_from_elsewhere_takes_nothing(
    kit: Kit, planted: Planted, proof: str
) -> None:
    await kit.recovery.verify_email(await kit.token(Purpose.VERIFY_EMAIL, await planted.user()), HERE)

    if proof == "code":
        with pytest.raises(SecondFactorRequiredError):
            await kit.service.otp_login(planted.email, await kit.code(planted.email), ELSEWHERE)
        assert all((await planted.left()).values())
    else:
        await kit.reset(await kit.token(Purpose.PASSWORD_RESET, await planted.user()))
        left = await planted.left()
        assert (left["keys"], left["second factor"]) == (True, True)
    assert taken_over(kit) == []


@pytest.mark.parametrize("proof", ["code", "reset"])
async def test_what_failed_half_way_is_made_good_by_the_next_code(
    kit: Kit, planted: Planted, outcome: Outcome, proof: str
) -> None:
    kit.keys.away = True
    if proof == "code":
        first = kit.service.otp_login(planted.email, await kit.code(planted.email), ELSEWHERE)
    else:
        first = kit.reset(await kit.token(Purpose.PASSWORD_RESET, await planted.user()))
    assert await outcome(first) is AutoReconnect
    assert not (await planted.user()).is_verified
    assert kit.keys.ended == []
    kit.keys.away = False

    await kit.service.otp_login(planted.email, await kit.code(planted.email), ELSEWHERE)

    assert not any((await planted.left()).values())
    assert len(taken_over(kit)) == 1


@pytest.mark.parametrize("where", [HERE, ELSEWHERE])
async def test_who_registered_here_keeps_the_password_here(kit: Kit, where: Any) -> None:
    email = new_email()
    await kit.service.register(RegisterBody(email=email, password=SecretStr(PASSWORD)), HERE)

    await kit.service.otp_login(email, await kit.code(email), where)

    user = await kit.parts.accounts.find(email)
    assert user is not None
    assert await kit.has(user, PASSWORD) is (where is HERE)
    assert len(taken_over(kit)) == (where is ELSEWHERE)


async def test_a_deactivated_account_is_not_taken_over(kit: Kit, planted: Planted) -> None:
    code, user = await kit.code(planted.email), await planted.user()
    await kit.parts.db.users.update_one({"_id": user.id}, {"$set": {"is_active": False}})

    with pytest.raises(ForbiddenError):
        await kit.service.otp_login(planted.email, code, ELSEWHERE)

    await kit.parts.db.users.update_one({"_id": user.id}, {"$set": {"is_active": True}})
    assert all((await planted.left()).values())
    assert not (await planted.user()).is_verified


async def test_a_sign_in_by_code_that_began_before_all_sessions_ended_opens_none(kit: Kit, parts: Parts) -> None:
    user = await parts.user()
    await parts.accounts.mark_verified(user.id, user.email)
    code = await kit.code(user.email)

    class Meanwhile(OtpCodes):
        """Codes, with something happening while one is checked."""

        async def check(self, email: str, code: str) -> Any:
            found = await kit.otp.check(email, code)
            await parts.sessions.revoke_all(user.id, "ended by its owner with all others")
            return found

    service = kit.service_with(Meanwhile.__new__(Meanwhile))
    with pytest.raises(UnauthorizedError, match="sign in again"):
        await service.otp_login(user.email, code, HERE)
    assert await parts.db.sessions.count_documents({"user_id": user.id}) == 0


async def test_a_sign_out_is_written_down_once(kit: Kit) -> None:
    user, pair = await kit.parts.session()
    for _ in range(3):
        await kit.service.logout(pair.refresh_token)
    assert [account for account, _ in kit.post.noted("auth.sign_out")] == [user.id]


async def test_sign_ups_send_no_more_mails_than_may_be_asked_for(parts: Parts, tmp_path: Path) -> None:
    kit = Kit(parts, tmp_path, auth_address_rate_limit_per_minute=3)
    emails = [new_email() for _ in range(7)]
    for email in emails[:5]:
        await kit.service.register(RegisterBody(email=email, password=SecretStr(PASSWORD)), HERE)
    await kit.service.signup(SignupBody(email=emails[5], password=SecretStr(PASSWORD)), HERE)
    await kit.service.register(RegisterBody(email=emails[6], password=SecretStr(PASSWORD)), ELSEWHERE)

    sent = [mail.to for mail in kit.post.sent("verify_email")]
    assert sent[:3] == emails[:3]
    assert sent[-1] == emails[6]
    assert len(sent) <= 5  # three in a minute, one where the minute turns, and the one from elsewhere
    assert all([await parts.accounts.find(email) for email in emails])
