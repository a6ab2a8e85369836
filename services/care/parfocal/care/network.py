"""The CARE network. What is not CARE belongs to the runtime. Imported by workers only: it loads TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from csbdeep.internals.predict import tile_overlap
from csbdeep.internals.train import prepare_model
from csbdeep.models import CARE, Config
from csbdeep.utils import save_json
from numpy.typing import NDArray

from parfocal.care.parameters import CareParameters
from parfocal.runtime.bases.images import ImageImplementation, Picture
from parfocal.runtime.frameworks import keras
from parfocal.runtime.methods.implementation import Arrays, ValidationImage
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import UNCERTAINTY


class Care(keras.KerasFiles, ImageImplementation[CareParameters, keras.KerasLearner]):
    """CARE: csbdeep's residual U-Net with its Laplace or absolute-error loss. Subclasses say which axes."""

    axes: str

    def build(self, parameters: CareParameters, facts: Facts) -> keras.KerasLearner:
        """Return a new network."""
        keras.prepare(parameters.seed, self.device)
        model = CARE(self.config(parameters, facts), name=None, basedir=None)
        optimizer = keras.keras.optimizers.Adam(learning_rate=parameters.learning_rate)
        prepare_model(model.keras_model, optimizer, model.config.train_loss, metrics=())
        return keras.KerasLearner(model.keras_model, parameters.seed, self.device)

    def geometry(self, parameters: CareParameters, facts: Facts) -> Geometry:
        """Return sizes and the receptive field as csbdeep gives it."""
        return Geometry(
            divisor=2**parameters.network_depth,
            overlap=tile_overlap(parameters.network_depth, parameters.kernel_size),
            output_channels=len(facts.targets) * (2 if parameters.probabilistic else 1),
        )

    def save(self, folder: Path, parameters: CareParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:
        """Write a CSBDeep model folder: `csbdeep.models.CARE(None, NAME, BASEDIR)` opens it."""
        save_json(vars(self.config(parameters, facts)), str(folder / "config.json"))
        super().save(folder, parameters, facts, weights)

    def interpret(self, output: NDArray[np.float32], parameters: CareParameters, facts: Facts) -> dict[str, Picture]:
        """Return the mean as the prediction and the scale of the Laplace distribution as the uncertainty."""
        images = super().interpret(output, parameters, facts)
        if parameters.probabilistic:
            images[UNCERTAINTY] = Picture(output[..., len(facts.targets)], "width")
        return images

    def calibrate(
        self,
        learner: keras.KerasLearner,
        images: Iterator[ValidationImage],
        parameters: CareParameters,
        facts: Facts,
    ) -> Facts:
        """Return the facts with the factor that makes the uncertainty as large as the errors on validation images."""
        return self.calibrate_uncertainty(learner, images, parameters, facts) if parameters.probabilistic else facts

    def config(self, parameters: CareParameters, facts: Facts) -> Any:
        """Return the configuration of csbdeep that describes the network."""
        return Config(
            axes=self.axes,
            n_channel_in=facts.input_channels,
            n_channel_out=len(facts.targets),
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
