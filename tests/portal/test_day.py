"""A biologist's day in a real browser: upload, train, watch, read the verdict, predict, take the results home."""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from parfocal import v1
from parfocal.client import Client

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None and not os.environ.get("PARFOCAL_NEEDS_CHROMIUM"):
    pytest.skip("Chromium is not installed: apt-get install chromium", allow_module_level=True)

PAGES = ("", "data", "data/fibres/1", "methods", "train?method=fake-2d&dataset=fibres:1", "models", "models/filter/1")
FURTHER = (
    "predict?model=filter:1&input=fibres:1/test",
    "results",
    "jobs",
    "compare",
    "operator",
    "search?q=fibres",
    "deleted",
)
PROJECT = "day"
# Workers start in seconds on an idle machine, and in many more on one that does other work.
expect.set_options(timeout=60_000)
SIZES = ((1280, 720), (820, 1180))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "PARFOCAL_NEEDS_CHROMIUM is set, but Chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, portal: str) -> Iterator[Page]:
    """A page that allows no error in the browser's console, so no violation of the content security policy either."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 720}, base_url=f"{portal}/p/{PROJECT}/", accept_downloads=True
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    # The browser reports answers to refused forms as errors, too.
    assert [text for text in said if "status of 422" not in text] == []


def test_from_images_to_results_without_a_terminal(
    page: Page, client: Client, pairs_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pairs_folder, tmp_path / "fibres"))
    page.goto("")
    page.get_by_role("link", name="Upload images").first.click()
    page.set_input_files("#pick-folder", folder)
    page.wait_for_url(re.compile("/uploads/"))
    expect(page.get_by_role("heading", name="5 training images, 3 for testing")).to_be_visible()
    page.get_by_label("Name").fill("fibres")
    page.get_by_role("button", name="Save dataset").click()

    page.wait_for_url(re.compile("/data/fibres/1$"))
    page.get_by_role("link", name="Train", exact=True).last.click()
    page.get_by_role("link", name="Choose Fake 2D").click()
    page.get_by_label("Epochs", exact=True).fill("0")
    page.get_by_label("Name of the model").fill("filter")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("alert")).to_contain_text("Epochs")
    assert page.title().startswith("Error: ")
    assert page.get_by_label("Epochs", exact=True).input_value() == "0"
    page.get_by_label("Epochs", exact=True).fill("12")
    page.get_by_text(re.compile(r"^More \(")).click()
    page.get_by_label("Pause", exact=True).fill("0.05")
    page.get_by_role("button", name="Start training").dblclick()

    page.wait_for_url(re.compile("/jobs/"))
    expect(page.locator("#curve canvas")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile(", prediction after"))).to_be_visible()
    trainings = [job for job in client.jobs() if job.WhichOneof("spec") == "training"]
    assert len(trainings) == 1, "a double click is one job"
    assert trainings[0].resolved_parameters["epochs"] == 12

    expect(page.get_by_text(re.compile("quality control: "))).to_be_visible(timeout=90_000)
    page.get_by_role("link", name="Open the model").click()
    expect(page.locator(".verdict .sentence")).to_contain_text("This model")
    expect(page.get_by_role("table").first).to_contain_text("PSNR")
    page.locator("iframe.report").scroll_into_view_if_needed()
    expect(page.frame_locator("iframe.report").locator("h1")).to_be_visible()

    page.get_by_role("link", name="Predict", exact=True).last.click()
    own = sorted((folder / "test" / "source").iterdir())
    page.set_input_files("#pick-files", own)
    page.wait_for_url(re.compile("input=2"))
    page.get_by_role("button", name="Try one").click()
    expect(page.locator(".panes img")).to_have_count(2)
    page.get_by_role("button", name="Predict 3 images").click()
    page.wait_for_url(re.compile("/jobs/"))
    page.get_by_role("link", name="Open the results").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("3 images predicted with filter:1")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        assert {path.name for path in own} < {*archive.namelist()}


def test_every_page_passes_the_checks_of_accessibility_at_both_sizes_and_in_both_themes(
    page: Page, client: Client
) -> None:
    (job,) = [job for job in client.jobs((v1.JOB_STATE_SUCCEEDED,)) if job.WhichOneof("spec") == "training"]
    client.store.write(client.store.results / PROJECT / "_inboxes" / "scope" / "plate" / "a.tif", b"")
    axe, found = Axe(), []
    for number, path in enumerate((*PAGES, *FURTHER, f"jobs/{job.id}", "inboxes?inbox=scope")):
        width, height = SIZES[number % 2]
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(path)
            for violation in axe.run(page).response["violations"]:
                found += [(path, scheme, violation["id"], node["html"][:120]) for node in violation["nodes"]]
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert sideways == 0, f"{path} scrolls sideways at {width} pixels"
    assert found == []


def test_without_scripts_images_come_in_and_forms_go_out(browser: Browser, portal: str, pairs_folder: Path) -> None:
    with browser.new_context(java_script_enabled=False, base_url=f"{portal}/p/{PROJECT}/") as context:
        page = context.new_page()
        page.goto("data")
        page.locator("input[name=images]").set_input_files(sorted((pairs_folder / "train" / "source").iterdir()))
        page.locator("input[name=targets]").set_input_files(sorted((pairs_folder / "train" / "target").iterdir()))
        page.get_by_role("button", name="Upload").click()
        page.get_by_role("link", name="Check and save").click()
        expect(page.get_by_role("heading", name="4 training images, 1 for testing")).to_be_visible()
        page.get_by_label("Name").fill("plain")
        page.get_by_role("button", name="Save dataset").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("plain:1")
