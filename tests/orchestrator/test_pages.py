"""The pages under docs/: one page for each method, all with the same sections, and links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

PAGES = sorted(ROOT.glob("docs/methods/*.md"))
TEMPLATE = ROOT / "deploy/template/docs/methods/NAME-2d.md"

# In this order; a page may have further sections between them.
TRAINED = (
    "When not to use it",
    "Requirements on the images",
    "Parameters of training",
    "Parameters of prediction",
    "How it differs from the original, and why",
    "Outputs",
    "Quality control",
    "Measured results",
)
JUDGING = ("What is scored", "The verdict", "Outputs", "What it cannot tell")
OTHERS = {  # pages that neither train nor give a verdict
    "comparison-qc": ("What is compared", "Outputs", "What it cannot tell"),
    "dataset-qc": ("What is checked", "Outputs", "What it cannot tell"),
    "tiles": (),
}


def expected_sections(page: Path, text: str) -> tuple[str, ...]:
    if page.stem in OTHERS:
        return OTHERS[page.stem]
    return TRAINED if "<!-- parameters:training -->" in text else JUDGING


def headings(text: str) -> list[str]:
    """Return the titles of all sections, without their signs and what code blocks hold."""
    return re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, TEMPLATE], ids=lambda page: page.stem)
def test_a_page_has_the_sections_of_its_kind_in_their_order(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    expected = expected_sections(page, text)
    # Super-resolution is trained on stacks of frames and on coordinates.
    titles = [title.replace("on the data", "on the images") for title in headings(text)]

    assert [title for title in titles if title in expected] == list(expected)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield file and section of the links of a page to others, or to itself."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", link):
            path, _, section = link.partition("#")
            yield ((page.parent / path).resolve() if path else page), section


def anchors(page: Path) -> set[str]:
    """Return what links to sections of a page may name: its titles in the form that GitHub gives them."""
    text = page.read_text(encoding="utf-8")
    plain = [re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", title).lower() for title in headings(text)]
    titles = {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}
    return titles | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("clients/*/README.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_to_files_and_sections_that_exist(page: Path) -> None:
    found = {(file, section, file.exists()) for file, section in links(page)}

    assert not [str(file) for file, _, exists in found if not exists]
    assert not [
        f"{file.name}#{section}"
        for file, section, _ in found
        if section and file.suffix == ".md" and section not in anchors(file)
    ]
