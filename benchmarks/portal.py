"""The portal with an image of 16,000 x 16,000 pixels: how long pages and images take, and what memory many users cost.

Run it in the environment of the orchestrator, on an otherwise idle machine with Chromium, beside a Parfocal that runs
there without sign-in (`parfocal up`):

    .venvs/orchestrator/bin/python benchmarks/portal.py --write FOLDER
    parfocal dataset create large FOLDER
    .venvs/orchestrator/bin/python benchmarks/portal.py --url http://127.0.0.1:8600

`--write` makes the image from a seed: grey values with the noise of a camera, which compress as badly as real ones.
The first opening of the dataset's page begins the job that makes its tiles; it is waited for and not measured. An image
is there when the viewer has painted all that it asked for, in a browser that has never seen it. Memory is the resident
size of the portal's process, which must run on this machine; each user opens three pages and reads tiles from all over
the image, all users at once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from playwright.sync_api import Browser, sync_playwright

from parfocal.runtime.images.files import Image, PixelSize, write_image

_TILES_EACH = 40
_PAGES = ("", "data", "models", "jobs", "data/{place}")


def main() -> None:
    """Write the image, or measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="only write the image into this folder")
    parser.add_argument("--side", type=int, default=16_000, help="side length in pixels")
    parser.add_argument("--url", default="http://127.0.0.1:8600")
    parser.add_argument("--project", default="default")
    parser.add_argument("--dataset", default="large:1", help="NAME:VERSION")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--users", type=int, nargs="*", default=[1, 10, 50, 100])
    options = parser.parse_args()
    if options.write:
        write(options.write, options.side)
        return
    base = f"{options.url}/p/{options.project}"
    with httpx.Client(timeout=600) as http:
        info = wait_for_tiles(http, base, options.dataset)
        print(f"Load before: {', '.join(f'{value:.1f}' for value in os.getloadavg())}\n")
        print("| What | Median [ms] | 95 % below [ms] |\n| --- | ---: | ---: |")
        for page in _PAGES:
            path = page.format(place=options.dataset.replace(":", "/"))
            print(row(f"Page /{path}", repeat(lambda p=path: get(http, f"{base}/{p}"), options.rounds)), flush=True)
        urls = tile_urls(base, options.dataset, info)
        print(row("Tile of the full size", [timed(lambda u=url: get(http, u)) for url in urls[:100]]), flush=True)
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        times = [
            opened(browser, f"{base}/data/{options.dataset.replace(':', '/')}")
            for _ in range(max(3, options.rounds // 4))
        ]
        browser.close()
    for name in times[0]:
        print(row(name, [each[name] for each in times]), flush=True)
    print("\n| Users at once | Requests/s | Median of a tile [ms] | Memory of the portal [MiB] |")
    print("| ---: | ---: | ---: | ---: |")
    process = portal_process(options.url)
    print(f"| before | | | {resident(process):.0f} |")
    for users in options.users:
        print(crowd(base, options.dataset, urls, users, process), flush=True)
    print(f"\nLoad after: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")


def write(folder: Path, side: int) -> None:
    """Write the folder of a dataset with one large image."""
    rng = np.random.default_rng(1)
    pixels = np.empty((side, side), np.uint16)
    x = np.arange(side, dtype=np.float32)
    for row_number in range(0, side, 500):
        y = np.arange(row_number, min(row_number + 500, side), dtype=np.float32)[:, np.newaxis]
        shown = 600 + 400 * np.sin(x / 37) * np.cos(y / 41) + 200 * np.sin((x + y) / 900)
        noise = rng.normal(0, 1, shown.shape).astype(np.float32) * np.sqrt(shown)
        pixels[row_number : row_number + 500] = np.clip(shown + noise, 0, 65535)
    path = folder / "train" / "source" / "large.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Image(pixels, "YX", PixelSize(0.2, 0.2)))


def wait_for_tiles(http: httpx.Client, base: str, dataset: str) -> dict[str, Any]:
    """Have the tiles made, and return what is known of the image."""
    get(http, f"{base}/data/{dataset.replace(':', '/')}")
    deadline = time.monotonic() + 3600
    while time.monotonic() < deadline:
        known: dict[str, Any] = json.loads(get(http, f"{base}/tiles/dataset/{dataset}/train:large/source/info"))
        if known.get("state") == "ready":
            return known
        time.sleep(5)
    raise SystemExit("the tiles were not made within an hour")


def tile_urls(base: str, dataset: str, info: dict[str, Any]) -> list[str]:
    """Return the addresses of all tiles of the full size, in a random order."""
    rows, columns = (-(-length // info["tile"]) for length in info["levels"][0])
    place = f"{base}/tiles/dataset/{dataset}/train:large/source/{info['digest']}/0/0/0/0"
    urls = [f"{place}/{row}/{column}" for row in range(rows) for column in range(columns)]
    random.Random(1).shuffle(urls)
    return urls


def get(http: httpx.Client, url: str) -> bytes:
    """Return what an address answers; end where it refuses."""
    answer = http.get(url)
    answer.raise_for_status()
    return answer.content


def timed(act: Callable[[], object]) -> float:
    """Return the milliseconds that something takes."""
    begun = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - begun)


def repeat(act: Callable[[], object], rounds: int) -> list[float]:
    """Return the times of several rounds; the first one, which may fill caches, counts like the others."""
    return [timed(act) for _ in range(rounds)]


def row(name: str, times: Iterable[float]) -> str:
    """Return the row of a table."""
    ordered = sorted(times)
    high = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return f"| {name} | {statistics.median(ordered):.0f} | {high:.0f} |"


def opened(browser: Browser, url: str) -> dict[str, float]:
    """Return how long a browser without a cache takes to show the image, and then a part of it pixel by pixel."""
    idle = "!!document.querySelector('.viewer')?.viewer && !document.querySelector('.viewer').viewer.busy"
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto("about:blank")

        def wait() -> None:
            # Not by `wait_for_function`, which the page's policy of scripts refuses.
            deadline = time.monotonic() + 120
            while not page.evaluate(idle):
                if time.monotonic() > deadline:
                    raise SystemExit("the viewer did not come to rest within two minutes")
                page.wait_for_timeout(5)

        def shown() -> None:
            page.goto(url, wait_until="commit")
            wait()

        def zoomed() -> None:
            page.get_by_role("button", name="100 %").click()
            page.wait_for_timeout(30)  # the movement begins
            wait()

        first = timed(shown)
        entries = "performance.getEntriesByType('paint')"
        painted = page.evaluate(f"{entries}.find(each => each.name == 'first-contentful-paint').startTime")
        return {
            "Browser: first content": float(painted),
            "Browser: whole image shown": first,
            "Browser: then zoomed to 100 %": timed(zoomed),
        }


def crowd(base: str, dataset: str, urls: list[str], users: int, process: int) -> str:
    """Return the row of a table for so many users at once."""
    times: list[float] = []

    def user(number: int) -> int:
        order = random.Random(number)
        with httpx.Client(timeout=600) as http:
            for page in ("", "data", f"data/{dataset.replace(':', '/')}"):
                get(http, f"{base}/{page}")
            times.extend(timed(lambda u=url: get(http, u)) for url in order.sample(urls, _TILES_EACH))
        return 3 + _TILES_EACH

    begun = time.perf_counter()
    with ThreadPoolExecutor(users) as pool:
        requests = sum(pool.map(user, range(users)))
    rate = requests / (time.perf_counter() - begun)
    return f"| {users} | {rate:.0f} | {statistics.median(times):.0f} | {resident(process):.0f} |"


def portal_process(url: str) -> int:
    """Return the process that serves the portal on this machine."""
    port = url.rstrip("/").rpartition(":")[2]
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "parfocal.portal" in words and any(word.endswith(f":{port}") for word in words):
            return int(place.name)
    raise SystemExit(f"no process on this machine serves {url}")


def resident(process: int) -> float:
    """Return the resident memory of a process in MiB."""
    pages = int((Path("/proc") / str(process) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
