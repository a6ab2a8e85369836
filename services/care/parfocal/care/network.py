"""The CARE network. What is not CARE belongs to the runtime. Imported by workers only: it loads TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from csbdeep.internals.predict import tile_overlap
from csbdeep.internals.train import prepare_model
from csbdeep.models import CARE, Config
from csbdeep.utils import save_json
from numpy.typing import NDArray

from parfocal.care.parameters import CareParameters
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.frameworks import keras
from parfocal.runtime.methods.implementation import UNCERTAINTY, Arrays, Channels, Geometry, ImageImplementation
from parfocal.runtime.prediction.uncertainty import calibrate_uncertainty


class Care(ImageImplementation):
    """CARE: csbdeep's residual U-Net with its Laplace or absolute-error loss. Subclasses say which axes."""

    axes: str

    def build(self, parameters: CareParameters, channels: Channels) -> keras.KerasLearner:
        """Return a new network."""
        keras.prepare(parameters.seed, parameters.precision, len(self.axes))
        model = CARE(self._config(parameters, channels), name=None, basedir=None)
        optimizer = keras.keras.optimizers.Adam(learning_rate=parameters.learning_rate)
        prepare_model(model.keras_model, optimizer, model.config.train_loss, metrics=())
        return keras.KerasLearner(model.keras_model)

    def geometry(self, parameters: CareParameters, channels: Channels) -> Geometry:
        """Return sizes and the receptive field as csbdeep gives it."""
        return Geometry(
            divisor=2**parameters.network_depth,
            overlap=tile_overlap(parameters.network_depth, parameters.kernel_size),
            output_channels=len(channels.targets) * (2 if parameters.probabilistic else 1),
        )

    def save(self, folder: Path, parameters: CareParameters, channels: Channels, best: Arrays, last: Arrays) -> None:
        """Write a CSBDeep model folder: `csbdeep.models.CARE(None, NAME, BASEDIR)` opens it."""
        save_json(vars(self._config(parameters, channels)), str(folder / "config.json"))
        learner = self.build(parameters, channels)
        for name, weights in (("last", last), ("best", best)):
            learner.set_weights(weights)
            learner.model.save_weights(str(folder / _weights_file(name)))

    def load(self, folder: Path, parameters: CareParameters, channels: Channels, weights: str) -> keras.KerasLearner:
        """Return the saved network; only arrays are read from the files."""
        learner = self.build(parameters, channels)
        path = folder / _weights_file(weights)
        try:
            learner.model.load_weights(str(path))
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"{path.name} of the model is damaged or belongs to a network with other parameters."
            ) from error
        return learner

    def interpret(
        self, output: NDArray[np.float32], parameters: CareParameters, channels: Channels
    ) -> dict[str, tuple[NDArray[np.float32], bool]]:
        """Return the mean as the prediction and the scale of the Laplace distribution as the uncertainty."""
        images = {"prediction": (output[..., 0], True)}
        if parameters.probabilistic:
            images[UNCERTAINTY] = (output[..., len(channels.targets)], False)
        return images

    def calibrate(
        self,
        folder: Path,
        parameters: CareParameters,
        channels: Channels,
        images: Iterable[tuple[NDArray[np.float32], NDArray[Any]]],
    ) -> dict[str, float]:
        """Return the factor that makes the uncertainty as large as the errors on the validation images."""
        if not parameters.probabilistic:
            return {}
        learner = self.load(folder, parameters, channels, "best")
        return calibrate_uncertainty(self, learner, parameters, channels, images)

    def _config(self, parameters: CareParameters, channels: Channels) -> Any:
        return Config(
            axes=self.axes,
            n_channel_in=channels.inputs,
            n_channel_out=len(channels.targets),
            probabilistic=parameters.probabilistic,
            unet_n_depth=parameters.network_depth,
            unet_kern_size=parameters.kernel_size,
            unet_n_first=parameters.first_filters,
            train_learning_rate=parameters.learning_rate,
            train_epochs=parameters.epochs,
            train_batch_size=parameters.batch_size,
            train_tensorboard=False,
        )


class Care2D(Care):
    """CARE for single planes."""

    axes = "YX"


class Care3D(Care):
    """CARE for volumes: the same with three-dimensional convolutions."""

    axes = "ZYX"


def _weights_file(name: str) -> str:
    return f"weights_{name}.h5"
