"""Cellpose: cells of any shape, found by flows towards their middles (Stringer et al., 2021), on cellpose 3."""

from __future__ import annotations

from parfocal import v1
from parfocal.cellpose.parameters import (
    Cellpose2DParameters,
    Cellpose3DParameters,
    Cellpose3DPredictionParameters,
    CellposePredictionParameters,
    advise,
    check_dataset,
)
from parfocal.runtime.methods.service import Method, Service, Work, quick

_CITATION = (
    "Stringer C, Wang T, Michaelos M, Pachitariu M. Cellpose: a generalist algorithm for cellular segmentation. Nature "
    "Methods 18, 100-106 (2021). doi:10.1038/s41592-020-01018-x"
)
# For tiles with a dozen objects each, all of one field: small patches, and no need to stand other intensities.
_QUICK = {"first_filters": 8, "augment_scale": 0, "augment_offset": 0, "augment_noise": 0}

CELLPOSE_2D = Method(
    name="cellpose-2d",
    title="Cellpose 2D",
    task=v1.TASK_INSTANCE_SEGMENTATION,
    summary="""
        Finds objects of any shape one by one: whole cells with long processes and dents as well as nuclei. It is
        trained on images whose objects are outlined by hand, and predicts for each pixel the direction to the centre of
        its object. A second channel with nuclei helps to tell touching cells apart. The result is a label image, a
        table of the objects, and their outlines for ImageJ. For round objects StarDist is an alternative.
    """,
    axes="YX",
    channel_axes="CS",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_TRAINING: Work(Cellpose2DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(CellposePredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Two-dimensional images (source), grey, in colour, or with two channels, first the cytoplasm and then the nuclei,
        and for each a label image (target) of the same name and size: whole numbers, 0 for background and one number
        for each object. Every object must be labelled, including those truncated by the border. Ten images with some
        hundred objects are a start; more variety gives a model that can be trusted on more images.
    """,
    minimum_images=2,
    recommended_images=20,
    presets=quick(**_QUICK, epochs=20, patch_size=96, patches_per_image=16, batch_size=8),
    citation=_CITATION,
    licence="BSD-3-Clause",
    documentation="docs/methods/cellpose-2d.md",
    implementation="parfocal.cellpose.network:Cellpose2D",
    validate=check_dataset,
    advise=advise,
)

CELLPOSE_3D = Method(
    name="cellpose-3d",
    title="Cellpose 3D",
    task=v1.TASK_INSTANCE_SEGMENTATION,
    summary="""
        Cellpose for volumes: finds objects of any shape one by one. The network sees single planes of three
        orientations, so that few volumes are enough to train it; the directions predicted in all planes together give
        the objects. If planes are few and far apart, objects are found plane by plane and joined. The result is a label
        volume and a table of the objects.
    """,
    axes="ZYX",
    channel_axes="CS",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_TRAINING: Work(Cellpose3DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(Cellpose3DPredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Volumes (planes, height, width; source), perhaps with two channels, first the cytoplasm and then the nuclei, and
        for each a label volume (target) of the same name and size: whole numbers, 0 for background and one number for
        each object. Every object must be labelled, including those truncated by the border. A few volumes with some
        hundred objects are a start; of a single volume a block is held out for validation.
    """,
    minimum_images=1,
    recommended_images=10,
    presets=quick(**_QUICK, epochs=20, patch_size=64, patches_per_image=16, batch_size=4),
    citation=_CITATION,
    licence="BSD-3-Clause",
    documentation="docs/methods/cellpose-3d.md",
    implementation="parfocal.cellpose.network:Cellpose3D",
    validate=check_dataset,
    advise=advise,
)

SERVICE = Service(
    name="cellpose", methods=(CELLPOSE_2D, CELLPOSE_3D), packages=("cellpose", "torch"), framework="torch"
)
