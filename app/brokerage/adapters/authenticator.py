"""The codes of authenticators (RFC 6238: six digits, SHA-1, 30 seconds), for keys that a broker has issued.

Not by the library that the sign-in to Arrow uses: it refuses keys of less than 112 bits, and how long theirs are is for
brokers to say. Pure.
"""

import binascii
import hmac
from base64 import b32decode
from datetime import datetime
from hashlib import sha1
from typing import Final

_SECONDS: Final = 30


def code_at(key: str, moment: datetime) -> str:
    """What the authenticator shows at `moment`; raises `ValueError`, which does not quote it, for a key that is none.

    Spaces, hyphens and small letters are as people copy it; padding may be missing.
    """
    text = "".join(key.replace("-", "").split()).upper().rstrip("=")
    try:
        secret = b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("not a Base32 text") from None
    if not secret:
        raise ValueError("not a Base32 text")
    counter = int(moment.timestamp()) // _SECONDS
    digest = hmac.new(secret, counter.to_bytes(8, "big"), sha1).digest()  # what authenticators agreed on
    start = digest[-1] & 0x0F
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFF_FFFF
    return f"{number % 1_000_000:06d}"
