"""The letters of accounts: made from what waited in the outbox, and fitting the templates."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.auth.letters import NOTICES
from app.auth.mailed_tokens import Purpose
from app.auth.models import ApiTokenDocument, UserDocument
from app.core.mail import Letter, MailRequest
from app.core.security import Scope
from app.mail.rendering import Templates
from tests.auth.conftest import Parts
from tests.auth.recovery_kit import Kit


@pytest.fixture
def kit(parts: Parts, tmp_path: Path) -> Kit:
    return Kit(parts, tmp_path)


WHEN = datetime(2026, 11, 22, 8, 15, tzinfo=UTC)


FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"
PLACE = {"address": "192.0.2.7"}


def notice(user: UserDocument, kind: str, when: datetime = WHEN, **values: Any) -> MailRequest:
    return MailRequest(kind, user.email, {**values, "when": when.isoformat()})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("new_sign_in", PLACE | {"device": "Firefox on Linux", "method": "password+totp"}),
        ("token_reuse", PLACE | {"device": "another program"}),
        ("second_factor_changed", PLACE | {"enabled": False}),
        ("password_changed", PLACE | {"api_tokens_ended": 2, "strategy_keys_ended": 1}),
        ("api_token_created", PLACE | {"token_name": "bot", "scopes": "orders:read, alerts:write"}),
        ("api_token_created", PLACE | {"token_name": None, "scopes": "audit:read"}),
    ],
)
async def test_notices_carry_what_happened(kit: Kit, kind: str, values: Mapping[str, Any]):
    user = await kit.parts.user()
    await kit.parts.db.users.update_one({"_id": user.id}, {"$set": {"name": "Asha Rao"}})

    letter = await kit.letters[kind](notice(user, kind, **values))

    told = {**values, "when": WHEN, "name": "Asha Rao"}
    if kind == "password_changed":
        told["api_tokens"] = 0
    if "scopes" in values:
        told["scopes"] = [scope for scope in ("alerts:write", "orders:read", "audit:read") if scope in values["scopes"]]
    assert letter == Letter(user.email, kind, told)
    assert await kit.letters[kind](MailRequest(kind, "nobody@example.com", {"when": WHEN.isoformat()})) is None


PRIZE = "You won. Call 0123456 or see evil.example"


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (FIREFOX, "Firefox on Linux"),
        (f"{FIREFOX} {PRIZE}", "Firefox on Linux"),
        ("Chrome on Windows", "Chrome on Windows"),
        (f"Chrome on Windows {PRIZE}", "another program"),
        (f"Mozilla/5.0 ({PRIZE})", "another program"),
        (PRIZE, "another program"),
        ("python-httpx/0.28.1", "another program"),
        ("unknown", "another program"),
        ("", "another program"),
        (None, "another program"),
    ],
)
async def test_no_words_of_whoever_signs_in_reach_a_mail(kit: Kit, device: str | None, said: str):
    user, templates = await kit.parts.user(), Templates("Arrow")
    values = {"address": PRIZE, "device": device, "method": PRIZE, "scopes": PRIZE, "token_name": PRIZE, "more": PRIZE}
    for kind in NOTICES:
        letter = await kit.letters[kind](notice(user, kind, **values))
        assert letter is not None
        assert letter.values.get("device", said) == said
        assert letter.values["address"] is None
        assert "more" not in letter.values
        rendered = templates.render(letter)
        for part in (rendered.subject, rendered.text, rendered.html):
            assert not [word for word in ("won", "0123456", "evil") if word in part]


async def test_an_account_gets_five_notices_of_a_kind_in_an_hour_and_no_more(kit: Kit):
    user, other, clock = await kit.parts.user(), await kit.parts.user(), kit.parts.clock

    async def sent(to: UserDocument, kind: str, count: int) -> int:
        letters = [await kit.letters[kind](notice(to, kind, clock.now() + timedelta(seconds=n))) for n in range(count)]
        return len([letter for letter in letters if letter is not None])

    for kind in NOTICES:
        assert await sent(user, kind, 8) == 5, kind
        assert await sent(other, kind, 1) == 1, "of another account"
    clock.ahead += timedelta(minutes=55)
    assert await sent(user, "new_sign_in", 3) == 0
    clock.ahead += timedelta(minutes=6)
    assert await sent(user, "new_sign_in", 3) == 1
    clock.ahead += timedelta(hours=5)
    assert await sent(user, "new_sign_in", 8) == 5


async def test_notices_that_are_tried_again_count_once(kit: Kit):
    user = await kit.parts.user()
    requests = [notice(user, "token_reuse", WHEN + timedelta(seconds=n)) for n in range(6)]
    for _ in range(4):
        letters = [await kit.letters["token_reuse"](request) for request in requests]
        assert [letter is not None for letter in letters] == [True] * 5 + [False]
        kit.parts.clock.ahead += timedelta(minutes=10)


async def test_the_notice_counts_the_api_tokens_that_go_on_working(kit: Kit):
    user, pair = await kit.parts.session()
    now = kit.parts.clock.now()
    for number, (live, days) in enumerate([(True, 1), (True, 30), (True, -1), (False, 30)]):
        await ApiTokenDocument(
            seq=number,
            user_id=user.id,
            name="bot",
            digest=secrets.token_hex(32),
            prefix="arrow_abcd",
            scopes=[Scope.ALERTS_READ],
            live=live,
            created_at=now,
            expires_at=now + timedelta(days=days),
        ).insert()

    await kit.change(await kit.caller(pair))

    [asked] = kit.post.sent("password_changed")
    letter = await kit.letters["password_changed"](asked)
    assert letter is not None
    assert letter.values["api_tokens"] == 2
    assert abs(letter.values["when"] - now) < timedelta(seconds=30)
    assert await ApiTokenDocument.find({"user_id": user.id, "live": True}).count() == 3


async def test_the_mail_feature_has_a_template_for_every_letter(kit: Kit):
    user = await kit.parts.user()
    templates = Templates("Arrow")
    for purpose in Purpose:
        letter = await kit.letter(purpose, user.email)
        assert letter is not None
        rendered = templates.render(letter)
        assert letter.values["token"] in rendered.text
        assert letter.values["token"] in rendered.html
    values = {"when": WHEN.isoformat(), "address": "192.0.2.7", "device": "Firefox", "method": "otp", "enabled": True}
    values |= {"token_name": "bot", "scopes": "alerts:read"}
    for kind in set(kit.letters) - set(Purpose):
        letter = await kit.letters[kind](MailRequest(kind, user.email, values))
        assert letter is not None
        rendered = templates.render(letter)
        assert "192.0.2.7" in rendered.text
        assert "22 Nov 2026" in rendered.html
