"""Codes of authenticators, beside the standard's own examples and another implementation."""

from base64 import b32encode
from datetime import UTC, datetime

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.adapters.authenticator import code_at

STANDARD = b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "287082"), (1_111_111_109, "081804"), (1_111_111_111, "050471"), (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
    ],
)  # fmt: skip
def test_the_standard_s_examples(seconds: int, code: str):
    assert code_at(STANDARD, datetime.fromtimestamp(seconds, UTC)) == code


@given(st.binary(min_size=14, max_size=64), st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_the_same_as_another_implementation(secret: bytes, moment: datetime):
    key, moment = b32encode(secret).decode(), moment.replace(tzinfo=UTC)
    assert code_at(key, moment) == pyotp.TOTP(key).at(moment)


def test_keys_as_people_copy_them():
    now = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
    code = code_at("JBSWY3DPEHPK3PXP", now)  # 80 bits: short, and as some issue them
    assert len(code) == 6
    for same in ("jbsw y3dp ehpk 3pxp", "JBSW-Y3DP-EHPK-3PXP", " JBSWY3DPEHPK3PXP====\n"):
        assert code_at(same, now) == code


@pytest.mark.parametrize("key", ["", "  ", "not base 32!", "JBSWY3DP1", "é" * 8, "A"])
def test_what_is_no_key_is_refused_and_not_quoted(key: str):
    with pytest.raises(ValueError, match=r"^not a Base32 text$"):
        code_at(key, datetime(2026, 11, 23, tzinfo=UTC))
