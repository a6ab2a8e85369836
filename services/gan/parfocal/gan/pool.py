"""The pool of earlier images that discriminators of CycleGAN are shown (Shrivastava et al., CVPR 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class ImagePool:
    """Keeps images that a generator made earlier.

    Until it is full, images are kept and returned. From then on each is, with equal chances, returned as it is, or kept
    in the place of a random earlier one, which is returned instead.

    Parameters
    ----------
    size
        The most images; 0 returns all as they are.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._images: list[torch.Tensor] = []

    def exchange(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return as many images as are given, ``(batch, channels, Y, X)``, some of them earlier ones."""
        if not self._size:
            return images
        chosen = []
        for image in images:
            if len(self._images) < self._size:
                self._images.append(image.clone())
                chosen.append(image)
            elif rng.random() < 0.5:
                place = int(rng.integers(self._size))
                chosen.append(self._images[place])
                self._images[place] = image.clone()
            else:
                chosen.append(image)
        return torch.stack(chosen).contiguous(memory_format=torch.channels_last)

    def state(self) -> NDArray[Any]:
        """Return a copy of the images, ``(number, channels, Y, X)``; an empty array where there are none."""
        if not self._images:
            return np.zeros(0, np.float32)
        images: NDArray[Any] = torch.stack(self._images).cpu().numpy().copy()
        return images

    def set_state(self, images: NDArray[Any], device: torch.device) -> None:
        """Replace the images."""
        self._images = [torch.from_numpy(np.array(image)).to(device) for image in images]
