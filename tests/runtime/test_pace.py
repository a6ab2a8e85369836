"""The speed of a prediction job and its stages, in numbers and in words."""

from __future__ import annotations

import threading
import time

import pytest

from parfocal.runtime.prediction.pace import Pace, in_network, sentence


def test_stages_run_beside_each_other_and_the_network_is_a_part_of_predicting() -> None:
    pace = Pace()

    def write() -> None:
        with pace.stage("writing"):
            time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    with pace.stage("predicting"):
        time.sleep(0.05)
        with in_network():
            time.sleep(0.1)
    writer.join()
    pace.add_pixels(3_000_000)
    found = pace.metrics()
    assert 0 < found["writing_share"] < found["network_share"] < found["predicting_share"] <= 1
    assert "reading_share" not in found
    assert found["megapixels"] == 3
    assert found["megapixels_per_second"] == pytest.approx(3 / (0.15 / found["predicting_share"]), rel=0.5)


def test_the_slowest_stage_is_named() -> None:
    shares = {"reading_share": 0.125, "predicting_share": 0.94, "network_share": 0.8, "writing_share": 0.3}
    said = sentence({"megapixels_per_second": 3.14159, **shares})
    assert "3.14 megapixels" in said
    assert said.index("predicting") < said.index("94%") < said.index("80%") < said.index("reading 12%")
    slow = sentence({"megapixels_per_second": 1.0, **shares, "writing_share": 0.99})
    assert "slowest stage was writing (99%" in slow
    assert "80%" not in slow


@pytest.mark.parametrize("metrics", [{}, {"loss": 0.1}, {"megapixels_per_second": 0.0}])
def test_nothing_is_said_of_other_jobs(metrics: dict[str, float]) -> None:
    assert sentence(metrics) == ""
