"""Noise2Void: denoising without clean images (Krull et al., 2019), on n2v; and DenoiSeg, which finds objects too."""

from __future__ import annotations

from parfocal import v1
from parfocal.n2v.parameters import (
    DenoiSegParameters,
    DenoiSegPredictionParameters,
    Noise2Void2DParameters,
    Noise2Void3DParameters,
    NoisePredictionParameters,
    check_dataset,
)
from parfocal.runtime.methods.service import Method, Service, Work, quick

_CITATION = (
    "Krull A, Buchholz TO, Jug F. Noise2Void: learning denoising from single noisy images. IEEE/CVF Conference on "
    "Computer Vision and Pattern Recognition, 2129-2137 (2019). doi:10.1109/CVPR.2019.00223"
)

N2V_2D = Method(
    name="n2v-2d",
    title="Noise2Void 2D",
    task=v1.TASK_RESTORATION,
    summary="""
        Removes noise and is trained on the noisy images alone, without clean images. It removes noise that is
        independent from pixel to pixel, such as that of a camera or detector, and keeps everything else: it neither
        sharpens nor fills in. It therefore also keeps noise that neighbouring pixels share (in deconvolved,
        interpolated or compressed images). The variants N2V2 and structN2V are for checkerboard patterns and for noise
        that forms stripes along rows or columns. If pairs of noisy and clean images can be recorded, CARE restores
        better.
    """,
    axes="YX",
    channel_axes="CS",
    frames=True,
    target=v1.TARGET_KIND_NONE,
    work={
        v1.JOB_KIND_TRAINING: Work(Noise2Void2DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(NoisePredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Noisy two-dimensional images of one kind, raw from the camera or detector: grey, or with channels, each of which
        gets a network of its own, or movies, frame by frame. One image is enough to start; the model can then be used
        for it and for others made in the same way. Clean images beside them are used for quality control only.
    """,
    minimum_images=1,
    recommended_images=10,
    presets=quick(
        epochs=10,
        patches_per_image=64,
        batch_size=16,
        first_filters=16,
        learning_rate=0.001,
        plateau_patience=2,
        masked_percent=1.0,
    ),
    citation=_CITATION,
    licence="BSD-3-Clause",
    documentation="docs/methods/n2v-2d.md",
    implementation="parfocal.n2v.network:Noise2Void2D",
    validate=check_dataset,
)

N2V_3D = Method(
    name="n2v-3d",
    title="Noise2Void 3D",
    task=v1.TASK_RESTORATION,
    summary="""
        Noise2Void for volumes: removes noise and is trained on the noisy volumes alone, using the planes above and
        below each plane. It is slower than Noise2Void 2D, and better for structures that extend in depth. A movie of
        single planes can be declared a volume whose planes are time points, if little moves from frame to frame.
    """,
    axes="ZYX",
    channel_axes="C",
    frames=True,
    target=v1.TARGET_KIND_NONE,
    work={
        v1.JOB_KIND_TRAINING: Work(Noise2Void3DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(NoisePredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Noisy volumes (planes, height, width) of one kind, raw from the camera or detector: grey, or with channels, each
        of which gets a network of its own. One volume is enough to start: a block of it is held out for validation.
        Clean volumes beside them are used for quality control only.
    """,
    minimum_images=1,
    recommended_images=5,
    presets=quick(
        epochs=10,
        patches_per_image=64,
        batch_size=8,
        patch_size=32,
        patch_depth=8,
        first_filters=16,
        learning_rate=0.001,
        plateau_patience=2,
        masked_percent=1.0,
    ),
    citation=_CITATION,
    licence="BSD-3-Clause",
    documentation="docs/methods/n2v-3d.md",
    implementation="parfocal.n2v.network:Noise2Void3D",
    validate=check_dataset,
)

DENOISEG_2D = Method(
    name="denoiseg-2d",
    title="DenoiSeg 2D",
    task=v1.TASK_INSTANCE_SEGMENTATION,
    summary="""
        Removes noise and finds objects with one network, for noisy images of which only a few are annotated: training
        on the noise of all images helps to find objects. Images whose label image is 0 everywhere count as not
        annotated. With many annotated images StarDist finds roundish objects better. Touching objects lose a pixel
        where they meet.
    """,
    axes="YX",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_TRAINING: Work(DenoiSegParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(DenoiSegPredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Noisy grey images with a label image of the same name and size each: 0 for background, one number for each
        object. If no objects were drawn, the label image is 0 everywhere, and the image is used to train the denoising
        only. About ten annotated images are a good start; at least two are required.
    """,
    minimum_images=2,
    recommended_images=20,
    presets=quick(
        epochs=10,
        patches_per_image=16,
        batch_size=8,
        network_depth=3,
        first_filters=16,
        learning_rate=0.001,
        plateau_patience=3,
    ),
    citation=(
        "Buchholz TO, Prakash M, Schmidt D, Krull A, Jug F. DenoiSeg: joint denoising and segmentation. Computer "
        "Vision - ECCV 2020 Workshops, 324-337 (2020). doi:10.1007/978-3-030-66415-2_21"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/denoiseg-2d.md",
    implementation="parfocal.n2v.denoiseg:DenoiSeg",
    validate=check_dataset,
)

SERVICE = Service(
    name="n2v",
    methods=(N2V_2D, N2V_3D, DENOISEG_2D),
    packages=("n2v", "csbdeep", "tensorflow-cpu", "tensorflow", "keras"),
    framework="tensorflow",
)
