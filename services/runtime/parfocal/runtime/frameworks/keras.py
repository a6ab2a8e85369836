"""The driver of Keras networks (Keras 2 or 3 on TensorFlow). Imported by workers only: it loads TensorFlow."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# TensorFlow reads this at import; its start-up notes would drown the worker's log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What stays in float32 when a network is trained in bfloat16 on the processor: there a probability of nearly 1 is
# rounded to 1, and the logarithm of what it lacks ends a training that goes well.
os.environ.setdefault("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_INFERLIST_REMOVE", "Sigmoid,Log,Log1p")
os.environ.setdefault("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_DENYLIST_ADD", "Sigmoid,Log,Log1p")

import keras as keras  # for families, whose driver has its name
import tensorflow as tf

from parfocal.runtime.errors import InvalidInputError, OutOfMemoryError
from parfocal.runtime.methods.device import Device, describe_gpu, describe_processor
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView
from parfocal.runtime.methods.portable import PortableFile
from parfocal.runtime.store.facts import Facts

KERAS_2 = keras.__version__.startswith("2.")
# Convolutions before each output that are computed in float32 when the others are not, if a method does not say.
TAIL_CONVOLUTIONS = 2
_PORTABLE_FILE = "weights.tensorflow.zip"
# In whole trainings of CARE with AVX512-BF16 alone TensorFlow needed half of the processor time of float32.
_FASTER_WITH = ("amx_bf16", "avx512_bf16")


@functools.cache
def describe_device() -> Device:
    """Return what TensorFlow computes on: the first GPU that it sees, or the processor.

    Of a GPU only the memory that is needed is taken. Call it before anything is computed.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        # oneDNN computes wrong gradients in bfloat16 for volumes that are not longer than a kernel, see the driver of
        # PyTorch. Arithmetic is global in trainings with TensorFlow, so all volumes are trained in float32.
        return describe_processor(_FASTER_WITH, trains=(1, 2))
    tf.config.set_visible_devices(gpus[:1], "GPU")
    tf.config.experimental.set_memory_growth(gpus[0], True)
    details = tf.config.experimental.get_device_details(gpus[0])
    capability = tuple(details.get("compute_capability", ()))
    cuda = str(tf.sysconfig.get_build_info().get("cuda_version", ""))
    return describe_gpu(details.get("device_name", gpus[0].name), _gpu_memory(), capability, cuda)


def prepare(seed: int, device: Device) -> None:
    """Set the seed and the arithmetic of this process; call it before a network is built.

    The arithmetic of trainings is global in TensorFlow, which is one reason why only jobs with equal parameters share a
    process.
    """
    keras.utils.set_random_seed(seed)
    if KERAS_2:
        # What is random inside a layer then has a state that can be set.
        keras.backend.experimental.enable_tf_random_generator()
    if device.kind == "cpu":
        tf.config.set_visible_devices([], "GPU")
    else:
        tf.config.experimental.enable_op_determinism()
        # float32 means float32: TF32, the default, keeps ten bits.
        tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": _is_global(device)})


class KerasLearner:
    """A compiled Keras model as the training loop sees it.

    Parameters
    ----------
    model
        A network compiled with optimiser and loss; inputs and targets are channels-last batches.
    seed
        Seed from which, with the epoch, all random choices inside the network follow, such as dropout.
    device
        Device and precision of the network. If the precision is not float32, the network is applied (and on GPUs
        trained) with a tail in float32: the last convolutions before each output, and all layers after them.
    tail
        Number of convolutions before each output that belong to the tail.
    """

    def __init__(self, model: Any, seed: int, device: Device, tail: int = TAIL_CONVOLUTIONS) -> None:
        self._seed = seed
        if device.precision != "float32" and not _is_global(device):
            model = compute_body_in(model, device.precision, tail)
        self.model = model
        self._predict: Callable[..., Any] = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        model.optimizer.build(model.trainable_variables)

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Set the learning rate and reseed what is random inside the network."""
        self.model.optimizer.learning_rate.assign(learning_rate)
        numbers = np.random.default_rng([self._seed, epoch])
        for generator in _generators(self.model):
            state = generator.state
            state.assign(numbers.integers(2**31, size=state.shape).astype(np.asarray(state.numpy()).dtype))

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

    def portable_output(self, inputs: Any) -> Any:
        """Return the tensor of the prediction's values for one of normalised images: what the model puts out."""
        return self.model(inputs, training=False)

    def write_portable(self, folder: Path, example: NDArray[np.float32]) -> PortableFile:
        """Write network and weights as a zipped SavedModel that takes batches of the kind of `example`."""
        shape = (None, *(None,) * (example.ndim - 2), example.shape[-1])
        module = tf.Module()
        module.network = self.model
        serve = tf.function(lambda input: {"output": self.portable_output(input)})
        signature = serve.get_concrete_function(tf.TensorSpec(shape, tf.float32, name="input"))
        with tempfile.TemporaryDirectory() as scratch:
            tf.saved_model.save(module, scratch, signatures={"serving_default": signature})
            shutil.make_archive(str(folder / _PORTABLE_FILE.removesuffix(".zip")), "zip", scratch)
        return PortableFile("tensorflow_saved_model_bundle", _PORTABLE_FILE, tf.__version__, channels_first=False)

    def portable_reference(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the network itself makes of a batch, as the file of `write_portable` should."""
        return np.asarray(self.portable_output(tf.convert_to_tensor(inputs)).numpy(), np.float32)

    def run_portable(self, folder: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the file of `write_portable` makes of a batch, channels last."""
        with tempfile.TemporaryDirectory() as scratch:
            shutil.unpack_archive(folder / _PORTABLE_FILE, scratch)
            serve = tf.saved_model.load(scratch).signatures["serving_default"]
            return np.asarray(serve(input=tf.convert_to_tensor(inputs))["output"].numpy(), np.float32)

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


def compute_body_in(model: Any, precision: str, convolutions: int = TAIL_CONVOLUTIONS) -> Any:
    """Return a network that is computed in bfloat16 or float16, but for its tail; weights stay in float32.

    Rounded in its last layers, an image has few different grey values; rounded in the layers before them, each is a sum
    of so many numbers that it is hardly worse than in float32.

    Parameters
    ----------
    model
        Model of layers with known inputs and outputs. If it was compiled, the result is compiled in the same way.
    precision
        "bfloat16" or "float16".
    convolutions
        Number of layers with a kernel before each output that belong to the tail.

    Returns
    -------
    keras.Model
        The same model with Keras 3. With Keras 2, where a layer's type is settled when it is built, a compiled copy.
    """
    tail, policy = _tail(model, convolutions), f"mixed_{precision}"
    if KERAS_2:
        return _copied(model, tail, policy)
    for layer in model._flatten_layers(include_self=False):
        if layer not in tail:
            layer.dtype_policy = policy
    return model


def _copied(model: Any, tail: set[Any], policy: str) -> Any:
    """Return a Keras 2 model with the same weights, optimiser and loss whose layers but for the tail have a policy."""

    def copied(layer: Any) -> Any:
        config = layer.get_config()
        if layer not in tail:
            config["dtype"] = policy
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=copied)
    copy.set_weights(model.get_weights())
    optimizer = model.optimizer
    copy.compile(optimizer=type(optimizer).from_config(optimizer.get_config()), loss=model.loss)
    return copy


def _tail(model: Any, convolutions: int) -> set[Any]:
    """Return the layers between the outputs and, going back, the last of so many layers with a kernel."""
    tail, ahead = set(), [(output, convolutions) for output in model.outputs]
    while ahead:
        tensor, left = ahead.pop()
        layer, number = tensor._keras_history[:2]
        left -= hasattr(layer, "kernel")
        tail.add(layer)
        if left > 0:
            # Keras 2 does not put a single tensor into a list.
            ahead += [(each, left) for each in tf.nest.flatten(layer._inbound_nodes[number].input_tensors)]
    return tail


def _is_global(device: Device) -> bool:
    """Return whether the arithmetic is set for the whole process: in trainings on the processor.

    TensorFlow then decides for each operation, which was measured to be fast and to train as well as float32.
    """
    return device.training and device.kind == "cpu" and device.precision == "bfloat16"


def _gpu_memory() -> int:
    """Return the size in bytes of the memory of the first GPU, which TensorFlow does not tell; 0 if it is not known."""
    total, device = ctypes.c_size_t(), ctypes.c_int()
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        if not driver.cuInit(0) and not driver.cuDeviceGet(ctypes.byref(device), 0):
            driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    return total.value


def weights_file(name: str) -> str:
    """Return the name that csbdeep and stardist give the file of the weights "best" or "last"."""
    return f"weights_{name}.h5"


def _generators(model: Any) -> list[Any]:
    """Return the seed generators of all layers, in a fixed order."""
    layers = model._flatten_layers()
    if KERAS_2:
        found = (getattr(getattr(layer, "_random_generator", None), "_generator", None) for layer in layers)
    else:
        found = (getattr(layer, "seed_generator", None) for layer in layers)
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
