"""What Deep-STORM is trained on: emitters where the frames are bright, simulated frames like the user's, and errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import save, write_kind
from scipy import ndimage

from parfocal.deepstorm.example import SCENE, simulate_stack
from parfocal.deepstorm.parameters import DeepStormParameters, SimulationParameters, check_dataset
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.errors import InvalidInputError

SMALL: dict[str, Any] = {"patch_size": 16, "batch_size": 4, "upsampling": 4, "first_filters": 2}


def view(folder: Path, tmp_path: Path, kind: str, warnings: list[str] | None = None) -> FolderView:
    report = check_folder(folder, kind=kind, axes="TYX")
    place, entries = tmp_path / "copy", []
    for item in report.items():
        (place / item.file).parent.mkdir(parents=True, exist_ok=True)
        entries.append(item.write(place / item.file))
    manifest = report.manifest((), entries, project="p", dataset="d", version=1)
    warn = (lambda _: None) if warnings is None else warnings.append
    return FolderView(
        manifest=manifest, axes="TYX", minimum_images=1, scratch=tmp_path / "scratch", folder=place, warn=warn
    )


def agreement(batch: Any, upsampling: int) -> float:
    """Return the correlation of inputs with targets that are blurred as the microscope blurs."""
    inputs, targets = batch.input[..., 0], batch.targets[..., 0]
    count, height, width = inputs.shape
    coarse = targets.reshape(count, height, upsampling, width, upsampling).mean(axis=(2, 4))
    blurred = ndimage.gaussian_filter(coarse, (0, 1.0, 1.0))
    return float(np.corrcoef(inputs.ravel(), blurred.ravel())[0, 1])


def test_targets_show_emitters_where_frames_are_bright(tmp_path: Path) -> None:
    from parfocal.deepstorm.network import DeepStorm

    data = view(write_kind(tmp_path / "data", "coordinates"), tmp_path, "coordinates")
    parameters = DeepStormParameters(**SMALL, patches_per_epoch=8, patches_per_image=1)
    method = DeepStorm()
    opened = method.open(data, parameters)
    assert (opened.batches.steps_per_epoch, opened.facts.measured["pixel_size_nm"]) == (2, 100)
    rng = np.random.default_rng(0)
    for batch in (opened.batches.batch(0, 0), opened.batches.batch(3, 1), opened.batches.validation_batch(0)):
        prepared = method.prepare(batch, parameters, opened.facts, rng)
        assert prepared.targets.shape == (4, 64, 64, 1)
        assert agreement(prepared, 4) > 0.8
    again = opened.batches.batch(3, 1)
    np.testing.assert_array_equal(again.input, opened.batches.batch(3, 1).input)
    assert opened.record.split["by"] == "image"


def test_one_stack_is_enough(tmp_path: Path) -> None:
    from parfocal.deepstorm.network import DeepStorm

    folder = write_kind(tmp_path / "data", "coordinates")
    for number in range(1, 5):
        (folder / "train" / "source" / f"field{number}.tif").unlink()
        (folder / "train" / "target" / f"field{number}.csv").unlink()
    warnings: list[str] = []
    data = view(folder, tmp_path, "coordinates", warnings)
    opened = DeepStorm().open(data, DeepStormParameters(**SMALL, patches_per_epoch=8))
    assert opened.record.split["by"] == "frames"
    assert len(list(opened.validation_images())) == 1
    assert len(warnings) == 1


def test_frames_are_simulated_like_those_of_the_user(tmp_path: Path) -> None:
    from parfocal.deepstorm.network import SimulatedDeepStorm

    stack, _ = simulate_stack(np.random.default_rng(0), 40, filaments=True)
    save(tmp_path / "data" / "train" / "source" / "a.tif", stack, "TYX", 100)
    data = view(tmp_path / "data", tmp_path, "sources")
    parameters = SimulationParameters(**SMALL, patches_per_epoch=8, photons_spread=0.2)
    method = SimulatedDeepStorm()
    opened = method.open(data, parameters)
    used = opened.facts.measured["simulated"]
    assert used["psf_sigma_nm"] == pytest.approx(110, rel=0.1)
    # Emitters on filaments blink independently, so that only their number counts.
    assert used["photons"] == pytest.approx(SCENE.photons, rel=0.3)
    assert used["density"] == pytest.approx(100 * SCENE.density, rel=0.3)
    batch = method.prepare(opened.batches.batch(0, 0), parameters, opened.facts, np.random.default_rng(0))
    assert agreement(batch, 4) > 0.8
    assert len(list(opened.validation_images())) == 8
    given = method.open(data, parameters.model_copy(update={"psf_sigma_nm": 150.0, "adc_per_photon": 2.0}))
    assert given.facts.measured["simulated"]["psf_sigma_nm"] == 150
    assert given.facts.measured["simulated"]["photons"] == pytest.approx(SCENE.photons / 2, rel=0.3)


def test_stacks_that_say_too_little_are_refused(tmp_path: Path) -> None:
    from parfocal.deepstorm.network import SimulatedDeepStorm

    rng = np.random.default_rng(0)
    frame, _ = replace(SCENE, density=0.03).frame(rng, (32, 32))
    save(tmp_path / "still" / "train" / "source" / "a.tif", np.stack([frame] * 6), "TYX", 100)
    save(tmp_path / "unknown" / "train" / "source" / "a.tif", np.stack([frame] * 6), "TYX")
    for name, field in (("still", "psf_sigma_nm"), ("unknown", "pixel_size_nm")):
        data = view(tmp_path / name, tmp_path / f"{name}-laid", "sources")
        with pytest.raises(InvalidInputError) as refused:
            SimulatedDeepStorm().open(data, SimulationParameters(**SMALL))
        assert field in [each.field for each in refused.value.violations]


@pytest.mark.parametrize("parameters", [DeepStormParameters, SimulationParameters])
def test_patches_must_suit_network_and_frames(parameters: Any, tmp_path: Path) -> None:
    manifest = view(write_kind(tmp_path / "data", "coordinates"), tmp_path, "coordinates").manifest
    check_dataset(parameters(patch_size=26, upsampling=8), manifest)
    for wrong in ({"patch_size": 26, "upsampling": 2}, {"patch_size": 64, "upsampling": 8}):
        with pytest.raises(InvalidInputError) as refused:
            check_dataset(parameters(**wrong), manifest)
        assert refused.value.violations[0].field == "patch_size"
