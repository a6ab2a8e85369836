"""The script for Fiji: run by Groovy with ImageJ, without windows, in front of a real service.

Fiji itself is not needed, but Groovy and ImageJ are: the jars of Debian's packages groovy and libij-java, or those in
the folder that PARFOCAL_TEST_JARS names. Without them the tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_service import publish_outcomes
from support import ROOT, S3Server, ServiceProcess

from parfocal.runtime.images.files import Image, PixelSize, write_image

SCRIPT = ROOT / "clients" / "fiji" / "Parfocal_Predict.groovy"
FOLDER = Path(os.environ.get("PARFOCAL_TEST_JARS", "/usr/share/java"))
JARS = [
    path
    for pattern in ("groovy-all.jar", "ij.jar", "asm*.jar", "antlr*.jar", "commons-cli.jar")
    for path in sorted(FOLDER.glob(pattern))
]

pytestmark = pytest.mark.skipif(
    shutil.which("java") is None or not any(path.name == "ij.jar" for path in JARS),
    reason="needs Java, Groovy and ImageJ",
)
# What a person would do in the dialogues.
DRIVER = """
import groovy.json.JsonOutput
import ij.IJ
import ij.gui.Roi
def script = new GroovyShell(this.class.classLoader, new Binding([parfocalTest: true])).parse(new File(args[0]))
script.run()
def (command, path) = [args[1], args[2]]
def told = [:]
told.servers = script.servers(command)
told.titles = script.models(command, 'local', 'fiji').collect { script.title(it) }
def image = IJ.openImage(path)
def objects = script.predict(command, 'local', 'fiji', 'gives-objects:1', image)
told.labels = objects.images[0].processor.stats.max
told.pixel = objects.images[0].calibration.pixelWidth
told.rows = objects.tables.objects.size()
told.verdict = script.verdictText(objects.verdict)
image.roi = new Roi(25, 15, 20, 20)
def lines = []
def boxes = script.predict(command, 'local', 'fiji', 'gives-boxes:1', image) { lines << it; true }
told.boxes = boxes.rois.collect { it.bounds.with { [x, y, width, height] } }
told.heard = lines.findAll { it }.size() > 0
try {
    script.predict(command, 'local', 'fiji', 'nothing:1', image)
} catch (Exception failure) {
    told.unknown = failure.message
}
try {
    script.servers(command + '-missing')
} catch (Exception failure) {
    told.missing = failure.message
}
println JsonOutput.toJson(told)
"""


@pytest.fixture(scope="module")
def told(
    start_service: Callable[..., ServiceProcess], s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the driver says after it has used the script."""
    folder = tmp_path_factory.mktemp("fiji")
    service = start_service("outcomes")
    (folder / "weights").mkdir()
    publish_outcomes(s3.store(), folder / "weights", "fiji")
    pixels = np.full((40, 50), 10, np.uint16)
    pixels[5:8, 6:9] = pixels[20:26, 30:36] = 1000
    write_image(folder / "cells.tif", Image(pixels, "YX", PixelSize(0.1, 0.1)))
    (folder / "driver.groovy").write_text(DRIVER)
    environment = {
        **os.environ,
        "PARFOCAL_SERVICES": service.address,
        "PARFOCAL_CATALOG": s3.catalog,
        "PARFOCAL_HOME": str(folder / "home"),
    }
    command = Path(sys.executable).with_name("parfocal")
    done = subprocess.run(
        ["java", "-Djava.awt.headless=true", "-cp", os.pathsep.join(map(str, JARS)), "groovy.ui.GroovyMain"]
        + [str(each) for each in (folder / "driver.groovy", SCRIPT, command, folder / "cells.tif")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_servers_and_models_are_offered_with_their_verdict(told: dict[str, Any]) -> None:
    assert told["servers"] == ["local"]
    assert "gives-objects:1 (gives-objects, not checked by quality control)" in told["titles"]


def test_labels_and_their_table_come_back_with_the_scale(told: dict[str, Any]) -> None:
    assert told["labels"] == 2
    assert told["pixel"] == pytest.approx(0.1)
    assert told["rows"] == 2
    assert told["verdict"].startswith("The model is not checked by quality control.")


def test_regions_of_a_selection_lie_where_they_were_found(told: dict[str, Any]) -> None:
    assert told["boxes"] == [[30, 20, 6, 6]]
    assert told["heard"]


def test_what_goes_wrong_is_said_in_words(told: dict[str, Any]) -> None:
    assert "nothing" in told["unknown"]
    assert "was not found" in told["missing"]
