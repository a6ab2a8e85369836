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
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from support import publish_model, wait_for

from parfocal import v1
from parfocal.client import Client
from parfocal.client.datasets import create_dataset
from parfocal.runtime.settings import Settings

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
# A hidden tab lets its stream of events go, and takes it up again when it is shown.
LEAVE = """() => {
    Object.defineProperty(document, "hidden", { value: true, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
COME_BACK = """() => { delete document.hidden; document.dispatchEvent(new Event("visibilitychange")); }"""
# What can be pressed but not reached by the keyboard.
UNREACHABLE = """[...document.querySelectorAll("a[href], button, input, select, textarea, summary, [data-viewer]")]
    .filter((each) => each.offsetParent && !each.disabled && each.tabIndex < 0)
    .filter((each) => !each.querySelector("a[href], button"))
    .map((each) => each.outerHTML.slice(0, 120))"""
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
    page.on(
        "console",
        lambda message: (
            said.append(f"{message.text} {message.location.get('url', '')}") if message.type == "error" else None
        ),
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    # The browser reports answers to refused forms, and a lost connection, as errors, too; htmx what it gave up. A
    # picture of a training may have made room for a newer one.
    expected = r"status of 422|ERR_INTERNET_DISCONNECTED|^htmx:(afterRequest|sendError|sendAbort)|/pictures/\d+-\d+/"
    assert [text for text in said if not re.search(expected, text)] == []


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
    page.get_by_label("Epochs", exact=True).fill("24")
    page.get_by_text(re.compile(r"^More \(")).click()
    page.get_by_label("Pause", exact=True).fill("0.1")
    page.get_by_role("button", name="Start training").dblclick()

    page.wait_for_url(re.compile("/jobs/"))
    expect(page.locator("#curve canvas")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile(", prediction after"))).to_be_visible()
    trainings = [job for job in client.jobs() if job.WhichOneof("spec") == "training"]
    assert len(trainings) == 1, "a double click is one job"
    assert trainings[0].resolved_parameters["epochs"] == 24

    # The connection is lost and found: the page says so, and misses no epoch.
    lost = page.locator(".offline")
    page.context.set_offline(offline=True)
    page.evaluate(LEAVE)
    page.evaluate(COME_BACK)
    expect(lost).to_contain_text("Connection lost at")
    page.context.set_offline(offline=False)
    expect(lost).to_be_hidden()

    expect(page.get_by_text(re.compile("quality control: "))).to_be_visible(timeout=300_000)
    assert page.evaluate("document.querySelector('#job').epochs()") == [*range(1, 25)]
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


def test_files_that_are_chosen_before_the_scripts_have_come_are_uploaded(page: Page, pairs_folder: Path) -> None:
    held: list[Route] = []
    page.route("**/static/portal.js", lambda route: held.append(route), times=1)
    page.goto("data", wait_until="commit")
    page.locator("#pick-folder").wait_for(state="attached")
    page.set_input_files("#pick-folder", pairs_folder)
    wait_for(lambda: page.wait_for_timeout(20) or held, 30, "the request for the script")
    held[0].continue_()
    page.wait_for_url(re.compile("/uploads/"))


def test_every_page_passes_the_checks_of_accessibility_at_both_sizes_and_in_both_themes(
    page: Page, client: Client, settings: Settings, pairs_folder: Path
) -> None:
    (job,) = [job for job in client.jobs((v1.JOB_STATE_SUCCEEDED,)) if job.WhichOneof("spec") == "training"]
    client.store.write(client.store.results / PROJECT / "_inboxes" / "scope" / "plate" / "a.tif", b"")
    with Client(settings.model_copy(update={"project": "day-b"})) as other:
        create_dataset(other, "beads", pairs_folder)
        publish_model(client.store, "theirs", other.dataset_uri("beads:1"), project="day-b")
        other.catalog.share("dataset", "beads", PROJECT)
        other.catalog.share("model", "theirs", PROJECT)
    # An inbox that is being fetched, of which a file cannot be read.
    page.goto("inboxes?inbox=scope")
    page.get_by_role("button", name="Take").first.press("Enter")
    page.wait_for_url(re.compile("/uploads/"))
    fetching = page.url
    # Pictures while training are chosen by the keyboard.
    page.goto(f"jobs/{job.id}")
    earlier = page.get_by_role("navigation", name="Pictures after other epochs").get_by_role("link").first
    earlier.press("Enter")
    expect(earlier).to_have_attribute("aria-current", "true")
    axe, found = Axe(), []

    def look(path: str, scheme: str) -> None:
        for violation in axe.run(page).response["violations"]:
            found.extend((path, scheme, violation["id"], node["html"][:120]) for node in violation["nodes"])
        found.extend((path, "keyboard", "unreachable", html) for html in page.evaluate(UNREACHABLE))

    # An estimate follows the form.
    page.goto("train?method=fake-2d&dataset=fibres:1")
    page.get_by_text(re.compile(r"^More \(")).press("Enter")
    page.get_by_label("Pause", exact=True).fill("0.1")
    page.keyboard.press("Tab")
    expect(page.locator("#estimate .estimate")).to_contain_text("About")
    look("train with an estimate", "light")
    shared = ("data/day-b~beads/1", "models/day-b~theirs/1", "train?method=fake-2d&dataset=day-b/beads:1")
    more = (f"jobs/{job.id}", "inboxes?inbox=scope", fetching, *shared, "share/model/filter")
    for number, path in enumerate((*PAGES, *FURTHER, *more)):
        width, height = SIZES[number % 2]
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(path)
            look(path, scheme)
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
