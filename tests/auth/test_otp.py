"""Codes by e-mail: who gets one, how long and how often it works, and that nobody learns who has an account."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
import structlog

from app.auth.accounts import Accounts, NewAccount
from app.auth.models import UserDocument
from app.auth.one_time import OneTimeSecrets
from app.auth.otp import KIND, OtpCodes
from app.auth.passwords import Passwords
from app.core.audit import SYSTEM, Act
from app.core.errors import UnavailableError
from app.core.mail import Letter, MailRequest
from app.core.settings import Settings
from tests.auth.codes_support import LOG, SECRET_KEY, codes_database, make_digests
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db


@dataclass
class MailsInMemory:
    """Keeps requests, of several of one key the last."""

    available: bool = True
    waiting: dict[str, MailRequest] = field(default_factory=dict)

    async def request(self, request: MailRequest) -> None:
        self.waiting[f"{request.kind}:{request.key}"] = request


@dataclass
class TrailInMemory:
    """Keeps acts, or fails as the real one does when the database is away."""

    acts: list[Act] = field(default_factory=list)
    away: bool = False

    async def record(self, act: Act) -> None:
        if self.away:
            raise UnavailableError("The database is away.")
        self.acts.append(act)


@dataclass
class Otp:
    """The codes, and what stands around them."""

    codes: OtpCodes
    accounts: Accounts
    clock: StandingClock
    mails: MailsInMemory
    trail: TrailInMemory
    db: Db

    async def user(self, name: str | None = None) -> UserDocument:
        email = f"{secrets.token_hex(8)}@example.com"
        return await self.accounts.create(NewAccount(email, "correct horse battery staple", name=name))

    async def ask(self, email: str) -> MailRequest:
        """Ask for a code; the request as it waits."""
        await self.codes.request(email)
        return self.mails.waiting.pop(f"{KIND}:{email}")

    async def letter(self, email: str) -> Letter | None:
        return await self.codes.compose(await self.ask(email))

    async def code(self, email: str) -> str:
        letter = await self.letter(email)
        assert letter is not None
        return str(letter.values["code"])


@pytest.fixture(scope="module", autouse=True)
async def codes_db(mongodb_url: str) -> AsyncIterator[Db]:
    async with codes_database(mongodb_url) as db:
        yield db


@pytest.fixture
def otp(codes_db: Db, passwords: Passwords) -> Otp:
    clock, mails, trail, digests = StandingClock(), MailsInMemory(), TrailInMemory(), make_digests()
    accounts = Accounts(clock=clock, passwords=passwords)
    codes = OtpCodes(
        settings=Settings(secret_key=SECRET_KEY, otp_expire_minutes=7, _env_file=None),
        clock=clock,
        accounts=accounts,
        secrets=OneTimeSecrets(clock=clock, digests=digests),
        mails=mails,
        digests=digests,
        audit=trail,
    )
    return Otp(codes, accounts, clock, mails, trail, codes_db)


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06d}"


async def test_a_code_signs_its_account_in_once(otp: Otp) -> None:
    user = await otp.user(name="Asha Rao")
    letter = await otp.letter(user.email)
    assert letter is not None
    assert (letter.to, letter.template) == (user.email, "otp")
    code = str(letter.values["code"])
    assert letter.values == {"code": code, "minutes": 7, "name": "Asha Rao"}
    assert len(code) == 6
    assert code.isascii()
    assert code.isdecimal()
    assert await otp.codes.check(user.email, code) == user.id
    assert await otp.codes.check(user.email, code) is None


async def test_a_code_lives_for_the_minutes_that_are_set(otp: Otp) -> None:
    user = await otp.user()
    code = await otp.code(user.email)
    otp.clock.move(minutes=7)
    assert await otp.codes.check(user.email, code) is None
    code = await otp.code(user.email)
    otp.clock.move(minutes=7, milliseconds=-1)
    assert await otp.codes.check(user.email, code) == user.id


async def test_the_time_begins_with_sending_not_with_asking(otp: Otp) -> None:
    user = await otp.user()
    request = await otp.ask(user.email)
    otp.clock.move(hours=2)  # no mail could be sent
    letter = await otp.codes.compose(request)
    assert letter is not None
    otp.clock.move(minutes=6)
    assert await otp.codes.check(user.email, str(letter.values["code"])) == user.id


async def test_five_wrong_tries_kill_a_code_and_another_one_works(otp: Otp) -> None:
    user = await otp.user()
    code = await otp.code(user.email)
    for _ in range(5):
        assert await otp.codes.check(user.email, wrong(code)) is None
    assert await otp.codes.check(user.email, code) is None
    assert await otp.codes.check(user.email, await otp.code(user.email)) == user.id


async def test_one_code_lives_at_a_time(otp: Otp) -> None:
    user = await otp.user()
    first = await otp.code(user.email)
    second = await otp.code(user.email)
    while second == first:  # once in a million
        second = await otp.code(user.email)
    assert await otp.codes.check(user.email, first) is None
    assert await otp.codes.check(user.email, second) == user.id


async def test_a_code_is_of_one_address(otp: Otp) -> None:
    one, other = await otp.user(), await otp.user()
    code = await otp.code(one.email)
    await otp.code(other.email)
    assert await otp.codes.check(other.email, code) in {None, other.id}  # one in a million has both
    assert await otp.codes.check(one.email, code) == one.id


async def test_of_eight_right_answers_at_once_one_signs_in(otp: Otp) -> None:
    user = await otp.user()
    code = await otp.code(user.email)
    found = await asyncio.gather(*(otp.codes.check(user.email, code) for _ in range(8)))
    assert sorted(found, key=str) == sorted([user.id] + [None] * 7, key=str)


async def test_codes_are_spread_and_keep_their_leading_zeros(otp: Otp) -> None:
    """120 of a million: about all different, some 12 with a zero in front (none: once in 300,000 runs)."""
    user = await otp.user()
    codes = []
    for _ in range(120):
        codes.append(await otp.code(user.email))
        otp.clock.move(hours=1)
    assert {len(code) for code in codes} == {6}
    assert len(set(codes)) > 115
    assert any(code.startswith("0") for code in codes)


# Who has an account


async def test_unknown_and_inactive_addresses_get_no_mail_and_no_way_in(otp: Otp) -> None:
    user = await otp.user()
    await otp.db.users.update_one({"_id": user.id}, {"$set": {"is_active": False}})
    for email in (user.email, "nobody@example.com"):
        assert await otp.letter(email) is None
        digest = make_digests().make("otp", email)
        row = await otp.db.one_time_secrets.find_one({"_id": f"otp:{digest}"})
        assert row is not None, "a decoy"
        assert "user_id" not in row
    assert otp.trail.acts == []


async def test_asking_and_checking_cost_the_same_for_every_address(otp: Otp) -> None:
    user, off = await otp.user(), await otp.user()
    await otp.db.users.update_one({"_id": off.id}, {"$set": {"is_active": False}})
    costs, shapes = [], set()
    for email in (user.email, off.email, f"{secrets.token_hex(4)}@example.com"):
        with LOG.kept() as asked:
            request = await otp.ask(email)
            assert asked == []
        shapes.add((request.kind, request.to == request.key == email, frozenset(request.values)))
        with LOG.kept() as asked:
            await otp.codes.compose(request)
        composed = list(asked)
        with LOG.kept() as asked:
            assert await otp.codes.check(email, "abcdef") is None
        costs.append((composed, asked))
    assert shapes == {("otp", True, frozenset({"request"}))}
    assert costs[0] == costs[1] == costs[2]
    assert costs[0][1] == ["find one_time_secrets", "update one_time_secrets"]


async def test_without_mails_asking_is_refused_whatever_the_address(otp: Otp) -> None:
    user = await otp.user()
    otp.mails.available = False
    said = []
    for email in (user.email, "nobody@example.com"):
        with pytest.raises(UnavailableError) as refused:
            await otp.codes.request(email)
        said.append(refused.value.detail)
    assert said[0] == said[1]
    assert otp.mails.waiting == {}


# How many mails


async def test_an_address_gets_five_mails_at_once_and_then_one_each_ten_minutes(otp: Otp) -> None:
    user, other = await otp.user(), await otp.user()
    got = [await otp.letter(user.email) for _ in range(8)]
    assert [letter is not None for letter in got] == [True] * 5 + [False] * 3
    assert await otp.letter(other.email) is not None
    last = got[4]
    assert last is not None
    assert await otp.codes.check(user.email, str(last.values["code"])) == user.id, "the last one sent stays good"
    for _ in range(3):
        otp.clock.move(minutes=10, milliseconds=-1)
        assert await otp.letter(user.email) is None
        otp.clock.move(milliseconds=1)
        assert await otp.letter(user.email) is not None
        assert await otp.letter(user.email) is None
    assert len(otp.trail.acts) == 5 + 1 + 3
    otp.clock.move(minutes=50)
    got = [await otp.letter(user.email) for _ in range(6)]
    assert [letter is not None for letter in got] == [True] * 5 + [False]


async def test_at_most_ten_mails_in_any_hour(otp: Otp) -> None:
    user = await otp.user()
    sent: list[timedelta] = []
    begin = otp.clock.now()
    for _ in range(30):
        for _ in range(6):
            letter = await otp.letter(user.email)
            sent += [otp.clock.now() - begin] if letter else []
        otp.clock.move(minutes=4)
    hour = timedelta(hours=1)
    assert max(sum(start <= moment < start + hour for moment in sent) for start in sent) == 10


async def test_a_mail_that_is_tried_again_counts_once_and_carries_a_fresh_code(otp: Otp) -> None:
    user = await otp.user()
    for minutes in (0, 30):  # at once, and while the mail server is away for hours
        request = await otp.ask(user.email)
        for _ in range(7):
            otp.clock.move(minutes=minutes)
            letter = await otp.codes.compose(request)
            assert letter is not None
        assert await otp.codes.check(user.email, str(letter.values["code"])) == user.id
    assert len(otp.trail.acts) == 2
    got = [await otp.letter(user.email) for _ in range(6)]
    assert [letter is not None for letter in got] == [True] * 5 + [False], "the first two were paid off"


async def test_retries_do_not_use_up_the_mails_of_an_address(otp: Otp) -> None:
    user = await otp.user()
    request = await otp.ask(user.email)
    for _ in range(7):
        await otp.codes.compose(request)
    for _ in range(4):
        request = await otp.ask(user.email)
        assert await otp.codes.compose(request) is not None
    assert await otp.letter(user.email) is None
    assert await otp.codes.compose(request) is not None, "the last one that was let through"


# What is written down


async def test_a_sent_code_is_in_the_trail_of_its_account(otp: Otp) -> None:
    user = await otp.user()
    code = await otp.code(user.email)
    (act,) = otp.trail.acts
    assert (act.action, act.account_id, act.actor) == ("auth.otp_sent", user.id, SYSTEM)
    assert code not in repr(act)


async def test_no_code_is_sent_that_the_trail_cannot_tell_of_and_the_next_try_counts_as_the_first(otp: Otp) -> None:
    user = await otp.user()
    request = await otp.ask(user.email)
    otp.trail.away = True
    with pytest.raises(UnavailableError):
        await otp.codes.compose(request)
    otp.trail.away = False
    assert await otp.codes.compose(request) is not None
    assert len(otp.trail.acts) == 1


async def test_a_code_is_in_no_log_no_request_and_no_row(otp: Otp, caplog: pytest.LogCaptureFixture) -> None:
    user = await otp.user()
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as entries:
        request = await otp.ask(user.email)
        letter = await otp.codes.compose(request)
        assert letter is not None
        code = str(letter.values["code"])
        await otp.codes.check(user.email, wrong(code))
        rows = await otp.db.one_time_secrets.find({}, {"digest": 0, "nonce": 0, "_id": 0, "user_id": 0}).to_list()
        row = await otp.db.one_time_secrets.find_one({"user_id": user.id})
        await otp.codes.check(user.email, code)
        for _ in range(9):
            await otp.letter(user.email)
    assert entries, "the refusals to send more"
    named = (str(user.id), user.email, str(request.values["request"]))  # digits by chance
    for seen in (str(entries), caplog.text, repr(request), repr(letter)):
        for word in named:
            seen = seen.replace(word, "")
        assert code not in seen
    assert code not in str(rows)
    assert row["digest"] == make_digests().make(f"one-time:{row['_id']}:{row['nonce']}", code)
    assert user.email not in str(row)
