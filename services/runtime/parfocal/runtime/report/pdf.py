"""A report as PDF pages in A4."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import matplotlib
from reportlab import rl_config
from reportlab.lib.colors import Color, HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase.pdfmetrics import registerFont, registerFontFamily, stringWidth
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    CondPageBreak,
    Image,
    KeepTogether,
    LongTable,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    TableStyle,
)

from parfocal.runtime.report.content import SIGNS, Block, Heading, Notice, Picture, Report, Table, Text
from parfocal.runtime.report.fonts import FONT, drawable

# Pictures go into the file as they are. Written as text they are a quarter larger, and ReportLab's Python for that took
# a quarter of a whole evaluation.
rl_config.useA85 = 0

_MARGIN: Final = 20 * mm
_WIDTH: Final = A4[0] - 2 * _MARGIN
_MOST_COLUMNS: Final = 12
_KEPT_ROWS: Final = 6
"""Tables of more rows may go on on the next page, if they begin with this much of it."""

_LEAST_TABLE: Final = 50 * mm
_LARGEST_PICTURE: Final = 215 * mm
_SMALL_PICTURE: Final = 112 * mm
_LONGEST_WORD: Final = 45 * mm
"""Room that a single word may ask for: names of files end lines within a word."""

_TABLE_SIZE: Final = 8
_PADDING: Final = 8.0
_GREY: Final = HexColor("#555555")
_LINE: Final = HexColor("#cccccc")
_TONES: Final[dict[str, Color]] = {
    "passed": HexColor("#0072b2"),
    "failed": HexColor("#d55e00"),
    "note": HexColor("#666666"),
}


def write_pdf(report: Report, path: Path) -> None:
    """Write a report as A4 pages with the title in the document's properties and page numbers."""
    register_fonts()
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=18 * mm,
        bottomMargin=20 * mm,
        title=report.title,
        author="Parfocal",
    )
    story: list[Any] = [Paragraph(_escaped(report.title), _style(15, bold=True, after=4 * mm))]
    story += [_facts(report), Spacer(0, 3 * mm)]
    waiting: list[Any] = []  # a heading stays on the page of what it heads
    for block in report.blocks:
        made = _flowables(block)
        if isinstance(block, Heading):
            waiting += made
        elif isinstance(block, Table) and len(block.rows) > _KEPT_ROWS:
            story += [CondPageBreak(_LEAST_TABLE), *waiting, *made]
            waiting = []
        else:
            story.append(KeepTogether([*waiting, *made]))
            waiting = []
    document.build(story + waiting, onFirstPage=_number, onLaterPages=_number)


def _number(canvas: Any, document: Any) -> None:
    canvas.saveState()
    canvas.setFont(FONT, 7.5)
    canvas.setFillColor(_GREY)
    canvas.drawString(_MARGIN, 11 * mm, "Parfocal")
    canvas.drawRightString(A4[0] - _MARGIN, 11 * mm, f"page {document.page}")
    canvas.restoreState()


def _flowables(block: Block) -> list[Any]:
    match block:
        case Heading():
            return [Paragraph(_escaped(block.text), _style(11.5, bold=True, before=5 * mm, after=2 * mm))]
        case Text():
            return [Paragraph(_escaped(block.text), _style(9, after=2.2 * mm))]
        case Notice():
            return [_notice(block), Spacer(0, 3 * mm)]
        case Table():
            return [*_table(block), Spacer(0, 2 * mm)]
        case Picture():
            return [
                _image(block),
                Paragraph(_escaped(block.caption), _style(8, colour=_GREY, before=1.5 * mm, after=4 * mm)),
            ]


def _escaped(text: str) -> str:
    return escape(drawable(text))


def _facts(report: Report) -> LongTable:
    rows = [
        [Paragraph(_escaped(name), _style(9, colour=_GREY)), Paragraph(_escaped(value), _style(9, anywhere=True))]
        for name, value in report.facts.items()
    ]
    style = TableStyle([("LEFTPADDING", (0, 0), (-1, -1), 0), ("TOPPADDING", (0, 0), (-1, -1), 0.5), _top()])
    return LongTable(rows, colWidths=[38 * mm, _WIDTH - 38 * mm], style=style, hAlign="LEFT")


def _notice(notice: Notice) -> LongTable:
    tone = _TONES[notice.tone]
    title = Paragraph(_escaped(SIGNS[notice.tone] + notice.title), _style(11, bold=True, colour=tone))
    rows = [[title], *([Paragraph(_escaped(sentence), _style(9))] for sentence in notice.sentences)]
    style = TableStyle(
        [
            ("BACKGROUND", (0, 0), (-1, -1), HexColor("#f4f4f4")),
            ("LINEBEFORE", (0, 0), (0, -1), 4, tone),
            ("LEFTPADDING", (0, 0), (-1, -1), 10),
        ]
    )
    # A sentence may be longer than a page.
    return LongTable(rows, colWidths=[_WIDTH], style=style, splitInRow=1)


def _table(table: Table) -> list[Any]:
    if len(table.columns) > _MOST_COLUMNS:
        left_out = f"{table.caption} {len(table.columns) - _MOST_COLUMNS} more columns are in the HTML page."
        rows = [row[:_MOST_COLUMNS] for row in table.rows]
        table = Table(table.columns[:_MOST_COLUMNS], rows, table.numbers, left_out.strip())
    aligned = [name in table.numbers for name in table.columns]
    head = [
        Paragraph(_escaped(name), _style(_TABLE_SIZE, bold=True, right=right))
        for name, right in zip(table.columns, aligned, strict=True)
    ]
    body = [
        [
            Paragraph(_escaped(cell), _style(_TABLE_SIZE, right=right, anywhere=not right))
            for cell, right in zip(row, aligned, strict=True)
        ]
        for row in table.rows
    ]
    style = TableStyle(
        [
            ("LINEBELOW", (0, 0), (-1, 0), 0.8, _GREY),
            ("LINEBELOW", (0, 1), (-1, -1), 0.3, _LINE),
            ("LEFTPADDING", (0, 0), (-1, -1), 2),
            ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ("TOPPADDING", (0, 0), (-1, -1), 1.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
            _top(),
        ]
    )
    made: list[Any] = [
        LongTable([head, *body], colWidths=column_widths(table), style=style, repeatRows=1, hAlign="LEFT")
    ]
    if table.caption:
        made.append(Paragraph(_escaped(table.caption), _style(8, colour=_GREY, before=1.5 * mm, after=2 * mm)))
    return made


def column_widths(table: Table) -> list[float]:
    """Share the page's width: each column has room for its longest word, or number; long cells get the rest."""
    least, most = [], []
    for index, name in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        parts = cells if name in table.numbers else [word for cell in cells for word in cell.split()]
        word = min(max(longest_text(name.split(), bold=True), longest_text(parts)), _LONGEST_WORD)
        least.append(word + _PADDING)
        most.append(max(word, min(longest_text(cells), _WIDTH)) + _PADDING)
    if sum(most) <= _WIDTH:
        return [width * _WIDTH / sum(most) for width in most]
    if sum(least) >= _WIDTH:
        return [width * _WIDTH / sum(least) for width in least]
    share = (_WIDTH - sum(least)) / (sum(most) - sum(least))
    return [low + share * (high - low) for low, high in zip(least, most, strict=True)]


def longest_text(texts: Iterable[str], *, bold: bool = False) -> float:
    """Return the width of the longest text in a table, in points."""
    register_fonts()
    font = f"{FONT}-Bold" if bold else FONT
    return max((float(stringWidth(drawable(text), font, _TABLE_SIZE)) for text in texts), default=0.0)


def _image(picture: Picture) -> Image:
    width, height = ImageReader(str(picture.path)).getSize()
    factor = min(_WIDTH / width, (_SMALL_PICTURE if picture.small else _LARGEST_PICTURE) / height)
    return Image(str(picture.path), width * factor, height * factor, hAlign="LEFT")


def _top() -> tuple[Any, ...]:
    return "VALIGN", (0, 0), (-1, -1), "TOP"


def _style(
    size: float,
    *,
    bold: bool = False,
    right: bool = False,
    anywhere: bool = False,
    colour: Color | None = None,
    before: float = 0,
    after: float = 0,
) -> ParagraphStyle:
    """Return a paragraph style; `anywhere` lets a line end within a word, as long file names need."""
    options: dict[str, Any] = {}
    if colour is not None:
        options["textColor"] = colour
    if right:
        options["alignment"] = TA_RIGHT
    return ParagraphStyle(
        "",
        fontName=f"{FONT}-Bold" if bold else FONT,
        fontSize=size,
        leading=size * 1.35,
        spaceBefore=before,
        spaceAfter=after,
        splitLongWords=1,
        wordWrap="CJK" if anywhere else None,
        **options,
    )


@cache
def register_fonts() -> None:
    """Register the fonts of reports with ReportLab, once in a process."""
    # The fonts of Matplotlib: PDF's own have no Greek letters, and a report must look the same everywhere.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in (FONT, f"{FONT}-Bold"):
        registerFont(TTFont(name, str(folder / f"{name}.ttf")))
    registerFontFamily(FONT, normal=FONT, bold=f"{FONT}-Bold", italic=FONT, boldItalic=f"{FONT}-Bold")
