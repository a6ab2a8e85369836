"""Predict, correct with the mouse, save, fine-tune and compare, in a real browser and without a terminal."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None and not os.environ.get("PARFOCAL_NEEDS_CHROMIUM"):
    pytest.skip("Chromium is not installed: apt-get install chromium", allow_module_level=True)

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from example_data import write_kind  # noqa: E402
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

from parfocal import v1  # noqa: E402
from parfocal.client import Client  # noqa: E402
from parfocal.client.datasets import create_dataset, read_dataset  # noqa: E402
from parfocal.client.requests import prediction_request, training_request  # noqa: E402
from parfocal.client.results import upload_inputs  # noqa: E402
from parfocal.runtime.datasets.annotations.voc import parse_voc  # noqa: E402
from parfocal.runtime.datasets.findings import Notes  # noqa: E402

SERVICES = ("kinds", "qc")
PROJECT = "annotate"
VIEWER = "document.querySelector('.viewer').viewer"
Point = tuple[float, float]
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "PARFOCAL_NEEDS_CHROMIUM is set, but Chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Desk:
    """One window with a draft."""

    def __init__(self, browser: Browser, portal: str) -> None:
        self.said: list[str] = []
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 900}, base_url=f"{portal}/p/{PROJECT}/", accept_downloads=True
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def settle(self) -> None:
        """Wait until the viewer stands still and everything that was drawn is saved."""
        ready = f"!!{VIEWER} && !{VIEWER}.busy && document.querySelector('.viewer').dataset.pending === '0'"
        calm = 0
        for _ in range(1200):
            calm = calm + 1 if self.page.evaluate(ready) else 0
            if calm == 3:
                return
            self.page.wait_for_timeout(50)
        text = self.page.locator(".viewer-notice").text_content()
        raise AssertionError(f"the viewer did not come to rest: {text!r}, {self.said}")

    def shows(self, *, drawn: bool = False) -> None:
        """Wait until a viewer in which nothing is drawn has painted an image; where `drawn`, with its labels."""
        ready = f"!!{VIEWER} && !{VIEWER}.busy" + (f" && !!{VIEWER}.labels" if drawn else "")
        for _ in range(1200):
            if self.page.evaluate(ready):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"the viewer shows nothing: {self.page.locator('.viewer-message').text_content()!r}")

    def at(self, point: Point) -> tuple[float, float]:
        """Where a place of the image is in the window; (0, 0) is the corner of the first pixel."""
        left, top = self.page.evaluate(f"{VIEWER}.clientPoint({point[0] - 0.5}, {point[1] - 0.5})")
        return left, top

    def tool(self, key: str) -> None:
        self.page.locator(".viewer").focus()
        self.page.keyboard.press(key)

    def size(self, pixels: int) -> None:
        self.page.get_by_label("Brush size").fill(str(pixels))
        self.page.get_by_label("Brush size").press("Tab")

    def click(self, point: Point) -> None:
        self.page.mouse.click(*self.at(point))

    def drag(self, *points: Point, refused: bool = False) -> None:
        self.page.mouse.move(*self.at(points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(point), steps=4)
        self.page.mouse.up()
        self.settle()
        assert refused == self.page.locator(".viewer-notice").is_visible(), self.page.locator(
            ".viewer-notice"
        ).text_content()

    def labels(self, draft: str, image: str) -> NDArray[Any]:
        """The label image as the portal hands it out."""
        answer = self.page.request.get(f"annotate/{draft}/images/{image}/labels.tif")
        return tifffile.imread(io.BytesIO(answer.body()))

    def shown(self, x: int, y: int) -> int:
        """The label that the viewer shows at a pixel."""
        found: int = self.page.evaluate(f"{VIEWER}.labels.peek({x}, {y}, {VIEWER}.plane)[0]")
        return found


@pytest.fixture
def desk(browser: Browser, portal: str) -> Iterator[Desk]:
    desk = Desk(browser, portal)
    yield desk
    desk.context.close()
    assert [text for text in desk.said if not re.search("status of 4(09|12|22)", text)] == []


@pytest.fixture(scope="module")
def predicted(client: Client, nuclei_folder: Path) -> str:
    """The id of a prediction of the training images of a small dataset with nuclei."""
    create_dataset(client, "nuclei", nuclei_folder)
    job = client.start(training_request("tiny-labels", client.dataset_uri("nuclei"), "finder", {"epochs": 6}))
    assert client.wait(job.id).state == v1.JOB_STATE_SUCCEEDED
    uri = client.dataset_uri("nuclei:1")
    predicted = client.wait(client.start(prediction_request(client.model_uri("finder"), uri, {}, split="train")).id)
    assert predicted.state == v1.JOB_STATE_SUCCEEDED, predicted.error.text
    return str(predicted.id)


def disc(shape: tuple[int, ...], points: list[Point], size: float) -> NDArray[np.bool_]:
    """The pixels whose centres are within half a size of a path, one by one."""
    found = np.zeros(shape, bool)
    for row, column in np.ndindex(*shape):
        for (x0, y0), (x1, y1) in zip(points, points[1:] or points, strict=False):
            steps = max(1, round(20 * math.hypot(x1 - x0, y1 - y0)))
            for step in range(steps + 1):
                x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
                found[row, column] |= math.hypot(column + 0.5 - x, row + 0.5 - y) <= size / 2
    return found


def test_ten_mouse_corrections_give_the_expected_labels_and_the_loop_ends_in_a_comparison(
    desk: Desk, client: Client, predicted: str, tmp_path: Path
) -> None:
    page = desk.page
    page.goto(f"results/{predicted}")
    page.get_by_role("button", name="Correct").click()
    page.wait_for_url(re.compile("/annotate/"))
    draft = page.url.rsplit("/", 1)[-1].partition("#")[0]
    expect(page.get_by_text("Least certain first")).to_be_visible()
    order = page.locator("[data-draft-image]").evaluate_all("items => items.map(item => item.dataset.draftImage)")
    expect(page.locator(".viewer-title")).to_contain_text(order[0])
    desk.settle()
    image = order[0]
    expected = desk.labels(draft, image).astype(np.uint32)
    free = int(expected.max()) + 1

    # 1: a polygon whose corners lie between pixels, over whatever is there; other objects stay.
    desk.page.get_by_label("protect others").uncheck()
    desk.tool("p")
    for point in ((10, 10), (40, 10), (40, 30), (10, 30)):
        desk.click(point)
    page.keyboard.press("Enter")
    desk.settle()
    expected[10:30, 10:40] = free
    np.testing.assert_array_equal(desk.labels(draft, image), expected)
    desk.page.get_by_label("protect others").check()

    # 2: a hole, which takes the eraser; 3: filled again.
    desk.size(3)
    desk.tool("e")
    desk.click((15.5, 15.5))
    desk.settle()
    hole = disc(expected.shape, [(15.5, 15.5)], 3)
    expected[hole] = 0
    np.testing.assert_array_equal(desk.labels(draft, image), expected)
    desk.tool("v")
    desk.click((20.5, 20.5))
    expect(page.locator(".viewer-chosen")).to_have_text(f"object {free}")
    desk.tool("f")
    desk.settle()
    expected[hole] = free
    np.testing.assert_array_equal(desk.labels(draft, image), expected)

    # 4: split by a line; the larger part keeps the number and the pixels below the line.
    desk.tool("s")
    desk.drag((30.5, 5.5), (30.5, 34.5))
    expected[10:30, 31:40] = free + 1
    np.testing.assert_array_equal(desk.labels(draft, image), expected)
    assert desk.shown(35, 20) == free + 1

    # 5: a new object by the brush, protected from the others; 6: extended from inside.
    desk.tool("e")
    desk.size(40)
    desk.drag((1.5, 62.5), (78.5, 62.5))
    band = disc(expected.shape, [(1.5, 62.5), (78.5, 62.5)], 40)
    expected = desk.labels(draft, image).astype(np.uint32)
    assert not expected[band].any()
    desk.size(5)
    desk.tool("b")
    desk.drag((20.5, 52.5), (30.5, 52.5))
    expected[disc(expected.shape, [(20.5, 52.5), (30.5, 52.5)], 5) & (expected == 0)] = free + 2
    np.testing.assert_array_equal(desk.labels(draft, image), expected)
    desk.drag((30.5, 52.5), (30.5, 58.5))
    expected[disc(expected.shape, [(30.5, 52.5), (30.5, 58.5)], 5) & (expected == 0)] = free + 2
    np.testing.assert_array_equal(desk.labels(draft, image), expected)

    # 7: an outline in one go.
    desk.tool("d")
    desk.drag((50, 50), (60, 50), (60, 58), (50, 58), (50, 51))
    expected[50:58, 50:60] = free + 3
    np.testing.assert_array_equal(desk.labels(draft, image), expected)

    # 8: two become one; 9: another is removed; 10: Alt makes the brush an eraser.
    desk.tool("m")
    desk.click((20.5, 20.5))
    expect(page.locator(".viewer-chosen")).to_have_text(f"object {free}: click another one")
    desk.click((55.5, 55.5))
    desk.settle()
    expect(page.locator(".viewer-notice")).to_be_hidden()
    expected[50:58, 50:60] = free
    np.testing.assert_array_equal(desk.labels(draft, image), expected)
    desk.tool("v")
    desk.click((25.5, 52.5))
    desk.tool("Delete")
    desk.settle()
    expected[expected == free + 2] = 0
    np.testing.assert_array_equal(desk.labels(draft, image), expected)
    desk.tool("b")
    page.keyboard.down("Alt")
    desk.drag((52.5, 46.5), (52.5, 62.5))
    page.keyboard.up("Alt")
    expected[disc(expected.shape, [(52.5, 46.5), (52.5, 62.5)], 5)] = 0
    final = desk.labels(draft, image)
    np.testing.assert_array_equal(final, expected)
    assert desk.shown(55, 55) == free

    # Every step can be undone and done again, and the browser may go away.
    steps = client.catalog.draft_image(draft, image).applied
    for _ in range(steps):
        page.keyboard.press("Control+z")
    desk.settle()
    assert client.catalog.draft_image(draft, image).applied == 0
    page.keyboard.press("Control+y")
    desk.settle()
    page.reload()
    desk.settle()
    for _ in range(steps - 1):
        desk.tool("Control+y")
    desk.settle()
    np.testing.assert_array_equal(desk.labels(draft, image), final)
    assert desk.shown(55, 55) == free

    # Done, and the next one; labels come back from another program.
    page.get_by_role("button", name="Done, next").click()
    expect(page.locator(".viewer-title")).to_contain_text(order[1])
    expect(page.locator("[data-draft-done]")).to_have_text("1")
    desk.settle()
    page.get_by_text("Fiji and napari").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all labels").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert {*archive.namelist()} == {f"{Path(name).stem}.tif" for name in order}
    brought = np.zeros(final.shape, np.uint16)
    brought[5:9, 5:9], brought[20:40, 20:40] = 7, 300
    for number in range(1, 5):
        tifffile.imwrite(tmp_path / f"{Path(order[number]).stem}.tif", brought)
    page.set_input_files("#bring", sorted(tmp_path.iterdir()))
    page.get_by_role("button", name="Bring back").click()
    expect(page.locator('[data-state="changed"]')).to_have_count(4)
    desk.settle()
    np.testing.assert_array_equal(desk.labels(draft, order[2]), brought)
    for name in order[1:]:
        page.get_by_role("button", name=name).click()
        expect(page.locator(".viewer-title")).to_contain_text(name)
        desk.settle()
        desk.tool("n")
        desk.settle()

    # A new version of the dataset, whose images are those that were done, with their numbers.
    page.get_by_role("link", name="Finish").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("5 images are ready")
    page.get_by_label("Name").fill("nuclei")
    page.get_by_label("For training, and every").check()
    page.get_by_role("button", name="Save as a new dataset version").click()
    page.wait_for_url(re.compile("/data/nuclei/2$"))
    manifest = read_dataset(client, "nuclei:2")
    assert (manifest.kind, manifest.draft) == ("labels", draft)
    assert manifest.parent == client.catalog.entry("result", predicted).uri
    assert manifest.source_model == client.model_uri("finder:1")
    assert manifest.counts["train"]["images"] == 4
    stem = Path(image).stem
    (entry,) = [each for each in manifest.images if each.role == "target" and each.stem == stem]
    stored = client.catalog.read(client.dataset_uri("nuclei:2"), entry.file)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(stored)), final)
    lineage = client.catalog.lineage("dataset", "nuclei:2")
    assert {"parent", "source_model"} <= {each.role for each in lineage.relations}

    # Fine-tune and compare.
    page.get_by_role("link", name="Fine-tune finder:1").click()
    expect(page.get_by_label("Begin with")).to_have_value("finder:1")
    page.get_by_label("Epochs", exact=True).fill("3")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile("/jobs/"))
    page.get_by_role("link", name="Open the model").click(timeout=300_000)
    expect(page.get_by_role("heading", level=1)).to_contain_text("finder:2")
    page.get_by_role("link", name="compare", exact=True).first.click()
    page.wait_for_url(re.compile("a=finder:1&b=finder:2&dataset=nuclei:2"))
    expect(page.get_by_role("heading", level=1)).to_have_text("finder:1 against finder:2")
    page.get_by_role("button", name="Compare them").click()
    expect(page.get_by_role("heading", name="Side by side")).to_be_visible(timeout=300_000)
    side_by_side = page.locator("#compared-images")
    for name in ("Input", "finder:1", "finder:2", "Target"):
        expect(side_by_side.locator(".viewer-pane").filter(has_text=name)).to_be_visible()
    page.get_by_role("table", name="of every test image").get_by_role("button").first.press("Enter")
    violations = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:120]) for each in violations] == []


def test_two_windows_do_not_overwrite_each_other(
    desk: Desk, browser: Browser, portal: str, client: Client, predicted: str
) -> None:
    page = desk.page
    page.goto("data/nuclei/1")
    page.locator("#annotate button").click()
    page.wait_for_url(re.compile("/annotate/"))
    draft = page.url.rsplit("/", 1)[-1].partition("#")[0]
    desk.settle()
    image = page.locator("[data-draft-image]").first.get_attribute("data-draft-image") or ""
    before = desk.labels(draft, image)
    desk.size(4)
    desk.tool("b")
    desk.drag((3.5, 3.5), (10.5, 3.5))
    other = Desk(browser, portal)
    other.page.goto(f"annotate/{draft}")
    other.settle()
    expect(other.page.get_by_role("alert")).to_contain_text("is editing this image")
    other.tool("b")
    other.drag((3.5, 60.5), (10.5, 60.5), refused=True)
    assert client.catalog.draft_image(draft, image).steps == 1, "what is being edited elsewhere is only looked at"
    other.page.get_by_role("button", name="Take over").click()
    expect(other.page.get_by_role("alert")).to_be_hidden()
    other.size(4)
    other.tool("b")
    other.drag((3.5, 60.5), (10.5, 60.5))
    assert client.catalog.draft_image(draft, image).steps == 2

    # The first window draws on what it saw: nothing is overwritten, and nothing is lost.
    page.mouse.move(*desk.at((70.5, 3.5)))
    page.mouse.down()
    page.mouse.move(*desk.at((75.5, 3.5)), steps=3)
    page.mouse.up()
    expect(page.get_by_role("alert")).to_contain_text("in another window")
    assert client.catalog.draft_image(draft, image).steps == 2
    page.get_by_role("button", name="Take over").click()
    desk.settle()
    assert client.catalog.draft_image(draft, image).steps == 3
    after = desk.labels(draft, image)
    assert (after[[3, 60, 3], [5, 5, 73]] > 0).all()
    assert np.count_nonzero(after != before) > 30
    other.context.close()


def api(desk: Desk, method: str, path: str, revision: int | None = None, **content: Any) -> Any:
    """Send what a page sends, without the page; return the answer's JSON, or its text where it is none."""
    origin = re.match(r"https?://[^/]+", desk.page.url)
    assert origin
    token = desk.page.get_attribute("meta[name=csrf]", "content") or ""
    headers = {"X-CSRF-Token": token, "Origin": origin.group(), "Accept": "application/json"}
    if revision is None:
        answer = desk.page.request.fetch(path, method=method, form={"csrf": token, **content}, headers=headers)
    else:
        headers |= {"If-Match": f'"{revision}"'}
        answer = desk.page.request.fetch(path, method=method, data=content, headers=headers)
    assert answer.ok, answer.text()
    return answer.json() if "json" in answer.headers["content-type"] else answer.url


def test_own_images_are_corrected_and_become_a_dataset(
    desk: Desk, client: Client, predicted: str, nuclei_folder: Path
) -> None:
    request_id = "own-images"
    paths = sorted((nuclei_folder / "test" / "source").iterdir())
    uri = upload_inputs(client, request_id, paths)
    model = client.model_uri("finder:1")
    job = client.wait(client.start(prediction_request(model, uri, {}, request_id=request_id)).id)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    desk.page.goto("data")
    draft = api(desk, "POST", "annotate", result=request_id, request_id="own").rsplit("/", 1)[-1]
    config = desk.page.request.get(f"annotate/{draft}/viewer.json").json()
    assert {each["name"] for each in config["images"]} == {path.name for path in paths}
    name, source = paths[0].name, tifffile.imread(paths[0])
    (info,) = [each["layers"][0]["info"] for each in config["images"] if each["name"] == name]
    known = desk.page.request.get(info).json()
    assert (known["kind"], known["shape"]) == ("intensities", list(source.shape))
    tile = desk.page.request.get(info.replace("/info", f"/{known['digest']}/0/0/0/0/0/0")).body()
    np.testing.assert_array_equal(np.frombuffer(tile, source.dtype).reshape(source.shape), source)
    api(desk, "PATCH", f"annotate/{draft}/images/{name}", 0, change_id="c1", session="api", done=True)
    assert api(desk, "POST", f"annotate/{draft}/finish", name="own", use="train").endswith("/data/own/1")
    manifest = read_dataset(client, "own:1")
    assert [(image.role, image.stem) for image in manifest.images] == [
        ("source", paths[0].stem),
        ("target", paths[0].stem),
    ]
    kept = client.catalog.read(client.dataset_uri("own:1"), manifest.images[0].file)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(kept)), source)


def test_areas_of_classes_are_called_by_their_names(desk: Desk, client: Client, predicted: str, tmp_path: Path) -> None:
    folder = write_kind(tmp_path / "areas", "classes")
    create_dataset(client, "areas", folder, kind="classes", class_names={1: "nucleus"})
    page = desk.page
    page.goto("data/areas/1")
    legend = page.locator(".viewer-legend")
    expect(legend).to_contain_text("nucleus", timeout=120_000)
    desk.shows()
    target = tifffile.imread(folder / "train" / "target" / "field0.tif")
    row, column = np.argwhere(ndimage.binary_erosion(target == 1, np.ones((5, 5))))[0]
    page.get_by_role("button", name="Target", exact=True).click()
    desk.shows()
    page.wait_for_timeout(500)
    place = desk.at((column + 0.5, row + 0.5))
    page.mouse.move(*place)
    expect(page.locator(".viewer-readout")).to_contain_text("Target 1 nucleus")
    # The colours of the legend are those of the picture: the first class has the first one of the palette.
    shown = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    patch = legend.locator("canvas").first.bounding_box()
    assert patch is not None
    in_legend = shown.getpixel((round(patch["x"] + 6), round(patch["y"] + 6)))
    assert shown.getpixel((round(place[0]), round(place[1]))) == in_legend == (230, 159, 0)

    uri = client.dataset_uri("areas:1")
    job = client.wait(client.start(training_request("tiny-classes", uri, "areas", {"epochs": 4})).id)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    request = prediction_request(client.model_uri("areas"), uri, {}, split="test", request_id="areas")
    assert client.wait(client.start(request).id).state == v1.JOB_STATE_SUCCEEDED
    page.goto("results/areas")
    expect(page.locator(".viewer-legend")).to_contain_text("nucleus", timeout=120_000)
    desk.shows(drawn=True)
    assert page.evaluate(f"{VIEWER}.labels.isClasses")
    page.get_by_role("button", name="Correct").click()
    page.wait_for_url(re.compile("/annotate/"))
    desk.settle()
    expect(page.get_by_label("Class", exact=True).locator("option:checked")).to_have_text("nucleus")
    desk.drag((20.5, 20.5), (30.5, 20.5))
    desk.settle()
    desk.tool("n")
    desk.settle()
    page.get_by_role("link", name="Finish").click()
    page.get_by_label("Name").fill("areas")
    page.get_by_role("button", name="Save as a new dataset version").click()
    page.wait_for_url(re.compile("/data/areas/2$"))
    corrected = read_dataset(client, "areas:2")
    assert corrected.class_names == {1: "nucleus"}
    (counts,) = corrected.class_counts.values()
    assert counts["nucleus"] > 0
    assert sum(counts.values()) == target.size


def test_boxes_are_corrected_and_saved(desk: Desk, client: Client, tmp_path: Path) -> None:
    create_dataset(client, "boxed", write_kind(tmp_path / "boxed", "boxes"), kind="boxes")
    desk.page.goto("data")
    draft = api(desk, "POST", "annotate", dataset="boxed:1", request_id="boxed").rsplit("/", 1)[-1]
    path = f"annotate/{draft}/images/train:field0"
    before = desk.page.request.get(path).json()["boxes"]
    drawn = {"do": "box", "corners": [30, 40, 12.5, 20], "classed": 1}
    state = api(desk, "PATCH", path, 0, change_id="c1", session="api", operations=[drawn])
    assert state["boxes"][-1] == {"id": len(before) + 1, "corners": [12.5, 20.0, 30.0, 40.0], "class": 1}
    moved = {"do": "move", "object": 1, "corners": [1, 2, 21, 22]}
    gone = {"do": "delete", "object": 2}
    state = api(desk, "PATCH", path, 1, change_id="c2", session="api", operations=[moved, gone])
    state = api(desk, "PATCH", path, 2, change_id="c3", session="api", done=True)
    api(desk, "POST", f"annotate/{draft}/finish", name="boxed", use="same")
    manifest = read_dataset(client, "boxed:2")
    assert (manifest.kind, len(manifest.annotations)) == ("boxes", 1)
    text = client.catalog.read(client.dataset_uri("boxed:2"), manifest.annotations[0].file)
    (tmp_path / "field0.xml").write_bytes(text)
    found, _ = parse_voc(tmp_path / "field0.xml", "field0.xml", Notes())
    assert [box.corners for box in found.boxes] == [tuple(box["corners"]) for box in state["boxes"]]
    assert (1, 2, 21, 22) in [box.corners for box in found.boxes]
    assert len(found.boxes) == len(before)


def test_a_correction_follows_what_it_has_not_seen_only_where_it_touches_nothing_of_it(
    desk: Desk, client: Client, tmp_path: Path
) -> None:
    create_dataset(client, "shared", write_kind(tmp_path / "shared", "sources"), kind="sources")
    desk.page.goto("data")
    begun = {"dataset": "shared:1", "kind": "labels", "request_id": "shared"}
    draft = api(desk, "POST", "annotate", **begun).rsplit("/", 1)[-1]
    path = f"annotate/{draft}/images/train:field0"
    seen = desk.page.request.get(path).json()["seen"]

    def square(at: int, **more: Any) -> dict[str, Any]:
        points = [[at, at], [at + 8, at], [at + 8, at + 8], [at, at + 8]]
        return {"do": "draw", "shape": "polygon", "points": points, **more}

    first = api(desk, "PATCH", path, 0, change_id="c1", session="api", operations=[square(4)], seen=seen)
    followed = api(desk, "PATCH", path, 0, change_id="c2", session="api", operations=[square(30)], seen=seen)
    assert (followed["revision"], followed["steps"], followed["reload"]) == (2, 2, True)
    # Sent again because the answer was lost, it counts once.
    again = api(desk, "PATCH", path, 0, change_id="c2", session="api", operations=[square(30)], seen=seen)
    assert (again["revision"], again["steps"]) == (2, 2)
    token = desk.page.get_attribute("meta[name=csrf]", "content") or ""
    origin = "/".join(desk.page.url.split("/")[:3])
    for revision, own in ((0, []), (2, []), (2, followed["own"])):
        refused = desk.page.request.fetch(
            path,
            method="PATCH",
            data={"change_id": "c3", "session": "api", "operations": [square(8)], "seen": seen, "own": own},
            headers={"X-CSRF-Token": token, "Origin": origin, "If-Match": f'"{revision}"'},
        )
        assert (refused.status, "in another window" in refused.text()) == (412, True)
    own = [*first["own"], *followed["own"]]
    mine = api(desk, "PATCH", path, 2, change_id="c4", session="api", operations=[square(8)], seen=seen, own=own)
    assert mine["steps"] == 3
    labels = desk.labels(draft, "train:field0")
    assert [int(labels[at, at]) for at in (5, 31, 14)] == [1, 2, 3]


def test_objects_and_their_classes_are_drawn_in_bare_volumes(desk: Desk, client: Client, tmp_path: Path) -> None:
    create_dataset(client, "bare", write_kind(tmp_path / "bare", "sources", "ZYX"), kind="sources", axes="ZYX")
    desk.page.goto("data")
    begun = {"dataset": "bare:1", "kind": "labels", "classes": "mitosis, interphase", "request_id": "bare"}
    draft = api(desk, "POST", "annotate", **begun).rsplit("/", 1)[-1]
    square = [[4, 4], [12, 4], [12, 12], [4, 12]]
    drawn = [
        {"do": "draw", "shape": "polygon", "points": square, "z": 3, "classed": 2},
        {"do": "draw", "shape": "polygon", "points": square, "z": 4, "object": 1},
        {"do": "draw", "shape": "polygon", "points": [[20, 20], [26, 20], [26, 26], [20, 26]], "z": 4},
        {"do": "reclassify", "object": 2, "classed": 1, "z": 4},
    ]
    for number in range(2):
        path = f"annotate/{draft}/images/train:field{number}"
        state = api(desk, "PATCH", path, 0, change_id="c1", session="api", operations=drawn, done=True)
    assert state["classes"] == {"1": 2, "2": 1}
    assert [(patch["z"], patch["y"], patch["x"], patch["height"]) for patch in state["patches"]][:2] == [
        (3, 4, 4, 8),
        (4, 4, 4, 8),
    ]
    api(desk, "POST", f"annotate/{draft}/finish", name="drawn", use="train")
    manifest = read_dataset(client, "drawn:1")
    assert (manifest.kind, manifest.roles("target")) == ("labels", ("target", "target_class"))
    files = {image.role: image.file for image in manifest.images if image.stem == "field1"}
    labels, classes = (
        tifffile.imread(io.BytesIO(client.catalog.read(client.dataset_uri("drawn:1"), files[role])))
        for role in ("target", "target_class")
    )
    expected = np.zeros(labels.shape, np.uint16)
    expected[3:5, 4:12, 4:12], expected[4, 20:26, 20:26] = 1, 2
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(classes, np.array([0, 2, 1])[expected])


def test_pages_pass_the_checks_of_accessibility(desk: Desk, client: Client, predicted: str) -> None:
    found = []
    (draft, *_) = [each.draft for each in client.catalog.drafts()]
    for path in ("annotate", f"annotate/{draft}", f"annotate/{draft}/finish", "data/nuclei/1"):
        for scheme in ("light", "dark"):
            desk.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            desk.page.goto(path)
            desk.page.wait_for_timeout(300)
            for violation in Axe().run(desk.page).response["violations"]:
                found += [(path, scheme, violation["id"], node["html"][:120]) for node in violation["nodes"]]
    assert found == []
