"""The codes of a second factor, apart from where they are stored: TOTP (RFC 6238), its QR, and recovery codes."""

import hashlib
import hmac
import io
import re
import secrets

import pyotp
import segno
from beanie import PydanticObjectId

STEP_SECONDS = 30
DIGITS = 6
"""With SHA-1 what every authenticator app does; several ignore it when a URI asks for anything else."""

_WINDOW = 1
"""Steps before and after the present one whose codes are taken: clocks differ, and typing takes time."""

RECOVERY_CODES = 10
_GROUPS, _GROUP_CHARS = 4, 4
# Crockford's base 32, 5 bits a character: it has no I, L, O and U, so what was misread can be put right.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD = str.maketrans("ILO", "110")
_TOTP_FORM = re.compile(rf"[0-9]{{{DIGITS}}}").fullmatch
_RECOVERY_FORM = re.compile(rf"[{_ALPHABET}]{{{_GROUPS * _GROUP_CHARS}}}").fullmatch
_SEPARATORS = re.compile(r"[\s-]+")


def new_totp_secret() -> str:
    """160 random bits, as RFC 4226 (section 4, R6) recommends, in Base32."""
    return pyotp.random_base32(32)


def totp_form(typed: str) -> str | None:
    """The digits of a TOTP code, apps show it as `123 456`; None for anything else."""
    digits = _SEPARATORS.sub("", typed)
    return digits if _TOTP_FORM(digits) else None


def matching_step(secret: str, digits: str, *, seconds: float, after: int) -> int | None:
    """The time step whose code `digits` is, `seconds` after the epoch; None for a wrong, a past or a used one.

    `after` is the step of the newest code that was taken: that one and those before it are used.
    """
    totp = pyotp.TOTP(secret, digits=DIGITS, interval=STEP_SECONDS)
    present = int(seconds) // STEP_SECONDS
    found = None
    for step in range(present - _WINDOW, present + _WINDOW + 1):
        # All of them are compared, so the time says nothing; of two equal codes (one in a million) both are used.
        if hmac.compare_digest(totp.generate_otp(step), digits) and step > after:
            found = step
    return found


def otpauth_uri(secret: str, *, issuer: str, account: str) -> str:
    """What an authenticator app reads from the QR. Neither name may hold a colon, which stands between the two."""
    totp = pyotp.TOTP(secret, digits=DIGITS, interval=STEP_SECONDS)
    return totp.provisioning_uri(name=account.replace(":", " "), issuer_name=issuer.replace(":", " "))


def qr_svg(text: str) -> str:
    """The QR code of `text` as an SVG that takes any size: black on white in every theme, with its quiet zone."""
    buffer = io.BytesIO()
    segno.make_qr(text, error="m").save(
        buffer,
        kind="svg",
        border=4,  # modules; ISO/IEC 18004 wants as many
        dark="#000",
        light="#fff",
        omitsize=True,
        xmldecl=False,
        nl=False,
        svgclass=None,
        lineclass=None,
        title="QR code for your authenticator app",
    )
    return buffer.getvalue().decode()


def new_recovery_codes() -> list[str]:
    """Ten codes of 80 random bits each, as they are shown: `7Q2M-X0KD-9RTA-4HJW`."""
    groups = [
        ["".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_CHARS)) for _ in range(_GROUPS)]
        for _ in range(RECOVERY_CODES)
    ]
    return ["-".join(code) for code in groups]


def recovery_form(typed: str) -> str | None:
    """A recovery code without hyphens, in capitals and with misread letters put right; None for anything else."""
    code = _SEPARATORS.sub("", typed).upper().translate(_MISREAD)
    return code if _RECOVERY_FORM(code) else None


def recovery_digest(user_id: PydanticObjectId, code: str) -> str:
    """What is stored of a recovery code (in the form of `recovery_form`).

    80 random bits cannot be searched, so a plain SHA-256 suffices; the account in it makes equal codes unequal.
    """
    return hashlib.sha256(f"recovery code:{user_id}:{code}".encode()).hexdigest()
