"""Why the engine refuses. Each message is a sentence that a person can act on; `code` is for programs."""

from typing import ClassVar


class PredictionError(Exception):
    """Whatever the engine refuses."""

    code: ClassVar[str] = "prediction-failed"


class InvalidSeriesError(PredictionError):
    """The candles are none: prices missing or not positive, times out of order, columns of different length."""

    code = "invalid-series"


class TooFewBarsError(PredictionError):
    """The history is too short to judge a model on it."""

    code = "too-few-bars"


class DeadlineExceededError(PredictionError):
    """Training did not end in time."""

    code = "deadline-exceeded"


class UntrustedModelError(PredictionError):
    """The signature of a stored model does not hold. Nothing of it was read."""

    code = "untrusted-model"


class StaleModelError(PredictionError):
    """The stored model is sound, but for something else: train a new one."""

    code = "stale-model"
