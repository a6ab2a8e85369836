"""Quality control of translated images without pairs: likeness to real ones, and whether they can be turned back."""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.unpaired.parameters import UnpairedParameters
from parfocal.runtime.methods.service import Method, Work

UNPAIRED = Method(
    name="translation-unpaired",
    title="Unpaired translation QC",
    task=v1.TASK_TRANSLATION,
    summary="""
        Judges images that were turned into another kind without pairs: how far they are, as a set, from real images of
        that kind, beside other real images and beside inputs whose intensities were matched; and whether they can be
        turned back. It can refute a translation, but not prove it: whether the right structures are in the right places
        only pairs can show.
    """,
    axes="YX",
    channel_axes="SC",
    target_channel_axes="SC",
    target=v1.TARGET_KIND_UNPAIRED_IMAGE,
    work={
        v1.JOB_KIND_EVALUATION: Work(UnpairedParameters, "parfocal.qc.unpaired.job:evaluate", needs_device=False),
    },
    data="""
        Test images of both kinds, which the model has not seen in training; their names need not agree. Ten or more of
        each are better, of 64 pixels a side or more.
    """,
    minimum_images=2,
    recommended_images=10,
    citation=(
        "Karras T, Aila T, Laine S, Lehtinen J. Progressive growing of GANs for improved quality, stability, and "
        "variation. International Conference on Learning Representations (2018). arXiv:1710.10196"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/translation-unpaired-qc.md",
)
