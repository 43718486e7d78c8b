"""Models at rest: only what was signed is read."""

import msgspec
import pytest

from app.predictions.ml.errors import UntrustedModelError
from app.predictions.ml.model_file import ModelFile, ModelSeal
from app.predictions.ml.values import Evaluation

KEY = b"k" * 32
MODEL = ModelFile(
    model="svr",
    symbol="RELIANCE.NS",
    timeframe="1D",
    horizon_bars=5,
    feature_names=("rsi_14",),
    versions={"numpy": "2"},
    trained_through=1_700_000_000,
    evaluation=Evaluation(
        skill_vs_naive=-0.01,
        p_value=0.7,
        hit_rate=0.5,
        observed_coverage=0.8,
        rmse=0.02,
        naive_rmse=0.02,
        folds=5,
        samples=600,
        verdict="no demonstrated skill",
        summary="No demonstrated skill.",
    ),
    margin_low=-1.2,
    margin_high=1.3,
    confidence_slope=0.1,
    usual_forecast=0.2,
    members={"svr": b"weights"},
)


def test_what_was_sealed_opens() -> None:
    blob = ModelSeal(KEY).seal(MODEL)
    assert ModelSeal(KEY).open(blob) == MODEL
    assert ModelSeal(KEY).check(blob) == blob[8:40]


def test_any_change_is_noticed() -> None:
    blob, seal = ModelSeal(KEY).seal(MODEL), ModelSeal(KEY)
    for place in range(len(blob)):
        with pytest.raises(UntrustedModelError, match="signature"):
            seal.open(blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :])
    for other in (b"", blob[:7], blob[:40], blob[:-1], blob + b"\0", blob[8:], b"ARROWML2" + blob[8:]):
        with pytest.raises(UntrustedModelError):
            seal.open(other)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(UntrustedModelError):
        ModelSeal(b"other" * 8).open(ModelSeal(KEY).seal(MODEL))


def test_a_signature_by_the_key_itself_is_none_of_ours() -> None:
    """The service's secret signs other things too: what it signed there is no model."""
    import hmac

    body = msgspec.msgpack.encode(MODEL)
    with pytest.raises(UntrustedModelError):
        ModelSeal(KEY).open(b"ARROWML1" + hmac.digest(KEY, b"ARROWML1" + body, "sha256") + body)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ModelSeal(b"k" * 31)
