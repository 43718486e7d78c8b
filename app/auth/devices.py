"""A short name for the program behind a `User-Agent`, for people who look through their sessions."""

import re

# Chrome's name is in those of the browsers built on it, and Safari's in Chrome's: the more particular ones come first.
_BROWSERS = (
    ("Edge", re.compile(r"\b(?:Edg|EdgA|EdgiOS)/\d")),
    ("Opera", re.compile(r"\bOPR/\d")),
    ("Samsung Internet", re.compile(r"\bSamsungBrowser/\d")),
    ("Firefox", re.compile(r"\b(?:Firefox|FxiOS)/\d")),
    ("Chrome", re.compile(r"\b(?:Chrome|CriOS)/\d")),
    ("Safari", re.compile(r"\bVersion/\d\S{0,20} (?:Mobile/\S{1,20} )?Safari/\d")),
)
# Android calls itself Linux too, and iPhones claim to be like Mac OS X.
_SYSTEMS = (
    ("iPhone", re.compile(r"\(iPhone\b")),
    ("iPad", re.compile(r"\(iPad\b")),
    ("Android", re.compile(r"\bAndroid\b")),
    ("Windows", re.compile(r"\(Windows NT\b")),
    ("Mac", re.compile(r"\(Macintosh\b")),
    ("ChromeOS", re.compile(r"\bCrOS\b")),
    ("Linux", re.compile(r"\bLinux\b")),
)


_NAMES = frozenset(f"{browser} on {system}" for browser, _ in _BROWSERS for system, _ in _SYSTEMS)
_ANOTHER = "another program"


def device_name(user_agent: str | None) -> str | None:
    """`Chrome on Windows` where both are plain from the text, else the text itself: a guess would mislead.

    It is what the client says of itself, so it recognises one's own devices and proves nothing about others.
    """
    return _recognised(user_agent) or user_agent


def device_in_mail(text: str | None) -> str:
    """What a mail may say of a device, whose `User-Agent` or name `text` is: a name of ours, or `another program`.

    Never the text itself: whoever signs in chooses it, and would have us send their words in our name.
    """
    return text if text in _NAMES else _recognised(text) or _ANOTHER


def _recognised(user_agent: str | None) -> str | None:
    if not user_agent or not user_agent.startswith("Mozilla/5.0 ("):
        return None
    browser = next((name for name, pattern in _BROWSERS if pattern.search(user_agent)), None)
    system = next((name for name, pattern in _SYSTEMS if pattern.search(user_agent)), None)
    return f"{browser} on {system}" if browser and system else None
