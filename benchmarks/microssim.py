"""How well Parfocal's MicroSSIM agrees with the authors' package, which requires an environment of its own.

The package requires PyTorch, so it is run by another interpreter:

    python -m venv ENV && ENV/bin/pip install microssim==0.0.5
    python benchmarks/microssim.py ENV/bin/python

Both are given the same images, all of one range (see `parfocal.qc.metrics.images.microssim` for what differs
otherwise).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from parfocal.qc.metrics.images.microssim import fit_micro_ssim, micro_ssim, sample_for_fit

THEIRS = """
import json, sys
import numpy as np
from microssim import MicroSSIM
data = np.load(sys.argv[1])
fitted = MicroSSIM().fit(data["targets"], data["images"])
scores = [float(fitted.score(*pair)) for pair in zip(data["targets"], data["images"])]
print(json.dumps([{name: float(value) for name, value in fitted.get_parameters().items()}, scores]))
"""


def main() -> None:
    """Print both fits and the largest difference of the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", type=Path, help="interpreter of an environment with the package")
    options = parser.parse_args()
    random = np.random.default_rng(5)
    targets, images = [], []
    for _ in range(4):
        clean = gaussian_filter(random.standard_normal((128, 160)), 2)
        clean = 100 + 4000 * (clean - clean.min()) / np.ptp(clean)
        targets.append(np.rint(clean))
        images.append(np.rint(random.poisson(clean / 20) * 3.0 + 7))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, targets=np.stack(targets), images=np.stack(images))
        done = subprocess.run([options.python, "-c", THEIRS, path], check=True, capture_output=True, text=True)
    parameters, theirs = json.loads(done.stdout.splitlines()[-1])
    print("package: ", parameters, theirs)
    for windows in (None, 4096):
        samples = [sample_for_fit(x, y, windows=windows) for x, y in zip(images, targets, strict=True)]
        fit = fit_micro_ssim(samples)
        ours = [micro_ssim(x, y, fit) for x, y in zip(images, targets, strict=True)]
        difference = np.abs(np.subtract(ours, theirs)).max()
        print(f"Parfocal, {windows or 'all'} windows: {fit}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
