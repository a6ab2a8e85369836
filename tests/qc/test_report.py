"""The report of an evaluation: the same content as PDF and as a page that needs nothing else."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from qc_summaries import summary_of
from support import mentions

from parfocal.qc.evaluation.rows import ScoreRow, write_metrics_csv
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.images.restoration import RestorationScore
from parfocal.qc.report import REPORT_HTML, REPORT_PDF, write_report
from parfocal.qc.report.evaluation import Evaluation, evaluation_report
from parfocal.qc.restoration.judge import judge, summarise
from parfocal.qc.restoration.metrics import METRICS, score_row
from parfocal.qc.restoration.parameters import RestorationParameters
from parfocal.qc.restoration.report import pictures, regions_table
from parfocal.runtime.report.content import Heading, Notice, Picture, Report, Table, Text
from parfocal.runtime.report.pdf import column_widths, longest_text
from parfocal.runtime.store.evaluations import KINDS
from parfocal.runtime.store.manifests import KeptWeights, ModelManifest

HOSTILE = "a<script>alert('&')</script>"


def score(psnr: float) -> RestorationScore:
    return RestorationScore(
        nrmse=0.1, psnr=psnr, ssim=psnr / 40, scale=1, offset=0, pearson=0.9, nrmse_zerocost=0.2, failed=None
    )


def rows(images: int = 4) -> list[ScoreRow]:
    level = {"input": 20.0, "baseline": 27.0, "prediction": 30.0}
    return [
        score_row(
            HOSTILE if number == 0 else f"image_{number}",
            kind,
            score(level[kind] + number),
        )
        for number in range(images)
        for kind in KINDS
    ]


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    verdict = judge(summarise(rows()))
    (tmp_path / "summary.json").write_text(summary_of(rows()).to_json(), encoding="utf-8")
    write_metrics_csv(tmp_path / "metrics.csv", rows(), METRICS)
    save_png(Figure(figsize=(4, 9)), tmp_path / "figure.png")
    model = ModelManifest(
        project="p", model="denoiser", version=3, service="care", method="care-2d", job="j", citation="Weigert 2018",
        parameters={"epochs": 20, "learning_rate": 0.0004, "probabilistic": True}, axes="YX", normaliser={},
        dataset_uri="s3://d/p/w2s/2/", dataset_sha256={"train/source/a.tif": "1", "train/target/a.tif": "2"},
        environment={"packages": {"csbdeep": "0.8.2"}, "device": "CPU", "precision": "float32"},
        training_seconds=600, epochs=20, weights={"best": KeptWeights(epoch=17)},
        warnings=("Only one validation image.",),
    )  # fmt: skip
    return Evaluation(
        prediction="20261122-120000-prediction-mine-4f3a12",
        job="job-1",
        title="Restoration QC",
        citation="von Chamier 2021",
        images_of="test images of the dataset w2s, version 2",
        model=model,
        verdict=verdict,
        thresholds=RestorationParameters(),
        packages={"scipy": "1.17.1"},
        created_at="2026-01-02T03:04:05+00:00",
        folder=tmp_path,
        tables=lambda summary, role: filter(None, [regions_table(summary, role)]),
        pictures=partial(pictures, tmp_path),
    )


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(folder: Path) -> _Page:
    page = _Page()
    page.feed((folder / REPORT_HTML).read_text(encoding="utf-8"))
    return page


def pdf_pages(path: Path) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", path.read_bytes()))


def test_the_page_says_all_that_was_found_and_needs_nothing_else(evaluation: Evaluation) -> None:
    write_report(evaluation_report(evaluation), evaluation.folder)
    page = page_of(evaluation.folder)
    assert "script" not in page.tags
    assert HOSTILE in page.words
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert base64.b64decode(page.links[-1].partition(",")[2]) == (evaluation.folder / "figure.png").read_bytes()
    for text in (
        "Restoration QC: model denoiser, version 3", "Passed", *evaluation.verdict.reasons, "31.50", "28.50",
        "PSNR loss", "Only one validation image.", "csbdeep 0.8.2", "scipy 1.17.1",
        "1 training image", "dataset w2s, version 2", "20 epochs (10 min on CPU",
        "Cite: Weigert 2018", "Cite: von Chamier 2021", "PSNR [dB] 31.50 ± 1.29",
    ):  # fmt: skip
        assert text in page.words, text


def test_targets_are_reported_one_by_one_and_images_counted_once(evaluation: Evaluation) -> None:
    both = {
        role: [score_row(f"{role}/{row.image}", row.kind, score(row.value("psnr") + shift)) for row in rows(3)]
        for role, shift in (("target", 0.0), ("target_DAPI", -15.0))
    }
    summaries = {role: summarise(each) for role, each in both.items()}
    everything = [row for each in both.values() for row in each]
    content = summary_of(everything, targets={role: summary_of(each) for role, each in both.items()})
    (evaluation.folder / "summary.json").write_text(content.to_json(), encoding="utf-8")
    write_metrics_csv(evaluation.folder / "metrics.csv", everything, METRICS)
    save_png(Figure(figsize=(3, 3)), evaluation.folder / "figure_target_DAPI.png")
    save_png(Figure(figsize=(3, 2)), evaluation.folder / "examples_target_DAPI.png")
    write_report(evaluation_report(evaluation), evaluation.folder)
    page = page_of(evaluation.folder)
    words = page.words
    pictures = [base64.b64decode(link.partition(",")[2]) for link in page.links]
    of_dapi = [(evaluation.folder / f"{name}_target_DAPI.png").read_bytes() for name in ("figure", "examples")]
    assert pictures[-2:] == of_dapi  # the first target has no picture of examples
    assert len(pictures) == 5
    assert "3 test images of" in words
    assert "target: PSNR [dB] 31.00 ± 1.00" in words
    assert "target_DAPI: PSNR [dB] 16.00 ± 1.00" in words
    assert "evaluated on 3 test images" in words
    assert f"{summaries['target'].worst.image}, the worst of 3 images by PSNR." in words
    assert f"{summaries['target_DAPI'].worst.image}, the worst of 3 images by PSNR." in words
    assert mentions(words, "median image by PSNR", "order of PSNR")


def test_an_imported_model_is_not_said_to_be_trained_here(evaluation: Evaluation) -> None:
    assert evaluation.model is not None
    imported = evaluation.model.model_copy(update={"origin": "2D_versatile_fluo", "dataset_sha256": {}})
    write_report(evaluation_report(replace(evaluation, model=imported)), evaluation.folder)
    words = page_of(evaluation.folder).words
    assert "imported from 2D_versatile_fluo" in words
    assert "learning_rate" not in words


def test_the_document_has_pages_and_a_title(evaluation: Evaluation) -> None:
    write_report(evaluation_report(evaluation), evaluation.folder)
    document = (evaluation.folder / REPORT_PDF).read_bytes()
    assert document.startswith(b"%PDF-")
    assert b"Restoration QC: model denoiser" in document
    assert pdf_pages(evaluation.folder / REPORT_PDF) >= 3


def test_a_prediction_without_a_model_has_a_report_too(evaluation: Evaluation) -> None:
    write_report(evaluation_report(replace(evaluation, model=None)), evaluation.folder)
    words = page_of(evaluation.folder).words
    assert "How the model" not in words
    assert "Predictions for 4 test images" in words
    assert evaluation.prediction in words


def test_long_tables_names_and_pictures_fit_the_pages(tmp_path: Path) -> None:
    save_png(Figure(figsize=(2, 20)), tmp_path / "tall.png")
    save_png(Figure(figsize=(20, 2)), tmp_path / "wide.png")
    name = "very_long_name_without_any_space_" * 8
    report = Report(
        name,
        {"Job": name},
        [
            Notice("failed", "Failed", tuple("A sentence that explains why. " * 12 for _ in range(30))),
            Heading("Tall"), Picture(tmp_path / "tall.png", name), Picture(tmp_path / "wide.png", "wide"),
            Heading("Long"), Table(("Image", "SSIM"), [(name, "0.5")] * 400, frozenset({"SSIM"}), "all of them"),
            Table(tuple(f"column {number}" for number in range(60)), [["1"] * 60]),
            Notice("note", "Long", ("word " * 4000,)), Text("細胞 and $_$ $x^"),
            Heading("Last"), Text("µ ± ≥ ✓ and Greek σ"), Table(("Empty", "Table"), []),
        ],
    )  # fmt: skip
    write_report(report, tmp_path)
    assert pdf_pages(tmp_path / REPORT_PDF) > 10
    assert page_of(tmp_path).words.count(name) > 400


def test_columns_of_a_table_have_room_for_their_words() -> None:
    columns = ("Metric", "First", "Second", "Difference", "Wilcoxon p", "Mann-Whitney p", "Effect", "Outcome")
    row = (
        "PSNR [dB]",
        "short:1",
        "Gaussian filter",
        "+10.7",
        "0.039",
        "0.00041",
        "-1.00 (-1.00 to -0.30)",
        "second is better",
    )
    widths = column_widths(Table(columns, [row] * 3, frozenset({"Effect"})))
    words = [
        max(longest_text([name], bold=True), longest_text(cell.split()))
        for name, cell in zip((max(name.split(), key=len) for name in columns), row, strict=True)
    ]
    assert all(width >= word + 6 for width, word in zip(widths, words, strict=True))
    assert sum(widths) == pytest.approx(170 / 25.4 * 72)
    assert widths[6] > longest_text([row[6]]) + 6  # numbers with their interval stay on one line


def test_two_small_pictures_fit_a_page(tmp_path: Path) -> None:
    save_png(Figure(figsize=(6, 7)), tmp_path / "overlay.png")
    for small, pages in ((True, 3), (False, 5)):  # the first page has the title besides
        pictures = [Picture(tmp_path / "overlay.png", f"field {number}: F1 0.5.", small) for number in range(5)]
        write_report(Report("Overlays", {"Job": "a"}, pictures), tmp_path)
        assert pdf_pages(tmp_path / REPORT_PDF) == pages


def test_an_image_without_a_number_leaves_its_cell_empty(evaluation: Evaluation) -> None:
    path = evaluation.folder / "metrics.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    heading = lines[0].split(",").index("ssim")
    for number, line in enumerate(lines[1:], start=1):
        if line.startswith("image_1,"):
            cells = line.split(",")
            cells[heading] = ""
            lines[number] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_report(evaluation_report(evaluation), evaluation.folder)
    assert "image_1" in page_of(evaluation.folder).words


def test_scores_inside_and_outside_stand_beside_those_of_the_whole_image(evaluation: Evaluation) -> None:
    inside = {"input": 0.333, "baseline": 0.5, "prediction": 0.711}
    with_parts = [
        replace(
            row,
            values=row.values
            | {"ms_ssim": 0.876, "ms_ssim_inside": inside[row.kind], "ms_ssim_outside": 0.912}
            | {"foreground_fraction": 0.125, "snr_inside": 9.5},
        )
        for row in rows()
    ]
    (evaluation.folder / "summary.json").write_text(summary_of(with_parts).to_json(), encoding="utf-8")
    report = evaluation_report(evaluation)
    (table,) = (block for block in report.blocks if isinstance(block, Table) and "Outside" in block.columns)
    assert table.rows == [
        ("SNR [dB]", "", "9.50", "", "9.50", "9.50"),
        ("MS-SSIM", "0.876", "0.711", "0.912", "0.333", "0.500"),
    ]
    assert "12 % of the image" in table.caption
    write_report(report, evaluation.folder)


def test_definitions_stand_once_and_next_steps_behind_the_verdict(evaluation: Evaluation) -> None:
    verdict = replace(evaluation.verdict, next_steps=("Train longer.",))
    first, second, *rest = evaluation_report(replace(evaluation, verdict=verdict)).blocks
    assert isinstance(first, Notice)
    assert isinstance(second, Notice)
    assert second.sentences == verdict.next_steps
    definition = summary_of(rows()).definition
    assert [block.text for block in rest if isinstance(block, Text)].count(definition) == 1
    assert not any(isinstance(block, Notice) for block in evaluation_report(evaluation).blocks[1:2])
