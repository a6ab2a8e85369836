"""StarDist: detection of star-convex objects such as nuclei (Schmidt et al., 2018), on stardist."""

from __future__ import annotations

from parfocal import v1
from parfocal.runtime.methods.service import Method, Service, Work, quick
from parfocal.stardist.parameters import (
    SplineDist2DParameters,
    StarDist2DParameters,
    StarDist3DParameters,
    StarDistPredictionParameters,
    advise,
    check_dataset,
)

# For tiles with a dozen objects each, all of one field: small patches, and no need to stand other intensities.
_QUICK = quick(
    epochs=14,
    patch_size=64,
    patches_per_image=32,
    batch_size=8,
    network_depth=3,
    first_filters=16,
    learning_rate=0.001,
    plateau_patience=4,
    augment_scale=0,
    augment_offset=0,
    augment_noise=0,
)

STARDIST_2D = Method(
    name="stardist-2d",
    title="StarDist 2D",
    task=v1.TASK_INSTANCE_SEGMENTATION,
    summary="""
        Finds roundish objects one by one, even where they touch: nuclei, round cells, vesicles. It is trained on images
        whose objects are outlined by hand. Objects must not have deep dents (the whole outline must be visible from
        their centre). Images are grey or in colour. The result is a label image, a table of the objects, and their
        outlines for ImageJ.
    """,
    axes="YX",
    channel_axes="SC",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_TRAINING: Work(StarDist2DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(StarDistPredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Two-dimensional images (source) and for each a label image (target) of the same name and size: whole numbers, 0
        for background and one number for each object. Every object must be labelled, including those truncated by the
        border. Ten images with some hundred objects are a start; more variety gives a model that can be trusted on more
        images.
    """,
    minimum_images=2,
    recommended_images=20,
    presets=_QUICK,
    citation=(
        "Schmidt U, Weigert M, Broaddus C, Myers G. Cell detection with star-convex polygons. MICCAI 2018, LNCS 11071, "
        "265-273. doi:10.1007/978-3-030-00934-2_30"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/stardist-2d.md",
    implementation="parfocal.stardist.network:StarDist2D",
    validate=check_dataset,
    advise=advise,
)

SPLINEDIST_2D = Method(
    name="splinedist-2d",
    title="SplineDist 2D",
    task=v1.TASK_INSTANCE_SEGMENTATION,
    summary="""
        StarDist with smooth outlines of any shape: finds objects one by one also where they have dents, waists or arms,
        such as dividing nuclei, bent bacteria or crescents. Its training takes longer than that of StarDist, which is
        as good for round objects. The result is a label image, a table of the objects, their outlines for ImageJ, and
        the control points of the outlines (splines).
    """,
    axes="YX",
    channel_axes="SC",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_TRAINING: Work(SplineDist2DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(StarDistPredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data=STARDIST_2D.data,
    minimum_images=2,
    recommended_images=20,
    presets=_QUICK,
    citation=(
        "Mandal S, Uhlmann V. SplineDist: automated cell segmentation with spline curves. ISBI 2021, 1082-1086. "
        "doi:10.1109/ISBI48211.2021.9433928"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/splinedist-2d.md",
    implementation="parfocal.stardist.splinedist:SplineDist2D",
    validate=check_dataset,
    advise=advise,
)

STARDIST_3D = Method(
    name="stardist-3d",
    title="StarDist 3D",
    task=v1.TASK_INSTANCE_SEGMENTATION,
    summary="""
        StarDist for volumes: finds nuclei and other roundish objects one by one, also where they touch above or beside
        each other. The result is a label volume and a table of the objects.
    """,
    axes="ZYX",
    channel_axes="SC",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_TRAINING: Work(StarDist3DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(StarDistPredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Volumes (planes, height, width; source) and for each a label volume (target) of the same name and size: whole
        numbers, 0 for background and one number for each object. Every object must be labelled, including those
        truncated by the border. A few volumes with some hundred objects are a start; of a single volume a block is held
        out for validation.
    """,
    minimum_images=1,
    recommended_images=10,
    presets=_QUICK,
    citation=(
        "Weigert M, Schmidt U, Haase R, Sugawara K, Myers G. Star-convex polyhedra for 3D object detection and "
        "segmentation in microscopy. WACV 2020, 3655-3662. doi:10.1109/WACV45572.2020.9093435"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/stardist-3d.md",
    implementation="parfocal.stardist.network:StarDist3D",
    validate=check_dataset,
    advise=advise,
)

SERVICE = Service(
    name="stardist",
    methods=(STARDIST_2D, STARDIST_3D, SPLINEDIST_2D),
    packages=("stardist", "csbdeep", "tensorflow-cpu", "tensorflow", "keras"),
    framework="tensorflow",
)
