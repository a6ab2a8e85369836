"""Noise2Void against its publications and against n2v itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learner_suite import ImageLearnerSuite, view_of

from parfocal.n2v.parameters import Noise2Void2DParameters, Noise2Void3DParameters
from parfocal.runtime.methods.implementation import ModelView
from parfocal.runtime.store.facts import Facts, Port

# Keras 2 draws its seeds with numbers that are not whole.
pytestmark = pytest.mark.filterwarnings("ignore:non-integer arguments to randrange:DeprecationWarning")

GREY = Facts(inputs=(Port(role="source"),), targets=())
TINY: dict[str, Any] = {"first_filters": 4, "patch_size": 32, "precision": "float32", "masked_percent": 2.0}


@pytest.fixture(scope="module")
def n2v_2d() -> Any:
    from parfocal.n2v.network import Noise2Void2D

    return Noise2Void2D()


class _Suite(ImageLearnerSuite):
    facts = GREY
    weights_suffix = ".h5"

    def target_of(self, inputs: Any) -> Any:
        return None

    def view(self) -> ModelView:
        return view_of(self.parameters, self.facts, "z-score", "ZYX"[-len(self.patch) :])


class TestNoise2Void2D(_Suite):
    path = "parfocal.n2v.network:Noise2Void2D"
    parameters = Noise2Void2DParameters(**TINY, learning_rate=0.003)
    other = Noise2Void2DParameters(**TINY, learning_rate=0.003, seed=9)
    larger = Noise2Void2DParameters(**TINY | {"first_filters": 8})
    patch = (32, 32)
    image = (152, 132)
    tile = (96, 96)


class TestN2V2(TestNoise2Void2D):
    parameters = Noise2Void2DParameters(**TINY, learning_rate=0.003, variant="n2v2")
    other = Noise2Void2DParameters(**TINY, learning_rate=0.003, variant="n2v2", seed=9)
    larger = Noise2Void2DParameters(**TINY | {"first_filters": 8}, variant="n2v2")


class TestNoise2Void3D(_Suite):
    path = "parfocal.n2v.network:Noise2Void3D"
    parameters = Noise2Void3DParameters(**TINY, learning_rate=0.003, patch_depth=8)
    other = Noise2Void3DParameters(**TINY, learning_rate=0.003, patch_depth=8, seed=9)
    larger = Noise2Void3DParameters(**TINY | {"first_filters": 8})
    patch = (8, 32, 32)
    image = (12, 100, 52)
    tile = (12, 64, 52)
