"""Reports for people: one content, written as PDF and as a self-contained HTML page.

The content and the PDF are those of `parfocal.runtime.report`; `html.py` writes the page, and `evaluation.py` makes the
report of an evaluation.
"""

from __future__ import annotations

from pathlib import Path

from parfocal.qc.report.html import write_html
from parfocal.runtime.report.content import Report
from parfocal.runtime.report.pdf import write_pdf

__all__ = ["REPORT_HTML", "REPORT_PDF", "Report", "write_report"]

REPORT_HTML = "report.html"
REPORT_PDF = "report.pdf"


def write_report(report: Report, folder: Path) -> None:
    """Write report.pdf and report.html, with the same content, to `folder`."""
    write_html(report, folder / REPORT_HTML)
    write_pdf(report, folder / REPORT_PDF)
