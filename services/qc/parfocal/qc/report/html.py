"""A report as one HTML page that needs nothing besides itself: it can be mailed and opened years later."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined

from parfocal.runtime.report.content import SIGNS, Heading, Notice, Picture, Report, Table, Text

_KINDS: Final = {Heading: "heading", Text: "text", Notice: "notice", Table: "table", Picture: "picture"}


def write_html(report: Report, path: Path) -> None:
    """Write a report as one HTML page with its pictures inside; all text is escaped."""
    template = resources.files("parfocal.qc.report").joinpath("template.html").read_text(encoding="utf-8")
    page = (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(template)
        .render(
            report=report,
            blocks=[(_KINDS[type(block)], block) for block in report.blocks],
            signs=SIGNS,
            encoded=lambda picture: base64.b64encode(picture.read_bytes()).decode("ascii"),
        )
    )
    path.write_text(page, encoding="utf-8")
