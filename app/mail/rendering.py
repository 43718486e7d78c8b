"""Letters become texts: subject, plain part and HTML part, from the pair of templates that the letter names.

Names and devices come from strangers (whoever signs up with somebody else's address chooses the name in the mail that
goes there), so what looks like a link or a code is not repeated in our name.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from app.core.mail import Letter

IST = timezone(timedelta(hours=5, minutes=30), "IST")
MAX_NAME, MAX_LINE = 60, 160
"""Characters of a name, and of any other value that came from outside, that a mail repeats."""

_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
_LINKS = re.compile(r"(?:https?|ftp)?:?//\S*|www\.\S*", re.IGNORECASE)
# In a name also what mail programs turn into links by themselves, and digits that could be taken for a code.
_NO_NAME = re.compile(r"[/@:\\]|\w\.\w{2}|\d\D?\d\D?\d\D?\d")
_GAP = re.compile(r"\n{3,}")
_METHODS = {
    "password": "password",
    "otp": "code by e-mail",
    "totp": "authenticator app",
    "recovery_code": "recovery code",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A letter in words. The texts may hold secrets: they are for the addressee alone."""

    subject: str
    text: str
    html: str

    def __repr__(self) -> str:
        return f"Rendered({self.subject!r})"


class Templates:
    """The mails of this service, as `templates/` has them."""

    def __init__(self, app_name: str) -> None:
        self._env = Environment(
            loader=PackageLoader("app.mail"),
            autoescape=select_autoescape(("html.j2",), ("txt.j2",), default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._env.globals["app_name"] = _line(app_name)
        self._env.filters |= {"moment": _moment, "line": _line, "given_name": _name, "method_words": _method_words}
        self._env.filters["count"] = _count

    def render(self, letter: Letter) -> Rendered:
        """`letter` in words; raises `jinja2.TemplateError` when a value or the template itself is missing."""
        values = {**letter.values, "name": _name(letter.values.get("name"))}
        plain = self._env.get_template(f"{letter.template}.txt.j2")
        subject = _line("".join(plain.blocks["subject"](plain.new_context(values))))
        values["subject"] = subject
        html = self._env.get_template(f"{letter.template}.html.j2").render(values)
        return Rendered(subject, _GAP.sub("\n\n", plain.render(values)), html)


def _line(value: object) -> str:
    """A value from outside as one line of bounded length, without links and invisible characters."""
    text = "unknown" if value is None else " ".join(_LINKS.sub("", _INVISIBLE.sub(" ", str(value))).split())
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…"


def _name(value: object) -> str | None:
    """A name that somebody chose, of a person or thing; None where it would do something other than name them."""
    if value is None:
        return None
    text = " ".join(_INVISIBLE.sub(" ", str(value)).split())
    return text if 0 < len(text) <= MAX_NAME and not _NO_NAME.search(text) else None


def _moment(when: datetime) -> str:
    """`22 Nov 2026, 08:15 UTC (13:45 IST)`, with the second date only where it differs."""
    utc, ist = when.astimezone(UTC), when.astimezone(IST)
    local = f"{ist:%H:%M} IST" if ist.date() == utc.date() else f"{ist:%d %b %Y, %H:%M} IST"
    return f"{utc:%d %b %Y, %H:%M} UTC ({local})"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _method_words(method: str) -> str:
    """`password+totp` as a person would say it."""
    return " and ".join(_METHODS.get(part, "another way") for part in method.split("+"))
