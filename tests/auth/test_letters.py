"""The letters of accounts: made from what waited in the outbox, and fitting the templates."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.auth.mailed_tokens import Purpose
from app.auth.models import ApiTokenDocument
from app.core.mail import Letter, MailRequest
from app.core.security import Scope
from tests.auth.conftest import Parts
from tests.auth.recovery_kit import Kit


@pytest.fixture
def kit(parts: Parts, tmp_path: Path) -> Kit:
    return Kit(parts, tmp_path)


WHEN = datetime(2026, 11, 22, 8, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("new_sign_in", {"address": "192.0.2.7", "device": "Firefox", "method": "password+totp"}),
        ("token_reuse", {"address": "192.0.2.7", "device": None}),
        ("second_factor_changed", {"address": "192.0.2.7", "enabled": False}),
    ],
)
async def test_notices_carry_what_happened(kit: Kit, kind: str, values: Mapping[str, Any]):
    user = await kit.parts.user()
    await kit.parts.db.users.update_one({"_id": user.id}, {"$set": {"name": "Asha Rao"}})

    letter = await kit.letters[kind](MailRequest(kind, user.email, {**values, "when": WHEN.isoformat()}))

    assert letter == Letter(user.email, kind, {**values, "when": WHEN, "name": "Asha Rao"})
    assert await kit.letters[kind](MailRequest(kind, "nobody@example.com", {"when": WHEN.isoformat()})) is None


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

    [notice] = kit.post.sent("password_changed")
    letter = await kit.letters["password_changed"](notice)
    assert letter is not None
    assert letter.values["api_tokens"] == 2
    assert abs(letter.values["when"] - now) < timedelta(seconds=30)
    assert await ApiTokenDocument.find({"user_id": user.id, "live": True}).count() == 3


async def test_the_mail_feature_has_a_template_for_every_letter(kit: Kit):
    from app.mail.rendering import Templates

    user = await kit.parts.user()
    templates = Templates("Arrow")
    for purpose in Purpose:
        letter = await kit.letter(purpose, user.email)
        assert letter is not None
        rendered = templates.render(letter)
        assert letter.values["token"] in rendered.text
        assert letter.values["token"] in rendered.html
    values = {"when": WHEN.isoformat(), "address": "192.0.2.7", "device": "Firefox", "method": "otp", "enabled": True}
    for kind in set(kit.letters) - set(Purpose):
        letter = await kit.letters[kind](MailRequest(kind, user.email, values))
        assert letter is not None
        rendered = templates.render(letter)
        assert "192.0.2.7" in rendered.text
        assert "22 Nov 2026" in rendered.html
