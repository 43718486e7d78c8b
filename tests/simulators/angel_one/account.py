"""The one account that the simulator has: who may log in, and which tokens hold."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyotp
from jose import jwt


@dataclass(frozen=True, slots=True)
class Account:
    """What a client has to know."""

    client_code: str = "A123456"
    pin: str = "4321"
    api_key: str = "simKey01"
    totp_secret: str = field(default_factory=pyotp.random_base32)

    def totp(self, moment: datetime) -> str:
        """The code that its authenticator shows at `moment`."""
        return pyotp.TOTP(self.totp_secret).at(moment)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login or a refresh hands out."""

    jwt: str
    refresh: str
    feed: str


class Sessions:
    """Tokens handed out, and whether they still hold."""

    def __init__(self, account: Account, now: Callable[[], datetime], lifetime: timedelta) -> None:
        self._account, self._now, self._lifetime = account, now, lifetime
        self._key = secrets.token_hex(32)
        self._jwts: dict[str, datetime] = {}
        self._refreshes: set[str] = set()
        self._dead_refreshes: set[str] = set()
        self._feeds: set[str] = set()
        self.issued: list[Tokens] = []
        """All that were ever handed out."""

    def password_fault(self, client_code: object, pin: object, totp: object) -> tuple[str, str] | None:
        """The error code and message of a wrong login; None for a right one. The code may be 30 s old or early."""
        if client_code != self._account.client_code or pin != self._account.pin:
            return "AB1007", "Login Id or password is invalid"
        if not pyotp.TOTP(self._account.totp_secret).verify(str(totp), for_time=self._now(), valid_window=1):
            return "AB1050", "Invalid totp"
        return None

    def issue(self) -> Tokens:
        """New tokens; the older ones go on."""
        expires = self._now() + self._lifetime
        claims = {"username": self._account.client_code, "exp": expires, "jti": secrets.token_hex(8)}
        tokens = Tokens(
            jwt.encode(claims, self._key, algorithm="HS512"), secrets.token_urlsafe(48), secrets.token_urlsafe(48)
        )
        self.issued.append(tokens)
        self._jwts[tokens.jwt] = expires
        self._refreshes.add(tokens.refresh)
        self._feeds.add(tokens.feed)
        return tokens

    def jwt_fault(self, token: str | None) -> tuple[str, str] | None:
        """The gateway's error for a bearer token; None for one that holds."""
        if not token:
            return "AG8003", "Token missing"
        expires = self._jwts.get(token)
        if expires is None:
            return "AG8001", "Invalid Token"
        return ("AG8002", "Token Expired") if expires <= self._now() else None

    def refresh_fault(self, token: object) -> tuple[str, str] | None:
        """The error for a refresh token; None for one that holds."""
        if token in self._dead_refreshes:
            return "AB8051", "Refresh Token Expired"
        return None if token in self._refreshes else ("AB8050", "Invalid Refresh Token")

    def holds_feed(self, token: str | None) -> bool:
        """Whether this is a feed token that holds."""
        return token in self._feeds

    def expire(self, *, refresh_too: bool = False) -> None:
        """Every access and feed token dies, as happens daily; with `refresh_too` a new login is needed."""
        self._jwts = dict.fromkeys(self._jwts, self._now())
        self._feeds.clear()
        if refresh_too:
            self._dead_refreshes |= self._refreshes
            self._refreshes.clear()

    def end(self, token: str) -> None:
        """A logout."""
        self._jwts.pop(token, None)
        self.expire(refresh_too=True)
