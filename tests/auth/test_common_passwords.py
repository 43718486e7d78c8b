"""What a new password must not be, on every path that takes one."""

import secrets
import subprocess
import sys
import unicodedata
from collections.abc import Awaitable, Callable

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from app.auth.accounts import NewAccount
from app.auth.password_rules import common_passwords, demand_good, general_fault, personal_fault
from app.auth.schemas.accounts import RegisterBody, SignupBody
from app.auth.schemas.recovery import PasswordChangeBody, PasswordResetBody
from app.core.errors import InvalidInputError
from tests.auth.conftest import PASSWORD, Parts
from tests.support.people import Person
from tests.support.service import ROOT

COMMON = ["password123", "1234567890", "qwertyuiop", "1q2w3e4r5t", "manchester"]
MakeUser = Callable[..., Awaitable[Person]]


def test_the_list_is_what_the_rule_needs():
    common = common_passwords()
    assert 1000 < len(common) < 2000
    assert set(COMMON) <= common
    # Shorter ones are refused for their length, whatever they are.
    assert min(map(len, common)) == 10
    assert all(word == unicodedata.normalize("NFC", word).strip().casefold() for word in common)


@pytest.mark.parametrize("word", COMMON)
def test_common_passwords_are_refused_in_any_case_and_padded(word: str):
    for spelling in (word, word.upper(), word.title(), f"  {word} ", f"\u2003{word.swapcase()}"):
        assert "most common" in (general_fault(spelling) or ""), spelling


@pytest.mark.parametrize(
    "password",
    [
        PASSWORD,
        "password1234 and more",
        "xpassword123",
        "p a s s w o r d 1 2 3",
        "\uff50assword123",
        "pässword123",
        "k" * 10,
    ],
)
def test_nothing_fuzzier_is_refused(password: str):
    assert general_fault(password) is None


def test_length_is_counted_without_spaces_around():
    assert general_fault("123456789") == "A password needs at least 10 characters"
    assert "not counting spaces" in (general_fault("  password  ") or "")
    assert "not counting spaces" in (general_fault(" " * 12) or "")
    assert general_fault("x" * 128) is None
    assert "at most 128" in (general_fault("x" * 129) or "")


@pytest.mark.parametrize(
    "password", ["Asha.Rao99@Example.com", " asha.rao99@example.com", "ASHA.RAO99", "asha_Rao_1999"]
)
def test_an_accounts_own_names_are_refused(password: str):
    fault = personal_fault(password, email="asha.rao99@example.com", username="asha_rao_1999")
    assert fault is not None
    assert fault.startswith("The password must not be the ")


@pytest.mark.parametrize("password", ["asha.rao99!", "asha.rao99@example.org", "asha_rao_199", "rao99@example.com"])
def test_names_that_only_resemble_are_not(password: str):
    assert personal_fault(password, email="asha.rao99@example.com", username="asha_rao_1999") is None
    assert personal_fault(password, email="asha.rao99@example.com", username=None) is None


def test_a_refusal_names_the_field_and_not_the_password():
    with pytest.raises(InvalidInputError) as refused:
        demand_good("qwertyuiop", email="asha@example.com", username=None, field="new_password")
    assert [error.loc for error in refused.value.errors] == [("body", "new_password")]
    assert "qwerty" not in refused.value.detail


def test_every_body_with_a_new_password_refuses_it():
    bad = SecretStr("Password123")
    for make in (
        lambda: SignupBody(email="asha@example.com", password=bad),
        lambda: RegisterBody(email="asha@example.com", password=bad),
        lambda: PasswordResetBody(token="x" * 43, new_password=bad),
        lambda: PasswordChangeBody(current_password=SecretStr(PASSWORD), new_password=bad),
    ):
        with pytest.raises(ValidationError, match="most common") as refused:
            make()
        assert refused.value.error_count() == 1
    # An old password may be anything: it has to be typed once more to be changed.
    PasswordChangeBody(current_password=bad, new_password=SecretStr(PASSWORD))


async def test_no_path_leads_around_the_rule(parts: Parts):
    email = f"{secrets.token_hex(8)}@example.com"
    for password in ("password123", "short", email, email.partition("@")[0], "x" * 129):
        with pytest.raises(InvalidInputError):
            await parts.accounts.create(NewAccount(email, password))
    assert await parts.accounts.find(email) is None

    user = await parts.accounts.create(NewAccount(email, PASSWORD, username=f"user_{secrets.token_hex(4)}"))
    for password in ("password123", "short", email, user.username or "", "x" * 129):
        with pytest.raises(InvalidInputError):
            await parts.accounts.set_password(user, password)
    assert await parts.accounts.verify(await parts.accounts.get(user.id), PASSWORD)

    await parts.accounts.set_password(user, "a good one after all")
    assert await parts.accounts.verify(await parts.accounts.get(user.id), "a good one after all")


@pytest.mark.parametrize("path", ["/api/v1/auth/register", "/api/auth/register", "/api/v1/auth/signup"])
async def test_sign_ups_say_why(client: httpx.AsyncClient, path: str):
    local = secrets.token_hex(8)
    for password, words in [
        ("Qwertyuiop", "one of the most common"),
        (f"{local}@example.com", "must not be the e-mail address"),
        (local.upper(), "before the @-sign"),
    ]:
        answer = await client.post(path, json={"email": f"{local}@example.com", "password": password})
        assert answer.status_code == 422, answer.text
        problem = answer.json()
        assert words in problem["detail"]
        assert [error["loc"] for error in problem["errors"]] == [["body", "password"]]
        assert password not in answer.text
    answer = await client.post(path, json={"email": f"{local}@example.com", "password": PASSWORD})
    assert answer.status_code == 201


async def test_the_username_is_no_password(client: httpx.AsyncClient):
    name = f"asha_{secrets.token_hex(5)}"
    body = {"email": f"{secrets.token_hex(5)}@example.com", "username": name, "password": name.upper()}
    answer = await client.post("/api/v1/auth/register", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "password"]
    assert "username" in answer.json()["detail"]


def test_the_list_is_read_at_the_first_use_and_its_package_never_loaded():
    code = """
import sys
from app.auth.password_rules import common_passwords
from app.auth.schemas.accounts import SignupBody
assert not common_passwords.cache_info().currsize
SignupBody(email="asha@example.com", password="correct horse battery staple")
assert common_passwords.cache_info().currsize
assert not [name for name in sys.modules if "zxcvbn" in name]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
