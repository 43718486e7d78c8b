"""What each broker wants of a person, and where it is."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from app.brokerage.words import BrokerName
from app.core.settings import Settings

CREDENTIALS: Final = ("api_key", "api_secret", "client_id", "password", "totp_key", "redirect_uri")
"""Names of what is kept, in the order in which it is shown."""
HANDED_OVER: Final = "request_token"
"""What a sign-in page hands over: Kite's `request_token`, Upstox' `code`. Good once, and never kept."""


class Wants(NamedTuple):
    """What opens an account."""

    label: str
    needed: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    """At least one of these, too."""
    optional: tuple[str, ...] = ()
    by_page: bool = False
    """Whether every session begins at the broker's own sign-in page, which hands a token over."""
    hosts: tuple[str, ...] = ()
    """The broker's own."""

    @property
    def known(self) -> frozenset[str]:
        """All that it takes."""
        page = (HANDED_OVER,) if self.by_page else ()
        return frozenset((*self.needed, *self.one_of, *self.optional, *page))


WANTS: Final[Mapping[BrokerName, Wants]] = {
    BrokerName.PAPER: Wants("the paper broker"),
    BrokerName.ANGEL_ONE: Wants(
        "Angel One",
        ("client_id", "password", "totp_key", "api_key"),
        optional=("api_secret",),
        hosts=("apiconnect.angelone.in", "apiconnect.angelbroking.com"),
    ),
    BrokerName.ZERODHA: Wants("Zerodha", ("api_key", "api_secret"), by_page=True, hosts=("api.kite.trade",)),
    BrokerName.UPSTOX: Wants(
        "Upstox",
        ("api_key", "api_secret"),
        optional=("redirect_uri",),
        by_page=True,
        hosts=("api.upstox.com", "api-hft.upstox.com"),
    ),
    BrokerName.GROWW: Wants("Groww", ("api_key",), one_of=("totp_key", "api_secret"), hosts=("api.groww.in",)),
}
"""By broker."""


def default_base_url(settings: Settings, broker: BrokerName) -> str:
    """Where the settings say that a broker is; empty for paper."""
    return {
        BrokerName.PAPER: "",
        BrokerName.ANGEL_ONE: settings.angel_one_base_url,
        BrokerName.ZERODHA: settings.zerodha_base_url,
        BrokerName.UPSTOX: settings.upstox_base_url,
        BrokerName.GROWW: settings.groww_base_url,
    }[broker]
