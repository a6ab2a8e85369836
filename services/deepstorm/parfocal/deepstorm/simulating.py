"""Frames of blinking emitters as a camera sees them, to train on where nobody has localised anything.

What is simulated: emitters at random places, each with its own width and number of photons; the light that each pixel
gathers of a Gaussian spot (Smith et al., Nature Methods 7, 373-375 (2010), doi:10.1038/nmeth.1449: differences of
error functions); photons with Poisson statistics; Gaussian noise, gain and offset of the camera, rounded to 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.methods.implementation import Batch, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants

_REACH: Final = 4.0
"""Standard deviations: so far beyond the frame emitters still send light into it."""
_TRAINING, _VALIDATION, _SCALE, _IMAGES = range(4)
_FRAMES_FOR_SCALE: Final = 32
_LIKE_THE_USERS: Final = Normaliser(rule="stack")
_LARGEST_FRAME: Final = 128
VALIDATION_FRAMES: Final = 8


@dataclass(frozen=True)
class Scene:
    """Description of the simulated sample and camera.

    Attributes
    ----------
    psf_sigma, psf_sigma_spread
        Mean and standard deviation of the width of spots, in pixels (standard deviation of a Gaussian).
    photons, photons_spread
        Mean number of photons of an emitter, and its standard deviation in parts of the mean.
    density, density_spread
        Mean number of emitters in a pixel, and up to which part frames are above and below it.
    gain
        Grey values of one photon.
    read_noise
        Standard deviation of the grey values where no emitter is active.
    offset
        Grey value where no emitter shines.
    """

    psf_sigma: float
    psf_sigma_spread: float
    photons: float
    photons_spread: float
    density: float
    density_spread: float
    gain: float
    read_noise: float
    offset: float

    def frame(
        self, rng: np.random.Generator, shape: tuple[int, int], places: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.uint16], Localisations]:
        """Return a frame (Y, X) and the emitters that lie in it, in pixels from its upper left corner.

        Emitters beyond the frame whose light reaches it are seen and not listed. They lie at random, or at `places`
        (N, 2).
        """
        if places is None:
            margin = _REACH * (self.psf_sigma + 2 * self.psf_sigma_spread)
            density = self.density * (1 + self.density_spread * rng.uniform(-1, 1))
            field = np.array(shape) + 2 * margin
            places = rng.uniform(0, field, (int(rng.poisson(density * field.prod())), 2)) - margin
        count = len(places)
        sigma = np.maximum(rng.normal(self.psf_sigma, self.psf_sigma_spread, count), 0.3 * self.psf_sigma)
        photons = self.photons * np.maximum(rng.normal(1, self.photons_spread, count), 0.1)
        profiles = [_gathered(length, places[:, axis], sigma) for axis, length in enumerate(shape)]
        light = (photons[:, np.newaxis] * profiles[0]).T @ profiles[1]
        values = self.offset + self.gain * rng.poisson(light) + rng.normal(0, self.read_noise, shape)
        pixels = np.clip(np.rint(values), 0, 65535).astype(np.uint16)
        inside = ((places >= 0) & (places < shape)).all(axis=1)
        return pixels, Localisations(
            np.zeros(int(inside.sum()), np.int64), places[inside, 0], places[inside, 1], photons[inside]
        )

    def describe(self, pixel_size_nm: float) -> dict[str, float]:
        """Return the values in the units of the parameters, for the model."""
        lengths = {"psf_sigma", "psf_sigma_spread"}
        values = {
            f"{name}_nm" if name in lengths else name: value * pixel_size_nm if name in lengths else value
            for name, value in asdict(self).items()
        }
        values["density"] = self.density * (1e3 / pixel_size_nm) ** 2
        return {name: float(f"{value:.6g}") for name, value in values.items()}


def _gathered(length: int, centres: NDArray[np.float64], sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return which part of the light of Gaussian spots falls on each pixel along one axis, (spots, length)."""
    edges = np.arange(length + 1)
    below = 0.5 * (1 + erf((edges - centres[:, np.newaxis]) / (np.sqrt(2) * sigma[:, np.newaxis])))
    return np.diff(below, axis=1)


@dataclass(frozen=True)
class SimulatedBatches:
    """Batches of simulated patches: each is a function of the seed, the epoch and the step, and of nothing else.

    Attributes
    ----------
    role
        Role of the inputs.
    scene
        Description of the simulated sample and camera.
    constants
        Constants with which patches are normalised, see `scale_of`.
    patch
        Side length of a patch in pixels.
    batch_size
        Patches in a batch.
    steps_per_epoch, validation_steps
        Batches of an epoch and of its validation.
    seed
        Seed of all random choices.
    """

    role: str
    scene: Scene
    constants: NormaliserConstants
    patch: int
    batch_size: int
    steps_per_epoch: int
    validation_steps: int
    seed: int

    def batch(self, epoch: int, step: int) -> Batch:
        """Return training batch number `step` of epoch number `epoch`."""
        return self._drawn(np.random.default_rng([self.seed, _TRAINING, epoch, step]))

    def validation_batch(self, step: int) -> Batch:
        """Return validation batch number `step`."""
        return self._drawn(np.random.default_rng([self.seed, _VALIDATION, step]))

    def validation_images(self, shape: tuple[int, int]) -> list[ValidationImage]:
        """Return some whole frames of this shape at most, normalised, with their emitters."""
        rng = np.random.default_rng([self.seed, _IMAGES])
        images = []
        for number in range(VALIDATION_FRAMES):
            pixels, located = self.scene.frame(rng, limited(shape))
            normalised = _LIKE_THE_USERS.apply(pixels, self.constants)[..., np.newaxis]
            images.append(ValidationImage(f"simulated frame {number}", {self.role: normalised}, located))
        return images

    def _drawn(self, rng: np.random.Generator) -> Batch:
        frames = [self.scene.frame(rng, (self.patch, self.patch)) for _ in range(self.batch_size)]
        pixels = np.stack([_LIKE_THE_USERS.apply(frame, self.constants) for frame, _ in frames])
        return Batch({self.role: pixels[..., np.newaxis]}, [located for _, located in frames], len(frames))


def scale_of(scene: Scene, shape: tuple[int, int], seed: int) -> NormaliserConstants:
    """Return the constants of a simulated stack of frames (Y, X) of the mean density, as those of a real one."""
    rng = np.random.default_rng([seed, _SCALE])
    usual = replace(scene, density_spread=0)
    frames = np.stack([usual.frame(rng, limited(shape))[0] for _ in range(_FRAMES_FOR_SCALE)])
    return _LIKE_THE_USERS.fit(frames, "TYX")


def limited(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of a simulated frame: that of the user's, or a part of it."""
    return min(shape[0], _LARGEST_FRAME), min(shape[1], _LARGEST_FRAME)


def scene_of(values: Mapping[str, Any], pixel_size_nm: float) -> Scene:
    """Return the scene with values in the units of the parameters."""
    return Scene(
        psf_sigma=values["psf_sigma_nm"] / pixel_size_nm,
        psf_sigma_spread=values["psf_sigma_spread_nm"] / pixel_size_nm,
        photons=values["photons"],
        photons_spread=values["photons_spread"],
        density=values["density"] * (pixel_size_nm / 1e3) ** 2,
        density_spread=values["density_spread"],
        gain=values["adc_per_photon"],
        read_noise=values["read_noise"],
        offset=values["offset"],
    )
