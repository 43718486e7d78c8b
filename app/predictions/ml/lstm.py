"""The LSTM: flax's cell over the last 20 bars, trained by optax; kept as safetensors.

Shapes are the same for every fold, model and symbol: the table of features is filled up to `MAXIMUM_BARS`, and each
step draws its windows from it by row number. So XLA compiles twice in a process's life (a piece of training, a batch
of forecasts), not once per fold.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.predictions.ml.bars import Floats
from app.predictions.ml.errors import StaleModelError
from app.predictions.ml.families import Checkpoint
from app.predictions.ml.features import FEATURES
from app.predictions.ml.samples import Rows
from app.predictions.ml.values import MAXIMUM_BARS, WINDOW_BARS

INPUTS: Final = (
    "return_1",
    "volatility_change",
    "range_to_volatility",
    "body",
    "close_in_range",
    "gap",
    "relative_volume",
)
"""What it sees of each of the 20 bars. The other features sum up past bars, which it sees anyway: with them it learns
the noise by heart (skill −0.6 on random walks)."""
HIDDEN: Final = 8
BATCH: Final = 64
PIECES: Final = 4
STEPS_OF_PIECE: Final = 50
LEARNING_RATE: Final = 2e-3
WEIGHT_DECAY: Final = 0.5
BLUR: Final = 1.0
"""Standard deviation of the noise laid over scaled inputs in training (C. M. Bishop, "Training with noise is equivalent
to Tikhonov regularization", Neural Computation 7, 1995): a window is never seen twice."""
_FORECAST_ROWS: Final = 512
_LEAST_SPREAD: Final = 1e-6
"""A feature that varies less in training (the volume of an index: always 0) is not blown up."""
_LIMIT: Final = 8.0
_COLUMNS: Final = [FEATURES.index(name) for name in INPUTS]
_MEAN, _DEVIATION = "scaler/mean", "scaler/deviation"

Table = NDArray[np.float32]


class _Programs(NamedTuple):
    """What XLA made of the network, and zeros in the shapes of its weights and of the optimizer's memory."""

    empty: Any
    train: Any
    forecast: Any
    flatten: Any
    unflatten: Any


class Lstm:
    """Trains and loads LSTMs. One of these compiles once, when first used or by `compile`."""

    def __init__(self) -> None:
        self._programs: _Programs | None = None

    def compile(self) -> _Programs:
        """The compiled programs; a second or two the first time."""
        if self._programs is None:
            self._programs = _compiled()
        return self._programs

    def fit(self, features: Floats, rows: Rows, targets: Floats, seed: int, checkpoint: Checkpoint) -> "LstmModel":
        """See `ModelFamily.fit`. Always the same number of steps: stopping early would need bars to look at."""
        programs = self.compile()
        seen = features[rows[0] - WINDOW_BARS + 1 : rows[-1] + 1, _COLUMNS]
        mean, spread = seen.mean(axis=0), seen.std(axis=0)
        deviation = np.where(spread > _LEAST_SPREAD, spread, 1.0)
        table, wanted = _filled_up(features, mean, deviation), np.zeros(MAXIMUM_BARS, dtype=np.float32)
        wanted[rows] = targets
        chance = np.random.default_rng(seed)
        state = _started(programs, chance)
        for piece in range(PIECES):
            checkpoint(piece / PIECES)
            drawn = chance.integers(rows[0], rows[-1] + 1, (STEPS_OF_PIECE, BATCH), dtype=np.int32)
            noise = chance.standard_normal((*drawn.shape, WINDOW_BARS, len(INPUTS)), dtype=np.float32)
            state = programs.train(state, table, wanted, drawn, BLUR * noise)
        return LstmModel(programs, state[0], mean, deviation)

    def load(self, dumped: bytes) -> "LstmModel":
        """See `ModelFamily.load`."""
        from safetensors.numpy import load

        programs, tensors = self.compile(), load(dumped)
        mean, deviation = tensors.pop(_MEAN), tensors.pop(_DEVIATION)
        expected = {name: array.shape for name, array in programs.flatten(programs.empty[0]).items()}
        if {name: array.shape for name, array in tensors.items()} != expected:
            raise StaleModelError("The stored LSTM is of another shape than this version makes.")
        return LstmModel(programs, programs.unflatten(tensors), mean, deviation)


class LstmModel:
    """A trained LSTM with the scaler of its training."""

    def __init__(self, programs: _Programs, weights: Any, mean: Floats, deviation: Floats) -> None:
        self._programs = programs
        self._weights = weights
        self._mean = mean
        self._deviation = deviation

    def predict(self, features: Floats, rows: Rows) -> Floats:
        """See `FittedModel.predict`."""
        table = _filled_up(features, self._mean, self._deviation)
        forecasts = []
        for first in range(0, len(rows), _FORECAST_ROWS):
            some = rows[first : first + _FORECAST_ROWS]
            batch = np.full(_FORECAST_ROWS, some[-1], dtype=np.int32)
            batch[: len(some)] = some
            forecasts.append(np.asarray(self._programs.forecast(self._weights, table, batch))[: len(some)])
        return np.concatenate(forecasts).astype(np.float64)

    def dump(self) -> bytes:
        """See `FittedModel.dump`."""
        from safetensors.numpy import save

        arrays = self._programs.flatten(self._weights)
        tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return save({**tensors, _MEAN: self._mean, _DEVIATION: self._deviation})


def _filled_up(features: Floats, mean: Floats, deviation: Floats) -> Table:
    """The scaled table in the one shape there is. Bars before the warm-up, and those filled up, are 0: never drawn."""
    table = np.zeros((MAXIMUM_BARS, len(INPUTS)), dtype=np.float32)
    table[: len(features)] = np.clip(np.nan_to_num((features[:, _COLUMNS] - mean) / deviation), -_LIMIT, _LIMIT)
    return table


def _functions() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Of the network: its first (empty) state, a piece of training, forecasts. Python still, for XLA to compile."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen

    network = linen.RNN(linen.OptimizedLSTMCell(HIDDEN), return_carry=True)
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    back = jnp.arange(-WINDOW_BARS + 1, 1)

    def forecast(weights: Any, table: Any, rows: Any, blur: Any = 0.0) -> Any:
        (_, hidden), _ = network.apply(weights["lstm"], table[rows[:, None] + back] + blur)
        return hidden @ weights["out"]["kernel"] + weights["out"]["bias"]

    def empty(key: Any) -> Any:
        windows = jnp.zeros((1, WINDOW_BARS, len(INPUTS)))
        weights = {
            "lstm": network.init(key, windows),
            "out": {"kernel": jnp.zeros((HIDDEN,)), "bias": jnp.zeros((1,))},
        }
        return weights, optimizer.init(weights)

    def train(state: Any, table: Any, wanted: Any, rows: Any, blurs: Any) -> Any:
        def step(state: Any, drawn: Any) -> Any:
            weights, memory = state
            rows, blur = drawn

            def loss(tried: Any) -> Any:
                return jnp.mean((forecast(tried, table, rows, blur) - wanted[rows]) ** 2)

            updates, memory = optimizer.update(jax.grad(loss)(weights), memory, weights)
            return (optax.apply_updates(weights, updates), memory), None

        return jax.lax.scan(step, state, (rows, blurs))[0]

    return empty, train, forecast


def _compiled() -> _Programs:
    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict

    empty, train, forecast = _functions()
    table = np.zeros((MAXIMUM_BARS, len(INPUTS)), dtype=np.float32)
    wanted, rows = np.zeros(MAXIMUM_BARS, dtype=np.float32), np.zeros(_FORECAST_ROWS, dtype=np.int32)
    drawn = np.zeros((STEPS_OF_PIECE, BATCH), dtype=np.int32)
    blurs = np.zeros((*drawn.shape, WINDOW_BARS, len(INPUTS)), dtype=np.float32)
    shapes = jax.eval_shape(empty, jax.random.key(0))
    state = jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)
    return _Programs(
        state,
        jax.jit(train).lower(state, table, wanted, drawn, blurs).compile(),
        jax.jit(forecast).lower(state[0], table, rows).compile(),
        partial(flatten_dict, sep="/"),
        partial(unflatten_dict, sep="/"),
    )


def _started(programs: _Programs, chance: np.random.Generator) -> Any:
    """Weights to begin with, and the optimizer's empty memory: drawn here, because XLA takes four seconds to compile
    what draws them there. Kernels vary by 1/√inputs (Y. LeCun et al., "Efficient BackProp", 1998), biases are 0, and
    the last kernel is small: it begins as the naive forecast."""
    empty, memory = programs.empty
    flat = programs.flatten(empty)
    for name, array in flat.items():
        if array.ndim == 2:
            flat[name] = (chance.standard_normal(array.shape) / np.sqrt(len(array))).astype(np.float32)
    flat["out/kernel"] = (0.01 * chance.standard_normal(HIDDEN)).astype(np.float32)
    return programs.unflatten(flat), memory
