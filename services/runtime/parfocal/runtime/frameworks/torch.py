"""The driver of PyTorch networks. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

# Read at import. Threads that wait by spinning take the processor from whoever else is on the machine, and slowed
# small networks down tenfold when they had to share two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from parfocal.runtime.errors import InvalidInputError, OutOfMemoryError
from parfocal.runtime.methods.implementation import Arrays
from parfocal.runtime.methods.precision import choose_precision
from parfocal.runtime.methods.service import thread_count

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def prepare(seed: int) -> None:
    """Set seed and threads of this process and choose repeatable kernels; call it before a network is built."""
    torch.manual_seed(seed)
    torch.set_num_threads(thread_count())
    torch.use_deterministic_algorithms(True)


class TorchLearner:
    """A PyTorch module with optimiser and loss, as the training loop sees it.

    Parameters
    ----------
    module
        Maps ``(batch, channels, *spatial)`` to the same with the channels of the output.
    optimiser
        Built on the module's parameters.
    loss
        Maps float32 output and target to a scalar.
    precision
        As in the parameters of a training: "auto", "float32" or "bfloat16".
    """

    def __init__(self, module: torch.nn.Module, optimiser: torch.optim.Optimizer, loss: Loss, precision: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Channels last is the order the images come in, and the faster one for convolutions.
        spatial = max((weight.ndim for weight in module.parameters()), default=4) - 2
        self._format = torch.channels_last if spatial == 2 else torch.channels_last_3d
        self.module = module.to(self.device, memory_format=self._format)
        self._optimiser = optimiser
        self._loss = loss
        self._bfloat16 = choose_precision(precision, "torch", spatial)[0] == "bfloat16"
        if self._bfloat16 and self.device.type == "cpu":
            _spare_short_volumes(module)

    @property
    def learning_rate(self) -> float:
        """The present learning rate."""
        return float(self._optimiser.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = value

    def train_batch(self, inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
        """Do one step of optimisation and return the loss of the batch before it."""
        self.module.train()
        self._optimiser.zero_grad(set_to_none=True)
        with self._arithmetic():
            output = self.module(self._tensor(inputs))
        loss = self._loss(output.float(), self._tensor(targets))
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def validate_batch(self, inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
        """Return the loss of a batch, with the statistics of batch normalisation that prediction uses."""
        return float(self._loss(self._infer(inputs), self._tensor(targets)))

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's output for a batch, channels last."""
        try:
            output = self._infer(inputs)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise OutOfMemoryError(f"A batch of shape {inputs.shape} does not fit the memory.") from error
            raise
        return np.ascontiguousarray(output.movedim(1, -1).cpu().numpy())

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all weights, the statistics of batch normalisation among them."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.module.state_dict().items()}

    def set_weights(self, weights: Arrays) -> None:
        """Replace all weights; raise InvalidInputError if they are of another network."""
        own = {name: tuple(value.shape) for name, value in self.module.state_dict().items()}
        if own != {name: np.shape(value) for name, value in weights.items()}:
            raise InvalidInputError(f"The {len(weights)} arrays of weights do not fit the {len(own)} of this network.")
        self.module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})

    def optimiser_state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all variables of the optimiser; none before the first step."""
        return {
            f"{number:04d} {name}": value.detach().cpu().numpy().copy()
            for number, values in self._optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }

    def set_optimiser_state(self, state: Arrays) -> None:
        """Replace all variables of the optimiser; its learning rate stays."""
        content = self._optimiser.state_dict()
        content["state"] = {}
        for key, value in state.items():
            number, _, name = key.partition(" ")
            content["state"].setdefault(int(number), {})[name] = torch.from_numpy(np.array(value))
        self._optimiser.load_state_dict(content)

    def _infer(self, inputs: NDArray[np.float32]) -> torch.Tensor:
        self.module.eval()
        with torch.inference_mode(), self._arithmetic():
            output: torch.Tensor = self.module(self._tensor(inputs))
        return output.float()

    def _tensor(self, values: NDArray[np.float32]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32)).movedim(-1, 1)
        return tensor.to(self.device, memory_format=self._format)

    def _arithmetic(self) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16
        )
        return context


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
    if min(values.shape[2:]) > kernel:
        return forward(values)
    with torch.autocast(values.device.type, enabled=False):
        return forward(values.float())


def save_weights(path: Path, weights: Arrays) -> None:
    """Write weights as a safetensors file, which holds arrays and nothing that could be run."""
    save_file(dict(weights), path)


def load_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Read weights from a safetensors file; raise InvalidInputError if it is damaged or something else."""
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(f"{path.name} of the model is damaged: {error}.") from error
