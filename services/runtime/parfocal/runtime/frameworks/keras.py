"""The driver of Keras networks (Keras 2 or 3 on TensorFlow). Imported by workers only: it loads TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# TensorFlow reads this at import; its start-up notes would drown the worker's log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What stays in float32 when a network is computed in bfloat16: there a probability of nearly 1 is rounded to 1, and the
# logarithm of what it lacks ends a training that goes well.
os.environ.setdefault("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_INFERLIST_REMOVE", "Sigmoid,Log,Log1p")
os.environ.setdefault("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_DENYLIST_ADD", "Sigmoid,Log,Log1p")

import keras as keras  # for families, whose driver has its name
import tensorflow as tf

from parfocal.runtime.errors import InvalidInputError, OutOfMemoryError
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView
from parfocal.runtime.methods.precision import choose_precision
from parfocal.runtime.store.facts import Facts


def prepare(seed: int, precision: str, dimensions: int) -> None:
    """Set the seed and the arithmetic of this process; call it before a network is built.

    The arithmetic is global in TensorFlow, which is one reason why only jobs with equal parameters share a process.
    """
    keras.utils.set_random_seed(seed)
    bfloat16 = choose_precision(precision, "tensorflow", dimensions)[0] == "bfloat16"
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": bfloat16})


class KerasLearner:
    """A compiled Keras model as the training loop sees it.

    Parameters
    ----------
    model
        A network compiled with optimiser and loss; inputs and targets are channels-last batches.
    seed
        From which, with the epoch, all that is random inside the network follows, such as dropout.
    """

    def __init__(self, model: Any, seed: int) -> None:
        self.model = model
        self._seed = seed
        self._predict: Callable[..., Any] = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        model.optimizer.build(model.trainable_variables)

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Set the learning rate and reseed what is random inside the network."""
        self.model.optimizer.learning_rate.assign(learning_rate)
        numbers = np.random.default_rng([self._seed, epoch])
        for generator in _generators(self.model):
            state = generator.state
            state.assign(numbers.integers(2**31, size=state.shape).astype(state.dtype))

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Do one step of optimisation and return the loss of the batch before it."""
        # Keras reports running means; a reset makes them the means of this batch alone.
        self.model.reset_metrics()
        return _loss(self.model.train_on_batch(batch.input, batch.targets, return_dict=True))

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return the loss of a batch."""
        self.model.reset_metrics()
        return _loss(self.model.test_on_batch(batch.input, batch.targets, return_dict=True))

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's output; the network is compiled once for each shape of a tile."""
        try:
            return np.asarray(self._predict(inputs).numpy(), dtype=np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise OutOfMemoryError(f"A batch of shape {inputs.shape} does not fit the memory.") from error

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all weights."""
        return _arrays(self.model.weights)

    def set_weights(self, weights: Arrays) -> None:
        """Replace all weights; raise InvalidInputError if they are of another network."""
        _assign(self.model.weights, weights, "weights")

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all variables of the optimiser, moments and step count included."""
        return _arrays(_variables(self.model.optimizer))

    def set_state(self, state: Arrays) -> None:
        """Replace all variables of the optimiser."""
        _assign(_variables(self.model.optimizer), state, "optimiser")


class KerasFiles:
    """Mixin of an implementation whose models are the files that csbdeep and stardist write and read."""

    build: Callable[..., Any]

    def save(self, folder: Path, parameters: Any, facts: Facts, weights: Mapping[str, Arrays]) -> None:
        """Write the weights of each name to a file."""
        learner = self.build(parameters, facts)
        for name, arrays in weights.items():
            learner.set_weights(arrays)
            learner.model.save_weights(str(folder / weights_file(name)))

    def load(self, folder: Path, model: ModelView, weights: str) -> Any:
        """Return the saved network; only arrays are read from the file.

        Raises
        ------
        InvalidInputError
            The file is damaged or belongs to another network.
        """
        learner = self.build(model.parameters, model.facts)
        path = folder / weights_file(weights)
        try:
            learner.model.load_weights(str(path))
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"{path.name} of the model is damaged or belongs to a network with other parameters."
            ) from error
        return learner


def weights_file(name: str) -> str:
    """Return the name that csbdeep and stardist give the file of the weights "best" or "last"."""
    return f"weights_{name}.h5"


def _generators(model: Any) -> list[Any]:
    """Return the seed generators of all layers, in a fixed order."""
    found = (getattr(layer, "seed_generator", None) for layer in model._flatten_layers())
    return [generator for generator in found if generator is not None]


def _loss(logs: Any) -> dict[str, float]:
    return {"loss": float(np.asarray(logs["loss"]))}


def _variables(optimizer: Any) -> list[Any]:
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def _arrays(variables: list[Any]) -> dict[str, NDArray[Any]]:
    # Names repeat between layers in Keras 3, so the position comes first.
    return {f"{number:04d} {variable.name}": np.array(variable.numpy()) for number, variable in enumerate(variables)}


def _assign(variables: list[Any], arrays: Arrays, what: str) -> None:
    values = [arrays[name] for name in sorted(arrays)]
    if [tuple(value.shape) for value in values] != [tuple(variable.shape) for variable in variables]:
        raise InvalidInputError(
            f"The {what} have {len(values)} arrays that do not fit the {len(variables)} of this network."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
