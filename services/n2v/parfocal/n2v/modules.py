"""The networks of Noise2Void, of n2v's own parts. Imported by workers only: it loads TensorFlow.

n2v's function for networks of several channels gives all of them the last channel, because a layer made in a loop
looks at the loop's variable when it is applied. So the parts are put together here, in n2v's order and with its names:
weights go from one to the other.
"""

from __future__ import annotations

from typing import Any

from n2v.nets.unet_blocks import unet_block
from parfocal.runtime.frameworks.keras import keras

# A convolution, batch normalisation and activation, twice on each level.
_CONVOLUTIONS = 2


def build_network(spatial: int, channels: int, *, depth: int, filters: int, kernel: int, blur_pool: bool) -> Any:
    """Return the U-Nets of all channels as one Keras model, not compiled.

    Each channel has a network of its own, so that nothing of one appears in another.

    Parameters
    ----------
    spatial
        2 or 3 dimensions.
    channels
        Number of channels of the images.
    depth
        Number of times the image is halved.
    filters
        Number of filters of the first level, doubled on every further one.
    kernel
        Side length of the convolutions in pixels.
    blur_pool
        N2V2: pooling that is blurred, and no skip connection on the first level.
    """
    # Names of layers count on from the network before; in files they shall always be the same.
    keras.backend.reset_uids()
    convolution = keras.layers.Conv2D if spatial == 2 else keras.layers.Conv3D
    inputs = keras.Input((None,) * spatial + (channels,), name="input")
    outputs = []
    for channel in range(channels):
        block = unet_block(
            depth,
            filters,
            (kernel,) * spatial,
            _CONVOLUTIONS,
            batch_norm=True,
            pool=(2,) * spatial,
            prefix=f"channel_{channel}",
            blurpool=blur_pool,
            skip_skipone=blur_pool,
        )
        values = block(inputs if channels == 1 else inputs[..., channel : channel + 1])
        outputs.append(convolution(1, (1,) * spatial, activation="linear")(values))
    return keras.Model(inputs, outputs[0] if channels == 1 else keras.layers.Concatenate(axis=-1)(outputs))


def receptive_field(*, depth: int, kernel: int, blur_pool: bool) -> int:
    """Return how many pixels to each side an output pixel sees at most.

    Convolutions of `kernel` pixels on each level but the lowest four times, there twice; a pixel shares its block with
    2**depth - 1 others on the lowest level. Blurred pooling sees two pixels beyond its block on every level.
    """
    lowest: int = 2**depth
    return _CONVOLUTIONS * (kernel // 2) * (3 * lowest - 2) + (lowest - 1) * (3 if blur_pool else 1)
