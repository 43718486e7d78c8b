"""Where credentials may be sent: the broker itself, what the operator allows, and nothing else."""

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.brokerage.accounts.addresses import checked_address
from app.brokerage.words import BrokerName
from app.core.errors import InvalidInputError
from app.core.settings import Settings, SettingsError
from tests.brokerage.accounts.kit import settings_of

ALLOWED = "broker.example.com,https://10.0.0.5:8443,http://127.0.0.1:9000,https://[2001:db8::1]:8443"
SETTINGS = settings_of(broker_api_url_allowlist=ALLOWED, zerodha_base_url="http://127.0.0.1:7001/sim")


@pytest.mark.parametrize(
    ("api_url", "used"),
    [
        ("https://api.kite.trade", "https://api.kite.trade"),
        ("https://api.kite.trade/", "https://api.kite.trade"),
        ("HTTPS://API.KITE.TRADE:443", "https://api.kite.trade"),
        ("http://127.0.0.1:7001/sim", "http://127.0.0.1:7001/sim"),
        ("https://broker.example.com", "https://broker.example.com"),
        ("https://broker.example.com/kite/v3/", "https://broker.example.com/kite/v3"),
        ("https://10.0.0.5:8443", "https://10.0.0.5:8443"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_what_is_allowed(api_url: str, used: str) -> None:
    assert checked_address(SETTINGS, BrokerName.ZERODHA, api_url) == used


@pytest.mark.parametrize(
    "api_url",
    [
        "http://api.kite.trade",  # credentials in clear
        "https://api.kite.trade:8443",
        "https://api.kite.trade/v3",
        "https://api.upstox.com",  # another broker's
        "https://evil.example.com",
        "https://api.kite.trade.evil.example.com",
        "https://api.kite.trade@evil.example.com",
        "https://user:secret@api.kite.trade",
        "https://evil.example.com#api.kite.trade",
        "https://evil.example.com?x=https://api.kite.trade",
        "https://evil.example.com\\@api.kite.trade",
        "https://api.kite.trade\\.evil.example.com",
        "https://api.kite.trade.",
        "https://api%2ekite.trade",
        "https://\uff41\uff50\uff49.kite.trade",
        "https://api.kite.trade\n.evil.example.com",
        "https://api.kite.trade/../../latest/meta-data",
        "https://broker.example.com/../admin",
        "https://broker.example.com//evil.example.com",
        "https://broker.example.com:8443",
        "https://sub.broker.example.com",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost",
        "http://localhost:27017",
        "http://127.0.0.1:9001",
        "http://127.1:9000",
        "http://2130706433:9000",
        "http://[::1]:9000",
        "https://10.0.0.5",
        "file:///etc/passwd",
        "gopher://127.0.0.1:9000",
        "//api.kite.trade",
        "api.kite.trade",
        "https://",
        "",
        "https://api.kite.trade" + "/" * 300,
    ],
)
def test_what_is_not(api_url: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        checked_address(SETTINGS, BrokerName.ZERODHA, api_url)
    assert [error.loc for error in refused.value.errors] == [("body", "api_url")]
    assert "secret" not in refused.value.detail


@given(
    st.builds(
        "{}://{}{}{}{}".format,
        st.sampled_from(["https", "http", "HTTPS", "ftp"]),
        st.sampled_from(["", "a@", "api.kite.trade@", "a:b@"]),
        st.sampled_from(["api.kite.trade", "broker.example.com", "evil.example", "127.0.0.1", "[::1]", "10.0.0.5"])
        | st.text("apiketrd.-@:/\\%#?[]", max_size=20),
        st.sampled_from(["", ":443", ":9000", ":8443", ":7001", ":0", ":99999"]),
        st.sampled_from(["", "/", "/sim", "/..", "//x", "/a b", "#", "?x", "\\"]),
    )
)
@example("https://api.kite.trade:443/")
def test_whatever_is_taken_leads_where_it_may(api_url: str) -> None:
    """By an independent reading of what was taken."""
    try:
        used = checked_address(SETTINGS, BrokerName.ZERODHA, api_url)
    except InvalidInputError:
        return
    parts = urlsplit(used)
    assert (parts.username, parts.password, parts.query, parts.fragment) == (None, None, "", "")
    place = (parts.scheme, parts.hostname, parts.port)
    assert place in {
        ("https", "api.kite.trade", None),
        ("https", "broker.example.com", None),
        ("https", "10.0.0.5", 8443),
        ("https", "2001:db8::1", 8443),
        ("http", "127.0.0.1", 9000),
        ("http", "127.0.0.1", 7001),
    }
    assert ".." not in used


@pytest.mark.parametrize(
    "entry",
    ["http://broker.example.com", "a@b", "https://u:p@h", "h/path", "https://h?x", "[::1", "x y", "ftp://h", "*"],
)
def test_a_wrong_list_stops_the_start(entry: str) -> None:
    with pytest.raises(SettingsError, match="BROKER_API_URL_ALLOWLIST") as wrong:
        Settings.load(secret_key="x" * 40, _env_file=None, broker_api_url_allowlist=f"fine.example.com,{entry}")
    assert "\n" not in str(wrong.value)
    assert "u:p" not in str(wrong.value)


@pytest.mark.parametrize("name", ["broker_webhook_secret", "broker_webhook_additional_secrets"])
def test_short_webhook_secrets_stop_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name.upper()}: is shorter than 16") as wrong:
        Settings.load(secret_key="x" * 40, _env_file=None, **{name: "sesame"})
    assert "sesame" not in str(wrong.value)


def test_addresses_of_the_list_are_addresses() -> None:
    hosts = [urlsplit(origin).hostname or "" for origin in SETTINGS.broker_api_url_allowlist]
    assert hosts[0] == "broker.example.com"
    assert all(ipaddress.ip_address(host) for host in hosts[1:])
