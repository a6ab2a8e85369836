"""U-Nets: what they owe to the training loop, and their sizes against the notebooks'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learner_suite import ImageLearnerSuite, facts_of_classes

from parfocal.runtime.images import scratch
from parfocal.runtime.images.files import Image
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.methods.implementation import ModelView
from parfocal.runtime.prediction.loaded_model import LoadedModel, predict_image
from parfocal.runtime.store.manifests import ModelManifest
from parfocal.unet import UNET_2D
from parfocal.unet.parameters import Unet2DParameters, Unet3DParameters, UnetPredictionParameters

TINY: dict[str, Any] = {"first_filters": 4, "learning_rate": 0.003, "precision": "float32"}


class UnetSuite(ImageLearnerSuite):
    weights_suffix = ".safetensors"
    tolerance = 1e-5

    def target_of(self, inputs: Any) -> Any:
        """Return classes by the brightness of the first channel."""
        classes = 1 + self.facts.targets[0].classes
        return np.minimum(inputs[..., :1] * classes, classes - 1).astype(np.int8)


class TestUnet2D(UnetSuite):
    path = "parfocal.unet.network:UnetOfImages"
    parameters = Unet2DParameters(**TINY)
    other = Unet2DParameters(**TINY, seed=9)
    larger = Unet2DParameters(**TINY | {"first_filters": 8})
    facts = facts_of_classes()
    patch = (32, 32)
    image = (128, 64)
    tile = (68, 64)


class TestUnet2DOfSeveralClassesAndColours(UnetSuite):
    path = "parfocal.unet.network:UnetOfImages"
    parameters = Unet2DParameters(**TINY, poolings=4)
    other = Unet2DParameters(**TINY, poolings=4, seed=9)
    larger = Unet2DParameters(**TINY | {"first_filters": 8})
    facts = facts_of_classes(4, 3)
    patch = (32, 32)
    image = (384, 32)
    tile = (272, 32)


class TestUnet3D(UnetSuite):
    path = "parfocal.unet.network:UnetOfVolumes"
    parameters = Unet3DParameters(**TINY, poolings=2, z_poolings=1)
    other = Unet3DParameters(**TINY, poolings=2, z_poolings=1, seed=9)
    larger = Unet3DParameters(**TINY | {"first_filters": 8}, poolings=2, z_poolings=1)
    facts = facts_of_classes(3)
    patch = (4, 16, 16)
    image = (40, 64, 16)
    tile = (30, 52, 16)


@pytest.mark.parametrize(("poolings", "expected"), [(1, 403_717), (2, 1_862_789), (3, 7_697_285), (4, 31_031_685)])
def test_the_network_for_images_has_as_many_parameters_as_that_of_the_notebook(poolings: int, expected: int) -> None:
    import torch

    from parfocal.unet.modules import Unet2D

    with torch.device("meta"):
        module = Unet2D(1, 1, 64, poolings)
    assert sum(weight.numel() for weight in module.parameters()) == expected


@pytest.mark.parametrize("strides", [[(2, 2, 2)] * 3, [(1, 2, 2), (1, 2, 2), (2, 2, 2)]])
def test_the_network_for_volumes_has_those_of_the_notebook_unless_planes_are_spared(strides: Any) -> None:
    import torch

    from parfocal.unet.modules import Unet3D

    with torch.device("meta"):
        module = Unet3D(1, 1, 32, strides)
    # Transposed convolutions that keep the planes have half as many weights: 256 -> 64 and 128 -> 32 channels.
    fewer = 0 if strides[0] == (2, 2, 2) else 4 * (256 * 64 + 128 * 32)
    assert sum(weight.numel() for weight in module.parameters()) == 10_617_025 - fewer


@pytest.mark.parametrize("classes", [2, 4])
def test_a_large_image_gives_what_it_gives_in_memory(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parfocal.unet.network import UnetOfImages

    facts = facts_of_classes(classes)
    facts = facts.with_measured(class_values=[0, *range(3, 2 + classes)], threshold=0.5)
    unet, parameters = UnetOfImages(), Unet2DParameters(**TINY)
    learner = unet.build(parameters, facts)
    model = LoadedModel(
        UNET_2D, ModelManifest.model_construct(), ModelView(parameters, facts, unet.normaliser, "YX"), unet, learner
    )
    image = Image(np.random.default_rng(0).integers(0, 4000, (90, 130)).astype(np.uint16), "YX")
    asked = UnetPredictionParameters(tile_size=80, probabilities=True, instances="components", smallest_object=4)
    asked = asked.model_copy(update={"size_unit": "pixels"})
    small = predict_image(model, image, asked, tmp_path / "small", "a").finish()
    monkeypatch.setattr(scratch.blocks, "__defaults__", (1000,))
    large = predict_image(
        model, image, asked, tmp_path / "large", "a", scratch=Scratch(tmp_path / "arrays", 0)
    ).finish()
    assert small.images.keys() == large.images.keys() == {"prediction", "probability", "instances"}
    for name, expected in small.images.items():
        np.testing.assert_array_equal(large.images[name].pixels, expected.pixels)
    for name, file in small.files.items():
        if name != "rois":
            assert (tmp_path / "large" / file).read_bytes() == (tmp_path / "small" / file).read_bytes()
