"""pix2pix and CycleGAN as the runtime trains and applies them. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from parfocal.gan.modules import PatchDiscriminator, ResnetGenerator, UnetGenerator
from parfocal.gan.parameters import (
    CycleGanParameters,
    CycleGanPredictionParameters,
    Pix2PixParameters,
    Pix2PixPredictionParameters,
)
from parfocal.gan.pool import ImagePool
from parfocal.gan.scores import structural_similarity
from parfocal.runtime.bases.images import ImageImplementation, Picture
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.frameworks.torch import TorchFiles, TorchLearner, prepare
from parfocal.runtime.images.correlation import pearson_of
from parfocal.runtime.images.distribution import sliced_wasserstein
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView, Opened, Selection, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.outputs import Outputs, Unit, Window
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.steps import require_alone
from parfocal.runtime.prediction.tiling import Geometry, Pixels, Tiling, apply_tiled
from parfocal.runtime.prediction.unit import Normalised
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import TURNED_BACK
from parfocal.runtime.training.data import open_unpaired

# The networks end in tanh, which nears -1 and 1 but does not reach them. The percentiles that are 0 and 1 for the
# runtime lie here, so that brighter and darker pixels can be made as well.
_REACH = 0.8
_NORMALISER = Normaliser(low=0.1, high=99.9)
_LARGEST_TILE = 2**20
_MOST_SCORED = 16
_PATCHES, _LEAST_PATCHES = 2048, 128


def to_network(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return normalised intensities as the networks see them: 0 becomes -0.8 and 1 becomes 0.8."""
    return np.asarray(values * np.float32(2 * _REACH) - np.float32(_REACH))


def from_network(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what networks make as normalised intensities."""
    return np.asarray((values + np.float32(_REACH)) / np.float32(2 * _REACH))


class _Scaled(nn.Module):
    """A generator that takes and makes normalised images."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, inputs, Y, X)`` to ``(batch, outputs, Y, X)``; 0 and 1 are the normaliser's percentiles."""
        result: torch.Tensor = (self.generator(x * (2 * _REACH) - _REACH) + _REACH) / (2 * _REACH)
        return result


class _GanLearner(TorchLearner):
    """Generators, which make images, and discriminators, which tell made from real ones, with two optimisers."""

    def __init__(
        self,
        generators: Mapping[str, nn.Module],
        discriminators: Mapping[str, nn.Module],
        parameters: Pix2PixParameters | CycleGanParameters,
        device: Device,
    ) -> None:
        optimisers = {
            "generators": _adam(generators, parameters.learning_rate),
            "discriminators": _adam(discriminators, parameters.learning_rate),
        }
        super().__init__({**generators, **discriminators}, optimisers, parameters.seed, device)
        self._discriminators = list(discriminators)

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a generator makes of a batch of normalised images, channels last, normalised as well."""
        return from_network(super().predict_batch(to_network(inputs)))

    def portable_module(self) -> nn.Module:
        """Return the generator that predicts, between the scales of normalised images."""
        return _Scaled(super().portable_module())

    def freeze(self, frozen: bool) -> None:
        """Leave the discriminators out of the gradients of the generators, or train them again."""
        for name in self._discriminators:
            self.modules[name].requires_grad_(not frozen)

    def judge(self, name: str, *images: torch.Tensor) -> torch.Tensor:
        """Return what a discriminator in training says of images, several of which are joined as channels."""
        return self.forward(self.modules[name], torch.cat(images, dim=1))


def _adam(modules: Mapping[str, nn.Module], learning_rate: float) -> torch.optim.Optimizer:
    weights = [weight for module in modules.values() for weight in module.parameters()]
    return torch.optim.Adam(weights, lr=learning_rate, betas=(0.5, 0.999))


class Pix2PixLearner(_GanLearner):
    """A U-Net and a discriminator that sees source and target together."""

    def __init__(self, parameters: Pix2PixParameters, facts: Facts, device: Device) -> None:
        inputs, outputs = facts.input_channels, facts.output_channels
        generator = UnetGenerator(inputs, outputs, parameters.first_filters, parameters.network_depth)
        discriminator = PatchDiscriminator(inputs + outputs, parameters.first_filters)
        super().__init__({"generator": generator}, {"discriminator": discriminator}, parameters, device)
        self._l1_weight = parameters.l1_weight
        self._random = False

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Let the discriminator, then the generator take a step."""
        source, target = (self.tensor(to_network(values)) for values in (batch.input, batch.targets))
        made = self.forward(self.modules["generator"], source)
        self.freeze(False)
        wrong = _as_logit(self.judge("discriminator", source, made.detach()), real=False)
        right = _as_logit(self.judge("discriminator", source, target), real=True)
        judged = self.step("discriminators", (wrong + right) / 2)
        self.freeze(True)
        fooled = _as_logit(self.judge("discriminator", source, made), real=True)
        difference = functional.l1_loss(made, target)
        self.step("generators", fooled + self._l1_weight * difference)
        return {"l1": difference.item(), "generator": fooled.item(), "discriminator": judged}

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return the mean absolute difference of a batch."""
        made = self.infer(self.modules["generator"], to_network(batch.input))
        return {"l1": functional.l1_loss(made, self.tensor(to_network(batch.targets))).item()}

    @contextmanager
    def as_published(self, seed: int) -> Iterator[None]:
        """Predict with dropout and with statistics of each batch, as in training, but train nothing."""
        norms = [each for each in self.modules["generator"].modules() if isinstance(each, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0  # the statistics of training stay what they are
        torch.manual_seed(seed)
        self._random = True
        try:
            yield
        finally:
            self._random = False
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    def infer(self, module: nn.Module, inputs: NDArray[np.float32] | torch.Tensor) -> torch.Tensor:
        """Return the output of a module that is applied and not trained."""
        if not self._random:
            return super().infer(module, inputs)
        with torch.no_grad():
            return self.forward(module, inputs)


class CycleGanLearner(_GanLearner):
    """A generator for each direction and a discriminator for each kind of image, with pools of earlier images."""

    def __init__(self, parameters: CycleGanParameters, facts: Facts, device: Device) -> None:
        source, target = facts.inputs[0], facts.targets[0]
        filters, blocks = parameters.first_filters, parameters.residual_blocks
        generators = {
            "forwards": ResnetGenerator(source.channels, target.channels, filters, blocks),
            "backwards": ResnetGenerator(target.channels, source.channels, filters, blocks),
        }
        discriminators = {
            "of_source": PatchDiscriminator(source.channels, filters, instance_norm=True),
            "of_target": PatchDiscriminator(target.channels, filters, instance_norm=True),
        }
        super().__init__(generators, discriminators, parameters, device)
        self._roles = source.role, target.role
        self._cycle_weight = parameters.cycle_weight
        same = source.channels == target.channels
        self._identity_weight = parameters.cycle_weight * parameters.identity_weight * same
        self._pools = {name: ImagePool(parameters.pool_size) for name in ("source", "target")}
        self._rng = np.random.default_rng(parameters.seed)
        self._backwards = False

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Set the learning rate and reseed, the exchange of images with the pools as well."""
        super().begin_epoch(epoch, learning_rate)
        self._rng = np.random.default_rng([self._seed, epoch, 1])

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Let both generators, then both discriminators take a step."""
        source, target = (self.tensor(to_network(batch.inputs[role])) for role in self._roles)
        forwards, backwards = self.modules["forwards"], self.modules["backwards"]
        made_target, made_source = self.forward(forwards, source), self.forward(backwards, target)
        cycle = functional.l1_loss(self.forward(backwards, made_target), source)
        cycle = cycle + functional.l1_loss(self.forward(forwards, made_source), target)
        self.freeze(True)
        fooled = _as_number(self.judge("of_target", made_target), real=True)
        fooled = fooled + _as_number(self.judge("of_source", made_source), real=True)
        total = fooled + self._cycle_weight * cycle
        losses = {"cycle": cycle.item(), "generator": fooled.item()}
        if self._identity_weight:
            identity = functional.l1_loss(self.forward(forwards, target), target)
            identity = identity + functional.l1_loss(self.forward(backwards, source), source)
            total = total + self._identity_weight * identity
            losses["identity"] = identity.item()
        self.step("generators", total)
        self.freeze(False)
        judged = torch.zeros((), device=self.device)
        for name, real, made in (("source", source, made_source), ("target", target, made_target)):
            earlier = self._pools[name].exchange(made.detach(), self._rng)
            right = _as_number(self.judge(f"of_{name}", real), real=True)
            judged = judged + (right + _as_number(self.judge(f"of_{name}", earlier), real=False)) / 2
        return losses | {"discriminator": self.step("discriminators", judged)}

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return how far images are from what they were after both directions."""
        source, target = (self.tensor(to_network(batch.inputs[role])) for role in self._roles)
        forwards, backwards = self.modules["forwards"], self.modules["backwards"]
        cycle = functional.l1_loss(self.infer(backwards, self.infer(forwards, source)), source)
        return {
            "cycle": (cycle + functional.l1_loss(self.infer(forwards, self.infer(backwards, target)), target)).item()
        }

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the generator of the present direction makes of a batch."""
        module = self.modules["backwards" if self._backwards else "forwards"]
        return from_network(self.output(module, to_network(inputs)))

    @contextmanager
    def directed(self, *, backwards: bool) -> Iterator[None]:
        """Predict in one direction."""
        self._backwards = backwards
        try:
            yield
        finally:
            self._backwards = False

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the variables of the optimisers and of the images in the pools."""
        return super().state() | {f"pool {name}": pool.state() for name, pool in self._pools.items()}

    def set_state(self, state: Arrays) -> None:
        """Replace the variables of the optimisers and the images in the pools."""
        pools = {f"pool {name}": pool for name, pool in self._pools.items()}
        super().set_state({name: value for name, value in state.items() if name not in pools})
        for name, pool in pools.items():
            pool.set_state(state[name], self.device)


def _as_logit(judged: torch.Tensor, *, real: bool) -> torch.Tensor:
    """Return the cross-entropy of a discriminator's logits with its being a real image, or a made one."""
    return functional.binary_cross_entropy_with_logits(judged, torch.full_like(judged, float(real)))


def _as_number(judged: torch.Tensor, *, real: bool) -> torch.Tensor:
    """Return the squared difference of what a discriminator says from 1 for a real image, or 0 for a made one."""
    return functional.mse_loss(judged, torch.full_like(judged, float(real)))


class Pix2Pix(TorchFiles, ImageImplementation[Pix2PixParameters, Pix2PixLearner]):
    """One kind of image turned into another, trained on pairs."""

    kept: ClassVar[Mapping[str, Selection]] = {"best": Selection("ssim", "higher")}
    normaliser = _NORMALISER
    grey_values_of = "target"

    def build(self, parameters: Pix2PixParameters, facts: Facts) -> Pix2PixLearner:
        """Return new networks with the publication's optimisers."""
        prepare(parameters.seed)
        return Pix2PixLearner(parameters, facts, self.device)

    def geometry(self, parameters: Pix2PixParameters, facts: Facts) -> Geometry:
        """Return sizes; each pixel depends on the whole tile through the levels of a pixel."""
        return Geometry(2**parameters.network_depth, 0, facts.output_channels, exact=False)

    def assess_every(self, parameters: Pix2PixParameters) -> int:
        """Return after how many epochs validation images are scored."""
        return parameters.score_every

    def assess(
        self, learner: Pix2PixLearner, images: Iterator[ValidationImage], parameters: Pix2PixParameters, facts: Facts
    ) -> Mapping[str, float]:
        """Return structural similarity and Pearson's correlation of predictions with targets, means over images."""
        similarity, correlation = [], []
        for image in itertools.islice(images, _MOST_SCORED):
            made = apply_tiled(learner, image.input, self.geometry(parameters, facts), Tiling(_LARGEST_TILE))
            similarity.append(structural_similarity(made, image.targets))
            correlation.append(pearson_of([(made, image.targets)]))
        return {"ssim": float(np.mean(similarity)), "pearson": float(np.mean(correlation))}

    def predict(
        self,
        learner: Pix2PixLearner,
        unit: Unit,
        model: ModelView,
        parameters: PredictionParameters,
        outputs: Outputs,
    ) -> None:
        """Hand over the predicted image."""
        assert isinstance(parameters, Pix2PixPredictionParameters)
        if parameters.dropout:
            require_alone(unit.steps, "With dropout the numbers of all tiles are drawn one after the other.")
        with learner.as_published(parameters.seed) if parameters.dropout else nullcontext():
            super().predict(learner, unit, model, parameters, outputs)


class CycleGan(TorchFiles, ImageImplementation[CycleGanParameters, CycleGanLearner]):
    """Two kinds of image turned into each other, trained without pairs."""

    kept: ClassVar[Mapping[str, Selection]] = {"best": Selection("distance")}
    normaliser = _NORMALISER
    grey_values_of = "target"

    def open(self, data: DatasetView, parameters: CycleGanParameters) -> Opened[CycleGanParameters]:
        """Return two sets of images."""
        opened = open_unpaired(data, parameters, self.normaliser)
        if parameters.identity_weight and opened.facts.input_channels != opened.facts.output_channels:
            data.warn(
                f"identity_weight is ignored: source images have {opened.facts.input_channels} channels and target "
                f"images {opened.facts.output_channels}, so that an image of one kind cannot be compared with itself "
                "in the other."
            )
        return opened

    def build(self, parameters: CycleGanParameters, facts: Facts) -> CycleGanLearner:
        """Return new networks with the publication's optimisers."""
        prepare(parameters.seed)
        return CycleGanLearner(parameters, facts, self.device)

    def geometry(self, parameters: CycleGanParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return sizes; instance normalisation lets each pixel depend on the whole tile.

        The network halves an image twice; a single pixel that is left could not be padded by reflection.
        """
        return Geometry(8, 0, facts.output_channels, exact=False)

    def assess_every(self, parameters: CycleGanParameters) -> int:
        """Return after how many epochs validation images are scored."""
        return parameters.score_every

    def assess(
        self, learner: CycleGanLearner, images: Iterator[ValidationImage], parameters: CycleGanParameters, facts: Facts
    ) -> Mapping[str, float]:
        """Return cycle error and distance between made and real images, means over both directions.

        The cycle error is the mean absolute difference of normalised intensities; the distance is that of
        `sliced_wasserstein`.
        """
        errors: list[float] = []
        real: tuple[list[Any], list[Any]] = ([], [])
        made: tuple[list[Any], list[Any]] = ([], [])
        ports = (facts.inputs[0], facts.targets[0])
        for image in itertools.islice(images, _MOST_SCORED):
            for kind, port in enumerate(ports):
                original, there = image.inputs[port.role], not kind
                other = self._turned(learner, original, parameters, facts, backwards=not there)
                again = self._turned(learner, other, parameters, facts, backwards=there)
                errors.append(float(np.mean(np.abs(again - original))))
                real[kind].append(original)
                made[1 - kind].append(other)
        distances = [_distance(*sets) for sets in zip(real, made, strict=True)]
        return {"distance": float(np.mean(distances)), "cycle_error": float(np.mean(errors))}

    def predict(
        self,
        learner: CycleGanLearner,
        unit: Unit,
        model: ModelView,
        parameters: PredictionParameters,
        outputs: Outputs,
    ) -> None:
        """Hand over the image turned into the other kind, in the direction that is asked for, and turned back."""
        assert isinstance(parameters, CycleGanPredictionParameters)
        if parameters.turned_back:
            require_alone(unit.steps, "An image is turned back only after all of it has been turned.")
        facts, backwards = model.facts.directed(backwards=parameters.backwards), parameters.backwards
        source, tiling = Normalised(unit, model.normaliser), Tiling.of(unit)
        made = self._turned(learner, source, model.parameters, model.facts, backwards=backwards, tiling=tiling)
        again = (
            self._turned(learner, made, model.parameters, model.facts, backwards=not backwards, tiling=tiling)
            if parameters.turned_back
            else None
        )

        def pictures(window: Window) -> dict[str, Picture]:
            found = self.interpret(made[window], model.parameters, facts)
            if again is not None:
                axis, part = facts.inputs[0].channel_axis, again[window]
                found[TURNED_BACK] = Picture(part if axis else part[..., 0], channel_axis=axis, of_source=True)
            return found

        self.hand_over(pictures, made.shape[:-1], source.constants, unit, replace(model, facts=facts), outputs)

    def _turned(
        self,
        learner: CycleGanLearner,
        image: Pixels,
        parameters: CycleGanParameters,
        facts: Facts,
        *,
        backwards: bool,
        tiling: Tiling | None = None,
    ) -> NDArray[np.float32]:
        """Return a normalised image of any size turned into the other kind, channels last."""
        geometry = self.geometry(parameters, facts.directed(backwards=backwards))
        with learner.directed(backwards=backwards):
            return apply_tiled(learner, image, geometry, tiling or Tiling(_LARGEST_TILE))


def _distance(real: Sequence[NDArray[np.float32]], made: Sequence[NDArray[np.float32]]) -> float:
    """Return the distance of two sets of images; NaN if there are none."""
    if not real:
        return float("nan")
    # Of few images more is drawn, so that chance in drawing is less than what training changes.
    return sliced_wasserstein(real, made, patches=max(_LEAST_PATCHES, _PATCHES // len(real)))
