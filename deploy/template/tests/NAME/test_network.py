"""NAME: the network of the publication, its loss, and what it owes to the training loop."""

from __future__ import annotations

from learner_suite import ImageLearnerSuite

from parfocal.NAME.parameters import NAMEParameters


class TestNAME2D(ImageLearnerSuite):
    path = "parfocal.NAME.network:NAME2D"
    parameters = NAMEParameters(layers=2, learning_rate=0.01)
    other = NAMEParameters(layers=2, learning_rate=0.01, seed=9)
    larger = NAMEParameters(layers=3)
    patch = (32, 32)
    image = (96, 64)
    tile = (48, 64)
    weights_suffix = ".safetensors"
