"""What signs in to Angel One, and what a sign-in hands out. Neither shows itself."""

import binascii
import hashlib
import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyotp
from pydantic import SecretStr

from app.integrations.angel_one.errors import LoginRefusedError, advice


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs in to one account."""

    api_key: SecretStr
    client_id: SecretStr
    password: SecretStr
    """The PIN."""
    totp_key: SecretStr
    """The Base32 text behind the QR code of the authenticator."""

    def digest(self) -> str:
        """Tells these from others. The key of the codes is too long to be guessed from it, and with it the PIN."""
        parts = (self.api_key, self.client_id, self.password, self.totp_key)
        text = json.dumps([part.get_secret_value() for part in parts])
        return hashlib.sha256(b"angel one" + text.encode()).hexdigest()[:32]

    def code(self, moment: datetime) -> str:
        """What the authenticator shows at `moment`; raises `LoginRefusedError` when the key is none."""
        key = "".join(self.totp_key.get_secret_value().split()).upper()
        try:
            return pyotp.TOTP(key).at(moment)
        except (binascii.Error, ValueError, UnicodeError):
            raise LoginRefusedError("totp key", advice("totp key")) from None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a sign-in hands out. Shown without them."""

    jwt: str = field(repr=False)
    refresh: str = field(repr=False)
    feed: str = field(repr=False)
    made_at: datetime
    expires_at: datetime


def expiry(jwt: str) -> datetime | None:
    """What the token says of its end. Not verified: only the vendor can, and it is about when to ask for the next."""
    try:
        claims = jwt.split(".")[1]
        seconds = json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        return datetime.fromtimestamp(float(seconds), UTC)
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, OSError):
        return None
