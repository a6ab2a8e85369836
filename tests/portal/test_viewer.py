"""The viewer in a real browser: what it says and paints is what the files hold, with WebGL2 and without."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tifffile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None and not os.environ.get("PARFOCAL_NEEDS_CHROMIUM"):
    pytest.skip("Chromium is not installed: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402
from portal_gallery import Gallery, served, simulated  # noqa: E402

from parfocal.runtime.images.pyramid import INFO  # noqa: E402

VIEWER = "document.querySelector('.viewer').viewer"


@dataclass
class Shown:
    """A page with a viewer, which stands still when its methods return."""

    page: Page
    gallery: Gallery

    def js(self, text: str) -> Any:
        return self.page.evaluate(text)

    def settle(self) -> None:
        """Wait until all tiles in view are there and nothing moves, three times in a row."""
        calm = 0
        for _ in range(300):
            calm = calm + 1 if self.js(f"!!{VIEWER} && !{VIEWER}.busy") else 0
            if calm == 3:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("the viewer did not come to rest in half a minute")

    def press(self, *keys: str) -> None:
        self.page.locator(".viewer").focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def read(self, x: int, y: int) -> dict[str, str]:
        """Move the cursor to a pixel and return the readout by layer, once all values are there."""
        left, top = self.js(f"{VIEWER}.clientPoint({x}, {y})")
        self.page.mouse.move(left, top)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            text = self.page.inner_text(".viewer-readout")
            if text and "…" not in text:
                place, *values = text.split(" | ")
                assert place.startswith(f"y {y} x {x}")
                return {"place": place, **dict(value.split(" ", 1) for value in values)}
            self.page.wait_for_timeout(50)
        raise AssertionError(f"no value at {y}, {x}: {text!r}")

    def colour(self, x: int, y: int) -> list[int]:
        """Return the red, green and blue that are painted at the middle of a pixel of the image."""
        left, top = self.js(f"{VIEWER}.clientPoint({x}, {y})")
        found = self.js(
            f"""(() => {{ const canvas = document.querySelector('.viewer-stage canvas');
            const box = canvas.getBoundingClientRect();
            const at = [Math.floor({left} - box.left), Math.floor({top} - box.top)];
            return [...canvas.getContext('2d').getImageData(...at, 1, 1).data]; }})()"""
        )
        return list(found[:3])


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return simulated(tmp_path_factory.mktemp("gallery"), (640, 700))


@pytest.fixture(scope="module")
def address(gallery: Gallery) -> Iterator[str]:
    with served(gallery.app()) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "PARFOCAL_NEEDS_CHROMIUM is set, but Chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Browser, gallery: Gallery, address: str) -> Iterator[Callable[..., Shown]]:
    """Open the page; nothing may be refused by its policy, and no script may fail."""
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    said: list[str] = []

    def open_page(query: str = "") -> Shown:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{address}/{query}")
        shown = Shown(page, gallery)
        shown.settle()
        return shown

    yield open_page
    context.close()
    assert said == []


def test_values_under_the_cursor_are_those_of_the_files_also_when_zoomed_out(show: Callable[..., Shown]) -> None:
    shown = show()
    files = {name: tifffile.imread(shown.gallery.path("nuclei", name)) for name in shown.gallery.images["nuclei"]}
    rng = np.random.default_rng(0)
    for y, x in zip(rng.integers(10, 600, 20), rng.integers(10, 690, 20), strict=True):
        values = shown.read(int(x), int(y))
        for name, pixels in files.items():
            said = float(values[name].replace(",", ""))
            assert said == pytest.approx(float(pixels[y, x]), rel=6e-4 if pixels.dtype.kind == "f" else 0)


@pytest.mark.parametrize("query", ["", "?cpu"], ids=["webgl2", "processor"])
def test_grey_values_are_painted_by_the_contrast_which_loads_no_tile(show: Callable[..., Shown], query: str) -> None:
    shown = show(query)
    assert shown.js("document.querySelector('.viewer').dataset.renderer") == ("cpu" if query else "webgl2")
    shown.press("9", "o")
    pixels = tifffile.imread(shown.gallery.path("nuclei", "Input")).astype(float)
    asked = shown.gallery.tiles_asked_for
    shown.page.get_by_role("button", name="Contrast").click()
    for black, white, gamma in ((0, 3000, 1), (200, 1500, 1), (0, 3000, 2)):
        for label, value in (("Black", black), ("White", white), ("Gamma", gamma)):
            shown.page.get_by_label(label, exact=True).fill(str(value))
            shown.page.get_by_label(label, exact=True).press("Enter")
        shown.page.wait_for_timeout(300)
        for x, y in ((350, 320), (300, 250), (420, 400), (390, 300)):
            expected = 255 * np.clip((pixels[y, x] - black) / (white - black), 0, 1) ** (1 / gamma)
            assert shown.colour(x, y) == pytest.approx([expected] * 3, abs=1.01)
    shown.page.get_by_label("Look-up table").select_option("green")
    shown.page.wait_for_timeout(300)
    red, green, blue = shown.colour(350, 320)
    assert (red, blue) == (0, 0)
    assert green > 0
    assert shown.gallery.tiles_asked_for == asked


def test_colours_are_painted_as_they_are_stored(show: Callable[..., Shown]) -> None:
    shown = show()
    shown.press("j", "j", "9")
    pixels = tifffile.imread(shown.gallery.path("colours", "Input"))
    for x, y in ((200, 150), (230, 120)):
        assert shown.colour(x, y) == pytest.approx(pixels[y, x].tolist(), abs=1)


def test_planes_are_chosen_by_keys_and_boxes_by_clicks(show: Callable[..., Shown]) -> None:
    shown = show()
    shown.press("j")
    pixels = tifffile.imread(shown.gallery.path("stack", "Input"))
    assert int(shown.read(300, 200)["Input"].replace(",", "")) == pixels[4, 200, 300]
    shown.press(".", ".")
    values = shown.read(300, 200)
    assert values["place"].endswith("z 6")
    assert int(values["Input"].replace(",", "")) == pixels[6, 200, 300]
    box = min(shown.gallery.boxes["stack"], key=lambda each: abs(each["x"] - 300) + abs(each["y"] - 200))
    shown.js("document.addEventListener('viewer:object', (event) => (window.told = event.detail))")
    left, top = shown.js(f"{VIEWER}.clientPoint({box['x'] + 1}, {box['y'] + 1})")
    shown.page.mouse.click(left, top)
    shown.page.wait_for_timeout(300)
    told = shown.js("window.told")
    assert told is not None
    assert shown.js(f"document.querySelector('.viewer-box.selected').dataset.id === '{told['id']}'")


def test_objects_and_table_are_linked_both_ways(show: Callable[..., Shown]) -> None:
    shown = show()
    labels = tifffile.imread(shown.gallery.path("nuclei", "Objects"))
    y, x = (int(np.median(part)) for part in np.nonzero(labels == 14))
    shown.js(f"{VIEWER}.root.dispatchEvent(new CustomEvent('viewer:show', {{detail: {{x: {x}, y: {y}}}}}))")
    shown.settle()
    assert shown.read(x, y)["Objects"] == "14"
    left, top = shown.js(f"{VIEWER}.clientPoint({x}, {y})")
    shown.page.mouse.click(left, top)
    row = shown.page.locator("[data-object='14']")
    row.and_(shown.page.locator("[aria-current=true]")).wait_for(state="attached", timeout=5000)
    shown.page.locator("[data-object='15']").focus()
    shown.page.keyboard.press("Enter")
    shown.page.wait_for_timeout(200)
    assert shown.page.locator("[aria-current=true]").inner_text() == "15"


def test_two_layers_are_swiped_by_keys_at_the_same_place(show: Callable[..., Shown]) -> None:
    shown = show()
    shown.press("+", "+", "w")
    slider = shown.page.get_by_label("Swipe line, percent from the left")
    slider.focus()
    shown.page.keyboard.press("ArrowRight")
    assert slider.input_value() == "51"
    shown.press("ArrowLeft", "-")
    places = shown.js(
        f"{VIEWER}.panes.map((pane) => pane.osd.viewport.getBounds(true)).map((b) => [b.x, b.y, b.width])"
    )
    assert len(places) == 2
    assert places[0] == pytest.approx(places[1])
    shown.press("g")
    assert shown.page.locator(".viewer-pane").count() == 4


def test_an_address_leads_to_the_same_place(show: Callable[..., Shown]) -> None:
    shown = show("#x=300,y=250,zoom=3,z=0,t=0,layout=swipe")
    assert shown.page.locator(".viewer-pane").count() == 2
    box = shown.page.locator(".viewer-area").bounding_box()
    assert box is not None
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    assert shown.js(f"{VIEWER}.clientPoint(300, 250)") == pytest.approx(middle, abs=4)
    shown.page.wait_for_timeout(500)
    assert "zoom=3,z=0,t=0,layout=swipe" in shown.page.url


def test_an_image_whose_tiles_are_being_made_appears_by_itself(show: Callable[..., Shown], gallery: Gallery) -> None:
    shown = show()
    digest = gallery.images["channels"]["Input"].digest
    info = gallery.files.pop((digest, INFO))
    try:
        shown.page.locator(".viewer").focus()
        for _ in range(3):
            shown.page.keyboard.press("j")
            shown.page.wait_for_timeout(200)
        shown.page.get_by_text("The tiles of this image are being made").wait_for(timeout=10_000)
        assert shown.page.locator(".viewer-message img").count() == 1
    finally:
        gallery.files[digest, INFO] = info
    shown.page.locator(".viewer-message").wait_for(state="hidden", timeout=10_000)
    shown.settle()
    assert shown.page.locator(".viewer-caption").inner_text().startswith("Input")
