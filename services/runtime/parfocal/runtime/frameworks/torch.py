"""The driver of PyTorch networks. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

import copy
import functools
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# Read when CUDA starts: without it products of matrices are not repeatable, and are refused.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from parfocal.runtime.errors import InvalidInputError, OutOfMemoryError
from parfocal.runtime.methods.device import Device, describe_gpu, describe_processor
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView
from parfocal.runtime.methods.portable import PortableFile
from parfocal.runtime.methods.service import thread_count
from parfocal.runtime.store.facts import Facts

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Convolutions at the end of a network that are computed in float32 when the others are not.
TAIL_CONVOLUTIONS = 2
_PORTABLE_FILE = "weights.torchscript.pt"
_CONVOLUTIONS = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
# With AVX512-BF16 alone single steps need half of the processor time of float32, but the threads wait for each other by
# spinning: a whole fnet training took as long as in float32 on an idle machine, and longer on a busy one.
_FASTER_WITH = ("amx_bf16",)


def describe_device() -> Device:
    """Return what PyTorch computes on: the first GPU that it sees, or the processor."""
    if not torch.cuda.is_available():
        return describe_processor(_FASTER_WITH)
    properties = torch.cuda.get_device_properties(0)
    return describe_gpu(
        properties.name, properties.total_memory, (properties.major, properties.minor), torch.version.cuda or ""
    )


def prepare(seed: int) -> None:
    """Set seed and threads of this process and choose repeatable kernels; call it before a network is built."""
    torch.manual_seed(seed)
    torch.set_num_threads(thread_count())
    # The same as use_deterministic_algorithms(True), without loading the compiler of PyTorch, which takes a second.
    torch.set_deterministic_debug_mode("error")
    # On GPUs float32 means float32: TF32, the default for convolutions, keeps ten bits.
    torch.backends.cudnn.allow_tf32 = False


class TorchLearner(ABC):
    """One or several PyTorch modules with their optimisers, as the training loop sees them.

    A subclass says how they are trained. Names of weights are those of a single module, or have the name of the module
    in front.

    Parameters
    ----------
    modules
        Modules by name; each maps ``(batch, channels, *spatial)`` to the same shape with its own number of channels.
        The first module predicts.
    optimisers
        Optimisers by name, built on the parameters of the modules. All have the same learning rate.
    seed
        Seed from which, with the epoch, all random choices inside the modules follow, such as dropout.
    device
        Device and precision of the modules. If the precision is not float32, a module is applied with a tail in
        float32: its last two convolutions, or the submodule or submodules in its attribute ``tail``, and all layers
        after them.
    """

    def __init__(
        self,
        modules: Mapping[str, torch.nn.Module],
        optimisers: Mapping[str, torch.optim.Optimizer],
        seed: int,
        device: Device,
    ) -> None:
        self.device = torch.device(device.kind)
        self._seed = seed
        self._optimisers = dict(optimisers)
        # Channels last is the order the images come in, and the faster one for convolutions.
        weights = (weight for module in modules.values() for weight in module.parameters())
        spatial = max((weight.ndim for weight in weights), default=4) - 2
        self._format = torch.channels_last if spatial == 2 else torch.channels_last_3d
        self.modules = {name: module.to(self.device, memory_format=self._format) for name, module in modules.items()}
        self._precision: torch.dtype = getattr(torch, device.precision)
        self._tails: dict[torch.nn.Module, list[torch.nn.Module]] = {}
        if self._reduced and device.kind == "cpu":
            for module in self.modules.values():
                _spare_short_volumes(module)

    @abstractmethod
    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Do one step of optimisation and return the losses of the batch before it."""

    @abstractmethod
    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return the losses of a batch, with the statistics of batch normalisation that prediction uses."""

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Set the learning rate and reseed what is random inside the modules."""
        torch.manual_seed(int(np.random.default_rng([self._seed, epoch]).integers(2**62)))
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = learning_rate

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the first module's output for a batch, channels last."""
        return self.output(next(iter(self.modules.values())), inputs)

    def output(self, module: torch.nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a module's output for a batch, channels last; raise OutOfMemoryError if it does not fit."""
        try:
            output = self.infer(module, inputs)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise OutOfMemoryError(f"A batch of shape {inputs.shape} does not fit the memory.") from error
            raise
        return np.ascontiguousarray(output.movedim(1, -1).cpu().numpy())

    def portable_module(self) -> torch.nn.Module:
        """Return what maps normalised images to the values of the prediction: the first module, if it does."""
        return next(iter(self.modules.values()))

    def write_portable(self, folder: Path, example: NDArray[np.float32]) -> PortableFile:
        """Write network and weights as TorchScript, which is traced with a batch, channels last."""
        module, tensor = self.portable_module().eval(), self.tensor(example)
        with torch.no_grad(), warnings.catch_warnings():
            # PyTorch announces an end of TorchScript, which is the one form that bioimage.io's programs all read.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module, tensor, check_trace=False)
            traced.save(str(folder / _PORTABLE_FILE))
        return PortableFile("torchscript", _PORTABLE_FILE, torch.__version__.split("+")[0], channels_first=True)

    def portable_reference(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the network itself makes of a batch, as the file of `write_portable` should."""
        return self.output(self.portable_module(), inputs)

    def run_portable(self, folder: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the file of `write_portable` makes of a batch, channels last as the batch."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = torch.jit.load(folder / _PORTABLE_FILE)(self.tensor(inputs))
        return np.ascontiguousarray(output.movedim(1, -1).cpu().numpy())

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all weights, the statistics of batch normalisation among them."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self._weights().items()}

    def set_weights(self, weights: Arrays) -> None:
        """Replace all weights; raise InvalidInputError if they are of another network."""
        own = {name: tuple(value.shape) for name, value in self._weights().items()}
        if own != {name: np.shape(value) for name, value in weights.items()}:
            raise InvalidInputError(f"The {len(weights)} arrays of weights do not fit the {len(own)} of this network.")
        with torch.no_grad():
            for name, value in self._weights().items():
                value.copy_(torch.from_numpy(np.array(weights[name])))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all variables of the optimisers; none before the first step."""
        return {
            f"{optimiser} {number:04d} {name}": value.detach().cpu().numpy().copy()
            for optimiser, each in self._optimisers.items()
            for number, values in each.state_dict()["state"].items()
            for name, value in values.items()
            if value is not None
        }

    def set_state(self, state: Arrays) -> None:
        """Replace all variables of the optimisers; their learning rate stays."""
        for optimiser, each in self._optimisers.items():
            content = each.state_dict()
            content["state"] = {}
            for key, value in state.items():
                owner, number, name = key.split(" ")
                if owner == optimiser:
                    content["state"].setdefault(int(number), {})[name] = torch.from_numpy(np.array(value))
            each.load_state_dict(content)

    def forward(self, module: torch.nn.Module, inputs: NDArray[np.float32] | torch.Tensor) -> torch.Tensor:
        """Return the float32 output of a module in training, for a batch with channels last or a tensor of its own."""
        module.train()
        with self._arithmetic():
            output: torch.Tensor = module(self.tensor(inputs))
        return output.float()

    def infer(self, module: torch.nn.Module, inputs: NDArray[np.float32] | torch.Tensor) -> torch.Tensor:
        """Return the float32 output of a module that is applied and not trained; inputs as for `forward`."""
        module.eval()
        tensor = self.tensor(inputs)
        with torch.inference_mode(), _in_float32(self._tail(module, tensor)), self._arithmetic():
            output: torch.Tensor = module(tensor)
        return output.float()

    def step(self, optimiser: str, loss: torch.Tensor) -> float:
        """Let an optimiser take a step down a loss; return the loss."""
        self._optimisers[optimiser].zero_grad(set_to_none=True)
        loss.backward()
        self._optimisers[optimiser].step()
        return float(loss.detach())

    def tensor(self, values: NDArray[np.float32] | torch.Tensor) -> torch.Tensor:
        """Return a batch with channels last as a tensor on the device, channels first; tensors stay as they are."""
        if isinstance(values, torch.Tensor):
            return values
        tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32)).movedim(-1, 1)
        return tensor.to(self.device, memory_format=self._format)

    def _weights(self) -> dict[str, torch.Tensor]:
        if len(self.modules) == 1:
            (module,) = self.modules.values()
            return dict(module.state_dict())
        return {
            f"{module}.{name}": value
            for module, each in self.modules.items()
            for name, value in each.state_dict().items()
        }

    def _arithmetic(self) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, dtype=self._precision if self._reduced else None, enabled=self._reduced
        )
        return context

    @property
    def _reduced(self) -> bool:
        return bool(self._precision != torch.float32)

    def _tail(self, module: torch.nn.Module, inputs: torch.Tensor) -> list[torch.nn.Module]:
        """Return the parts that are applied in float32 while the others are not."""
        if not self._reduced:
            return []
        if module not in self._tails:
            own = getattr(module, "tail", None)
            parts = [own] if isinstance(own, torch.nn.Module) else own
            self._tails[module] = _last_convolutions(module, inputs) if parts is None else list(parts)
        return self._tails[module]


class SupervisedLearner(TorchLearner):
    """A PyTorch module with one optimiser and one loss.

    Parameters
    ----------
    module, optimiser, seed, device
        See `TorchLearner`.
    loss
        Maps float32 output and target to a scalar.
    """

    def __init__(
        self, module: torch.nn.Module, optimiser: torch.optim.Optimizer, loss: Loss, seed: int, device: Device
    ) -> None:
        super().__init__({"network": module}, {"optimiser": optimiser}, seed, device)
        self._module = self.modules["network"]
        self._loss = loss

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Do one step of optimisation and return the loss of the batch before it."""
        loss = self._loss(self.forward(self._module, batch.input), self.tensor(batch.targets))
        return {"loss": self.step("optimiser", loss)}

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return the loss of a batch."""
        return {"loss": float(self._loss(self.infer(self._module, batch.input), self.tensor(batch.targets)))}


def _spare_short_volumes(module: torch.nn.Module) -> None:
    """Have convolutions of volumes computed in float32 where the volume is not longer than the kernel.

    There the gradients of weights that oneDNN (seen with 3.12) computes in bfloat16 with AVX512-BF16 are wrong: it
    reads and writes memory that is not its own. With kernels of 3 this happens in volumes of two planes, which the
    lowest level of a U-Net has. Convolutions of images are not affected.
    """
    for convolution in module.modules():
        if isinstance(convolution, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)):
            convolution.forward = functools.partial(_convolve, convolution.forward, max(convolution.kernel_size))


def _convolve(forward: Callable[[torch.Tensor], torch.Tensor], kernel: int, values: torch.Tensor) -> torch.Tensor:
    return forward(values) if min(values.shape[2:]) > kernel else _exactly(forward, values)


def _exactly(forward: Callable[..., torch.Tensor], first: torch.Tensor, *others: Any) -> torch.Tensor:
    """Return what a part of a network makes of tensors in float32."""
    values = [value.float() if isinstance(value, torch.Tensor) else value for value in (first, *others)]
    if first.is_meta:
        return forward(*values)  # nothing is computed
    with torch.autocast(first.device.type, enabled=False):
        return forward(*values)


@contextmanager
def _in_float32(parts: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Have parts of a network computed in float32. What follows them on float32 tensors then is as well."""
    former = [(part, vars(part).get("forward")) for part in parts]
    for part, _ in former:
        part.forward = functools.partial(_exactly, part.forward)
    try:
        yield
    finally:
        for part, forward in former:
            del part.forward
            if forward is not None:
                part.forward = forward


def _last_convolutions(module: torch.nn.Module, inputs: torch.Tensor) -> list[torch.nn.Module]:
    """Return the convolutions that a module carries out last; a copy without numbers shows in which order.

    Rounded in its last layers, an image has few different grey values; rounded in the layers before them, each is a sum
    of so many numbers that it is hardly worse than in float32.
    """
    outline = copy.deepcopy(module).to("meta")
    order: list[str] = []
    for name, part in outline.named_modules():
        if isinstance(part, _CONVOLUTIONS):
            part.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    with torch.no_grad():
        outline(torch.empty_like(inputs, device="meta"))
    last = list(dict.fromkeys(reversed(order)))[:TAIL_CONVOLUTIONS]
    return [module.get_submodule(name) for name in last]


class TorchFiles:
    """Mixin of an implementation whose models are safetensors files: arrays, and nothing that could be run."""

    build: Callable[..., Any]

    def save(self, folder: Path, parameters: Any, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write the weights of each name to a file."""
        for name, arrays in weights.items():
            save_file(dict(arrays), folder / _weights_file(name))

    def load(self, folder: Path, model: ModelView, weights: str) -> Any:
        """Return the saved network; raise InvalidInputError if the file is damaged or something else."""
        learner = self.build(model.parameters, model.facts)
        path = folder / _weights_file(weights)
        try:
            learner.set_weights(load_file(path))
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(f"{path.name} of the model is damaged: {error}.") from error
        return learner


def _weights_file(name: str) -> str:
    return f"weights_{name}.safetensors"
