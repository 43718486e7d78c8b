"""The words of each mail: complete in both parts, safe whatever strangers put into names."""

import re
import unicodedata
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.headerregistry import Address
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

import app.mail
from app.core.mail import Letter
from app.mail.message import build, recipient
from app.mail.rendering import Rendered, Templates

FOLDER = Path(app.mail.__file__).with_name("templates")
TOKEN = "Zm9vYmFyYmF6-cXV4X3F1dXgtZm9vYmFyYmF6cXV4_q"
WHEN = datetime(2026, 11, 22, 19, 5, tzinfo=UTC)
AT = "22 Nov 2026, 19:05 UTC (23 Nov 2026, 00:35 IST)"
DEVICE = "Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0"

LETTERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "otp": ({"code": "012345", "minutes": 5}, ["012345", "5 minutes"]),
    "verify_email": ({"token": TOKEN, "hours": 24}, [TOKEN, "24 hours"]),
    "password_reset": ({"token": TOKEN, "minutes": 30}, [TOKEN, "30 minutes"]),
    "new_sign_in": (
        {"when": WHEN, "address": "203.0.113.9", "device": DEVICE, "method": "password+totp"},
        [AT, "203.0.113.9", DEVICE, "password and authenticator app"],
    ),
    "token_reuse": ({"when": WHEN, "address": "2001:db8::7", "device": DEVICE}, [AT, "2001:db8::7", DEVICE]),
    "password_changed": (
        {"when": WHEN, "address": "203.0.113.9", "api_tokens": 3, "api_tokens_ended": 2, "strategy_keys_ended": 2},
        [
            AT,
            "203.0.113.9",
            "3 API tokens of yours still work",
            "2 API tokens were ended, too",
            "2 strategy keys were ended, too: what is sent to their webhooks is refused now",
        ],
    ),
    "second_factor_changed": (
        {"when": WHEN, "address": "203.0.113.9", "enabled": True},
        [AT, "203.0.113.9", "turned on"],
    ),
    "broker_session_expiring": (
        {"broker": "Zerodha", "when": WHEN, "by_page": True},
        [AT, "Zerodha ends at", "sign-in page"],
    ),
    "broker_session_ended": (
        {"broker": "Angel One", "when": WHEN, "by_page": False},
        ["Angel One has ended", "could not renew it", "stay open"],
    ),
    "api_token_created": (
        {
            "when": WHEN,
            "address": "203.0.113.9",
            "token_name": "Dashboard in the hall",
            "scopes": ["account:read", "strategies:read", "strategies:write", "alerts:read", "alerts:write"],
        },
        [AT, "203.0.113.9", "Dashboard in the hall", "account:read, strategies:read, strategies:write, alerts:read"],
    ),
}
"""By template: the values of one letter, and what a reader has to find in either part."""

templates = Templates("Arrow")


def render(template: str, **values: Any) -> Rendered:
    return templates.render(Letter("asha@example.com", template, {"name": "Asha", **LETTERS[template][0], **values}))


class Reader(HTMLParser):
    """What a person sees of HTML, and which elements and addresses it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[str] = []
        self.seen: list[str] = []
        self._hidden = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [name for name, _ in attrs]
        self._hidden += tag in {"style", "title"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"style", "title"}

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.seen.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.seen).split())


def test_every_template_is_tried_here():
    bases = {"base", "facts"}
    for ending in (".txt.j2", ".html.j2"):
        names = {path.name.removesuffix(ending) for path in FOLDER.glob(f"*{ending}")}
        assert names - bases == set(LETTERS)


@pytest.mark.parametrize("template", LETTERS)
def test_both_parts_say_the_same(template: str):
    letter = render(template)
    expected = LETTERS[template][1]
    seen = Reader(letter.html).text
    plain = " ".join(letter.text.split())
    for part in (plain, seen):
        assert "Hello Asha," in part
        for words in expected:
            assert words in part
    # Everything that the HTML says, the plain part says, and the other way round; their order may differ in tables.
    words = [set(re.findall(r"[\w.]+", part.replace("“", '"'))) for part in (plain, seen)]
    assert words[0] ^ words[1] <= {"token"}, words[0] ^ words[1]
    assert letter.subject
    assert "Arrow" in letter.subject
    assert "\n" not in letter.subject
    assert all(len(line) <= 90 for line in letter.text.splitlines())
    assert "\n\n\n" not in letter.text
    assert "\n\n-- \n" in letter.text or "\n\n--\n" in letter.text


@pytest.mark.parametrize("template", LETTERS)
def test_the_html_needs_nothing_from_elsewhere_and_fits_phones_and_dark_rooms(template: str):
    html = render(template).html
    found = Reader(html)
    assert not {"img", "script", "link", "iframe", "a", "form", "object"} & set(found.elements)
    assert not {"src", "href", "background"} & set(found.attributes)
    assert not re.search(r"url\(|@import|https?:", html)
    assert 'name="viewport" content="width=device-width' in html
    assert "prefers-color-scheme: dark" in html
    assert "max-width" in html


@pytest.mark.parametrize("template", LETTERS)
def test_names_of_strangers_are_text(template: str):
    name = "<b>Asha</b> & \"Co'"
    hostile = "<script>alert(1)</script>"
    values = {key: hostile for key in ("address", "device") if key in LETTERS[template][0]}
    letter = render(template, name=name.replace("/", ""), **values)
    assert "<script" not in letter.html
    assert "<b>" not in letter.html
    assert "&lt;b&gt;Asha&lt;b&gt; &amp; &#34;Co&#39;" in letter.html
    assert "Hello <b>Asha<b> & \"Co'," in letter.text
    for value in values.values():
        assert value in letter.text
        assert value in Reader(letter.html).text


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        " \u200b ",
        "You won, see evil.example",
        "https://evil",
        "//evil",
        "call me@evil.example",
        "123456",
        "1 2 3 4 5 6",
        "१२३४५६",
        "x" * 61,
    ],
)
def test_a_name_that_is_none_is_left_out(name: str | None):
    letter = render("otp", name=name)
    assert letter.text.startswith("Hello,\n")
    assert "<p>Hello,</p>" in letter.html


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Asha Rao", "Asha Rao"),
        ("J. R. R. Rao", "J. R. R. Rao"),
        ("आशा", "आशा"),
        ("A\r\nBcc: x", None),
        ("A\tB\x1b[2J", "A B [2J"),
    ],
)
def test_names_are_one_line(name: str, shown: str | None):
    first = render("otp", name=name).text.splitlines()[0]
    assert first == (f"Hello {shown}," if shown else "Hello,")


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=80))
def test_a_mail_with_a_code_holds_one_run_of_six_digits(name: str):
    letter = render("otp", name=name)
    for part in (letter.text, letter.html):
        assert re.findall(r"\d{6,}", part) == ["012345"]
    assert not re.search(r"\d", letter.subject)
    first = letter.text.splitlines()[0]
    assert not any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in first)


def test_links_in_devices_are_dropped_and_long_ones_cut():
    letter = render("new_sign_in", device="bot (+https://evil.example/x) www.evil.example \u202e" + "y" * 500)
    assert "evil" not in letter.text + letter.html
    assert "y…" in letter.text
    assert len(max(letter.text.splitlines(), key=len)) < 180
    assert "Device:   unknown" in render("new_sign_in", device=None).text


@pytest.mark.parametrize("name", [None, "", "see evil.example", "//evil", "call 0123456", "x" * 61])
def test_a_name_of_a_token_that_is_more_than_a_name_is_left_out(name: str | None):
    letter = render("api_token_created", token_name=name)
    for part in (letter.text, letter.html):
        assert "Name" not in part
        assert not name or name not in part
        assert "account:read" in part


def test_a_way_of_signing_in_that_is_not_known_is_not_repeated():
    assert "With:     password and another way\n" in render("new_sign_in", method="password+win a prize").text


def test_numbers_and_states_are_worded():
    assert "within 1 hour:" in " ".join(render("verify_email", hours=1).text.split())
    assert "1 minute after" in render("otp", minutes=1).text
    assert "One API token of yours still works" in render("password_changed", api_tokens=1).text
    assert "An API token was ended, too" in render("password_changed", api_tokens_ended=1).text
    assert "API token" not in render("password_changed", api_tokens=0, api_tokens_ended=0).text
    assert "A strategy key was ended, too: what" in render("password_changed", strategy_keys_ended=1).text
    assert "strategy key" not in render("password_changed", strategy_keys_ended=0).text
    off = render("second_factor_changed", enabled=False)
    assert off.subject == "Two-step sign-in was turned off for your Arrow account"
    assert "turned off" in off.text
    assert "turned on" not in off.text
    for method, words in {"otp": "code by e-mail", "password+recovery_code": "password and recovery code"}.items():
        assert f"With:     {words}\n" in render("new_sign_in", method=method).text


def test_times_on_one_day_name_it_once():
    assert "22 Nov 2026, 08:15 UTC (13:45 IST)" in render("new_sign_in", when=WHEN.replace(hour=8, minute=15)).text


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError):
        templates.render(Letter("asha@example.com", "otp", {"minutes": 5}))


def test_what_is_logged_of_a_letter_shows_no_secret():
    assert "012345" not in repr(render("otp"))
    assert "012345" not in repr(Letter("asha@example.com", "otp", LETTERS["otp"][0]))


@settings(max_examples=60, deadline=None)
@given(
    subject=st.text(st.characters(codec="utf-8"), max_size=200),
    text=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=2000),
    domain=st.from_regex(r"[a-z]{1,60}(\.[a-z]{2,20}){1,3}", fullmatch=True),
)
def test_messages_arrive_as_they_were_built(subject: str, text: str, domain: str):
    """Or, where a header would begin another one, are not built."""
    arguments: dict[str, Any] = {
        "sender": Address('Söhne, "X" <y>', "arrow", domain),
        "to": recipient("asha@example.com"),
        "message_id": f"<0123456789abcdef01234567.0123456789abcdef@{domain}>",
        "now": WHEN,
    }
    letter = Rendered(subject, text, f"<p>{text}</p>")
    try:
        message = build(letter, **arguments)
    except ValueError:
        assert subject.splitlines() != [subject]
        return
    raw = message.as_bytes(policy=policy.SMTP)
    raw.decode("ascii")
    assert max(len(line) for line in raw.splitlines()) < 998
    parsed: Any = message_from_bytes(raw, policy=policy.default)
    headers = [name.lower() for name, _ in parsed.items()]
    assert len(headers) == len(set(headers))
    assert not {"bcc", "cc", "reply-to"} & set(headers)
    assert parsed["Message-ID"].strip() == arguments["message_id"]
    assert parsed["To"].addresses[0].addr_spec == "asha@example.com"
    assert parsed["From"].addresses == (arguments["sender"],)
    assert parsed["Date"].datetime == WHEN
    for kind, expected in (("plain", text), ("html", f"<p>{text}</p>")):
        assert parsed.get_body((kind,)).get_content().splitlines() == [expected]
