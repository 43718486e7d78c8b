"""The second factor on a real database, with codes by an authenticator app and a clock that stands still."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyotp
import pytest
import segno
from beanie import PydanticObjectId
from pymongo.asynchronous.database import AsyncDatabase
from structlog.testing import capture_logs

from app.auth.factor_codes import matching_step, new_recovery_codes, otpauth_uri, qr_svg, recovery_form, totp_form
from app.auth.guard import Attempt, SignInGuard
from app.auth.models import SecondFactorDocument
from app.auth.passwords import Passwords
from app.auth.places import SignInPlaces
from app.auth.schemas.second_factor import RecoveryCodes
from app.auth.second_factor import ENROLMENT_LIFETIME
from app.auth.sessions import Client
from app.core.audit import ActorKind, Outcome
from app.core.encryption import UndecryptableError, Vault
from app.core.encryption_keys import new_key
from app.core.errors import ConflictError, InvalidInputError, RateLimitedError, UnavailableError
from app.core.rate_limit import RateLimiter
from tests.auth.conftest import HERE, PASSWORD
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
    return await kit.person()


async def stored(person: Person) -> dict[str, Any] | None:
    return await SecondFactorDocument.get_pymongo_collection().find_one({"_id": person.id})


async def left(person: Person) -> int:
    return (await person.factors.status(person.id)).recovery_codes_left


# --- codes ---


@pytest.mark.parametrize(
    ("seconds", "digits"),
    # RFC 6238, appendix B, for SHA-1; its eight digits end with these six.
    [
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_codes_are_those_of_rfc_6238(seconds: int, digits: str):
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # 12345678901234567890
    step = seconds // 30

    for late, found in ((-61, None), (-30, step), (0, step), (30, step), (61, None)):
        assert matching_step(secret, digits, seconds=seconds // 30 * 30 + late, after=0) == found
    assert matching_step(secret, digits, seconds=seconds, after=step - 1) == step
    assert matching_step(secret, digits, seconds=seconds, after=step) is None
    assert matching_step(secret, digits, seconds=seconds, after=step + 1) is None


@pytest.mark.parametrize("typed", ["123456", "123 456", " 123-456 ", "1 2 3 4 5 6"])
def test_a_code_may_be_typed_as_apps_show_it(typed: str):
    assert totp_form(typed) == "123456"


@pytest.mark.parametrize("typed", ["", "12345", "1234567", "12345a", "١٢٣٤٥٦", "123456\x00", "\uff11" * 6])
def test_what_is_no_code_is_none(typed: str):
    assert totp_form(typed) is None
    assert recovery_form(typed) is None


def test_recovery_codes_are_many_and_long_enough():
    shown = [code for _ in range(100) for code in new_recovery_codes()]

    assert len(set(shown)) == 1000
    for code in shown:
        assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", code)
        assert recovery_form(code) == code.replace("-", "")
        assert totp_form(code) is None
    assert len(set("".join(shown))) == 33  # every one of the 32 characters, and the hyphen


def test_recovery_codes_may_be_typed_as_people_do():
    for typed in (
        "0123-1abc-0def-11gh",
        " 0123 1ABC 0DEF 11GH",
        "oL23iabcOdefLIgh",
        "0123–1ABC–0DEF–11GH".replace("–", " "),
    ):
        assert recovery_form(typed) == "01231ABC0DEF11GH"
    for wrong in ("0123-1ABC-0DEF-11G", "0123-1ABC-0DEF-11GH0", "0123-1ABC-0DEF-11GU", "0123_1ABC_0DEF_11GH"):
        assert recovery_form(wrong) is None


def test_the_uri_is_what_apps_read():
    secret = pyotp.random_base32()
    uri = otpauth_uri(secret, issuer="Arrow: a & é", account="asha+x@example.com")

    read = pyotp.parse_uri(uri)
    assert isinstance(read, pyotp.TOTP)
    assert (read.secret, read.digits, read.interval) == (secret, 6, 30)
    assert (read.issuer, read.name) == ("Arrow  a & é", "asha+x@example.com")


def modules(svg: str) -> tuple[list[list[int]], ElementTree.Element]:
    """The modules that an SVG of horizontal strokes draws, as a scanner sees them, and its root."""
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own)
    width, height = (int(size) for size in root.attrib["viewBox"].split()[2:])
    rows = [[0] * width for _ in range(height)]
    [strokes] = [part for part in root.iter() if part.get("stroke")]
    x, y = 0.0, 0.0
    for command, numbers in re.findall(r"([Mmh])([^Mmh]+)", strokes.attrib["d"]):
        values = [float(number) for number in numbers.split()]
        if command == "h":
            for column in range(int(x), int(x + values[0])):
                rows[int(y)][column] = 1
            x += values[0]
        else:
            x, y = (values[0], values[1]) if command == "M" else (x + values[0], y + values[1])
    return rows, root


def test_the_qr_shows_the_very_uri():
    uri = otpauth_uri(pyotp.random_base32(), issuer="Arrow", account="asha@example.com")
    rows, root = modules(qr_svg(uri))

    expected = segno.make_qr(uri, error="m").matrix
    size = len(expected)
    assert len(rows) == size + 8  # a quiet zone of four modules all around
    assert [row[4:-4] for row in rows[4:-4]] == [[int(module) for module in row] for row in expected]
    assert sum(map(sum, rows)) == sum(map(sum, expected))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"  # also as an image of its own
    assert not {"width", "height"} & set(root.attrib)  # it takes any size
    ground, dark = [part for part in root.iter() if part.tag.endswith("path")]
    assert (ground.get("fill"), dark.get("stroke")) == ("#fff", "#000")
    assert not re.search(r"<script|onload|href|otpauth", qr_svg(uri))


# --- enrolling ---


async def test_enrolling(kit: Kit, person: Person) -> None:
    assert (await kit.factors.status(person.id)).model_dump() == {
        "enabled": False,
        "since": None,
        "recovery_codes_left": 0,
    }
    enrolment = await kit.factors.begin(person.caller, PASSWORD, HERE)
    app = App(enrolment.otpauth_uri, kit.clock)
    assert (app.totp.name, app.totp.issuer, app.totp.secret) == (person.email, "Arrow  Test", enrolment.secret)
    assert enrolment.qr_svg == qr_svg(enrolment.otpauth_uri)
    # Until it is confirmed it is nothing.
    assert not await kit.factors.enrolled(person.id)
    assert await kit.factors.check(person.id, app.code()) is None

    shown = (await kit.factors.confirm(person.caller, app.code(), HERE)).recovery_codes

    assert len(set(shown)) == 10
    status = await kit.factors.status(person.id)
    assert (status.enabled, status.since, status.recovery_codes_left) == (True, kit.clock.now(), 10)
    assert await kit.factors.enrolled(person.id)
    assert kit.recorder.told == [("second_factor.enable", Outcome.SUCCESS)]
    [act] = kit.recorder.acts
    assert (act.account_id, act.actor.kind, act.actor.credential_id) == (
        person.id,
        ActorKind.SESSION,
        person.caller.session_id,
    )
    [mail] = kit.recorder.requests
    assert (mail.kind, mail.to) == ("second_factor_changed", person.email)
    assert mail.values == {"when": kit.clock.now().isoformat(), "address": HERE.address, "enabled": True}
    kept = str(await stored(person))
    for secret in (enrolment.secret, *shown, *(code.replace("-", "") for code in shown)):
        assert secret not in kept
        assert secret not in f"{kit.recorder.acts} {kit.recorder.requests}"
        assert secret not in f"{enrolment!r} {RecoveryCodes(recovery_codes=shown)!r}"


async def test_a_wrong_password_begins_nothing(kit: Kit, person: Person) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await kit.factors.begin(person.caller, "not the password", HERE)

    assert [error.loc for error in refused.value.errors] == [("body", "password")]
    assert await stored(person) is None


async def test_beginning_again_voids_the_secret_before(kit: Kit, person: Person) -> None:
    first, second = await person.begin(), await person.begin()
    assert first.totp.secret != second.totp.secret

    with pytest.raises(InvalidInputError) as refused:
        await kit.factors.confirm(person.caller, first.code(), HERE)
    assert [error.loc for error in refused.value.errors] == [("body", "code")]
    assert kit.recorder.told == [("second_factor.enable", Outcome.FAILURE)]
    await kit.factors.confirm(person.caller, second.code(), HERE)


async def test_many_beginnings_at_once_leave_one_that_works(kit: Kit, person: Person, outcome: Outcomes) -> None:
    apps = await asyncio.gather(*(person.begin() for _ in range(4)))

    ends = [await outcome(kit.factors.confirm(person.caller, app.code(), HERE)) for app in apps]

    assert ends.count(None) == 1
    assert set(ends) <= {None, InvalidInputError, ConflictError}


async def test_of_many_confirmations_at_once_one_shows_codes(kit: Kit, person: Person, outcome: Outcomes) -> None:
    app = await person.begin()
    shown: list[str] = []

    async def confirm() -> None:
        shown.extend((await kit.factors.confirm(person.caller, app.code(), HERE)).recovery_codes)

    ends = await asyncio.gather(*(outcome(confirm()) for _ in range(8)))

    assert sorted(map(str, ends)) == sorted([str(None), *[str(ConflictError)] * 7])
    assert await kit.factors.check(person.id, shown[0]) == "recovery_code"
    assert kit.recorder.told == [("second_factor.enable", Outcome.SUCCESS)]


async def test_a_secret_that_was_replaced_meanwhile_is_not_confirmed(kit: Kit, person: Person) -> None:
    """Else the code of one app would turn on the secret of another, which nobody may have scanned."""
    first = await person.begin()
    seconds: list[App] = []

    class Slow(SignInGuard):
        async def admit(self, purpose: str, account: PydanticObjectId | str, client: Client) -> Attempt:
            if purpose == "second-factor" and not seconds:
                seconds.append(await person.begin())
            return await super().admit(purpose, account, client)

    places = SignInPlaces(clock=kit.clock, digests=kit.digests)
    kit.guard = Slow(clock=kit.clock, limiter=RateLimiter(), settings=kit.settings, places=places)
    with pytest.raises(ConflictError):
        await kit.with_keys(*kit.keys).confirm(person.caller, first.code(), HERE)

    assert not await kit.factors.enrolled(person.id)
    await kit.factors.confirm(person.caller, seconds[0].code(), HERE)


async def test_an_enrolment_does_not_wait_for_ever(kit: Kit, person: Person) -> None:
    with pytest.raises(ConflictError):
        await kit.factors.confirm(person.caller, "123456", HERE)
    app = await person.begin()
    kit.clock.move(seconds=ENROLMENT_LIFETIME.total_seconds())
    with pytest.raises(ConflictError, match="expired"):
        await kit.factors.confirm(person.caller, app.code(), HERE)
    await person.enrol()


async def test_what_is_on_is_not_begun_again(kit: Kit, person: Person) -> None:
    app = await person.enrol()
    before = await stored(person)

    with pytest.raises(ConflictError):
        await person.begin()
    with pytest.raises(ConflictError):
        await kit.factors.confirm(person.caller, app.code(), HERE)

    assert await stored(person) == before


# --- codes that are taken ---


async def test_no_code_works_twice(kit: Kit, person: Person) -> None:
    app = await person.begin()
    confirming = app.code()
    await kit.factors.confirm(person.caller, confirming, HERE)
    assert await kit.factors.check(person.id, confirming) is None
    assert await kit.factors.check(person.id, app.code(steps=1)) == "totp"  # an app whose clock is ahead
    kit.clock.move(seconds=30)
    assert await kit.factors.check(person.id, app.code()) is None  # that one it was
    kit.clock.move(seconds=30)
    assert await kit.factors.check(person.id, app.code(steps=-1)) is None
    assert await kit.factors.check(person.id, app.code()) == "totp"
    assert await kit.factors.check(person.id, app.code()) is None
    assert await kit.factors.check(person.id, app.code(steps=2)) is None


async def test_of_one_code_many_times_at_once_one_is_taken(kit: Kit, person: Person) -> None:
    app = await person.enrol()

    for code, factor in ((app.code(), "totp"), (person.recovery[3], "recovery_code")):
        taken = await asyncio.gather(*(kit.factors.check(person.id, code) for _ in range(16)))
        assert [one for one in taken if one] == [factor]
    assert await left(person) == 9


async def test_every_recovery_code_works_once_however_it_is_typed(kit: Kit, person: Person) -> None:
    await person.enrol()
    typed = [
        *person.recovery[:7],
        person.recovery[7].lower(),
        person.recovery[8].replace("-", ""),
        f" {person.recovery[9].replace('-', ' ')} ",
    ]

    for number, code in enumerate(typed):
        assert await left(person) == 10 - number
        assert await kit.factors.check(person.id, code) == "recovery_code"
        assert await kit.factors.check(person.id, code) is None
    assert await left(person) == 0
    assert await kit.factors.enrolled(person.id)  # the app is still asked for


async def test_codes_are_their_account_s_own(kit: Kit, person: Person) -> None:
    other, nobody = await kit.person(), PydanticObjectId()
    app = await person.enrol()
    await other.enrol()

    for whose in (other.id, nobody):
        assert await kit.factors.check(whose, app.code()) is None
        assert await kit.factors.check(whose, person.recovery[0]) is None
    for odd in ("", "a", "0" * 64, "$gt", "\x00", "é", app.wrong(), "0000-0000-0000-0000"):
        assert await kit.factors.check(person.id, odd) is None
    assert await kit.factors.check(person.id, app.code()) == "totp"


async def test_new_recovery_codes_replace_the_old(kit: Kit, person: Person) -> None:
    with pytest.raises(ConflictError):
        await kit.factors.new_recovery_codes(person.caller, "123456", HERE)
    app = await person.enrol()
    with pytest.raises(InvalidInputError):
        await kit.factors.new_recovery_codes(person.caller, app.wrong(), HERE)
    assert await left(person) == 10

    new = (await kit.factors.new_recovery_codes(person.caller, app.code(), HERE)).recovery_codes

    assert not set(new) & set(person.recovery)
    assert await kit.factors.check(person.id, person.recovery[0]) is None
    assert await kit.factors.check(person.id, new[0]) == "recovery_code"
    # One of them is as good as the app.
    newer = (await kit.factors.new_recovery_codes(person.caller, new[1], HERE)).recovery_codes
    assert await left(person) == len(newer) == 10
    assert kit.recorder.told[1:] == [
        ("second_factor.recovery_codes", Outcome.FAILURE),
        ("second_factor.recovery_codes", Outcome.SUCCESS),
        ("second_factor.recovery_codes", Outcome.SUCCESS),
    ]


# --- off again ---


async def test_turning_it_off_takes_both_factors(kit: Kit, person: Person) -> None:
    with pytest.raises(ConflictError):
        await kit.factors.disable(person.caller, PASSWORD, "123456", HERE)
    app = await person.enrol()
    for password, code, wrong in ((PASSWORD, app.wrong(), "code"), ("not the password", app.code(), "password")):
        with pytest.raises(InvalidInputError) as refused:
            await kit.factors.disable(person.caller, password, code, HERE)
        assert [error.loc for error in refused.value.errors] == [("body", wrong)]
    assert await kit.factors.enrolled(person.id)

    # The code was not used up by the attempt with the wrong password.
    await kit.factors.disable(person.caller, PASSWORD, app.code(), HERE)

    assert not await kit.factors.enrolled(person.id)
    assert await stored(person) is None
    assert await kit.factors.check(person.id, person.recovery[0]) is None
    off = ("second_factor.disable", Outcome.FAILURE)
    assert kit.recorder.told[1:] == [off, off, ("second_factor.disable", Outcome.SUCCESS)]
    assert [mail.values["enabled"] for mail in kit.recorder.requests] == [True, False]
    await person.enrol()


async def test_an_administrator_can_remove_what_was_lost(kit: Kit, person: Person) -> None:
    app = await person.enrol()
    other = await kit.person()
    await other.enrol()

    assert await kit.factors.remove(person.id)

    assert not await kit.factors.enrolled(person.id)
    assert await kit.factors.check(person.id, app.code()) is None
    assert await kit.factors.enrolled(other.id)
    assert not await kit.factors.remove(person.id)
    told = [mail.values for mail in kit.recorder.requests if mail.to == person.email]
    assert [values["enabled"] for values in told] == [True, False]
    assert HERE.address not in str(told[1])


async def test_mails_that_cannot_be_sent_hold_nothing_up(kit: Kit, person: Person) -> None:
    kit.recorder.available = False

    await person.enrol()

    assert await kit.factors.enrolled(person.id)
    assert kit.recorder.requests == []


# --- guessing ---


async def test_guessing_is_slowed_wherever_it_is_tried(
    auth_db: AsyncDatabase[dict[str, Any]],  # noqa: ARG001
    passwords: Passwords,
    tmp_path: Path,
    outcome: Outcomes,
) -> None:
    kit = Kit(tmp_path, passwords, per_minute=5)
    person = await kit.person()
    app = await person.enrol()  # a success is an attempt too

    async def guesses() -> None:
        for _ in range(2):
            assert await kit.factors.attempt(person.id, app.wrong(), HERE) is None
        with pytest.raises(InvalidInputError):
            await kit.factors.new_recovery_codes(person.caller, app.wrong(), HERE)
        with pytest.raises(InvalidInputError):
            await kit.factors.disable(person.caller, PASSWORD, app.wrong(), HERE)

    await guesses()
    # The right one is not even looked at: it works later, once the wait is over.
    for code in (app.code(), person.recovery[0]):
        with pytest.raises(RateLimitedError):
            await kit.factors.attempt(person.id, code, HERE)
        assert await outcome(kit.factors.new_recovery_codes(person.caller, code, HERE)) is RateLimitedError
    assert await left(person) == 10
    # The fifth failure in a row, in another minute as far as the limits know, earns a wait that outlives them.
    kit.restart()
    assert await kit.factors.attempt(person.id, app.wrong(), HERE) is None
    kit.restart()
    with pytest.raises(RateLimitedError):
        await kit.factors.attempt(person.id, app.code(), HERE)
    kit.clock.move(seconds=31)
    assert await kit.factors.attempt(person.id, app.code(), HERE) == "totp"
    assert await kit.factors.attempt(person.id, person.recovery[0], HERE) == "recovery_code"


async def test_passwords_are_guessed_here_as_slowly_as_at_the_sign_in(
    auth_db: AsyncDatabase[dict[str, Any]],  # noqa: ARG001
    passwords: Passwords,
    tmp_path: Path,
) -> None:
    kit = Kit(tmp_path, passwords, per_minute=2)
    person = await kit.person()
    for _ in range(2):
        with pytest.raises(InvalidInputError):
            await kit.factors.begin(person.caller, "not the password", HERE)

    with pytest.raises(RateLimitedError):
        await kit.guard.admit("password", person.id, HERE)  # what the sign-in asks
    with pytest.raises(RateLimitedError):
        await person.begin()


# --- keys ---


def opens(keys: list[str], row: dict[str, Any]) -> bool:
    """Whether these ENCRYPTION_KEYS open what is stored."""
    try:
        Vault(keys).decrypt(row["secret"], context=f"totp:{row['_id']}")
    except UndecryptableError:
        return False
    return True


async def test_a_code_moves_its_secret_to_the_newest_key(kit: Kit, person: Person) -> None:
    app = await person.enrol()
    old, new = kit.keys, [new_key()]
    assert await kit.with_keys(*new, *old).check(person.id, app.code()) == "totp"

    assert not opens(old, await stored(person) or {})
    kit.clock.move(seconds=30)
    assert await kit.with_keys(*new).check(person.id, app.code()) == "totp", "the old key is gone"
    assert await kit.with_keys(*new).check(person.id, app.code()) is None, "and no code works twice"


async def test_of_one_code_many_times_at_once_one_is_taken_while_keys_change(kit: Kit, person: Person) -> None:
    app = await person.enrol()
    rotating = kit.with_keys(new_key(), *kit.keys)
    *ends, _ = await asyncio.gather(*(rotating.check(person.id, app.code()) for _ in range(8)), rotating.reseal_all())
    assert sorted(map(str, ends)) == ["None"] * 7 + ["totp"]


async def test_an_enrolment_that_spans_a_change_of_keys_ends_under_the_newest(kit: Kit, person: Person) -> None:
    app = await person.begin()
    new = [new_key()]
    await kit.with_keys(*new, *kit.keys).reseal_all()
    assert opens(kit.keys, await stored(person) or {}), "nothing is confirmed yet"
    await kit.with_keys(*new, *kit.keys).confirm(person.caller, app.code(), HERE)
    assert opens(new, await stored(person) or {})


async def test_all_secrets_are_sealed_anew_after_a_change_of_keys(
    kit: Kit, auth_db: AsyncDatabase[dict[str, Any]]
) -> None:
    await auth_db.second_factors.delete_many({})
    people = [await kit.person() for _ in range(5)]
    apps = [await person.enrol() for person in people]
    lost = await kit.person()
    await lost.enrol()
    sealed = Vault([new_key()]).encrypt("x", context="x")
    await auth_db.second_factors.update_one({"_id": lost.id}, {"$set": {"secret": sealed}})
    waiting = await kit.person()
    await waiting.begin()
    new = [new_key()]
    rotating = kit.with_keys(*new, *kit.keys)

    with capture_logs() as first:
        await rotating.reseal_all()
    told = {entry["event"]: entry.get("secrets") for entry in first}
    assert told == {
        "TOTP secrets that none of the ENCRYPTION_KEYS opens": 1,
        "TOTP secrets sealed with the newest of ENCRYPTION_KEYS": 5,
    }, "one waits to be confirmed, so the old key is still needed"
    rows = [await stored(person) or {} for person in people]
    assert [opens(new, row) for row in rows] == [True] * 5

    kit.clock.move(minutes=31)
    ends = []
    for _ in range(3):
        with capture_logs() as later:
            await rotating.reseal_all()
        ends.append([entry["event"] for entry in later if entry["log_level"] == "info"])
        await auth_db.second_factors.delete_one({"_id": lost.id})
    # What no key opens may be opened by one that was taken out too early.
    assert ends == [[], ["no TOTP secret needs any but the newest of ENCRYPTION_KEYS"], []]
    assert [await stored(person) for person in people] == rows
    for person, app in zip(people, apps, strict=True):
        assert await kit.with_keys(*new).check(person.id, app.code()) == "totp"


async def test_without_keys_there_is_nothing_to_seal(kit: Kit, person: Person) -> None:
    await person.enrol()
    before = await stored(person)
    await kit.with_keys().reseal_all()
    assert await stored(person) == before


async def test_keys_rotate_under_a_second_factor(kit: Kit, person: Person) -> None:
    app = await person.enrol()

    assert await kit.with_keys(new_key(), *kit.keys).check(person.id, app.code()) == "totp"


async def test_with_a_lost_key_the_recovery_codes_work(kit: Kit, person: Person) -> None:
    app = await person.enrol()
    for factors in (kit.with_keys(new_key()), kit.with_keys()):
        with pytest.raises(UnavailableError, match="recovery code"):
            await factors.check(person.id, app.code())
        assert await factors.enrolled(person.id)  # it is not silently left out
        assert await factors.check(person.id, person.recovery.pop()) == "recovery_code"
    await factors.disable(person.caller, PASSWORD, person.recovery.pop(), HERE)
    with pytest.raises(UnavailableError, match="ENCRYPTION_KEYS"):
        await factors.begin(person.caller, PASSWORD, HERE)
    assert await stored(person) is None


async def test_a_secret_does_not_serve_another_account(kit: Kit, person: Person) -> None:
    """Somebody who can write to the database lays the secret of their own app under another account."""
    thief = await kit.person()
    app = await thief.enrol()
    await person.enrol()
    row = await stored(thief)
    assert row is not None
    await SecondFactorDocument.get_pymongo_collection().update_one(
        {"_id": person.id},
        {"$set": {"secret": row["secret"], "last_step": 0, "recovery_digests": row["recovery_digests"]}},
    )

    with pytest.raises(UnavailableError):
        await kit.factors.check(person.id, app.code())
    assert await kit.factors.check(person.id, thief.recovery[0]) is None
    assert await kit.factors.check(thief.id, app.code()) == "totp"
