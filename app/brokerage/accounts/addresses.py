"""Which addresses requests with a person's credentials may go to: no server-side request forgery.

An `api_url` comes from outside, so it may name only what the operator (or the broker) is known to run. It is compared
as an origin in one spelling, and the one that was compared is the one that is used: nothing is parsed twice.
"""

import re
from typing import Final

from app.brokerage.accounts.brokers import WANTS, default_base_url
from app.brokerage.words import BrokerName
from app.core.errors import FieldError, InvalidInputError
from app.core.settings import Settings
from app.core.settings.brokerage import origin_of
from app.core.settings.values import LOOPBACK

_ADDRESS: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*)/?",
    re.IGNORECASE | re.ASCII,
)
MAX_ADDRESS: Final = 300


def checked_address(settings: Settings, broker: BrokerName, api_url: str) -> str:
    """`api_url` as requests use it, without a slash at the end.

    Raises `InvalidInputError` unless it is the broker's own host, where the settings say that the broker is, or on the
    operator's list: by `https`, and by `http` on this machine alone; without a user name, query or fragment.
    """
    found = _ADDRESS.fullmatch(api_url) if len(api_url) <= MAX_ADDRESS else None
    if found is None:
        raise _refused("Write an address like https://api.example.com, without a user name, query or fragment")
    scheme, host = found["scheme"].lower(), found["host"].lower().strip("[]")
    port = int(found["port"]) if found["port"] else None
    if port is not None and port > 65_535:
        raise _refused("There is no such port")
    if scheme == "http" and host not in LOOPBACK:
        raise _refused("It must begin with https://: credentials travel there")
    origin = origin_of(scheme, host, port)
    configured = default_base_url(settings, broker)
    if origin + found["path"] == configured:
        return configured
    own = [origin_of("https", name, None) for name in WANTS[broker].hosts]
    if origin in own:
        if found["path"]:
            raise _refused(f"Write {origin} without a path: what follows it is known")
        return origin
    if origin in settings.broker_api_url_allowlist:
        return origin + found["path"]
    places = " or ".join(own) or "nowhere: the paper broker needs no address"
    raise _refused(
        f"{WANTS[broker].label} is at {places}; any other address has to be in BROKER_API_URL_ALLOWLIST, which only "
        "the operator of this server can set"
    )


def _refused(sentence: str) -> InvalidInputError:
    return InvalidInputError(f"{sentence}.", [FieldError(("body", "api_url"), sentence, "address_not_allowed")])
