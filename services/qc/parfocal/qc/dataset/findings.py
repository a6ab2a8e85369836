"""Findings: sentences that say what is wrong, in which images, and what to do."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

Severity = Literal["error", "warning", "note"]

SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
"""error: models trained or judged on the data will be wrong. warning: probably worse. note: worth knowing."""

_NAMED: Final = 5


@dataclass(frozen=True)
class Finding:
    """One statement about a dataset.

    Attributes
    ----------
    severity
        See `SEVERITIES`.
    check
        Short name of the check, as sheets and tables show it.
    text
        Sentences: what was found, in which images, and what to do.
    images
        Labels of all the images concerned; empty where it is the dataset as a whole.
    """

    severity: Severity
    check: str
    text: str
    images: tuple[str, ...] = ()


class Checks:
    """Checks that found something, by image; looked up without going through all findings again."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self._findings = in_order(findings)
        self._by_image: dict[str, list[int]] = {}
        for index, finding in enumerate(self._findings):
            for label in finding.images:
                self._by_image.setdefault(label, []).append(index)

    def of(self, labels: Iterable[str]) -> tuple[tuple[Severity, str], ...]:
        """Return severity and name of the checks that found something in these images, the worst first, each once."""
        worst: dict[str, Severity] = {}
        for index in sorted({index for label in labels for index in self._by_image.get(label, ())}):
            worst.setdefault(self._findings[index].check, self._findings[index].severity)
        return tuple((severity, check) for check, severity in worst.items())


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return errors first, then warnings, then notes."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def named(labels: Sequence[str], details: Sequence[str] = ()) -> str:
    """Return the first five labels, each with its detail in brackets, and how many more there are."""
    texts = [f"{label} ({detail})" for label, detail in zip(labels, details, strict=True)] if details else labels
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"{', '.join(texts[:_NAMED])}{more}"


def write_findings_csv(path: Path, findings: Iterable[Finding]) -> None:
    """Write one line for each finding, UTF-8."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["severity", "check", "finding", "images"])
        for finding in findings:
            writer.writerow([finding.severity, finding.check, finding.text, "; ".join(finding.images)])


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as plain JSON types."""
    return {**asdict(finding), "images": list(finding.images)}
