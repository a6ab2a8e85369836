"""Noise2Void as the runtime drives it. Imported by workers only: it loads TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from csbdeep.utils import save_json

from n2v.internals.n2v_losses import loss_mse
from n2v.models import N2VConfig
from parfocal.n2v.masking import Masking, hidden_pixels, struct_mask
from parfocal.n2v.modules import build_network, receptive_field
from parfocal.n2v.parameters import N2V2, STRUCT, NoiseParameters
from parfocal.n2v.suitability import measure_suitability, warnings_of
from parfocal.runtime.bases.images import ImageImplementation
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.frameworks import keras
from parfocal.runtime.methods.implementation import Arrays, Batch, Opened
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.batches import PatchBatches
from parfocal.runtime.training.data import open_sources


class Noise2Void(keras.KerasFiles, ImageImplementation[NoiseParameters, keras.KerasLearner]):
    """n2v's U-Net, trained to predict hidden pixels from those around them. Subclasses say which axes."""

    normaliser: ClassVar[Normaliser] = Normaliser(rule="z-score")
    axes: str

    def open(self, data: DatasetView, parameters: NoiseParameters) -> Opened[NoiseParameters]:
        """Return images without targets; warn early where Noise2Void is not the right method for them."""
        opened = open_sources(data, parameters, self.normaliser)
        assert isinstance(opened.batches, PatchBatches)
        data.progress("measuring the noise")
        sampler = opened.batches.sampler
        found = measure_suitability(sampler.sources, sampler.axes)
        for warning in warnings_of(found, parameters.variant):
            data.warn(warning)
        if parameters.variant == STRUCT and parameters.struct_direction == "auto":
            direction, length = found.mask
            # A mask of a single pixel is the blind spot itself, whatever its direction.
            chosen = {"struct_direction": direction or "x", "struct_length": length}
            return replace(opened, parameters=parameters.model_copy(update=chosen))
        return opened

    def prepare(self, batch: Batch, parameters: NoiseParameters, facts: Facts, rng: np.random.Generator) -> Batch:
        """Return a batch with hidden pixels; its targets are these pixels and, in further channels, where they are."""
        source = batch.input
        patches = np.moveaxis(source, -1, 1)
        masked, mask = self.masking(parameters).apply(rng, patches.reshape(-1, *patches.shape[2:]))
        masked, mask = (np.moveaxis(each.reshape(patches.shape), 1, -1) for each in (masked, mask))
        return Batch(
            {facts.source: np.ascontiguousarray(masked)}, np.concatenate([source * mask, mask], -1), batch.size
        )

    def masking(self, parameters: NoiseParameters) -> Masking:
        """Return how the pixels of single channels are hidden."""
        return Masking(
            percent=parameters.masked_percent,
            replacement="median" if parameters.variant == N2V2 else "uniform",
            radius=parameters.neighborhood_radius,
            hidden=hidden_pixels(self._struct_mask(parameters)),
        )

    def build(self, parameters: NoiseParameters, facts: Facts) -> keras.KerasLearner:
        """Return new networks, one for each channel."""
        keras.prepare(parameters.seed, self.device)
        model = build_network(
            len(self.axes),
            facts.input_channels,
            depth=parameters.network_depth,
            filters=parameters.first_filters,
            kernel=parameters.kernel_size,
            blur_pool=parameters.variant == N2V2,
        )
        model.compile(optimizer=keras.keras.optimizers.Adam(parameters.learning_rate), loss=loss_mse())
        return keras.KerasLearner(model, parameters.seed, self.device)

    def geometry(self, parameters: NoiseParameters, facts: Facts) -> Geometry:
        """Return sizes and the receptive field."""
        return Geometry(
            divisor=2**parameters.network_depth,
            overlap=receptive_field(
                depth=parameters.network_depth,
                kernel=parameters.kernel_size,
                blur_pool=parameters.variant == N2V2,
            ),
            output_channels=facts.input_channels,
        )

    def save(self, folder: Path, parameters: NoiseParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:
        """Write a folder of n2v: `n2v.models.N2V(None, NAME, BASEDIR)` opens it.

        n2v normalises all images alike, with the mean constants of the training images.
        """
        save_json(vars(self.config(parameters, facts)), str(folder / "config.json"))
        super().save(folder, parameters, facts, weights)

    def _struct_mask(self, parameters: NoiseParameters) -> Any:
        length = parameters.struct_length if parameters.variant == STRUCT else 1
        return struct_mask(self.axes, parameters.struct_direction, length)

    def config(self, parameters: NoiseParameters, facts: Facts) -> Any:
        """Return the configuration of n2v that describes the network and its training."""
        port, struct = facts.inputs[0], self._struct_mask(parameters)
        config = N2VConfig(
            np.zeros((1, *(1,) * len(self.axes), port.channels), np.float32),
            unet_n_depth=parameters.network_depth,
            unet_kern_size=parameters.kernel_size,
            unet_n_first=parameters.first_filters,
            train_loss="mse",
            train_epochs=parameters.epochs,
            train_batch_size=parameters.batch_size,
            train_learning_rate=parameters.learning_rate,
            train_reduce_lr={"factor": parameters.plateau_factor, "patience": parameters.plateau_patience},
            train_tensorboard=False,
            n2v_perc_pix=parameters.masked_percent,
            n2v_patch_shape=parameters.patch_shape(self.axes),
            n2v_manipulator="median" if parameters.variant == N2V2 else "uniform_withCP",
            n2v_neighborhood_radius=parameters.neighborhood_radius,
            structN2Vmask=struct.tolist() if struct.size > 1 else None,
            blurpool=parameters.variant == N2V2,
            skip_skipone=parameters.variant == N2V2,
        )
        config.means = [str(value) for value in port.offset or (0.0,) * port.channels]
        config.stds = [str(value) for value in port.scale or (1.0,) * port.channels]
        return config


class Noise2Void2D(Noise2Void):
    """Noise2Void for single planes."""

    axes = "YX"


class Noise2Void3D(Noise2Void):
    """Noise2Void for volumes: the same with three-dimensional convolutions and blind spots."""

    axes = "ZYX"
