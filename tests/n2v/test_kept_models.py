"""Models that earlier versions made."""

from __future__ import annotations

import pytest
from kept_models import KeptModelSuite

from parfocal.n2v import SERVICE

# Of TensorFlow's Keras 2.15.
pytestmark = pytest.mark.filterwarnings("ignore:non-integer arguments to randrange:DeprecationWarning")


class TestKeptModels(KeptModelSuite):
    service = SERVICE
