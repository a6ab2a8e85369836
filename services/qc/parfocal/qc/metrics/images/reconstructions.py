"""Super-resolved images against what is known: a rendering of the true emitters, or the frames themselves.

Against the truth
    The rendering is the histogram of the emitters in the pixels of the image. It is normalised between its 0.1 and 99.9
    percentiles; both lose their mean, and the image is scaled by covariance over variance. SSIM has a uniform window of
    7 x 7 pixels and sample covariances, PSNR a range of 1; "nrmse_zerocost" is the root of the mean absolute
    difference. That is what the Deep-STORM notebook of ZeroCostDL4Mic (von Chamier et al., Nature Communications 12,
    2276 (2021)) reports, so that numbers can be compared.

Against the frames
    The resolution-scaled error (Culley et al., Nature Methods 15, 263-266 (2018), doi:10.1038/nmeth.4605): the image
    is brought to the grid of the camera, blurred by a Gaussian and scaled, and compared with the mean frame. Offset
    and scale are least squares for every width of the Gaussian, whose best width between 0.5 and 10 pixels is searched.
    RSE is the root mean square of the difference in grey values, RSP Pearson's correlation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize_scalar
from skimage.metrics import structural_similarity

from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import release

_LOW, _HIGH = 0.1, 99.9
_WINDOW: Final = 7
_LEAST_SQUARE: Final = 1e-10  # 100 dB, which is equality
_WIDTHS: Final = (0.5, 10.0)


@dataclass(frozen=True)
class ImageScore:
    """SSIM, PSNR in dB and the root of the mean absolute error, with their maps (Y, X) float32."""

    ssim: float
    psnr: float
    nrmse_zerocost: float
    similarity: NDArray[np.float32]
    difference: NDArray[np.float32]


@dataclass(frozen=True)
class FrameError:
    """Difference between an image that is blurred again and the mean frame.

    Attributes
    ----------
    rse, rsp
        Root mean square difference in grey values, and correlation.
    sigma
        Width of the Gaussian in pixels of the camera.
    difference
        float32 (Y, X): absolute difference in grey values on the grid of the camera.
    """

    rse: float
    rsp: float
    sigma: float
    difference: NDArray[np.float32]


def mean_frame(stack: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean (Y, X) of frames (T, Y, X), which need not be in memory."""
    total = np.zeros(stack.shape[1:])
    for frame in stack:
        total += frame
        release(stack)
    return total / len(stack)


def render(found: Localisations, shape: tuple[int, int], upsampling: int) -> NDArray[np.float32]:
    """Return the number of localisations in each pixel of an image (Y * upsampling, X * upsampling)."""
    bins = [np.arange(length * upsampling + 1) / upsampling for length in shape]
    return np.histogram2d(found.y, found.x, bins)[0].astype(np.float32)


def score_against_truth(image: NDArray[Any], truth: NDArray[Any]) -> ImageScore:
    """Compare an image with the rendering of the true emitters; see the module.

    Raises
    ------
    InvalidInputError
        The two have different shapes, or are smaller than 7 x 7 pixels.
    """
    if image.shape != truth.shape or min(truth.shape) < _WINDOW:
        raise InvalidInputError(f"The image has shape {image.shape} and the rendered truth {truth.shape}.")
    target = np.asarray(truth, np.float64)
    low, high = np.percentile(target, (_LOW, _HIGH))
    # Where fewer than one pixel in a thousand holds an emitter, both percentiles are 0.
    target = (target - low) / ((high - low) or float(target.max() - low) or 1.0)
    target -= target.mean()
    values = np.asarray(image, np.float64) - float(np.mean(image, dtype=np.float64))
    spread = float(values.var())
    if spread > 0:
        values *= float(np.cov(values.ravel(), target.ravel())[0, 1]) / spread
    ssim, similarity = structural_similarity(target, values, data_range=1.0, full=True)
    difference = np.abs(target - values)
    square = float((difference**2).mean())
    return ImageScore(
        ssim=float(ssim),
        psnr=-10 * float(np.log10(max(square, _LEAST_SQUARE))),
        nrmse_zerocost=float(np.sqrt(difference.mean())),
        similarity=similarity.astype(np.float32),
        difference=difference.astype(np.float32),
    )


def score_against_frames(image: NDArray[Any], mean_frame: NDArray[Any]) -> FrameError:
    """Compare an image, blurred again, with the mean of the frames it was made from; see the module.

    Raises
    ------
    InvalidInputError
        The sides of the image are not a whole multiple of those of the frame.
    """
    upsampling = upsampling_of(image.shape, mean_frame.shape)
    rows, columns = mean_frame.shape
    coarse = np.asarray(image, np.float64).reshape(rows, upsampling, columns, upsampling).mean(axis=(1, 3))
    frame = np.asarray(mean_frame, np.float64)

    def fitted(sigma: float) -> NDArray[np.float64]:
        blurred = ndimage.gaussian_filter(coarse, sigma)
        spread = float(blurred.var())
        alpha = float(((blurred - blurred.mean()) * frame).mean()) / spread if spread > 0 else 0.0
        return np.asarray(alpha * (blurred - blurred.mean()) + frame.mean())

    best = minimize_scalar(lambda sigma: float(((fitted(sigma) - frame) ** 2).mean()), bounds=_WIDTHS, method="bounded")
    compared = fitted(float(best.x))
    difference = np.abs(compared - frame)
    flat = compared.std() == 0 or frame.std() == 0
    return FrameError(
        rse=float(np.sqrt((difference**2).mean())),
        rsp=0.0 if flat else float(np.corrcoef(compared.ravel(), frame.ravel())[0, 1]),
        sigma=float(best.x),
        difference=difference.astype(np.float32),
    )


def upsampling_of(image: tuple[int, ...], frame: tuple[int, ...]) -> int:
    """Return how many pixels of an image lie along one of a frame; raise InvalidInputError if they do not fit."""
    factor = image[-1] // frame[-1]
    if factor < 1 or tuple(image) != tuple(length * factor for length in frame):
        raise InvalidInputError(
            f"The image has {' x '.join(map(str, image))} pixels, which is not a multiple of the frames' "
            f"{' x '.join(map(str, frame))}."
        )
    return factor
