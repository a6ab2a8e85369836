"""Models that earlier versions made."""

from __future__ import annotations

import pytest
from kept_models import KeptModelSuite

from parfocal.stardist import SERVICE

# Of Keras' own way of saving.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class TestKeptModels(KeptModelSuite):
    service = SERVICE
