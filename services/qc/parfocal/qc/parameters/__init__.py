"""The parameters of the evaluations; thresholds of a verdict are parameters too. One module for each kind."""

from __future__ import annotations

from parfocal.qc.parameters.comparison import (
    ComparisonParameters,
    ImageComparisonParameters,
    InstanceComparisonParameters,
    SemanticComparisonParameters,
)
from parfocal.qc.parameters.dataset import DatasetParameters, DatasetThresholds
from parfocal.qc.parameters.instances import InstanceParameters, InstanceThresholds
from parfocal.qc.parameters.residuals import ResidualParameters, ResidualThresholds
from parfocal.qc.parameters.restoration import (
    ImageThresholds,
    RestorationParameters,
    RestorationThresholds,
    TranslationParameters,
    TranslationThresholds,
)
from parfocal.qc.parameters.semantic import SemanticParameters, SemanticThresholds

__all__ = [
    "ComparisonParameters",
    "DatasetParameters",
    "DatasetThresholds",
    "ImageComparisonParameters",
    "ImageThresholds",
    "InstanceComparisonParameters",
    "InstanceParameters",
    "InstanceThresholds",
    "ResidualParameters",
    "ResidualThresholds",
    "RestorationParameters",
    "RestorationThresholds",
    "SemanticComparisonParameters",
    "SemanticParameters",
    "SemanticThresholds",
    "TranslationParameters",
    "TranslationThresholds",
]
