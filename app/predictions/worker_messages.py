"""What the service and the process that trains say to each other, as MessagePack."""

from typing import Final

import msgspec

from app.predictions.ml.values import Prediction, TrainRequest, TrainResult

STOPPED: Final = "stopped"
"""The code of the refusal that answers a `Stop`."""


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Comes first. Answered when all libraries are imported and compiled."""

    key: bytes
    """That models are signed with."""


class Train(msgspec.Struct, frozen=True, tag=True):
    """`PredictionEngine.train`."""

    request: TrainRequest


class Use(msgspec.Struct, frozen=True, tag=True):
    """`PredictionEngine.predict`."""

    blob: bytes
    request: TrainRequest


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Comes under the number of a question: nobody waits for its reply any more."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It has begun."""


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """Comes before the reply to a `Train`."""

    share: float
    doing: str


class Trained(msgspec.Struct, frozen=True, tag=True):
    """What was trained."""

    results: list[TrainResult]


class Used(msgspec.Struct, frozen=True, tag=True):
    """What was forecast."""

    prediction: Prediction


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A `PredictionError`, by its code."""

    code: str
    message: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """An exception that nobody has thought of."""

    error: str
    """The name of its class."""
    trace: str


Question = Begin | Train | Use | Stop
Reply = Ready | Progressed | Trained | Used | Refused | Failed

encode: Final = msgspec.msgpack.Encoder().encode
decode_question: Final = msgspec.msgpack.Decoder[Question](Question).decode
decode_reply: Final = msgspec.msgpack.Decoder[Reply](Reply).decode
