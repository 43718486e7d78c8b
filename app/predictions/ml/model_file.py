"""Models at rest: one blob, signed, and only ever read by whoever holds the key it was signed with.

Layout: 8 bytes that name the format, 32 bytes HMAC-SHA-256 of the rest, then MessagePack of a `ModelFile`. Nothing is
parsed before the signature held. The members inside are safetensors and compressed skops files; no pickle anywhere.
"""

import hmac
from typing import Final

import msgspec

from app.predictions.ml.errors import UntrustedModelError
from app.predictions.ml.values import Evaluation, Family

_FORMAT: Final = b"ARROWML1"
_PURPOSE: Final = b"arrow: signatures of prediction models, 1"
_SIGNATURE_BYTES: Final = 32
LEAST_KEY_BYTES: Final = 32


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A trained model, or several whose mean is the forecast, and all that its forecasts are published with."""

    model: Family
    symbol: str
    timeframe: str
    horizon_bars: int
    feature_names: tuple[str, ...]
    versions: dict[str, str]
    trained_through: int
    evaluation: Evaluation
    margin_low: float
    margin_high: float
    confidence_slope: float
    usual_forecast: float
    members: dict[Family, bytes]


class ModelSeal:
    """Signs models, and opens those it signed. `key` is a secret of 32 bytes or more; it is not used as it stands, so
    that it may serve other purposes too."""

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_KEY_BYTES:
            raise ValueError(f"The key that signs models has to have {LEAST_KEY_BYTES} bytes or more.")
        self._key = hmac.digest(key, _PURPOSE, "sha256")

    def seal(self, model: ModelFile) -> bytes:
        """The blob of `model`."""
        body = msgspec.msgpack.encode(model)
        return _FORMAT + self._signature(body) + body

    def check(self, blob: bytes) -> bytes:
        """The signature of `blob`, once it was found to hold: it names the content.

        Raises `UntrustedModelError` if it does not, or `blob` is none of ours.
        """
        head, body = len(_FORMAT), len(_FORMAT) + _SIGNATURE_BYTES
        signature = blob[head:body]
        if blob[:head] != _FORMAT or not hmac.compare_digest(signature, self._signature(blob[body:])):
            raise UntrustedModelError("The signature of the stored model does not hold; it is not used.")
        return signature

    def open(self, blob: bytes) -> ModelFile:
        """The model in `blob`. Raises `UntrustedModelError` as `check` does."""
        self.check(blob)
        return msgspec.msgpack.decode(blob[len(_FORMAT) + _SIGNATURE_BYTES :], type=ModelFile)

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key, _FORMAT + body, "sha256")
