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
from parfocal.qc.parameters.restoration import (
    ForegroundThresholds,
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
    "ForegroundThresholds",
    "ImageComparisonParameters",
    "InstanceComparisonParameters",
    "InstanceParameters",
    "InstanceThresholds",
    "RestorationParameters",
    "RestorationThresholds",
    "SemanticComparisonParameters",
    "SemanticParameters",
    "SemanticThresholds",
    "TranslationParameters",
    "TranslationThresholds",
]
