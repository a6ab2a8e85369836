"""pix2pix (Isola et al., 2017) and CycleGAN (Zhu et al., 2017), written here for PyTorch."""

from __future__ import annotations

from parfocal import v1
from parfocal.gan.parameters import (
    CycleGanParameters,
    CycleGanPredictionParameters,
    Pix2PixParameters,
    Pix2PixPredictionParameters,
    check_cyclegan,
    check_pix2pix,
)
from parfocal.runtime.methods.service import Method, Service, Work, quick

PIX2PIX = Method(
    name="pix2pix",
    title="pix2pix",
    task=v1.TASK_TRANSLATION,
    summary="""
        Turns one kind of image into another of the same field of view. It is trained on pairs: a network that generates
        images is trained against one that tells generated from real images. The results are sharp where other methods
        blur, but part of the sharp detail is not real: look at them, do not measure in them.
    """,
    axes="YX",
    channel_axes="SC",
    target_channel_axes="SC",
    target=v1.TARGET_KIND_PAIRED_IMAGE,
    work={
        v1.JOB_KIND_TRAINING: Work(Pix2PixParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(Pix2PixPredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Pairs of two-dimensional images with the same name and size, registered to each other: source and target, each
        grey, in colour, or with channels. Some hundred pairs are usual; thirty give a first impression.
    """,
    minimum_images=2,
    recommended_images=100,
    presets=quick(
        epochs=10,
        decay_epochs=5,
        patch_size=128,
        network_depth=6,
        first_filters=16,
        patches_per_image=8,
        score_every=2,
    ),
    citation=(
        "Isola P, Zhu J-Y, Zhou T, Efros AA. Image-to-image translation with conditional adversarial networks. "
        "Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition, 5967-5976 (2017). "
        "doi:10.1109/CVPR.2017.632"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/pix2pix.md",
    implementation="parfocal.gan.network:Pix2Pix",
    validate=check_pix2pix,
)

CYCLEGAN = Method(
    name="cyclegan",
    title="CycleGAN",
    task=v1.TASK_TRANSLATION,
    summary="""
        Turns one kind of image into another and back. It is trained on images of both kinds, without pairs. Therefore
        it does not know which structure belongs where: it generates images that look like the other kind and may add or
        remove structures to do so. Use it to make images look alike, never to find or measure something.
    """,
    axes="YX",
    channel_axes="SC",
    target_channel_axes="SC",
    target=v1.TARGET_KIND_UNPAIRED_IMAGE,
    work={
        v1.JOB_KIND_TRAINING: Work(CycleGanParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(CycleGanPredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Two sets of two-dimensional images, source and target, whose names and numbers may differ; each grey, in colour,
        or with channels. Both should show the same kind of sample, at the same scale and equally dense. Test images in
        pairs let quality control judge the model.
    """,
    minimum_images=2,
    recommended_images=100,
    presets=quick(
        epochs=10,
        decay_epochs=5,
        patch_size=64,
        residual_blocks=3,
        first_filters=16,
        patches_per_image=4,
        score_every=2,
    ),
    citation=(
        "Zhu J-Y, Park T, Isola P, Efros AA. Unpaired image-to-image translation using cycle-consistent adversarial "
        "networks. Proceedings of the IEEE International Conference on Computer Vision, 2242-2251 (2017). "
        "doi:10.1109/ICCV.2017.244"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/cyclegan.md",
    implementation="parfocal.gan.network:CycleGan",
    validate=check_cyclegan,
)

SERVICE = Service(name="gan", methods=(PIX2PIX, CYCLEGAN), packages=("torch", "safetensors"), framework="torch")
